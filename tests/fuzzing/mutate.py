"""Ways to spoil a conversation: ``(random, steps, place) -> steps``, each for its grammar."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from attrs import evolve

from byzpy_tw.protocol.frames import FrameKind
from tests.fuzzing.script import (
    CONTROL,
    FIELDS,
    NODES,
    OTHER,
    SPEC,
    STREAM,
    TICKET,
    Box,
    D,
    Frame,
    Raw,
    Step,
    frame,
)

Steps = list[Step]
Mutation = Callable[[Random, Steps, int], Steps]

_NUMBERS = (-1, 0, 1, 2, 3, 255, 4096, 65536, 2**31 - 1, 2**31, 2**62, 2**63, 2**64, 10**40)
_TEXTS = (
    *("", "r", "other", "0", "-0", "1e9", "NaN", "null", "[]", "{}", '"', "\x00", "\n", "é" * 50),
    *("../../etc/passwd", "a" * 300, "[" * 5000, "9" * 5000, "%s{peer}", "\x1b[2J", "mlp"),
    *("resnet18", "mlp:hidden=9999999", "synthetic:n=1e12", "empire:scale=1e300"),
)
_ATTACKS = (
    *(None, "", 7, "no-such", "empire", "empire:scale=nan", "empire:scale=1e300", "gaussian"),
    *("mimic", "alie", "slow", "slow:seconds=0", "replay", "silent", "garbage", "label-flip"),
)
# Specs that a server may well accept, and that ask for more than the usual one.
_LIKELY: dict[str, tuple[Any, ...]] = {
    "dataset": ("synthetic:n=20000", "synthetic:n=2000,features=784", "mnist5k"),
    "model": ("mlp", "mlp:hidden=4096", "mlp:hidden=1000000", "small-cnn", "resnet18"),
    "partition": ("stride", "dirichlet:alpha=0.1", "shards"),
    "shards": (1, 2, 50, 200, 65_536),
    "seed": (0, 2**63 - 1),
    "batch_size": (1, 50, 5000, 1_000_000),
    "micro_batch_size": (1, 1000, 100_000),
    "replacement": (True,),
    "n": (1, 4, 1000),
    "f": (0, 2, 1000),
}
_VALUES: tuple[Any, ...] = (*_NUMBERS, *_TEXTS, None, True, 0.5, float("nan"), [], {}, [[]])


def _odd(random: Random) -> bytes:
    value = random.choice((*_NUMBERS, *_TEXTS))
    return random.randbytes(random.randint(0, 60)) if random.random() < 0.2 else (
        str(value).encode("utf-8", "surrogatepass")
    )  # fmt: skip


def _with(steps: Steps, at: int, part: Box | Frame | Raw) -> Steps:
    return [*steps[:at], evolve(steps[at], part=part, touched=True), *steps[at + 1 :]]


def _value(random: Random, steps: Steps, at: int) -> Steps:
    """One of a box's values, `_command` and `_ask` included, is something else."""
    values = dict(steps[at].part.values)
    values[random.choice(list(values))] = _odd(random)
    return _with(steps, at, Box(values))


def _argument(random: Random, steps: Steps, at: int) -> Steps:
    """One of a command's arguments is something else."""
    values = dict(steps[at].part.values)
    names = [k for k in values if not k.startswith(b"_")]
    values[random.choice(names)] = _odd(random)
    return _with(steps, at, Box(values))


def _key(random: Random, steps: Steps, at: int) -> Steps:
    """A box lacks a key, or has more than it should."""
    values = dict(steps[at].part.values)
    if random.random() < 0.5:
        del values[random.choice(list(values))]
    else:
        name = random.choice((b"_answer", b"_error", b"_error_code", b"x", b"ask", b"\xff"))
        values[name] = _odd(random)
    return _with(steps, at, Box(values))


def _enormous(random: Random, steps: Steps, at: int) -> Steps:
    """A box of many long values."""
    more = {b"%d" % i: bytes(60_000) for i in range(random.randint(1, 8))}
    return _with(steps, at, Box({**steps[at].part.values, **more}))


def _command(random: Random, steps: Steps, at: int) -> Steps:
    """A command by the name of another, or of none."""
    name = random.choice((b"Hello", b"OpenRun", b"Attack", b"CloseRun", b"StartTLS", b"Nothing"))
    return _with(steps, at, Box({**steps[at].part.values, b"_command": name}))


def _spec(random: Random, steps: Steps, at: int) -> Steps:
    """A run's spec with a field that is odd, missing or new."""
    spec: dict[str, Any] = dict(SPEC)
    name = random.choice((*SPEC, "more"))
    if random.random() < 0.1:
        spec.pop(name, None)
    elif random.random() < 0.4:
        spec[name] = random.choice(_VALUES)
    else:
        for likely in random.sample(list(_LIKELY), random.randint(1, 3)):
            spec[likely] = random.choice(_LIKELY[likely])
    return _with(steps, at, Box({**steps[at].part.values, b"spec": json.dumps(spec).encode()}))


def _nodes(random: Random, steps: Steps, at: int) -> Steps:
    """A list of nodes that overlap, do not exist, are too many, or are no nodes."""
    nodes: list[Any] = [list(row) for row in NODES]
    for _ in range(random.randint(1, 3)):
        row = random.choice(nodes)
        what = random.randrange(4)
        if what == 3:
            nodes.append(random.choice(_VALUES))
        elif isinstance(row, list) and len(row) == 3:
            row[what] = random.choice(_ATTACKS if what == 2 else _VALUES)
    if random.random() < 0.1:
        nodes = [[i, 0, None] for i in range(4000)]
    text = json.dumps(nodes).encode()
    return _with(steps, at, Box({**steps[at].part.values, b"nodes": text}))


def _ticket(random: Random, steps: Steps, at: int) -> Steps:
    """A ticket that is wrong, or used a second time on a third connection."""
    wrong = random.choice((b"", bytes(16), TICKET + b"x", TICKET[:5], random.randbytes(16), None))
    if wrong is None:
        again = evolve(steps[at], line=OTHER, touched=True)
        place = random.randint(at, len(steps))
        return [*steps[:place], again, *steps[place:]]
    return _with(steps, at, Box({**steps[at].part.values, b"ticket": wrong}))


def _header(random: Random, steps: Steps, at: int) -> Steps:
    """One field of a frame's header is something else."""
    name = random.choice(FIELDS)
    bits = {"kind": 8, "dtype": 8, "reserved": 16, "index": 32, "round": 64, "elements": 64}
    value: Any
    if name == "magic":
        value = random.choice((b"BTW2", b"\x00\x06_a", random.randbytes(4)))
    elif name == "loss":
        value = random.choice((float("nan"), float("inf"), -1e308))
    else:
        value = random.choice(_NUMBERS) % 2 ** bits[name]
    return _with(steps, at, evolve(steps[at].part, header={**steps[at].part.header, name: value}))


def _elements(random: Random, steps: Steps, at: int) -> Steps:
    """A frame whose elements are too few, too many, or not finite."""
    data = steps[at].part.elements
    data = random.choice((data[:-1], data[:3], data + b"\x00", b"\xff" * len(data), data * 50))
    return _with(steps, at, evolve(steps[at].part, elements=data))


def _foreign(random: Random, steps: Steps, at: int) -> Steps:
    """A frame that is well made and not expected: a vector, another piece, another round."""
    elements, index = random.choice((1, 4, 9, D, D, 2 * D)), random.randrange(9)
    vector = frame(random.choice(list(FrameKind)), random.randrange(4), elements, index)
    step = Step(random.choice((STREAM, STREAM, CONTROL)), vector, touched=True)
    return [*steps[:at], step, *steps[at:]]


def _flip(random: Random, steps: Steps, at: int) -> Steps:
    """A few bytes of what is sent are others."""
    data = bytearray(steps[at].part.render(TICKET) or b"\x00")  # another cut it to nothing
    for _ in range(random.randint(1, 3)):
        data[random.randrange(len(data))] = random.randrange(256)
    return _with(steps, at, Raw(bytes(data)))


def _cut(random: Random, steps: Steps, at: int) -> Steps:
    """Something ends in the middle, and what follows takes its place."""
    data = steps[at].part.render(TICKET) or b"\x00"
    return _with(steps, at, Raw(data[: random.randrange(len(data))]))


def _drop(random: Random, steps: Steps, at: int) -> Steps:
    """Something is left out."""
    rest = steps[at + 1 :]
    return [*steps[:at], *(evolve(s, touched=True) for s in rest[:1]), *rest[1:]]


def _repeat(random: Random, steps: Steps, at: int) -> Steps:
    """Something is said again, at once or later, a few times."""
    place, step = random.randint(at + 1, len(steps)), evolve(steps[at], touched=True)
    return [*steps[:place], *[step] * random.choice((1, 1, 2, 70)), *steps[place:]]


def _swap(random: Random, steps: Steps, at: int) -> Steps:
    """Two things change places."""
    other = random.randrange(1, len(steps))
    changed = list(steps)
    changed[at], changed[other] = (evolve(steps[i], touched=True) for i in (other, at))
    return changed


def _elsewhere(random: Random, steps: Steps, at: int) -> Steps:
    """Something is said on another connection."""
    line = random.choice((CONTROL, STREAM, OTHER))
    return [*steps[:at], evolve(steps[at], line=line, touched=True), *steps[at + 1 :]]


def _stop(random: Random, steps: Steps, at: int) -> Steps:
    """The peer leaves in the middle."""
    return steps[: at + 1]


def _impatient(random: Random, steps: Steps, at: int) -> Steps:
    """From here on no answer is waited for."""
    return [*steps[:at], *(evolve(s, awaited=False, touched=True) for s in steps[at:])]


# Which steps each can be done to.
_ON: dict[Mutation, Callable[[Step], bool]] = {
    **dict.fromkeys((_value, _argument, _key, _enormous, _command), lambda s: _is(s, Box)),
    _spec: lambda s: _is(s, Box) and b"spec" in s.part.values,
    _nodes: lambda s: _is(s, Box) and s.part.values.get(b"_command") == b"SpawnNodes",
    _ticket: lambda s: _is(s, Box) and b"ticket" in s.part.values,
    **dict.fromkeys((_header, _elements), lambda s: _is(s, Frame)),
    **dict.fromkeys(
        (_foreign, _flip, _cut, _drop, _repeat, _swap, _elsewhere, _stop, _impatient),
        lambda s: True,
    ),
}  # fmt: skip
MUTATIONS: tuple[Mutation, ...] = tuple(_ON)
NAMED = {mutation.__name__.strip("_"): mutation for mutation in MUTATIONS}


def _is(step: Step, kind: type) -> bool:
    part = step.part
    if kind is Box:  # one with an argument left to change
        return isinstance(part, Box) and any(not k.startswith(b"_") for k in part.values)
    return isinstance(part, kind)


def target(random: Random, steps: Steps, mutation: Mutation, first: int) -> int | None:
    """Where `mutation` may strike, from step `first` on."""
    fitting = [i for i in range(first, len(steps)) if _ON[mutation](steps[i])]
    return random.choice(fitting) if fitting else None
