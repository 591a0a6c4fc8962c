"""A trainer's whole conversation with a server, as data that can be changed."""

from __future__ import annotations

import json
import struct
from typing import Any

from attrs import field, frozen
from twisted.protocols.amp import AmpBox

from byzpy_tw.protocol.commands import PROTOCOL
from byzpy_tw.protocol.frames import HEADER, FrameKind, Header
from byzpy_tw.workers.spec import RunSpec

CONTROL, STREAM, OTHER = "control", "stream", "other"  # connections, by their use
TICKET = b"<the ticket that OpenRun answered>"

_RUN = RunSpec(
    dataset="synthetic:n=200,classes=4,features=9",
    model="logreg",
    partition="iid",
    shards=3,
    seed=5,
    batch_size=8,
    micro_batch_size=4,
    n=5,
    f=1,
)
SPEC: dict[str, Any] = json.loads(_RUN.to_json())
D = 9 * 4 + 4  # parameters of that model
NODES = [[0, 0, None], [1, 1, None], [3, 0, "empire"], [4, 1, "sign-flip:of=own"]]
ROUNDS = 2

FIELDS = ("magic", "kind", "dtype", "reserved", "index", "round", "elements", "loss")


@frozen
class Box:
    """A command, as the keys and values of its box."""

    values: dict[bytes, bytes]

    def render(self, ticket: bytes) -> bytes:
        values = {k: v.replace(TICKET, ticket)[:65535] for k, v in self.values.items()}
        return AmpBox(values).serialize()


@frozen
class Frame:
    """A tensor frame, its header's fields free to make no sense."""

    header: dict[str, Any]
    elements: bytes

    def render(self, ticket: bytes) -> bytes:
        return HEADER.pack(*(self.header[name] for name in FIELDS)) + self.elements


@frozen
class Raw:
    """Bytes, whatever they are."""

    data: bytes

    def render(self, ticket: bytes) -> bytes:
        return self.data.replace(TICKET, ticket)


@frozen
class Step:
    """Something that is sent, on which connection, and whether an answer is awaited."""

    line: str
    part: Any  # a Box, a Frame or Raw: each mutation knows which it is given
    awaited: bool = False
    touched: bool = False  # whether a mutation has been here


@frozen
class Script:
    """Steps in order.  `abort` ends it with a reset, in place of an end of file."""

    steps: tuple[Step, ...]
    abort: bool = False
    mutations: tuple[str, ...] = field(default=(), kw_only=True)


def valid(number: int = 0) -> Script:
    """A conversation that a server answers from start to end.

    Its run's name is that of conversation `number`: with another's it would end that one.
    """
    run = f"r{number}"
    steps = [
        _box(CONTROL, "Hello", protocol=PROTOCOL, version="0.1.0"),
        _box(CONTROL, "OpenRun", run=run, spec=json.dumps(SPEC)),
        _box(STREAM, "OpenStream", ticket=TICKET),
        _box(CONTROL, "SpawnNodes", run=run, nodes=json.dumps(NODES)),
    ]
    for round in range(ROUNDS):
        mean = frame(FrameKind.PIECE, round, D)
        attack = dict(run=run, round=round, honest=2, pieces='["mean"]')
        steps += [
            Step(STREAM, frame(FrameKind.PARAMETERS, round, D)),
            _box(CONTROL, "Compute", run=run, round=round, nodes=[0, 1]),
            _box(CONTROL, "Ping", token=round),
            Step(STREAM, mean),
            _box(CONTROL, "Attack", nodes=[3, 4], **attack),
        ]
    steps.append(_box(CONTROL, "CloseRun", run=run))
    return Script(tuple(steps))


def _box(line: str, command: str, **arguments: Any) -> Step:
    values = {b"_command": command.encode(), b"_ask": command.encode()}
    for name, value in arguments.items():
        if isinstance(value, list):
            value = b"".join(struct.pack("!H", len(str(i))) + b"%d" % i for i in value)
        values[name.encode()] = value if isinstance(value, bytes) else str(value).encode()
    return Step(line, Box(values), awaited=True)


def frame(kind: int, round: int, elements: int, index: int = 0) -> Frame:
    numbers = [kind * 0.1 + round + i * 0.01 for i in range(elements)]
    header = (b"BTW1", kind, 1, 0, index, round, elements, 0.0)
    fields = dict(zip(FIELDS, header, strict=True))
    return Frame(fields, struct.pack(f"<{elements}f", *numbers))


def framed(header: Header, elements: bytes) -> Frame:
    """A frame that somebody sent."""
    fields = dict(zip(FIELDS, HEADER.unpack(header.pack()), strict=True))
    return Frame(fields, elements)
