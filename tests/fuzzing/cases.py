"""Conversations that no honest trainer would have with a server.

`conversation.valid` is a whole conversation in order: Hello, a run, its stream,
its nodes, a few rounds.  `mutated` changes it in one to four places, knowing
its grammar, so that most of what follows a change still parses: keys and values
of boxes, fields of frames, tickets, names, numbers, and the order of things.
All of it is a function of a seed; nothing here does I/O (`testing.dialling`
does).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from random import Random

from tests.fuzzing.mutate import MUTATIONS, target
from tests.fuzzing.script import CONTROL, Raw, Script, Step, valid


def mutated(seed: int, number: int) -> Script:
    """Conversation `number` of `seed`: `valid` with one to four changes.

    One in twenty may break its very first box.
    """
    random = Random(f"hostile/{seed}/{number}")
    steps, names = list(valid(number).steps), []
    first = 0 if random.random() < 0.05 else 1
    for _ in range(random.choice((1, 1, 2, 2, 3, 4))):
        mutation = random.choice(MUTATIONS)
        at = target(random, steps, mutation, first)
        if at is not None:
            steps = mutation(random, steps, at)
            names.append(mutation.__name__.strip("_"))
    return Script(tuple(steps), random.random() < 0.2, mutations=tuple(names))


def garbage(seed: int, number: int) -> Script:
    """A random byte string, of up to 4 KiB, on a connection of its own."""
    random = Random(f"garbage/{seed}/{number}")
    data = random.randbytes(random.choice((1, 10, 100, 1000, 4096)))
    if random.random() < 0.5:  # half of them look like the start of a box
        data = struct.pack("!H", random.randint(1, 255)) + data
    return Script((Step(CONTROL, Raw(data)),), random.random() < 0.2)


def many(make: Callable[[int, int], Script], seed: int, count: int) -> Iterator[Script]:
    """The first `count` conversations of `seed`."""
    return (make(seed, number) for number in range(count))
