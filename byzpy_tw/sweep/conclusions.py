"""The findings of a sweep in sentences."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from attrs import frozen

from byzpy_tw.sweep.comparison import Finding, Position, findings, recorded_chance
from byzpy_tw.sweep.grid import Grid
from byzpy_tw.sweep.results import CellResult, common_metrics
from byzpy_tw.sweep.scores import goodness
from byzpy_tw.tasks.metric import Metric


def sentences(grid: Grid, outcomes: Sequence[CellResult]) -> list[str]:
    """Return which defences never learn, collapse or stay behind; and the best worst case.

    Of the task's other metrics only what the first one does not show.
    """
    first, *others = common_metrics(outcomes)
    own = [outcome for outcome in outcomes if outcome.metric == first]
    main = _Conclusions(grid, own, first, findings(own, first))
    told = [*main.of_defences(), *main.best_worst_case()]
    for metric in others:
        found = findings(own, metric)
        more = {at: why for at, why in found.items() if at not in main.found}
        told += [
            f"By {metric.words}: {line}"
            for line in _Conclusions(grid, own, metric, more).of_defences()
        ]
    return told


@frozen
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
            mine = [o for o in self._known() if o.cell.row == row]
            told += [f"{defence} {words}." for words in self._of_defence(mine)]
        return told

    def _of_defence(self, mine: Sequence[CellResult]) -> list[str]:
        """Return the words that follow a defence, from its cells."""
        of = {o.cell.column: self.found.get((o.cell.row, o.cell.column), ()) for o in mine}
        bad = [o for o in mine if of[o.cell.column]]
        if not bad:
            return []
        top = self.text(max(mine, key=self._goodness))
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

    def _fall(self, outcome: CellResult, found: Collection[Finding]) -> str:
        near = f", chance is {self.chance}" if Finding.NEAR_CHANCE in found else ""
        return f"{outcome.cell.attack} ({self.text(outcome)}{near})"

    def _lag(self, outcome: CellResult) -> str:
        """Return the value of a cell, and the best one of its column."""
        same = [o for o in self._known() if o.cell.column == outcome.cell.column]
        best = max(same, key=self._goodness)
        return f"{self.text(outcome)}, where {best.cell.defence} has {self.text(best)}"

    def best_worst_case(self) -> list[str]:
        """Return the defence whose worst cell is the best, of those with a value in each."""
        floors = []
        for row in range(len(self.grid.defences)):
            mine = [o for o in self._known() if o.cell.row == row]
            if len(mine) == len(self.grid.attacks) > 1:
                floors.append(min(mine, key=self._goodness))
        best = max(floors, key=self._goodness, default=None)
        if best is None or len(floors) < 2 or not self._is_something(best):
            return []
        of = f" of the {len(floors)} defences with a result under every attack"
        of *= len(floors) < len(self.grid.defences)
        case = f"{self.text(best)} under {best.cell.attack}"
        if (best.cell.row, best.cell.column) in self.found:
            return [
                f"No defence holds under every attack; {best.cell.defence} has the best worst "
                f"case{of}, {case}."
            ]
        return [f"{best.cell.defence} has the best worst case{of}: {case}."]

    def text(self, outcome: CellResult) -> str:
        """Return the final value of a cell as people read it."""
        value = outcome.figures(self.metric)["final"]
        return "diverged" if outcome.status == "diverged" else value_text(self.metric, value)

    @property
    def chance(self) -> str:
        return value_text(self.metric, recorded_chance(self.outcomes, self.metric))

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
