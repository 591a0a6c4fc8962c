"""Many histories, in one process or in several."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen

from tests.fuzzing.parallel import in_processes
from tests.simulation.history import History, Others, happen, on_one_thread, references, registry
from tests.simulation.invariants import violations
from tests.simulation.schedule import Schedule
from tests.simulation.trainer import SimulatedTrainer

REPLAY = "python -m tests.simulation --seed"


@frozen
class Broken:
    """A history of which something does not hold."""

    seed: int
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        first = self.wrong[0].strip().splitlines()
        return f"seed {self.seed}: {first[0]} ... {first[-1]}\n  replay: {REPLAY} {self.seed}"


@define
class Swept:
    """What a sweep came to."""

    histories: int = 0
    events: int = 0
    rounds: int = 0
    resumed: int = 0  # processes of the trainer that took another's place
    met: int = 0  # histories whose faults must not show in the result
    processor_seconds: float = 0.0
    ends: Counter[str] = field(factory=Counter)  # by status
    broken: list[Broken] = field(factory=list)

    def add(self, other: Swept) -> None:
        self.histories += other.histories
        self.events += other.events
        self.rounds += other.rounds
        self.resumed += other.resumed
        self.met += other.met
        self.processor_seconds += other.processor_seconds
        self.ends += other.ends
        self.broken = sorted([*self.broken, *other.broken], key=lambda b: b.seed)

    def __str__(self) -> str:
        each = 1000 * self.processor_seconds / max(1, self.histories)
        ends = ", ".join(f"{n} {how}" for how, n in sorted(self.ends.items()))
        return (
            f"{self.histories} histories ({ends}), {self.met} of which must come to undisturbed "
            f"bits; {self.rounds} rounds, {self.resumed} resumed, {self.events:,} events; "
            f"{each:.0f} ms of a core each; {len(self.broken)} broken"
        )


def examine(
    schedule: Schedule,
    prepare: Callable[[SimulatedTrainer], None] | None = None,
    others: Others | None = None,
) -> tuple[History, list[str]]:
    """Let `schedule` happen with `others` about, and what is wrong with that."""
    with on_one_thread():
        history = happen(schedule, prepare, others)
        return history, violations(history, references())


def sweep(
    seeds: range, say: Callable[[str], None] = lambda line: None, *, twice: bool = False
) -> Swept:
    """The histories of `seeds`; with `twice`, each must come out the same once more."""
    swept, names = Swept(), registry()
    for seed in seeds:
        begun = time.process_time()
        history, wrong = examine(Schedule.draw(seed, names))
        if twice and examine(Schedule.draw(seed, names))[0].digest != history.digest:
            wrong.append("it came out differently the second time")
        swept.histories += 1
        swept.events += history.world.count
        swept.rounds += sum(len(life.used) for life in history.lives.all)
        swept.resumed += len(history.lives.all) - 1
        swept.met += history.schedule.meetable
        swept.ends[history.status] += 1
        if wrong:
            swept.broken.append(Broken(seed, tuple(wrong)))
            say(str(swept.broken[-1]))
        swept.processor_seconds += time.process_time() - begun
    return swept


def to_json(swept: Swept) -> str:
    return json.dumps({
        **{n: getattr(swept, n) for n in ("histories", "events", "rounds", "resumed", "met")},
        "processor_seconds": swept.processor_seconds,
        "ends": dict(swept.ends),
        "broken": [[b.seed, list(b.wrong)] for b in swept.broken],
    })  # fmt: skip


def _from_json(found: dict[str, Any]) -> Swept:
    broken = [Broken(seed, tuple(wrong)) for seed, wrong in found.pop("broken")]
    return Swept(**{**found, "ends": Counter(found["ends"]), "broken": broken})


def sweep_in_processes(
    seeds: range, processes: int, say: Callable[[str], None], *, twice: bool = False
) -> Swept:
    """As `sweep`, each process taking its share of `seeds`."""
    shares = [
        ["--json", "--seeds", f"{s.start}:{s.stop}:{s.step}", *["--twice"] * twice]
        for s in (seeds[i::processes] for i in range(processes))
        if s
    ]
    swept = Swept()
    for found in in_processes("tests.simulation", shares, say):
        swept.add(_from_json(found))
    return swept
