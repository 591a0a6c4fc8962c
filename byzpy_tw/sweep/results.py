"""The result of a cell from its runs' folders, and whether a run is run again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import attrs
from attrs import field, frozen

from byzpy_tw.errors import RunDirectoryError
from byzpy_tw.records.folder import ROUNDS, read_run
from byzpy_tw.records.metrics import DEFAULT, described_chance, metrics_in_result
from byzpy_tw.records.summary import (
    AttackFailures,
    RoundCounts,
    format_attack_calls,
    metric_curve,
    summarize,
)
from byzpy_tw.sweep.grid import Cell
from byzpy_tw.sweep.plan import PlannedRun
from byzpy_tw.tasks.metric import Metric
from byzpy_tw.text import clean

CONCLUSIVE = ("finished", "diverged")  # of a run whose result means something
_STATUSES = (*CONCLUSIVE, "paused", "interrupted", "failed")

# Raised by files that are damaged, or were edited by hand.
UNREADABLE_ERRORS = (
    LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip


@frozen(kw_only=True)
class NodeShare:
    """The shares of the recorded rounds that a node took part in, in which it was left out.

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
class RunResult:
    """The result of one run; ``metrics`` is that of result.json."""

    run: PlannedRun
    status: str
    error: str
    rounds: int
    metrics: Mapping[str, Mapping[str, float | None]]
    seconds: float
    digest: str | None  # of the parameters
    curve: tuple[tuple[int, float], ...]  # rounds done, and the first metric after them
    shares: tuple[NodeShare, ...]
    task_metrics: tuple[Metric, ...] = DEFAULT
    failures: AttackFailures | None = None  # of the attack's calls
    byzantine_weight: float | None = None  # in the aggregates, where that is known
    chance: Mapping[str, float] = field(factory=dict)  # by metric, where the task tells it

    @property
    def is_over(self) -> bool:
        """True if it came to its end, or each call of its attack failed: it is not run again."""
        if self.status == "failed":
            return self.failures is not None and self.failures.all_failed
        return self.status in CONCLUSIVE


@frozen(kw_only=True)
class CellResult:
    """A cell and the results of its runs, in the order of their seeds.

    ``failures`` are the errors of runs that have left no folder.
    """

    cell: Cell
    ended: tuple[RunResult, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def has_runs(self) -> bool:
        """True if one of its runs has ended."""
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
        return "finished" if len(self.ended) == len(self.cell.runs) else "waiting"

    @property
    def reason(self) -> str:
        """The cause of a status that is not ``finished``; may be empty."""
        if self.cell.impossible is not None:
            return self.cell.impossible
        return next((e.error for e in self.ended if e.error), "") or "".join(self.failures[:1])

    @property
    def task_metrics(self) -> tuple[Metric, ...]:
        """The metrics of its runs' task."""
        return self.ended[0].task_metrics if self.ended else DEFAULT

    @property
    def metric(self) -> Metric:
        """The most important metric of its runs' task."""
        return self.task_metrics[0]

    @property
    def final(self) -> float | None:
        """The mean of the first metric over the seeds of runs that finished.

        None where one of them has no value, and for runs of different tasks.
        """
        return self.figures(self.metric)["final"]

    @property
    def worst(self) -> float | None:
        """The worst of any seed, over the last fifth of its evaluations."""
        return self.figures(self.metric)["worst"]

    @property
    def best(self) -> float | None:
        """The best of any seed, over all evaluations."""
        return self.figures(self.metric)["best"]

    def figures(self, metric: Metric) -> dict[str, float | None]:
        """Return the final, the worst and the best value of `metric` over the seeds."""
        runs = [ended for ended in self.ended if ended.status == "finished"]
        over: dict[str, Callable[[list[float]], float | None]]
        over = {"final": mean, "worst": metric.worst, "best": metric.best}
        figures: dict[str, float | None] = dict.fromkeys(over)
        if runs and all(metric in ended.task_metrics for ended in runs):
            for kind, function in over.items():
                found = [ended.metrics[metric.name][kind] for ended in runs]
                values = [value for value in found if value is not None]
                figures[kind] = function(values) if len(values) == len(found) else None
        return figures

    @property
    def shares(self) -> list[NodeShare]:
        """The shares of each node, as means over the seeds."""
        found = []
        for same in zip(*(e.shares for e in self.ended if e.shares), strict=True):
            known = [s.excluded for s in same if s.excluded is not None]
            excluded, refused = mean(known) if known else None, mean(s.refused for s in same)
            found.append(attrs.evolve(same[0], excluded=excluded, refused=refused))
        return found

    @property
    def byzantine_weight(self) -> float | None:
        """The share of the aggregates' weight that Byzantine nodes had, as a mean over the seeds.

        None where a run does not know it: its rule gives no weights, or it is of an earlier
        version.
        """
        found = [ended.byzantine_weight for ended in self.ended]
        known = [weight for weight in found if weight is not None]
        return mean(known) if known and len(known) == len(found) else None

    def left_out(self, *, honest: bool) -> float | None:
        """Return the mean share of rounds in which a node of this kind was left out.

        None where no node ever was: the rule does not choose, or takes them all.
        """
        shares = self.shares
        if not any(s.left_out for s in shares):
            return None
        return mean(s.left_out for s in shares if s.honest is honest)


def common_metrics(outcomes: Iterable[CellResult]) -> tuple[Metric, ...]:
    """Return the metrics of the first cell with a result: all runs of a grid have one task."""
    return next((outcome.task_metrics for outcome in outcomes if outcome.ended), DEFAULT)


def read(run: PlannedRun, path: Path) -> RunResult | None:
    """Return the result of the run in the folder `path`; None where it has not ended.

    None also where a file is damaged or contradicts the others: it is run again then.
    """
    try:
        recorded = read_run(path)
        result = recorded.result
        if result is None or recorded.description["bits"] != run.config.bits:
            return None  # the folder of another run
        records = recorded.rounds
        if recorded.reader.damage or recorded.reader.torn:
            return None
        metrics = recorded.metrics
        summary = summarize(run.config, records, metrics)
        counts, figures = summary.counts, summary.figures()["metrics"]
        if metrics_in_result(result) != figures:
            return None
        status, rounds, error = result["status"], result["rounds"], result["error"]
        failures = counts.attack_failures
        if status == "finished" and failures is not None and failures.all_failed:
            # Of an earlier version, which had no status for that.
            status, error = "failed", f"the attack failed {failures.calls}: {failures.first}"
        if status not in _STATUSES or type(rounds) is not int or rounds != len(records):
            return None
        return RunResult(
            run=run,
            status=status,
            error=clean(str(error or ""), 1000),
            rounds=rounds,
            metrics=figures,
            task_metrics=metrics,
            seconds=_number(result["seconds"], _CENTURY),
            digest=clean(str(result["parameters_sha256"] or ""), 64) or None,
            curve=tuple(metric_curve(records, metrics[0].name)),
            shares=tuple(_share(counts, node) for node in range(counts.n if counts.rounds else 0)),
            failures=failures,
            byzantine_weight=counts.byzantine_weight,
            chance=described_chance(recorded.description),
        )
    except (RunDirectoryError, *UNREADABLE_ERRORS):
        return None


def _share(counts: RoundCounts, node: int) -> NodeShare:
    asked = max(1, counts.rounds_asked(node))
    return NodeShare(
        node=node,
        honest=node < counts.num_honest,
        excluded=counts.excluded[node] / asked if counts.selecting else None,
        refused=sum(counts.refused.get(node, {}).values()) / asked,
    )


_CENTURY = 3.2e9  # seconds


def _number(value: Any, most: float) -> float:
    """Return `value`; raise `ValueError` where it is no number from 0 to `most`."""
    if type(value) not in (int, float) or not 0 <= value <= most:
        raise ValueError("not a number that can be")
    return float(value)


def rounds_done(path: Path) -> int:
    """Return the number of rounds that the run in the folder `path` has on record."""
    try:
        return (path / ROUNDS).read_bytes().count(b"\n")
    except OSError:
        return 0
