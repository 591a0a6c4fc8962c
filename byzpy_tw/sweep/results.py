"""The results of runs, from their folders, and those of cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import attrs
from attrs import field, frozen

from byzpy_tw.errors import RunDirectoryError
from byzpy_tw.records.folder import ROUNDS, RecordedRun, read_run
from byzpy_tw.records.metrics import DEFAULT, described_chance, metrics_in, metrics_in_result
from byzpy_tw.records.summary import (
    AttackFailures,
    RoundCounts,
    format_attack_calls,
    summarize,
)
from byzpy_tw.sweep.grid import Cell
from byzpy_tw.sweep.plan import PlannedRun
from byzpy_tw.tasks.metric import ATTACK_SUCCESS, Metric
from byzpy_tw.text import clean

CONCLUSIVE = ("finished", "diverged")  # of a run whose result means something
STATUSES = (*CONCLUSIVE, "paused", "interrupted", "failed")

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


@frozen
class Evaluation:
    """The metrics and the loss on the test data after so many rounds; None: not finite."""

    rounds: int
    metrics: Mapping[str, float | None]
    loss: float | None = None


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
    evaluations: tuple[Evaluation, ...] = ()
    shares: tuple[NodeShare, ...] = ()
    task_metrics: tuple[Metric, ...] = DEFAULT
    failures: AttackFailures | None = None  # of the attack's calls
    byzantine_weight: float | None = None  # in the aggregates, where that is known
    chance: Mapping[str, float] = field(factory=dict)  # by metric, where the task tells it
    has_folder: bool = True  # False for a run that is recorded in one line

    @property
    def is_over(self) -> bool:
        """True if it came to its end, or each call of its attack failed: it is not run again."""
        if self.status == "failed":
            return self.failures is not None and self.failures.all_failed
        return self.status in CONCLUSIVE

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Return (rounds run, value) of each evaluation in which the metric `name` was finite."""
        found = ((each.rounds, each.metrics.get(name)) for each in self.evaluations)
        return [(rounds, value) for rounds, value in found if value is not None]


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
    def attack_success(self) -> float | None:
        """The success rate of its attack at the end, the mean over the seeds; None without one."""
        known = ATTACK_SUCCESS in self.task_metrics
        return self.figures(ATTACK_SUCCESS)["final"] if known else None

    def figures(self, metric: Metric) -> dict[str, float | None]:
        """Return the final, the worst and the best value of `metric` over the seeds.

        The worst is over the last fifth of the evaluations, the best over all of them.
        """
        over: dict[str, Callable[[list[float]], float | None]]
        over = {"final": mean, "worst": metric.worst, "best": metric.best}
        found = {kind: self.by_seed(metric, kind) for kind in over}
        return {
            kind: function([v for v in found[kind].values() if v is not None])
            if found[kind] and None not in found[kind].values() else None
            for kind, function in over.items()
        }  # fmt: skip

    def by_seed(self, metric: Metric, kind: str) -> dict[int, float | None]:
        """Return that value of each run that finished, by its seed.

        Empty for runs of a task without `metric`.
        """
        runs = [ended for ended in self.ended if ended.status == "finished"]
        if not all(metric in ended.task_metrics for ended in runs):
            return {}
        return {ended.run.config.seed: ended.metrics[metric.name][kind] for ended in runs}

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

        None where no node ever was (the rule does not choose, or takes them all), or none is there.
        """
        shares = self.shares
        of_kind = [s.left_out for s in shares if s.honest is honest]
        return mean(of_kind) if of_kind and any(s.left_out for s in shares) else None


def common_metrics(outcomes: Iterable[CellResult]) -> tuple[Metric, ...]:
    """Return the metrics of the cells with a result, without those of the validation data.

    All runs of a grid have one task; an attack's success is measured in some alone.
    """
    found = dict.fromkeys(m for o in outcomes if o.ended for m in o.task_metrics)
    return tuple(metric for metric in found or DEFAULT if not metric.is_of_validation)


def read(run: PlannedRun, path: Path) -> RunResult | None:
    """Return the result of the run in the folder `path`; None where it has not ended.

    None also where a file is damaged or contradicts the others: it is run again then.
    """
    try:
        return of_record(run, read_run(path))
    except (RunDirectoryError, *UNREADABLE_ERRORS):
        return None


def of_record(run: PlannedRun, recorded: RecordedRun) -> RunResult | None:
    """Return the result of a run as it is recorded; None where it has not ended, or is damaged."""
    try:
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
        if status not in STATUSES or type(rounds) is not int or rounds != len(records):
            return None
        if rounds > run.config.rounds:
            return None
        return RunResult(
            run=run,
            status=status,
            error=clean(str(error or ""), 1000),
            rounds=rounds,
            metrics=figures,
            task_metrics=metrics,
            seconds=checked_seconds(result["seconds"]),
            digest=clean(str(result["parameters_sha256"] or ""), 64) or None,
            evaluations=tuple(_evaluations(records)),
            shares=tuple(_share(counts, node) for node in range(counts.n if counts.rounds else 0)),
            failures=failures,
            byzantine_weight=counts.byzantine_weight,
            chance=described_chance(recorded.description),
        )
    except (RunDirectoryError, *UNREADABLE_ERRORS):
        return None


def _evaluations(records: Iterable[Mapping[str, Any]]) -> Iterator[Evaluation]:
    for record in records:
        if found := metrics_in(record):
            yield Evaluation(record["round"] + 1, found, record["test_loss"])


def _share(counts: RoundCounts, node: int) -> NodeShare:
    asked = max(1, counts.rounds_asked(node))
    return NodeShare(
        node=node,
        honest=node < counts.num_honest,
        excluded=counts.excluded[node] / asked if counts.selecting else None,
        refused=sum(counts.refused.get(node, {}).values()) / asked,
    )


_CENTURY = 3.2e9  # seconds


def checked_seconds(value: Any) -> float:
    """Return `value`; raise `ValueError` where it is no number from 0 to a century."""
    if type(value) not in (int, float) or not 0 <= value <= _CENTURY:
        raise ValueError("no time that can be")
    return float(value)


def rounds_done(path: Path) -> int:
    """Return the number of rounds that the run in the folder `path` has on record."""
    try:
        return (path / ROUNDS).read_bytes().count(b"\n")
    except OSError:
        return 0
