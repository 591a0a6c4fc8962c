"""Pivots: the values of a study over any two of its axes.

Seeds are never an axis of a pivot: each cell has a value for each of them.  The other axes are
part of the rows, have one value, or count as their worst case.  Pre-aggregators and aggregator
together are the axis `PIPELINE`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product

import attrs
from attrs import field, frozen

from byzpy_tw.config.validators import toml_key
from byzpy_tw.errors import ConfigError
from byzpy_tw.sweep.plan import Plan, PlannedRun
from byzpy_tw.sweep.results import CellResult
from byzpy_tw.sweep.study import RULE_OPTIONS
from byzpy_tw.sweep.study_results import StudyResults
from byzpy_tw.tasks.metric import Metric

PIPELINE = "pipeline"
WORST = "worst case"  # the label of the worst value over an axis
LEFT_OUT = "left out"  # the status of a combination that the study has no run of
_SPEAKING = ("attack", PIPELINE, "aggregator")  # their labels are understood by themselves

Key = tuple[str, ...]  # a label for each dimension of the rows, or of the columns


@frozen
class Dimension:
    """An axis of a pivot: the options that it stands for, and its labels in order."""

    name: str
    options: tuple[str, ...]
    values: tuple[str, ...]
    _short: bool = field(default=True, kw_only=True)  # the first option tells the values apart

    @property
    def title(self) -> str:
        """Its name as in a study's file."""
        return toml_key(self.name)

    def of(self, run: PlannedRun) -> str:
        """Return the label of `run`."""
        if self.name == PIPELINE:
            return run.config.pipeline
        options = self.options[:1] if self._short else self.options
        return ", ".join(run.point[name] for name in options)

    def told(self, run: PlannedRun) -> str:
        """Return the label of `run` so that it is understood by itself."""
        label = self.of(run)
        return label if self.name in _SPEAKING else f"{self.title} = {label}"


def dimensions(plan: Plan) -> tuple[Dimension, ...]:
    """Return the axes of `plan` that have several values, in order, but for the seeds."""
    made = (_dimension(axis.options, plan) for axis in plan.study.setting_axes)
    return tuple(dimension for dimension in made if len(dimension.values) > 1)


def _dimension(options: tuple[str, ...], plan: Plan) -> Dimension:
    name = PIPELINE if set(options) == set(RULE_OPTIONS) else options[0]
    seen = {tuple(run.point.get(o, "") for o in options) for run in plan.runs}
    short = len({texts[0] for texts in seen}) == len(seen)
    made = Dimension(name, options, (), short=short)
    return attrs.evolve(made, values=tuple(dict.fromkeys(map(made.of, plan.runs))))


def pipeline_dimension(plan: Plan) -> Dimension | None:
    """Return the dimension of whole pipelines; None where there is only one."""
    labels = tuple(dict.fromkeys(run.config.pipeline for run in plan.runs))
    return Dimension(PIPELINE, RULE_OPTIONS, labels) if len(labels) > 1 else None


def find_dimension(plan: Plan, name: str) -> Dimension:
    """Return the dimension called `name`, or that has an option of that name.

    Raises `ConfigError` for a name of nothing that varies.
    """
    key, known = name.strip().lstrip("-").replace("-", "_"), dimensions(plan)
    if key == PIPELINE and (whole := pipeline_dimension(plan)) is not None:
        return whole
    for dimension in known:
        if key == dimension.name or key in dimension.options:
            return dimension
    offered = [toml_key(dimension.name) for dimension in known]
    if pipeline_dimension(plan) is not None:
        offered = [PIPELINE, *(each for each in offered if each != PIPELINE)]
    raise ConfigError(
        f"{name!r} is no axis of this study, which has {', '.join(offered) or 'none'}"
    )


@frozen(kw_only=True)
class View:
    """The dimensions of a pivot's rows and columns, by name, and the rest of the study's.

    Those that are named nowhere are part of the rows.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    fixed: Mapping[str, str] = field(factory=dict)  # a label by name
    worst_over: tuple[str, ...] = ()
    worst_column: str | None = "attack"  # the axis whose worst case has a column of its own


def default_view(plan: Plan) -> View:
    """Return pipelines down and attacks across, or the first two axes there are."""
    names = [dimension.name for dimension in dimensions(plan)]
    rows = [PIPELINE] if pipeline_dimension(plan) is not None else []
    rest = [name for name in names if name not in (*RULE_OPTIONS, PIPELINE)]
    columns = ["attack"] if "attack" in rest else rest[:1] if rows else rest[1:2]
    rows = rows or [name for name in rest if name not in columns][:1]
    return View(rows=tuple(rows), columns=tuple(columns))


@frozen(kw_only=True)
class Value:
    """The values of a metric in a cell by seed, or why there are none."""

    status: str
    why: str = ""
    by_seed: Mapping[int, float] = field(factory=dict)
    mark: str = ""  # "?": its attack failed; "*": no guarantee
    where: str = ""  # labels of the axes over which this is the worst
    unknown: str = ""  # cells that could be worse still, and why they have no value
    outcome: CellResult | None = field(default=None, eq=False, repr=False)

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(self.by_seed.values())

    @property
    def count(self) -> int:
        """The number of seeds with a value."""
        return len(self.by_seed)

    @property
    def mean(self) -> float | None:
        return statistics.mean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation over the seeds (of a sample); None for fewer than two."""
        return statistics.stdev(self.values) if self.count > 1 else None

    @property
    def min(self) -> float | None:
        return min(self.values, default=None)

    @property
    def max(self) -> float | None:
        return max(self.values, default=None)

    def goodness(self, metric: Metric) -> float | None:
        """Return the mean, or its negative where lower is better: more is better.

        Minus infinity for a cell that diverged, None for one from which nothing is concluded.
        """
        if self.status == "diverged":
            return -math.inf
        if self.mean is None or self.mark == "?":
            return None
        return -self.mean if metric.better == "lower" else self.mean


@frozen(kw_only=True)
class Pivot:
    """The cells of a study by the labels of their row and their column."""

    row_dimensions: tuple[Dimension, ...]
    column_dimensions: tuple[Dimension, ...]
    rows: tuple[Key, ...]
    columns: tuple[Key, ...]
    cells: Mapping[tuple[Key, Key], Value]
    metric: Metric
    kind: str

    def value(self, row: Key, column: Key) -> Value:
        """Return a cell; one that the study has no run of is left out."""
        return self.cells.get((row, column)) or Value(status=LEFT_OUT)


def pivot(results: StudyResults, view: View, metric: Metric, kind: str = "final") -> Pivot:
    """Return the pivot of `metric`: its final, worst or best value, as `kind` says.

    Raises `ConfigError` for a view that the study does not have.
    """
    rows, columns, over = _resolve_view(results.plan, view)
    wanted = {find_dimension(results.plan, name): label for name, label in view.fixed.items()}
    found: dict[tuple[Key, Key], dict[Key, Value]] = {}
    for run, cell in results.cells:
        if all(dimension.of(run) == label for dimension, label in wanted.items()):
            row, column = (tuple(d.of(run) for d in part) for part in (rows, columns))
            rest = tuple(dimension.told(run) for dimension in over)
            found.setdefault((row, column), {})[rest] = value_of(
                results.outcome(cell), metric, kind
            )
    cells = {at: _worst(values, metric) for at, values in found.items()}
    worst = view.worst_column
    row_keys, column_keys = (
        _ordered(part, {at[i] for at in cells}) for i, part in enumerate((rows, columns))
    )
    if worst is not None:
        column_keys = _with_worst(cells, columns, column_keys, worst, metric, axis=1)
        row_keys = _with_worst(cells, rows, row_keys, worst, metric, axis=0)
    return Pivot(
        row_dimensions=rows, column_dimensions=columns, rows=row_keys, columns=column_keys,
        cells=cells, metric=metric, kind=kind,
    )  # fmt: skip


def _resolve_view(
    plan: Plan, view: View
) -> tuple[tuple[Dimension, ...], tuple[Dimension, ...], tuple[Dimension, ...]]:
    """Return the dimensions of the rows, of the columns, and those that count as their worst.

    Raises `ConfigError` for one that is named twice, or a label that it does not have.
    """
    named = [*view.rows, *view.columns, *view.fixed, *view.worst_over]
    taken: dict[str, str] = {}
    for name in named:
        dimension = find_dimension(plan, name)
        for option in dimension.options:
            if option in taken:
                raise ConfigError(
                    f"{dimension.title} is there twice, as {taken[option]!r} and {name!r}: "
                    "an axis is in the rows or the columns, has one value, or its worst counts"
                )
            taken[option] = name
        label = view.fixed.get(name)
        if label is not None and label not in dimension.values:
            raise ConfigError(
                f"{dimension.title} has no value {label!r}; it has {', '.join(dimension.values)}"
            )
    rest = [d for d in dimensions(plan) if not set(d.options) & set(taken)]
    rows, columns, over = (
        tuple(find_dimension(plan, name) for name in names)
        for names in (view.rows, view.columns, view.worst_over)
    )
    return (*rows, *rest), columns, over


def value_of(outcome: CellResult, metric: Metric, kind: str) -> Value:
    """Return the values of `metric` over the seeds of a cell."""
    found = outcome.by_seed(metric, kind)
    by_seed = {seed: value for seed, value in sorted(found.items()) if value is not None}
    mark = "?" if outcome.attack_failures else "*" if outcome.cell.missing_guarantee else ""
    why = outcome.reason or outcome.attack_failures
    if outcome.status == "finished" and len(by_seed) < len(outcome.ended):
        why = f"{metric.words} is not finite" if found else f"its task has no {metric.words}"
    return Value(status=outcome.status, why=why, by_seed=by_seed, mark=mark, outcome=outcome)


def _worst(values: Mapping[Key, Value], metric: Metric) -> Value:
    """Return the worst of `values`, which have the labels of other axes."""
    if len(values) == 1:
        return next(iter(values.values()))
    known = {key: v.goodness(metric) for key, v in values.items()}
    good = {key: value for key, value in known.items() if value is not None}
    left = [f"{', '.join(key)}: {values[key].status}" for key in values if key not in good]
    if not good:
        return next(iter(values.values()))
    worst = min(good, key=lambda key: good[key])
    told = f"{len(left)} of {len(values)} without a value ({left[0]})" if left else ""
    inner = values[worst]
    return attrs.evolve(
        inner, where=", ".join(filter(None, [*worst, inner.where])),
        unknown=told or inner.unknown,
    )  # fmt: skip


def _ordered(part: Sequence[Dimension], keys: Iterable[Key]) -> tuple[Key, ...]:
    """Return `keys` in the order of the values of their dimensions."""
    keys = set(keys)
    return tuple(key for key in product(*(d.values for d in part)) if key in keys)


def _with_worst(
    cells: dict[tuple[Key, Key], Value], part: Sequence[Dimension], keys: tuple[Key, ...],
    name: str, metric: Metric, axis: int,
) -> tuple[Key, ...]:  # fmt: skip
    """Add to `cells` the worst over the dimension `name` of `part`; return `keys` with these.

    They stand behind the last key that differs from them in that dimension alone.
    """
    at = next((i for i, dimension in enumerate(part) if dimension.name == name), None)
    if at is None:
        return keys
    grouped: dict[Key, list[Key]] = {}
    for key in keys:
        grouped.setdefault((*key[:at], WORST, *key[at + 1 :]), []).append(key)
    lines = dict.fromkeys(pair[1 - axis] for pair in list(cells))
    place: Callable[[Key, Key], tuple[Key, Key]] = (
        (lambda line, key: (line, key)) if axis == 1 else (lambda line, key: (key, line))
    )
    for worst, members in grouped.items():
        for line in lines:
            values: dict[Key, Value] = {
                (key[at],): cells[place(line, key)] for key in members if place(line, key) in cells
            }
            if values:
                cells[place(line, worst)] = _worst(values, metric)
    ends = {members[-1]: worst for worst, members in grouped.items()}
    return tuple(k for key in keys for k in ((key, ends[key]) if key in ends else (key,)))
