"""The result of a cell of the grid, read from the folders of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from attrs import frozen

from byzpy_tw.errors import RunDirectoryError
from byzpy_tw.records.folder import ROUNDS, read_run
from byzpy_tw.records.summary import (
    AttackFailures,
    RoundCounts,
    curve,
    format_attack_calls,
    summarize,
)
from byzpy_tw.sweep.grid import Cell, SweepTrial
from byzpy_tw.text import clean

CONCLUSIVE = ("finished", "diverged")  # of a run whose result means something
_STATUSES = (*CONCLUSIVE, "paused", "interrupted", "failed")

# Raised by files that are damaged, or were edited by hand.
UNREADABLE_ERRORS = (
    LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip


@frozen(kw_only=True)
class NodeShare:
    """The shares of the recorded rounds in which a node was left out.

    ``excluded`` is the rule's doing, None for a rule that does not choose between nodes.
    ``refused`` vectors were late, lost, malformed or not finite.
    """

    node: int
    honest: bool
    excluded: float | None
    refused: float

    @property
    def left_out(self) -> float:
        return min(1.0, (self.excluded or 0.0) + self.refused)


@frozen(kw_only=True)
class TrialResult:
    """The result of one run: accuracies from 0 to 1, None where it was never evaluated."""

    trial: SweepTrial
    status: str
    error: str
    rounds: int
    final: float | None
    worst: float | None
    best: float | None
    seconds: float
    digest: str | None  # of the parameters
    curve: tuple[tuple[int, float], ...]  # rounds done, and the accuracy after them
    shares: tuple[NodeShare, ...]
    failures: AttackFailures | None = None  # of the attack's calls

    @property
    def is_conclusive(self) -> bool:
        """Return whether its result means something."""
        return self.status in CONCLUSIVE

    @property
    def is_over(self) -> bool:
        """Return whether it came to its end, so that it is not run again."""
        return self.is_conclusive or self.attack_always_failed

    @property
    def attack_always_failed(self) -> bool:
        """Return whether the run failed for one reason: each call of its attack failed."""
        return self.status == "failed" and self.failures is not None and self.failures.all_failed


@frozen(kw_only=True)
class CellResult:
    """A cell and the results of its runs, in the order of their seeds.

    ``failures`` are the errors of runs that have left no folder.
    """

    cell: Cell
    ended: tuple[TrialResult, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def has_runs(self) -> bool:
        """Return whether one of its runs has ended."""
        return bool(self.ended or self.failures)

    @property
    def attack_failures(self) -> str:
        """The number of failed attack calls of its runs, with the first cause; empty for none.

        Nothing can be concluded from such a cell, whose rule met fewer attackers than others.
        """
        found = [e.failures for e in self.ended if e.failures is not None]
        if not found:
            return ""
        failed, of = sum(f.failed for f in found), sum(f.of for f in found)
        calls = format_attack_calls(failed, of, sum(f.probation for f in found))
        return f"the attack failed {calls}: {clean(found[0].first, 400)}"

    @property
    def status(self) -> str:
        """``impossible``, ``waiting``, ``finished``, or the first that is worse."""
        if self.cell.impossible is not None:
            return "impossible"
        bad = [e.status for e in self.ended if e.status != "finished"]
        if bad or self.failures:
            return bad[0] if bad else "failed"
        return "finished" if len(self.ended) == len(self.cell.trials) else "waiting"

    @property
    def reason(self) -> str:
        """The cause of a status that is not ``finished``; may be empty."""
        if self.cell.impossible is not None:
            return self.cell.impossible
        return next((e.error for e in self.ended if e.error), "") or "".join(self.failures[:1])

    @property
    def final(self) -> float | None:
        """The mean over the seeds of runs that finished; None where one has no accuracy."""
        return _over(mean, [e.final for e in self.ended if e.status == "finished"])

    @property
    def worst(self) -> float | None:
        """The lowest of any seed, over the last fifth of its evaluations."""
        return _over(min, [e.worst for e in self.ended if e.status == "finished"])

    @property
    def best(self) -> float | None:
        """The highest of any seed, over all evaluations."""
        return _over(max, [e.best for e in self.ended if e.status == "finished"])

    @property
    def value(self) -> float | None:
        """As `final`, and 0 for a cell that diverged.

        None for a cell from which nothing can be concluded: a run of it, or its attack, failed.
        """
        if self.attack_failures or self.status not in (*CONCLUSIVE, "waiting"):
            return None
        return 0.0 if self.status == "diverged" else self.final

    @property
    def shares(self) -> list[NodeShare]:
        """The shares of each node, as means over the seeds."""
        found = []
        for same in zip(*(e.shares for e in self.ended if e.shares), strict=True):
            excluded = [s.excluded for s in same if s.excluded is not None]
            found.append(
                NodeShare(
                    node=same[0].node,
                    honest=same[0].honest,
                    excluded=mean(excluded) if excluded else None,
                    refused=mean(s.refused for s in same),
                )
            )
        return found

    def left_out(self, *, honest: bool) -> float | None:
        """Return the mean share of rounds in which a node of this kind was left out.

        None where no node ever was: the rule does not choose, or takes them all.
        """
        shares = self.shares
        if not any(s.left_out for s in shares):
            return None
        return mean(s.left_out for s in shares if s.honest is honest)


def _over(function: Any, values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return function(known) if known and len(known) == len(values) else None


def read(trial: SweepTrial, path: Path) -> TrialResult | None:
    """Return the result of the run in the folder `path`; None where it has not ended.

    None also where a file is damaged or contradicts the others: the trial is run again then.
    """
    try:
        run = read_run(path)
        result = run.result
        if result is None or run.description["bits"] != trial.config.bits:
            return None  # the folder of another run
        records = run.rounds
        if run.reader.damage or run.reader.torn:
            return None
        counts = summarize(trial.config, records).counts
        status, rounds, error = result["status"], result["rounds"], result["error"]
        failures = counts.attack_failures
        if status == "finished" and failures is not None and failures.all_failed:
            # Of an earlier version, which had no status for that.
            status, error = "failed", f"the attack failed {failures.calls}: {failures.first}"
        if status not in _STATUSES or type(rounds) is not int or rounds != len(records):
            return None
        return TrialResult(
            trial=trial,
            status=status,
            error=clean(str(error or ""), 1000),
            rounds=rounds,
            final=_accuracy(result["final_accuracy"]),
            worst=_accuracy(result["worst_accuracy"]),
            best=_accuracy(result["best_accuracy"]),
            seconds=_number(result["seconds"], _CENTURY),
            digest=clean(str(result["parameters_sha256"] or ""), 64) or None,
            curve=tuple((done, _number(y, 1)) for done, y in curve(records, "accuracy")),
            shares=_shares(counts),
            failures=failures,
        )
    except (RunDirectoryError, *UNREADABLE_ERRORS):
        return None


_CENTURY = 3.2e9  # seconds


def _number(value: Any, most: float) -> float:
    """Return `value`; raise `ValueError` where it is no number from 0 to `most`."""
    if type(value) not in (int, float) or not 0 <= value <= most:
        raise ValueError("not a number that can be")
    return float(value)


def _accuracy(value: Any) -> float | None:
    return None if value is None else _number(value, 1)


def _shares(counts: RoundCounts) -> tuple[NodeShare, ...]:
    if not counts.rounds:
        return ()
    return tuple(
        NodeShare(
            node=node,
            honest=node < counts.honest,
            excluded=counts.excluded[node] / counts.rounds if counts.selecting else None,
            refused=sum(counts.refused.get(node, {}).values()) / counts.rounds,
        )
        for node in range(counts.n)
    )


def rounds_done(path: Path) -> int:
    """Return the number of rounds that the run in the folder `path` has on record."""
    try:
        return (path / ROUNDS).read_bytes().count(b"\n")
    except OSError:
        return 0
