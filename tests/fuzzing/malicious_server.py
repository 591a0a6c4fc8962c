"""Answers of a malicious server in place of an honest one's.

`Corruptor` knows the grammar of what goes from a server to a trainer: boxes that answer
questions, then, on a tensor stream, frames.  It changes some of them, so that most of
what follows still makes sense to the trainer: values, keys, tags, tickets, JSON, fields
of headers, elements, and the order, number and moment of everything.  It does no I/O.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from attrs import define, field, frozen
from twisted.protocols.amp import AmpBox

from byzpy_tw.protocol import commands
from byzpy_tw.protocol.frames import FrameKind, Header
from byzpy_tw.protocol.requests import WIRE_ERRORS
from tests.fuzzing.mutate import NAMED
from tests.fuzzing.script import CONTROL, STREAM, Box, Frame, Raw, Step, frame, framed
from tests.simulation.recorder import StreamParser

MOST_KEPT = 20  # units that may be said again
FIRST = 0.04  # how often a connection's first box is spoilt: few get past that


@frozen
class Pause:
    """Nothing is said for so many seconds."""

    seconds: float


@frozen
class End:
    """The connection ends: with a reset, or as if all had been said."""

    reset: bool


Part = Box | Frame | Raw
Said = bytes | Pause | End
Spoil = Callable[["Corruptor", Random, Any], list[Part | Pause | End]]


@define(eq=False)
class Corruptor:
    """One connection of a trainer's, as a malicious server treats it.

    Of what is said, a share of `rate` is spoilt; `counts` adds up how, over connections.
    """

    random: Random
    rate: float
    counts: Counter[str]
    patience: float = 100.0  # seconds that a pause may take
    identity: bytes = b""  # told in place of the server's, where there is one
    tags: list[bytes] = field(factory=list, init=False)  # of the trainer's questions
    said: list[Part] = field(factory=list, init=False)
    nodes: int = field(default=1, init=False)  # more than any node's number that was heard
    _held: list[Part] = field(factory=list, init=False)  # what comes later than it should
    _units: int = field(default=0, init=False)
    _stream: bool = field(default=False, init=False)
    _over: bool = field(default=False, init=False)
    _out: list[Said] = field(factory=list, init=False)
    _in: StreamParser = field(init=False)
    _heard: StreamParser = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._in = StreamParser(self._box, self._frame)
        self._heard = StreamParser(self._asked, lambda header, elements: None)

    def from_trainer(self, data: bytes) -> None:
        """The trainer says `data`."""
        self._heard.feed(data)

    def from_server(self, data: bytes) -> list[Said]:
        """The server says `data`: what becomes of it, in order."""
        if not self._over:
            self._in.feed(data)
        out, self._out = self._out, []
        return out

    def _asked(self, box: dict[bytes, bytes]) -> None:
        self.tags = [*self.tags[-MOST_KEPT:], box.get(b"_ask", b"")]
        if box.get(b"_command") == b"OpenStream":
            self._stream = True
        elif box.get(b"_command") == b"SpawnNodes":
            self.nodes = max(self.nodes, *(row[0] + 1 for row in json.loads(box[b"nodes"])))

    def _box(self, box: dict[bytes, bytes]) -> None:
        if self.identity and b"server" in box:
            box = {**box, b"server": self.identity}
        self._unit(Box(dict(box)), BOXES)
        if self._stream and b"_answer" in box:
            self._in.frames = self._heard.frames = True

    def _frame(self, header: Header, elements: bytes) -> None:
        self._unit(framed(header, elements), FRAMES)

    def _unit(self, part: Part, spoils: dict[str, Spoil]) -> None:
        """One box or frame: as it is, or as somebody else would say it."""
        if self._over:
            return
        first, self._units = not self._units, self._units + 1
        later, self._held = self._held, []
        made: list[Part | Pause | End] = [part]
        if self.random.random() < (FIRST if first else self.rate):
            name = self.random.choice(list(spoils))
            self.counts["first box" if first else "past the first box"] += 1
            self.counts[name] += 1
            made = spoils[name](self, self.random, part)
        for one in [*made, *later]:
            if isinstance(one, (Pause, End)):
                self._out.append(one)
                self._over = self._over or isinstance(one, End)
            else:
                self._out.append(one.render(b""))
                self.said = [*self.said[-MOST_KEPT:], one]

    def hold(self, part: Part) -> None:
        """Have `part` said behind whatever comes next."""
        self._held.append(part)


# -- of anything


def _by(name: str) -> Spoil:
    """Make the mutation `name` apply to a conversation of this one part."""
    mutation = NAMED[name]

    def corrupt(corruptor: Corruptor, random: Random, part: Any) -> list[Part | Pause | End]:
        line = STREAM if isinstance(part, Frame) else CONTROL
        return [step.part for step in mutation(random, [Step(line, part)], 0)]

    return corrupt


def _dropped(corruptor: Corruptor, random: Random, part: Part) -> list[Part | Pause | End]:
    return []


def _later(corruptor: Corruptor, random: Random, part: Part) -> list[Part | Pause | End]:
    corruptor.hold(part)
    return []


def _stale(corruptor: Corruptor, random: Random, part: Part) -> list[Part | Pause | End]:
    """Something that was said before, besides or instead."""
    old = random.choice([*corruptor.said, part])
    return random.choice(([old], [old, part], [part, old], [part] + [old] * 50))


def _pause(corruptor: Corruptor, random: Random, part: Part) -> list[Part | Pause | End]:
    seconds = min(corruptor.patience, random.choice((0.01, 0.5, 3.0, 10.0, 100.0)))
    halves = _halves(random, part, seconds)
    return random.choice(([Pause(seconds), part], [part, Pause(seconds)], halves))


def _halves(random: Random, part: Part, seconds: float) -> list[Part | Pause | End]:
    data = part.render(b"")
    at = random.randrange(len(data) + 1)
    return [Raw(data[:at]), Pause(seconds), Raw(data[at:])]


def _end(corruptor: Corruptor, random: Random, part: Part) -> list[Part | Pause | End]:
    end = End(reset=random.random() < 0.5)
    data = part.render(b"")
    some = Raw(data[: random.randrange(len(data) + 1)])
    return random.choice(([end], [part, end], [some, end]))


def _noise(corruptor: Corruptor, random: Random, part: Part) -> list[Part | Pause | End]:
    made = Raw(random.randbytes(random.choice((1, 2, 3, 40, 41, 1000))))
    return random.choice(([made], [made, part], [part, made]))


_ANYTHING: dict[str, Spoil] = {
    "flip": _by("flip"), "cut": _by("cut"), "repeat": _by("repeat"),
    "foreign": _by("foreign"), "drop": _dropped, "later": _later, "stale": _stale,
    "pause": _pause, "end": _end, "noise": _noise,
}  # fmt: skip

# -- of boxes

_JSONS: tuple[Any, ...] = (
    None, 0, [], {}, "x", [[0]], {"0": "x"}, {"0": None}, {"0": [1], "1": {"a": "b"}},
    {"-1": "x"}, {"0": "x" * 50_000}, {"a": 1}, {"1e9": "x"}, {str(i): "no" for i in range(1000)},
)  # fmt: skip
_BAD_JSONS = (
    b"", b"{", b"[" * 20_000, b"9" * 20_000, b"\xff\xfe", b"NaN", b'{"0": NaN}', b'"\\ud800"',
)  # fmt: skip


def _json(corruptor: Corruptor, random: Random, part: Box) -> list[Part | Pause | End]:
    """JSON of another kind: nodes that failed, an environment."""
    values = dict(part.values)
    name = next((k for k in (b"failures", b"environment") if k in values), b"failures")
    if random.random() < 0.3:
        values[name] = random.choice(_BAD_JSONS)
    elif random.random() < 0.4:
        failed = random.sample(range(corruptor.nodes + 2), random.randint(1, corruptor.nodes))
        values[name] = json.dumps({str(node): "no \x1b[2J\n" for node in failed}).encode()
    else:
        values[name] = json.dumps(random.choice(_JSONS)).encode()
    return [Box(values)]


def _tag(corruptor: Corruptor, random: Random, part: Box) -> list[Part | Pause | End]:
    """An answer to another question, or to none."""
    values = dict(part.values)
    name = b"_answer" if b"_answer" in values else b"_error"
    others = (b"", b"0", b"ffff", random.randbytes(4), b"x" * 300)
    values[name] = random.choice((*corruptor.tags, *others))
    return [Box(values)] if random.random() < 0.7 else [Box(values), part]


def _error(corruptor: Corruptor, random: Random, part: Box) -> list[Part | Pause | End]:
    """An error in place of an answer."""
    tag = part.values.get(b"_answer", part.values.get(b"_error", b""))
    others = (b"UNKNOWN", b"UNHANDLED", b"", b"\xff", b"x" * 300)
    code = random.choice((*WIRE_ERRORS.values(), *others))
    words = random.choice((b"", b"no", b"\x1b[2J\xff\x00", b"%s{peer}\n" * 50, b"x" * 60_000))
    values = {b"_error": tag, b"_error_code": code, b"_error_description": words}
    if random.random() < 0.1:
        del values[random.choice((b"_error_code", b"_error_description"))]
    if random.random() < 0.3:
        lies = (b'{"kind": "attack", "name": "empire"}', b'{"kind": 1}', b"\xff", b"[" * 60_000)
        values[b"_error_fields"] = random.choice(lies)
    return [Box(values)]


def _question(corruptor: Corruptor, random: Random, part: Box) -> list[Part | Pause | End]:
    """A server has nothing to ask of a trainer, and does."""
    names = [command.wire_command.commandName for command in commands.COMMANDS] + [
        b"StartTLS",
        b"_ask",
        b"",
    ]
    asked = {b"_command": random.choice(names), b"token": b"1", b"run": b"r", b"ticket": b"x"}
    if random.random() < 0.8:
        asked[b"_ask"] = random.choice((b"1", b"", b"x" * 200))
    many = random.choice((1, 1, 1, 70, 300))
    return [*[Box(asked)] * many, part]


def _huge(corruptor: Corruptor, random: Random, part: Box) -> list[Part | Pause | End]:
    """A box that does not end."""
    word = AmpBox({b"%05d" % i: bytes(60_000) for i in range(random.choice((2, 6, 12)))})
    return [Raw(word.serialize()[:-2]), part]


def _frames_early(corruptor: Corruptor, random: Random, part: Box) -> list[Part | Pause | End]:
    old = [one for one in corruptor.said if isinstance(one, Frame)]
    made = random.choice(old) if old else frame(FrameKind.VECTOR, 0, 40)
    return [made, part]


BOXES: dict[str, Spoil] = {
    **_ANYTHING,
    "value": _by("value"), "key": _by("key"), "enormous": _by("enormous"),
    "json": _json, "tag": _tag, "error": _error, "question": _question, "huge": _huge,
    "frame for a box": _frames_early,
}  # fmt: skip

# -- of frames


def _field(name: str, choose: Callable[[Corruptor, Random, Frame], int]) -> Spoil:
    def corrupt(corruptor: Corruptor, random: Random, part: Frame) -> list[Part | Pause | End]:
        changed = Frame({**part.header, name: choose(corruptor, random, part)}, part.elements)
        return random.choice(([changed], [changed, part], [part, changed]))

    return corrupt


def _other_node(corruptor: Corruptor, random: Random, part: Frame) -> int:
    return random.randrange(corruptor.nodes + 2)


def _other_round(corruptor: Corruptor, random: Random, part: Frame) -> int:
    return max(0, part.header["round"] + random.choice((-2, -1, 1, 2, 1000)))


def _lie(corruptor: Corruptor, random: Random, part: Frame) -> list[Part | Pause | End]:
    """Elements that are finite and no gradient: huge, tiny, constant, of another sign."""
    size = len(part.elements)
    patterns = b"\xff\xff\x7f\x7f", b"\x01\x00\x00\x00", bytes(4), b"\x00\x00\x80\x3f"
    pattern = random.choice(patterns)
    reverse = part.elements[::-1]
    data = random.choice((pattern * (size // 4), reverse, random.randbytes(size)))
    return [Frame(part.header, data.ljust(size, b"\x00"))]


def _size(corruptor: Corruptor, random: Random, part: Frame) -> list[Part | Pause | End]:
    """A whole frame of another size."""
    count = random.choice((0, 1, 39, 41, 45, 80, 700))
    data = (part.elements * (1 + 4 * count // max(1, len(part.elements))))[: 4 * count]
    return [Frame({**part.header, "elements": count, "dtype": 1}, data.ljust(4 * count, b"\x00"))]


def _box_for_frame(corruptor: Corruptor, random: Random, part: Frame) -> list[Part | Pause | End]:
    return [Box({b"_answer": b"1", b"failures": b"{}"}), part]


FRAMES: dict[str, Spoil] = {
    **_ANYTHING,
    "header": _by("header"), "elements": _by("elements"),
    "other node": _field("index", _other_node), "other round": _field("round", _other_round),
    "lie": _lie, "size": _size, "box for a frame": _box_for_frame,
}  # fmt: skip
