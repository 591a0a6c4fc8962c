"""Paired comparisons: two values of an axis over equal seeds, all other axes equal.

Equal seeds mean equal data, batches and initial values, so that the difference of two runs is due
to what is compared.  For each seed the differences of all cells are averaged: cells are chosen by
whoever wrote the study, only seeds are drawn at random, so the interval is over the seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations

from attrs import field, frozen

from byzpy_tw.sweep.pivot import (
    Key,
    Value,
    dimensions,
    find_dimension,
    value_of,
)
from byzpy_tw.sweep.study_results import StudyResults
from byzpy_tw.tasks.metric import Metric

CONFIDENCE = 0.95
# With fewer seeds a two-sided test of signs cannot come below 5 %.
SEEDS_OF_A_TEST = 6
MISSING = "no interval: pip install 'byzpy-tw[statistics]'"


@frozen(kw_only=True)
class Comparison:
    """The differences between two values of an axis, `first` minus `second`, by seed.

    ``cells`` of them are averaged for each seed; ``left_out`` more lack a value for a seed.
    """

    first: str
    second: str
    better: str  # of the metric
    by_seed: Mapping[int, float] = field(factory=dict)
    cells: int = 0
    left_out: int = 0

    @property
    def differences(self) -> tuple[float, ...]:
        return tuple(self.by_seed.values())

    @property
    def mean(self) -> float | None:
        return statistics.mean(self.differences) if self.differences else None

    @property
    def wins(self) -> int:
        """The number of seeds in which `first` is better."""
        sign = -1 if self.better == "lower" else 1
        return sum(sign * difference > 0 for difference in self.differences)

    @property
    def losses(self) -> int:
        """The number of seeds in which `second` is better."""
        return sum(difference != 0 for difference in self.differences) - self.wins

    @property
    def interval(self) -> tuple[float, float] | None:
        """The confidence interval of the mean, by a paired t-test.

        None for fewer than two seeds, and without SciPy.
        """
        count = len(self.differences)
        quantile = t_quantiles(count - 1)[-1:] if count > 1 else ()
        if not quantile:
            return None
        centre = statistics.mean(self.differences)
        half = quantile[0] * statistics.stdev(self.differences) / math.sqrt(count)
        return centre - half, centre + half

    @property
    def sign_test(self) -> float | None:
        """The p-value of a two-sided test of signs; None for fewer seeds than can show anything."""
        count = self.wins + self.losses
        if len(self.differences) < SEEDS_OF_A_TEST:
            return None
        tail = sum(math.comb(count, k) for k in range(min(self.wins, self.losses) + 1))
        return min(1.0, 2 * tail / 2**count)

    @property
    def wilcoxon(self) -> float | None:
        """The p-value of Wilcoxon's signed-rank test; None as for the test of signs, or SciPy."""
        if len(self.differences) < SEEDS_OF_A_TEST or not any(self.differences):
            return None
        try:
            from scipy.stats import wilcoxon
        except ModuleNotFoundError:
            return None
        return float(wilcoxon(self.differences).pvalue)


def t_quantiles(most: int) -> list[float]:
    """Return the quantile of Student's distribution for a two-sided interval, from 1 to `most`.

    That is by its degrees of freedom.  Empty without SciPy, which is 110 MB, three times the rest
    of what a sweep needs, for this number: it is an extra.
    """
    try:
        from scipy.special import stdtrit
    except ModuleNotFoundError:
        return []
    return [float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) for freedom in range(1, most + 1)]


def compare(
    results: StudyResults, axis: str, metric: Metric, kind: str = "final",
    fixed: Mapping[str, str] | None = None,
) -> list[Comparison]:  # fmt: skip
    """Compare each pair of values of `axis` by `metric`, whose `kind` is final, worst or best.

    ``fixed`` has a label for other axes by their names.  Raises `ConfigError` for an axis that the
    study does not have.
    """
    dimension = find_dimension(results.plan, axis)
    wanted = {find_dimension(results.plan, name): label for name, label in (fixed or {}).items()}
    others = [d for d in dimensions(results.plan) if not set(d.options) & set(dimension.options)]
    found: dict[str, dict[Key, Value]] = {label: {} for label in dimension.values}
    for run, cell in results.cells:
        if all(other.of(run) == label for other, label in wanted.items()):
            key = tuple(other.of(run) for other in others)
            found[dimension.of(run)][key] = value_of(results.outcome(cell), metric, kind)
    return [_compare(found, first, second, metric) for first, second in combinations(found, 2)]


def _compare(
    found: Mapping[str, Mapping[Key, Value]], first: str, second: str, metric: Metric
) -> Comparison:
    ours, theirs = found[first], found[second]
    both = [key for key in ours if key in theirs]
    seeds = sorted({seed for key in both for each in (ours, theirs) for seed in each[key].by_seed})
    whole = [k for k in both if _is_whole(ours[k], seeds) and _is_whole(theirs[k], seeds)]
    differences = {
        seed: statistics.mean(ours[k].by_seed[seed] - theirs[k].by_seed[seed] for k in whole)
        for seed in seeds
        if whole
    }
    return Comparison(
        first=first, second=second, better=metric.better, by_seed=differences, cells=len(whole),
        left_out=len(both) - len(whole),
    )  # fmt: skip


def _is_whole(value: Value, seeds: Sequence[int]) -> bool:
    return value.mark != "?" and all(seed in value.by_seed for seed in seeds)


def difference_text(metric: Metric, value: float | None) -> str:
    """Return a difference with its sign, of a share in points."""
    if value is None:
        return "-"
    return f"{100 * value:+.1f}" if metric.is_share else f"{value:+{metric.format}}"


def words(comparison: Comparison, metric: Metric) -> str:
    """Return what the comparison shows, behind its mean."""
    count = len(comparison.differences)
    if not count:
        return "no cell has values of both for each seed"
    if count == 1:
        return "one seed only: no interval, and nothing is shown"
    interval = comparison.interval
    if interval is None:
        told = MISSING
    else:
        low, high = (difference_text(metric, end) for end in interval)
        told = f"{low} to {high}"
    told += f"; better in {comparison.wins} of {count} seeds"
    tests = {"sign test": comparison.sign_test, "Wilcoxon": comparison.wilcoxon}
    shown = [f"{name} p = {p:.3g}" for name, p in tests.items() if p is not None]
    left = f"{comparison.left_out} of {comparison.left_out + comparison.cells} cells left out"
    return "; ".join([told, *shown, *([left] if comparison.left_out else [])])
