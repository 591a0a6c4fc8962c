"""The choice of hyper-parameters by the validation data alone, as a study's selection asks.

A *point* has the values of the axes that are not chosen.  At each point a combination of the
values that are chosen, a *candidate*, has a score:

1. the mean over the seeds, of the final value of the metric on the validation data;
2. the worst of these over the values of `Selection.worst_over`, such as the attacks.

The candidate with the best score is chosen, the first in the order of the study among equal
ones.  A run that diverged is worse than any value.  A candidate that lacks a run, or one of whose
runs says nothing, is not compared: the choice names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean

from attrs import field, frozen

from byzpy_tw.config.validators import toml_key
from byzpy_tw.errors import ConfigError
from byzpy_tw.sweep.plan import Plan, PlannedRun
from byzpy_tw.sweep.results import CONCLUSIVE, RunResult
from byzpy_tw.sweep.study import Selection, Study
from byzpy_tw.tasks.metric import VALIDATION, Metric
from byzpy_tw.text import clip

SEEDS = ("seed", "data_seed")  # options over whose values the mean counts

Values = tuple[tuple[str, str], ...]  # options with the texts of their values


@frozen(kw_only=True)
class Score:
    """The worst mean over seeds, and where that is; no value: diverged, or not finite."""

    value: float | None
    where: Values = ()  # of the options over which the worst counts


@frozen(kw_only=True)
class Candidate:
    """A combination of the values that are chosen.  Without a score it is not compared."""

    values: Values
    runs: tuple[PlannedRun, ...] = field(repr=False)
    score: Score | None = None
    missing: str = ""  # why there is no score


@frozen(kw_only=True)
class Choice:
    """The candidates at a point, in the order of the study, and the one that is chosen."""

    point: Values
    metric: Metric
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None = None
    second: Candidate | None = None  # the best of the others

    @property
    def margin(self) -> float | None:
        """The chosen score's distance from the second; None where one of them has no value."""
        if self.chosen is None or self.second is None:
            return None
        found = [each.score.value for each in (self.chosen, self.second) if each.score is not None]
        best, other = [*found, None, None][:2]
        return None if best is None or other is None else abs(best - other)

    @property
    def missing(self) -> tuple[Candidate, ...]:
        """The candidates that are not compared."""
        return tuple(each for each in self.candidates if each.score is None)

    @property
    def text(self) -> str:
        """The choice in words: which values won at this point, and by how much."""
        where = f"{values_text(self.point)}: " if self.point else ""
        left = self._missing_text
        if self.chosen is None:
            return f"{where}nothing is chosen{left and f' ({left})'}"
        told = [score_text(self.metric, self.chosen.score), *self._compared, *filter(None, [left])]
        return f"{where}{values_text(self.chosen.values)} ({'; '.join(told)})"

    @property
    def _compared(self) -> Iterator[str]:
        if self.second is None:
            return
        other, margin = values_text(self.second.values), self.margin
        if margin == 0 or self.chosen_is_bad:
            yield f"no better than {other}, which comes later in the study"
        elif margin is None:
            yield f"{other} diverged"
        elif self.metric.is_share:
            yield f"{margin * 100:.2f} points better than {other}"
        else:
            yield f"better than {other} by {self.metric.text(margin)}"

    @property
    def chosen_is_bad(self) -> bool:
        """True where even the chosen one diverged."""
        return self.chosen is not None and (
            self.chosen.score is None or self.chosen.score.value is None
        )

    @property
    def _missing_text(self) -> str:
        if not (missing := self.missing):
            return ""
        first = f"{values_text(missing[0].values)}: {missing[0].missing}"
        return f"{len(missing)} of {len(self.candidates)} are not compared: {first}"


def values_text(values: Values) -> str:
    """Return options and values as ``lr = 0.1, momentum = 0.9``."""
    return ", ".join(f"{toml_key(name)} = {text}" for name, text in values)


def score_text(metric: Metric, score: Score | None) -> str:
    """Return a score with its metric, and where it is, such as under which attack."""
    if score is None or score.value is None:
        value = f"diverged, or no finite {metric.words}"
    else:
        value = f"{metric.words} {metric.text(score.value)}"
    return f"{value}, {values_text(score.where)}" if score is not None and score.where else value


def check_selection(plan: Plan) -> None:
    """Raise `ConfigError` where a study is to choose, and has nothing to choose by."""
    selection = plan.study.selection
    if selection is None:
        return
    where = "[sweep] select: "
    if any(not run.config.validation for run in plan.runs):
        raise ConfigError(
            f"{where}values are chosen by validation data, and runs of this study keep none "
            "aside: add validation = 0.1 to the options under [data]"
        )
    for name in (*SEEDS, "validation"):
        if name in selection.over:
            raise ConfigError(
                f"{where}over: {toml_key(name)} is no hyper-parameter: each value has validation "
                "data, or chance, of its own; leave it out"
            )


def choose(
    plan: Plan, ended: Mapping[str, RunResult], failed: Mapping[str, str] | None = None
) -> tuple[Choice, ...]:
    """Return the choice at each point of `plan`, in order; none without a selection.

    `ended` has the results of runs by the names of their folders, and `failed` the errors of
    those that have left none.  Only metrics of the validation data are read.  Raises `ConfigError`
    where the runs do not have the metric.
    """
    selection = plan.study.selection
    conclusive = [result for result in ended.values() if result.status in CONCLUSIVE]
    if selection is None or not conclusive:
        return ()
    metric = find_metric(selection, conclusive)
    over = axis_options(plan.study, selection.over)
    worst_over = axis_options(plan.study, selection.worst_over)
    apart = {*over, *worst_over, *SEEDS, *plan.study.seed_axis.options}
    points = _grouped(plan.runs, lambda name: name not in apart)
    return tuple(
        _choose(point, runs, over, worst_over, metric, ended, failed or {})
        for point, runs in points.items()
    )


def axis_options(study: Study, names: Iterable[str]) -> tuple[str, ...]:
    """Return the options of the axes that have one of `names`: paired ones go together."""
    wanted = set(names)
    return tuple(o for axis in study.axes if wanted & set(axis.options) for o in axis.options)


def find_metric(selection: Selection, results: Iterable[RunResult]) -> Metric:
    """Return the metric that `selection` names, with the prefix or without.

    Raises `ConfigError` for one that a run does not have.
    """
    plain = selection.by.removeprefix(VALIDATION)
    found = None
    for result in results:
        known = {m.name: m for m in result.task_metrics if m.is_of_validation}
        found = known.get(f"{VALIDATION}{plain}")
        if found is None:
            names = ", ".join(name.removeprefix(VALIDATION) for name in known) or "none"
            raise ConfigError(
                f"[sweep] select: by: runs have no metric {clip(plain)!r} of the validation data "
                f"(they have {names})"
            )
    assert found is not None
    return found


def _grouped(
    runs: Iterable[PlannedRun], keep: Callable[[str], bool]
) -> dict[Values, list[PlannedRun]]:
    """Return `runs` by the values of the options that `keep` accepts, in their order."""
    found: dict[Values, list[PlannedRun]] = {}
    for run in runs:
        key = tuple(item for item in run.point.items() if keep(item[0]))
        found.setdefault(key, []).append(run)
    return found


def _choose(
    point: Values, runs: Sequence[PlannedRun], over: Sequence[str], worst_over: Sequence[str],
    metric: Metric, ended: Mapping[str, RunResult], failed: Mapping[str, str],
) -> Choice:  # fmt: skip
    candidates = []
    wanted = list(_grouped(runs, lambda name: name not in (*over, *dict(point))))
    for values, own in _grouped(runs, lambda name: name in over).items():
        missing = _why_missing(own, wanted, (*over, *dict(point)), ended, failed)
        possible = [run for run in own if run.impossible is None]
        score = None
        if not missing:
            score = score_of(possible, ended, metric, "final", worst_over)
        candidates.append(
            Candidate(values=values, runs=tuple(possible), score=score, missing=missing)
        )
    # Sorting is stable: of equal ones the first in the study's order comes first.
    best = sorted((c for c in candidates if c.score), key=lambda c: _badness(c.score, metric))
    chosen, second = [*best, None, None][:2]
    return Choice(
        point=point, metric=metric, candidates=tuple(candidates), chosen=chosen, second=second
    )


def _badness(score: Score | None, metric: Metric) -> float:
    """Return a number that is the lower the better the score."""
    if score is None or score.value is None:
        return math.inf
    return score.value if metric.better == "lower" else -score.value


def _why_missing(
    runs: Sequence[PlannedRun], wanted: Sequence[Values], shared: Sequence[str],
    ended: Mapping[str, RunResult], failed: Mapping[str, str],
) -> str:  # fmt: skip
    """Return why a candidate with `runs` has no score; empty where it has one.

    It needs a run for each of `wanted`, the values of options that are not `shared` by its runs.
    """
    there = _grouped(runs, lambda name: name not in shared)
    if left_out := [values for values in wanted if values not in there]:
        return f"{values_text(left_out[0])} is left out of the study"
    reasons = [run.impossible for run in runs if run.impossible is not None]
    if len(reasons) == len(runs):
        return f"cannot be run: {reasons[0]}"
    lacking = [
        f"{values_text(values)}: {why}"
        for values, [run, *_] in there.items()
        if run.impossible is None and (why := _why_silent(run, ended, failed))
    ]
    more = f" (and {len(lacking) - 1} more runs)" if len(lacking) > 1 else ""
    return f"{lacking[0]}{more}" if lacking else ""


def _why_silent(run: PlannedRun, ended: Mapping[str, RunResult], failed: Mapping[str, str]) -> str:
    """Return why nothing is concluded from a run; empty where something is."""
    result = ended.get(run.folder)
    if result is None:
        return f"failed: {failed[run.folder]}" if run.folder in failed else "not finished"
    if result.failures is not None:
        return f"the attack failed {result.failures.calls}"
    if result.status not in CONCLUSIVE:
        return f"{result.status}: {result.error}" if result.error else result.status
    return ""


def score_of(
    runs: Sequence[PlannedRun], ended: Mapping[str, RunResult], metric: Metric, kind: str,
    worst_over: Sequence[str],
) -> Score:  # fmt: skip
    """Return the worst, over `worst_over`, of the means over seeds of a value of `metric`.

    `kind` is final, worst or best.  All of `runs` must have ended.
    """
    scores = [
        Score(value=_mean([_value(ended[run.folder], metric, kind) for run in own]), where=where)
        for where, own in _grouped(runs, lambda name: name in worst_over).items()
    ]
    return max(scores, key=lambda score: _badness(score, metric))


def _value(result: RunResult, metric: Metric, kind: str) -> float | None:
    if result.status == "diverged":
        return None
    return result.metrics.get(metric.name, {}).get(kind)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return fmean(known) if len(known) == len(values) else None
