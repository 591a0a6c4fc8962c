"""The findings of a sweep in sentences."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import attrs

from byzpy_tw.sweep.findings import Finding, Position, findings, recorded_chance
from byzpy_tw.sweep.grid import Grid
from byzpy_tw.sweep.results import CellResult, common_metrics
from byzpy_tw.sweep.scores import COLLAPSE, goodness, is_near
from byzpy_tw.tasks.metric import ATTACK_SUCCESS, Metric

NO_ATTACK = "none"
UNDEFENDED = "mean"
STRONG = ("opt-alie", "opt-ipm")  # attacks that hurt most rules


def sentences(grid: Grid, outcomes: Sequence[CellResult]) -> list[str]:
    """Return which defences never learn, collapse or stay behind; and the best worst case.

    Instead of that, where no attack does harm: the grid shows nothing of defences then.

    Of the task's other metrics only what the first one does not show.  Of an attack with a success
    rate it is told where that is the highest and the lowest.
    """
    first, *others = common_metrics(outcomes)
    own = [outcome for outcome in outcomes if outcome.metric == first]
    main = _Conclusions(grid, own, first, findings(own, first))
    told = [*main.of_defences(), *(main.no_harm() or main.best_worst_case())]
    for metric in (each for each in others if each != ATTACK_SUCCESS):
        found = findings(own, metric)
        more = {at: why for at, why in found.items() if at not in main.found}
        told += [
            f"By {metric.words}: {line}"
            for line in _Conclusions(grid, own, metric, more).of_defences()
        ]
    return [*told, *_successes(grid, own)]


def _successes(grid: Grid, outcomes: Sequence[CellResult]) -> list[str]:
    """Return under which defences each attack that has a success rate succeeds most, and least."""
    told = []
    for attack in grid.attacks:
        found = [
            (rate, outcome.cell.defence)
            for outcome in outcomes
            if outcome.cell.attack == attack and (rate := outcome.attack_success) is not None
        ]
        if not found:
            continue
        (most, where), (least, other) = max(found), min(found)
        beside = f" at most, {_rate(least)} with {other} at least" if where != other else ""
        told.append(f"{attack} succeeds in {_rate(most)} with {where}{beside}.")
    return told


def _rate(success: float) -> str:
    return value_text(ATTACK_SUCCESS, success)


@attrs.define(slots=False, frozen=True)
class _Conclusions:
    """The cells of a grid that can be concluded from, by one metric."""

    grid: Grid
    outcomes: Sequence[CellResult]
    metric: Metric
    found: Mapping[Position, Collection[Finding]]

    def of_defences(self) -> list[str]:
        """Return what is to be said against each defence."""
        told = []
        for row, defence in enumerate(self.grid.defences):
            mine = [o for o in self._known if o.cell.row == row]
            told += [f"{defence} {words}." for words in self._of_defence(mine)]
        return told

    def _of_defence(self, mine: Sequence[CellResult]) -> list[str]:
        """Return the words that follow a defence, from its cells."""
        of = {o.cell.column: self.found.get((o.cell.row, o.cell.column), ()) for o in mine}
        bad = [o for o in mine if of[o.cell.column]]
        if not bad:
            return []
        top = self._best_case(mine)
        if all(o.status == "diverged" for o in mine):
            return [f"diverged under {', '.join(o.cell.attack for o in mine)}"]
        learnt = {Finding.NEAR_CHANCE, Finding.DIVERGED}
        if len(mine) > 1 and all(learnt.intersection(of[o.cell.column]) for o in mine):
            return [f"never learned: at its best it reaches {top}, where chance is {self.chance}"]
        behind = [o for o in bad if set(of[o.cell.column]) == {Finding.BELOW_COLUMN}]
        down = [o for o in bad if o not in behind]
        words = []
        if down:
            falls = ", ".join(self._fall(o, of[o.cell.column]) for o in down)
            words.append(f"collapses under {falls}; at its best it reaches {top}")
        if behind:
            lags = ", ".join(f"{o.cell.attack} ({self._lag(o)})" for o in behind)
            words.append(f"stays far behind under {lags}")
        return words

    def _best_case(self, mine: Sequence[CellResult]) -> str:
        """Return a defence's best value, with its attack, and its value without one."""
        best = max(mine, key=self._goodness)
        if best.cell.attack == NO_ATTACK:
            return f"{self.text(best)} without an attack"
        calm = [self.text(o) for o in mine if o.cell.attack == NO_ATTACK]
        beside = f" ({calm[0]} without an attack)" if calm else ""
        return f"{self.text(best)} under {best.cell.attack}{beside}"

    def _fall(self, outcome: CellResult, found: Collection[Finding]) -> str:
        near = f", chance is {self.chance}" if Finding.NEAR_CHANCE in found else ""
        return f"{outcome.cell.attack} ({self.text(outcome)}{near})"

    def _lag(self, outcome: CellResult) -> str:
        """Return the value of a cell, and the best one of its column."""
        same = [o for o in self._known if o.cell.column == outcome.cell.column]
        best = max(same, key=self._goodness)
        return f"{self.text(outcome)}, where {best.cell.defence} has {self.text(best)}"

    def no_harm(self) -> list[str]:
        """Return that no attack takes much from the plain mean, or else from any defence.

        Nothing where a value is missing, or the values without an attack are themselves bad.
        """
        rows = range(len(self.grid.defences))
        plain = [row for row in rows if self.grid.defences[row] == UNDEFENDED]
        mine = [o for o in self._known if o.cell.row in (plain or rows)]
        calm = {o.cell.row: o for o in mine if o.cell.attack == NO_ATTACK}
        columns = len(self.grid.attacks)
        if len(mine) < len(plain or rows) * columns or not calm or columns == 1:
            return []
        if any((o.cell.row, o.cell.column) in self.found for o in calm.values()):
            return []
        if any((o.attack_success or 0.0) >= COLLAPSE for o in mine):
            return []  # the harm is not in this metric
        pairs = [(self._goodness(o), self._goodness(calm[o.cell.row])) for o in mine]
        if not all(is_near(self.metric, good, before) for good, before in pairs):
            return []
        most = self._difference(max(before - good for good, before in pairs))
        whom, what = "any defence", "tell them apart"
        if plain:
            whom = f"{UNDEFENDED}, which defends against nothing"
            what = "show what a defence is worth"
        others = [attack for attack in STRONG if attack not in self.grid.attacks]
        return [
            f"No attack here takes more than {most} from {whom}: this grid cannot {what}; try "
            f"{', '.join(others) or 'more Byzantine nodes'}."
        ]

    def best_worst_case(self) -> list[str]:
        """Return the defence whose worst cell is the best, of those with a value in each."""
        floors = []
        for row in range(len(self.grid.defences)):
            mine = [o for o in self._known if o.cell.row == row]
            if len(mine) == len(self.grid.attacks) > 1:
                floors.append(min(mine, key=self._goodness))
        floors.sort(key=self._goodness, reverse=True)
        if len(floors) < 2 or not self._is_something(floors[0]):
            return []
        best, second = floors[:2]
        of = f" of the {len(floors)} defences with a result under every attack"
        of *= len(floors) < len(self.grid.defences)
        no = " (*: no guarantee)" * bool(best.cell.missing_guarantee)
        beside = self._best_guaranteed(floors) if no else ""
        fallen = (best.cell.row, best.cell.column) in self.found
        head, sign = ("No defence holds under every attack; ", ",") if fallen else ("", ":")
        return [
            f"{head}{best.cell.defence}{no} has the best worst case{of}{sign} "
            f"{self._case(best)}{beside}.",
            *self._close(best, second),
        ]

    def _case(self, outcome: CellResult) -> str:
        return f"{self.text(outcome)} under {outcome.cell.attack}"

    def _best_guaranteed(self, floors: Sequence[CellResult]) -> str:
        """Return the words about the best of `floors` whose rule has a guarantee."""
        best = next((o for o in floors if not o.cell.missing_guarantee), None)
        if best is None:
            return "; no defence here has a guarantee"
        return f"; of those with a guarantee {best.cell.defence}, {self._case(best)}"

    def _close(self, best: CellResult, second: CellResult) -> list[str]:
        """Return that the difference between two worst cases means little, where it is so."""
        gap = self._goodness(best) - self._goodness(second)
        names = f"The worst cases of {best.cell.defence} and {second.cell.defence} differ by"
        if len(self.grid.seeds) == 1:
            if not is_near(self.metric, self._goodness(second), self._goodness(best)):
                return []
            return [f"{names} {self._difference(gap)}: with one seed that means little."]
        spread = max(self._seed_range(best), self._seed_range(second))
        if gap >= spread:
            return []
        return [f"{names} {self._difference(gap)}, the seeds by {self._difference(spread)}."]

    def _seed_range(self, outcome: CellResult) -> float:
        """Return the distance between the lowest and the highest final value of the seeds."""
        found = [ended.metrics[self.metric.name]["final"] for ended in outcome.ended]
        values = [value for value in found if value is not None]
        return max(values) - min(values) if values else 0.0

    def _difference(self, value: float) -> str:
        """Return a difference of two values as people read it."""
        if self.metric.is_share:
            return f"{100 * max(value, 0):.1f} points"
        return self.metric.text(max(value, 0.0))

    def text(self, outcome: CellResult) -> str:
        """Return the final value of a cell as people read it."""
        value = outcome.figures(self.metric)["final"]
        return "diverged" if outcome.status == "diverged" else value_text(self.metric, value)

    @property
    def chance(self) -> str:
        return value_text(self.metric, recorded_chance(self.outcomes, self.metric))

    @cached_property
    def _known(self) -> list[CellResult]:
        return [o for o in self.outcomes if goodness(o, self.metric) is not None]

    def _goodness(self, outcome: CellResult) -> float:
        good = goodness(outcome, self.metric)
        return -math.inf if good is None else good

    def _is_something(self, outcome: CellResult) -> bool:
        """Return False for a cell that diverged, and for nothing where higher is better."""
        value = outcome.figures(self.metric)["final"]
        return outcome.status != "diverged" and (self.metric.better == "lower" or bool(value))


def value_text(metric: Metric, value: float | None) -> str:
    """Return a value with its unit; a share in percent with one digit behind the point."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if metric.is_share else metric.text(value)
