"""The totals of many fuzzing histories."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import asdict, define, field

from byzpy_tw.kernels.memory import trim_heap
from tests.simulation.history import History

Examine = Callable[[int], tuple[History, list[str], Counter[str]]]

PAST, FIRST = "past the first box", "first box"
# Runs that nothing but liars beyond the budget could keep from finishing; and that did.
FREE, FINISHED = "free runs", "free runs that finished"
LEAST = 0.85  # of those
MOST_GROWN = 200.0  # MiB, in the second half of a siege
SAY_EVERY = 5_000  # inputs
PATIENCE = 20  # histories
NO_SPOIL = (PAST, FIRST, FREE, FINISHED, "connections", "conversations")


@define
class Tally:
    """Hostile inputs, and what they did."""

    histories: int = 0
    counts: Counter[str] = field(factory=Counter)
    ends: Counter[str] = field(factory=Counter)  # of the runs, by status
    refused: Counter[str] = field(factory=Counter)  # contributions, by the recorded reason
    grown: list[float] = field(factory=list)  # MiB in the second half, of each process
    processor_seconds: float = 0.0
    wrong: list[str] = field(factory=list)

    @property
    def inputs(self) -> int:
        return self.counts[PAST] + self.counts[FIRST]

    def add(self, other: Tally) -> None:
        self.histories += other.histories
        self.counts += other.counts
        self.ends += other.ends
        self.refused += other.refused
        self.grown += other.grown
        self.processor_seconds += other.processor_seconds
        self.wrong += other.wrong

    def take(self, seed: int, history: History, wrong: list[str], counts: Counter[str]) -> None:
        """Add one history."""
        self.histories += 1
        self.counts += counts
        self.ends[history.status] += 1
        for record in history.rounds:
            self.refused.update(refusal["reason"] for refusal in record["refused"])
        self.wrong += [f"seed {seed}: {what}" for what in wrong]

    def judge(self) -> None:
        """Judge all histories together, and note what is wrong with them."""
        free, finished = self.counts[FREE], self.counts[FINISHED]
        if free >= 20 and finished < LEAST * free:
            self.wrong.append(f"only {finished} of {free} runs finished that could have")
        for mib in self.grown:
            if mib > MOST_GROWN:
                self.wrong.append(f"a process grew by {mib:.0f} MiB in the second half")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Tally:
        counters = {name: Counter(found[name]) for name in ("counts", "ends", "refused")}
        return cls(**{**found, **counters})

    def lines(self) -> list[str]:
        """For people."""
        share = self.counts[PAST] / max(1, self.inputs)
        kinds = Counter({k: n for k, n in self.counts.items() if k not in NO_SPOIL})
        made = [
            f"{self.inputs:,} hostile inputs in {self.histories:,} histories, "
            f"{share:.1%} past the first box",
            f"of these kinds: {_listed(kinds)}",
            f"runs: {_listed(self.ends)}; contributions refused: {_listed(self.refused)}",
        ]
        if self.counts[FREE]:
            finished = f"{self.counts[FINISHED]} of {self.counts[FREE]}"
            made.append(f"of the runs that only too many liars can stop, finished {finished}")
        if self.grown:
            grown = ", ".join(f"{mib:.0f}" for mib in self.grown)
            made.append(f"MiB that each process grew by in the second half: {grown}")
        if self.processor_seconds:
            each = 1000 * self.processor_seconds / max(1, self.inputs)
            made.append(f"{each:.1f} ms of a core each")
        return [*made, f"{len(self.wrong)} violations of what must hold"]


def fuzz(examine: Examine, inputs: int, first: int, step: int, say: Callable[[str], None]) -> Tally:
    """The histories of seeds `first`, `first + step`, ... until there were so many inputs."""
    tally, seed, half, said = Tally(), first, 0.0, 0
    began = time.process_time()
    while tally.inputs < inputs:
        if tally.histories >= PATIENCE and not tally.inputs:
            tally.wrong.append(f"{PATIENCE} histories, and nothing hostile was said")
            break
        history, wrong, counts = examine(seed)
        tally.take(seed, history, wrong, counts)
        for what in wrong:
            say(f"seed {seed} (--seed tells it): {what}")
        if not half and tally.inputs >= inputs / 2:
            half = resident()
        if tally.inputs // SAY_EVERY > said:
            said = tally.inputs // SAY_EVERY
            say(f"{tally.inputs:,} inputs, {resident():.0f} MiB")
        seed += step
    tally.processor_seconds = time.process_time() - began
    tally.grown = [resident() - half]
    return tally


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counter.most_common()) or "none"


def resident() -> float:
    """MiB that this process has, without what it has only not given back yet."""
    trim_heap()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0
