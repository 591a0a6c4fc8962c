"""What came of a cell, read from its runs' folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from attrs import frozen

from byzpy_tw.records.attack_calls import AttackCalls, AttackFailures, counted
from byzpy_tw.records.folder import CONFIG, RESULT, ROUNDS, read_rounds
from byzpy_tw.sweep.grid import Cell, SweepTrial
from byzpy_tw.text import clean

CONCLUSIVE = ("finished", "diverged")  # of a run whose result means something
_STATUSES = (*CONCLUSIVE, "paused", "interrupted", "failed")

# What reading a file can come to that is damaged, or written by somebody's hand.
UNREADABLE_ERRORS = (
    LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip


@frozen(kw_only=True)
class NodeShare:
    """How often a node was left out, as shares of the rounds that are on record.

    ``excluded``: the rule passed over it, None where the rule does not choose between
    nodes.  ``refused``: its vector was late, lost, malformed or not finite.
    """

    node: int
    honest: bool
    excluded: float | None
    refused: float

    @property
    def out(self) -> float:
        return min(1.0, (self.excluded or 0.0) + self.refused)


@frozen(kw_only=True)
class TrialResult:
    """One run that is over: accuracies from 0 to 1, None where it was never evaluated."""

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
    def good(self) -> bool:
        """Return whether its result means something."""
        return self.status in CONCLUSIVE

    @property
    def is_over(self) -> bool:
        """Return whether it came to its end, so that it is not run again."""
        return self.good or self.attack_always_failed

    @property
    def attack_always_failed(self) -> bool:
        """Return whether its attack failed all along, which is all that is wrong with it."""
        return self.status == "failed" and self.failures is not None and self.failures.total


@frozen(kw_only=True)
class CellResult:
    """A cell and those of its runs that are over, in the seeds' order.

    ``failures`` say why others could not be run, where not even a folder is left of them.
    """

    cell: Cell
    ended: tuple[TrialResult, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def begun(self) -> bool:
        """Whether there is anything to say of its runs."""
        return bool(self.ended or self.failures)

    @property
    def whole(self) -> bool:
        """Whether all of its runs came to an end that means something."""
        return bool(self.ended) and all(e.good for e in self.ended) and (
            len(self.ended) == len(self.cell.trials)
        )  # fmt: skip

    @property
    def attack_failures(self) -> str:
        """The number of failed attack calls of its runs, with the first cause; empty for none.

        Nothing can be concluded from such a cell: its rule met fewer attackers than others.
        """
        found = [e.failures for e in self.ended if e.failures is not None]
        if not found:
            return ""
        failed, of = sum(f.failed for f in found), sum(f.of for f in found)
        often = counted(failed, of, sum(f.probation for f in found))
        return f"the attack failed {often}: {clean(found[0].first, 400)}"

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
    def why(self) -> str:
        """What is to be said of a status that is not ``finished``; may be empty."""
        if self.cell.impossible is not None:
            return self.cell.impossible
        return next((e.error for e in self.ended if e.error), "") or "".join(self.failures[:1])

    @property
    def final(self) -> float | None:
        """Mean over the seeds of runs that finished; None where one has no accuracy."""
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
        """As `final`, with nothing for a cell that diverged: its model is worth that.

        None for a cell from which nothing can be concluded: a run of it, or its attack, failed.
        """
        if self.attack_failures or self.status not in (*CONCLUSIVE, "waiting"):
            return None
        return 0.0 if self.status == "diverged" else self.final

    @property
    def curve(self) -> list[tuple[int, float, float, float]]:
        """Rounds done, and the mean, lowest and highest accuracy after them."""
        at: dict[int, list[float]] = {}
        for ended in self.ended:
            for rounds, accuracy in ended.curve:
                at.setdefault(rounds, []).append(accuracy)
        return [(r, mean(found), min(found), max(found)) for r, found in sorted(at.items())]

    @property
    def shares(self) -> list[NodeShare]:
        """Each node's, as means over the seeds."""
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

    def out(self, *, honest: bool) -> float | None:
        """The share of rounds in which a node of this kind was left out, as a mean.

        None where no node ever was: the rule does not choose, or takes them all.
        """
        shares = self.shares
        if not any(s.out for s in shares):
            return None
        return mean(s.out for s in shares if s.honest is honest)


def _over(function: Any, values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return function(known) if known and len(known) == len(values) else None


def read(trial: SweepTrial, path: Path) -> TrialResult | None:
    """The run in the folder `path`, if one is over there; None for one that is not.

    None also for one of which not everything makes sense: it is as if it had not been run.
    """
    try:
        begun = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        result = json.loads((path / RESULT).read_text(encoding="utf-8"))
        if begun["bits"] != trial.config.bits:
            return None  # an accident of names, or somebody's hand
        found = read_rounds(path, trial.config.n)
        if found.damage or found.torn:
            return None
        records = found.rounds
        status, rounds, error = result["status"], result["rounds"], result["error"]
        failures = _failures(records, trial)
        if status == "finished" and failures is not None and failures.total:
            # Of an earlier version, which took that for a run like others.
            status, error = "failed", f"the attack failed {failures.counted}: {failures.first}"
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
            curve=_curve(records),
            shares=_shares(records, trial),
            failures=failures,
        )
    except (OSError, *UNREADABLE_ERRORS):
        return None


_CENTURY = 3.2e9  # seconds


def _number(value: Any, most: float) -> float:
    """`value`, from 0 to `most`; raises where it is not."""
    if type(value) not in (int, float) or not 0 <= value <= most:
        raise ValueError("not a number that can be")
    return float(value)


def _accuracy(value: Any) -> float | None:
    return None if value is None else _number(value, 1)


def _failures(records: Sequence[Mapping[str, Any]], trial: SweepTrial) -> AttackFailures | None:
    calls = AttackCalls(trial.config.num_honest, trial.config.num_byz)
    for record in records:
        calls.add(record)
    return calls.failures


def rounds_done(path: Path) -> int:
    """How many rounds the run in the folder `path` has on record."""
    try:
        return (path / ROUNDS).read_bytes().count(b"\n")
    except OSError:
        return 0


def _curve(records: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, float], ...]:
    return tuple((r["round"] + 1, _number(r["accuracy"], 1)) for r in records if "accuracy" in r)


def _shares(records: Sequence[Mapping[str, Any]], trial: SweepTrial) -> tuple[NodeShare, ...]:
    n, count = trial.config.n, len(records)
    if not count:
        return ()
    excluded, refused = [0] * n, [0] * n
    chosen = 0
    for record in records:
        chosen += record["selected"] is not None
        for node in set(record["excluded"]):
            excluded[node] += 1
        for node in {one["node"] for one in record["refused"]}:
            refused[node] += 1
    return tuple(
        NodeShare(
            node=node,
            honest=node < trial.config.num_honest,
            excluded=excluded[node] / count if chosen else None,
            refused=refused[node] / count,
        )
        for node in range(n)
    )
