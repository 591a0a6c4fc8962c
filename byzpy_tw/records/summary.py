"""Counts over a run's records: refusals, attack failures, the figures of result.json.

`RoundCounts` has totals in bounded memory; `RunSummary` adds each evaluation to them.

A Byzantine node whose attack raises sends nothing, and is refused as `failed`: the rule then
meets fewer attackers than the run's configuration says.  `AttackFailures` counts them, since
this is no merit of the rule's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.records.metrics import DEFAULT, KINDS, metrics_in
from byzpy_tw.records.schema import GAUGES, PLOTTED
from byzpy_tw.rounds.round import Reason
from byzpy_tw.tasks.metric import Metric
from byzpy_tw.text import shorten

_PHASES = 8  # more than a trainer writes; a file may hold anything
_LATEST = ("round", *dict.fromkeys([*PLOTTED, *GAUGES]))


def format_attack_calls(failed: int, of: int, probation: int) -> str:
    """Return "in K of N calls", to follow "the attack failed"."""
    more = f" ({probation} more were not waited for)" if probation else ""
    return f"in {failed} of {of} calls{more}"


@frozen
class Missed:
    """The rounds that a node missed: refused for what it sent or did not, or without a server.

    Rounds in which it could not be asked, since no honest node was drawn, are neither.
    """

    absent: int
    refused: Mapping[str, int]  # by reason

    @classmethod
    def of(cls, reasons: Mapping[str, int]) -> Missed:
        """Return this of the rounds by reason, as result.json has them."""
        absent, told = reasons.get(Reason.LOST.value, 0), dict(reasons)
        for neither in (Reason.LOST.value, Reason.NOT_ASKED.value):
            told.pop(neither, None)
        return cls(absent, told)

    @property
    def rounds(self) -> int:
        """All rounds that it missed."""
        return self.absent + sum(self.refused.values())

    def text(self, of: str = "") -> str:
        """Return words to follow "the node was"; `of` is " of N rounds", or empty."""
        said = []
        if self.refused:
            each = ", ".join(f"{reason} {count}" for reason, count in self.refused.items())
            said.append(f"refused in {sum(self.refused.values())}{of} ({each})")
        if self.absent:
            said.append(f"absent in {self.absent}{'' if said else of} (its server was away)")
        return " and ".join(said)


@frozen
class AttackFailures:
    """The calls of an attack in a run in which at least one of them failed."""

    failed: int  # Byzantine vectors whose computation raised, or was no vector
    probation: int  # more that were not waited for, since their nodes had failed before
    of: int  # vectors of Byzantine nodes that the rounds were to have
    all_failed: bool  # each vector is missing for this reason or a lost server: no attack at all
    round: int  # of the first failure
    node: int  # of the first failure
    why: str

    @property
    def first(self) -> str:
        """The first failure in words."""
        return f"round {self.round}, node {self.node}: {self.why}"

    @property
    def calls(self) -> str:
        """The words "in K of N calls", to follow "the attack failed"."""
        return format_attack_calls(self.failed, self.of, self.probation)


@define(eq=False)
class RoundCounts:
    """Totals in bounded memory over a run's rounds; its first `num_honest` nodes are honest."""

    num_honest: int
    num_byz: int
    rounds: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    phase_seconds: dict[str, float] = field(factory=dict, init=False)
    bytes_sent: int = field(default=0, init=False)
    bytes_received: int = field(default=0, init=False)
    selecting: int = field(default=0, init=False)  # rounds whose rule chose between nodes
    selected: int = field(default=0, init=False)  # nodes selected, over all of these
    excluded: Counter[int] = field(factory=Counter, init=False)  # node -> rounds
    _weighed: int = field(default=0, init=False)  # rounds with a known weight of Byzantine nodes
    _byzantine_weight: float = field(default=0.0, init=False)  # the sum of these
    refused: dict[int, Counter[str]] = field(factory=dict, init=False)  # node -> reason -> rounds
    latest: dict[str, Any] = field(factory=dict, init=False)  # entries of the newest record
    metrics: Mapping[str, float | None] = field(factory=dict, init=False)  # newest evaluation
    evaluated: int = field(default=0, init=False)  # rounds until the last evaluation
    digest: str | None = field(default=None, init=False)  # of the newest parameters
    _whole: int = field(default=0, init=False)  # rounds in which all nodes took part
    _asked: Counter[int] = field(factory=Counter, init=False)  # node -> other rounds
    _byzantine_asked: int = field(default=0, init=False)  # calls of the attack
    _exceeded: int = field(default=0, init=False)  # rounds with more Byzantine vectors than f
    _byzantine_refused: Counter[str] = field(factory=Counter, init=False)  # reason -> calls
    _first_failure: tuple[int, int, str] | None = field(default=None, init=False)

    @property
    def n(self) -> int:
        """The number of nodes."""
        return self.num_honest + self.num_byz

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one more round."""
        self.rounds += 1
        self.seconds += record["seconds"]
        self.bytes_sent += record.get("bytes_sent", 0)
        self.bytes_received += record.get("bytes_received", 0)
        self.digest = record["parameters_sha256"]
        for phase, seconds in record["phases"].items():
            if phase in self.phase_seconds or len(self.phase_seconds) < _PHASES:
                self.phase_seconds[phase] = self.phase_seconds.get(phase, 0.0) + (seconds or 0.0)
        if record["selected"] is not None:
            self.selecting += 1
            self.selected += len(record["selected"])
        self.excluded.update(record["excluded"])
        if "byzantine_weight" in record:
            self._weighed += 1
            self._byzantine_weight += record["byzantine_weight"]
        self._add_participants(record)
        for refused in record["refused"]:
            self._add_refusal(refused)
        # A figure of an earlier evaluation stands until the next one.
        self.latest.update((name, record[name]) for name in _LATEST if name in record)
        if found := metrics_in(record):
            self.metrics, self.evaluated = found, self.rounds

    def _add_participants(self, record: Mapping[str, Any]) -> None:
        asked = record.get("participants")
        if asked is None:
            self._whole += 1
            self._byzantine_asked += self.num_byz
            return
        self._asked.update(asked)
        byzantine = sum(node >= self.num_honest for node in asked)
        self._byzantine_asked += byzantine
        missing = sum(refused["node"] >= self.num_honest for refused in record["refused"])
        self._exceeded += byzantine - missing > record["f"]

    @property
    def chooses(self) -> bool:
        """True if the rule chose between nodes, as far as records say."""
        return self.selecting > 0 or not self.rounds

    @property
    def byzantine_weight(self) -> float | None:
        """The share of the aggregates' weight that Byzantine nodes had; None where not known."""
        return self._byzantine_weight / self._weighed if self._weighed else None

    @property
    def sampled(self) -> bool:
        """True if not all nodes took part in each round."""
        return self._whole < self.rounds

    @property
    def exceeded(self) -> int | None:
        """The rounds with vectors of more Byzantine nodes than f; None where all took part."""
        return self._exceeded if self.sampled else None

    def rounds_asked(self, node: int) -> int:
        """Return the number of rounds in which `node` took part."""
        return self._whole + self._asked[node]

    def _add_refusal(self, refused: Mapping[str, Any]) -> None:
        node, reason = refused["node"], refused["reason"][:40]
        self.refused.setdefault(node, Counter())[reason] += 1
        if node < self.num_honest:
            return
        self._byzantine_refused[reason] += 1
        if reason == Reason.FAILED.value and self._first_failure is None:
            why = shorten(str(refused.get("detail") or "")) or "no further details"
            self._first_failure = self.rounds - 1, node, why

    @property
    def refusals(self) -> int:
        """The number of refused vectors, over all rounds."""
        return sum(reasons.total() for reasons in self.refused.values())

    @property
    def attack_failures(self) -> AttackFailures | None:
        """The failed calls of the attack; None where no call has failed."""
        if self._first_failure is None:
            return None
        refused = self._byzantine_refused
        failed, probation = refused[Reason.FAILED.value], refused[Reason.PROBATION.value]
        calls, lost = self._byzantine_asked, refused[Reason.LOST.value]
        all_failed = failed + probation + lost == refused.total() == calls
        return AttackFailures(failed, probation, calls, all_failed, *self._first_failure)


@define(eq=False)
class RunSummary:
    """The figures of result.json, from each record in order.  Make one with `summarize`."""

    counts: RoundCounts
    metrics: Sequence[Metric] = DEFAULT
    _losses: list[float] = field(factory=list, init=False)  # of each evaluation
    _values: list[Mapping[str, float | None]] = field(factory=list, init=False)  # its metrics

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one more round."""
        self.counts.add(record)
        if found := metrics_in(record):
            loss = record["test_loss"]  # null on disk, where it was not finite
            self._losses.append(math.nan if loss is None else loss)
            self._values.append(found)

    def figures(self) -> dict[str, Any]:
        """Return the part of result.json that the records decide."""
        counts, failures = self.counts, self.counts.attack_failures
        metrics = {metric.name: self._extremes(metric) for metric in self.metrics}
        accuracy = metrics.get("accuracy", dict.fromkeys(KINDS))
        return {
            "rounds": counts.rounds,
            "final_accuracy": accuracy["final"],
            "final_loss": self._losses[-1] if self._losses else None,
            "worst_accuracy": accuracy["worst"],
            "best_accuracy": accuracy["best"],
            "metrics": metrics,
            "byzantine_weight": counts.byzantine_weight,
            "exceeded": counts.exceeded,
            "refused": {str(n): dict(why) for n, why in sorted(counts.refused.items())},
            "asked": {str(n): counts.rounds_asked(n) for n in sorted(counts.refused)}
            if counts.sampled
            else None,
            "attack_failures": failures
            and {name: getattr(failures, name) for name in ("failed", "probation", "of", "first")},
            "seconds_a_round": counts.seconds / counts.rounds if counts.rounds else None,
            "parameters_sha256": counts.digest,
        }

    def _extremes(self, metric: Metric) -> dict[str, float | None]:
        """Return the last value of `metric`, the worst of the end, and the best of all."""
        found = [values.get(metric.name) for values in self._values]
        values = [value if value is not None and math.isfinite(value) else None for value in found]
        # Worst over the last fifth: the best alone flatters a run that collapsed.
        tail = values[-max(1, len(values) // 5) :]
        finite = [value for value in values if value is not None]
        # Nothing is worse than a value that is not finite.
        worst = None if None in tail else metric.worst([v for v in tail if v is not None])
        final = values[-1] if values else None
        return dict(zip(KINDS, (final, worst, metric.best(finite)), strict=True))


def summarize(
    config: RunConfig,
    records: Iterable[Mapping[str, Any]] = (),
    metrics: Sequence[Metric] = DEFAULT,
) -> RunSummary:
    """Return the summary of `records`, and of those that are added, of a run of `config`."""
    summary = RunSummary(RoundCounts(config.num_honest, config.num_byz), metrics)
    for record in records:
        summary.add(record)
    return summary


def curve(records: Iterable[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Return (rounds run, value) of each record in which the entry `name` has a value."""
    return [(r["round"] + 1, r[name]) for r in records if r.get(name) is not None]


def metric_curve(records: Iterable[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Return (rounds run, value) of each evaluation in which the metric `name` was finite."""
    found = ((record["round"] + 1, metrics_in(record).get(name)) for record in records)
    return [(rounds, value) for rounds, value in found if value is not None]
