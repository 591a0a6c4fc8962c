"""Many histories, in one process or in several."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen

from tests.fuzzing.parallel import run_in_processes
from tests.simulation.history import History, Peers, references, registry, simulate, single_threaded
from tests.simulation.invariants import violations
from tests.simulation.schedule import Schedule
from tests.simulation.trainer import SimulatedTrainer

COUNTS = ("histories", "events", "rounds", "resumed", "recoverable")
REPLAY = "python -m tests.simulation --seed"


@frozen
class BrokenHistory:
    """A history of which something does not hold."""

    seed: int
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        first = self.wrong[0].strip().splitlines()
        return f"seed {self.seed}: {first[0]} ... {first[-1]}\n  replay: {REPLAY} {self.seed}"


@define
class Totals:
    """The totals of a check of many seeds."""

    histories: int = 0
    events: int = 0
    rounds: int = 0
    resumed: int = 0  # processes of the trainer that took another's place
    recoverable: int = 0  # histories whose faults must not show in the result
    processor_seconds: float = 0.0
    ends: Counter[str] = field(factory=Counter)  # by status
    broken: list[BrokenHistory] = field(factory=list)

    def add(self, other: Totals) -> None:
        self.histories += other.histories
        self.events += other.events
        self.rounds += other.rounds
        self.resumed += other.resumed
        self.recoverable += other.recoverable
        self.processor_seconds += other.processor_seconds
        self.ends += other.ends
        self.broken = sorted([*self.broken, *other.broken], key=lambda b: b.seed)

    def __str__(self) -> str:
        each = 1000 * self.processor_seconds / max(1, self.histories)
        ends = ", ".join(f"{n} {how}" for how, n in sorted(self.ends.items()))
        return (
            f"{self.histories} histories ({ends}), {self.recoverable} of which must come to "
            f"undisturbed bits; {self.rounds} rounds, {self.resumed} resumed, "
            f"{self.events:,} events; "
            f"{each:.0f} ms of a core each; {len(self.broken)} broken"
        )


def examine(
    schedule: Schedule,
    prepare: Callable[[SimulatedTrainer], None] | None = None,
    peers: Peers | None = None,
) -> tuple[History, list[str]]:
    """Let `schedule` happen with `peers` about, and what is wrong with that."""
    with single_threaded():
        history = simulate(schedule, prepare, peers)
        return history, violations(history, references())


def check_seeds(
    seeds: range, say: Callable[[str], None] = lambda line: None, *, twice: bool = False
) -> Totals:
    """The histories of `seeds`; with `twice`, each must come out the same once more."""
    totals, names = Totals(), registry()
    for seed in seeds:
        begun = time.process_time()
        history, wrong = examine(Schedule.draw(seed, names))
        if twice and examine(Schedule.draw(seed, names))[0].digest != history.digest:
            wrong.append("it came out differently the second time")
        totals.histories += 1
        totals.events += history.loop.count
        totals.rounds += sum(len(trainer.aggregated) for trainer in history.lifecycle.trainers)
        totals.resumed += len(history.lifecycle.trainers) - 1
        totals.recoverable += history.schedule.recoverable
        totals.ends[history.status] += 1
        if wrong:
            totals.broken.append(BrokenHistory(seed, tuple(wrong)))
            say(str(totals.broken[-1]))
        totals.processor_seconds += time.process_time() - begun
    return totals


def to_json(totals: Totals) -> str:
    return json.dumps({
        **{name: getattr(totals, name) for name in COUNTS},
        "processor_seconds": totals.processor_seconds,
        "ends": dict(totals.ends),
        "broken": [[b.seed, list(b.wrong)] for b in totals.broken],
    })  # fmt: skip


def _from_json(found: dict[str, Any]) -> Totals:
    broken = [BrokenHistory(seed, tuple(wrong)) for seed, wrong in found.pop("broken")]
    return Totals(**{**found, "ends": Counter(found["ends"]), "broken": broken})


def check_seeds_in_processes(
    seeds: range, processes: int, say: Callable[[str], None], *, twice: bool = False
) -> Totals:
    """As `check_seeds`, each process taking its share of `seeds`."""
    shares = [
        ["--json", "--seeds", f"{s.start}:{s.stop}:{s.step}", *["--twice"] * twice]
        for s in (seeds[i::processes] for i in range(processes))
        if s
    ]
    totals = Totals()
    for found in run_in_processes("tests.simulation", shares, say):
        totals.add(_from_json(found))
    return totals
