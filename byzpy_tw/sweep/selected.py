"""Selections in lines, in lab.json, and as the rows of the runs that are chosen."""

from __future__ import annotations

from typing import Any

import attrs
from attrs import frozen

from byzpy_tw.config.validators import toml_key
from byzpy_tw.errors import ConfigError
from byzpy_tw.records.metrics import KINDS
from byzpy_tw.sweep.long_form import LongForm, runs_table
from byzpy_tw.sweep.plan import PlannedRun
from byzpy_tw.sweep.selection import Choice, Score, axis_options, choose, score_of
from byzpy_tw.sweep.study_results import StudyResults
from byzpy_tw.tasks.metric import Metric

SELECTED = "selected.csv"
_MOST_LINES = 20


@frozen
class Selected:
    """The choices of a study so far; ``error`` says why there are none."""

    results: StudyResults
    choices: tuple[Choice, ...] = ()
    error: str = ""

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """The runs of the candidates that are chosen."""
        return tuple(run for choice in self.choices if choice.chosen for run in choice.chosen.runs)

    @property
    def lines(self) -> list[str]:
        """The rule, and each choice, in words."""
        selection = self.results.plan.study.selection
        if selection is None or not (self.choices or self.error):
            return []
        if self.error:
            return [f"nothing is selected: {self.error}"]
        over, worst = (", ".join(map(toml_key, n)) for n in (selection.over, selection.worst_over))
        shown = [choice.text for choice in self.choices[:_MOST_LINES]]
        if more := len(self.choices) - len(shown):
            shown.append(f"... and {more} more (lab.json has them all)")
        by = f"{self.choices[0].metric.words}, final, mean over the seeds"
        return [f"{over} selected by {by}{worst and f', worst over {worst}'}:", *shown]

    @property
    def table(self) -> LongForm:
        """A row for each run that is chosen, with the columns of results.csv."""
        plan = attrs.evolve(self.results.plan, runs=self.runs)
        return runs_table(attrs.evolve(self.results, plan=plan))

    def test_scores(self, choice: Choice) -> dict[Metric, dict[str, Score]]:
        """Return the scores of the chosen one on the test data, by metric and kind.

        They are the worst, over the same options as in the choice, of the means over seeds: of
        the runs' final values, of their worst, and of their best.
        """
        if choice.chosen is None:
            return {}
        study, ended, runs = self.results.plan.study, self.results.ended, choice.chosen.runs
        assert study.selection is not None
        worst_over = axis_options(study, study.selection.worst_over)
        metrics = [m for m in ended[runs[0].folder].task_metrics if not m.is_of_validation]
        return {m: {k: score_of(runs, ended, m, k, worst_over) for k in KINDS} for m in metrics}

    @property
    def entry(self) -> dict[str, Any] | None:
        """The entry of lab.json, with the values of the chosen ones on the test data."""
        selection = self.results.plan.study.selection
        if selection is None:
            return None
        return {
            "over": list(selection.over),
            "worst_over": list(selection.worst_over),
            "by": self.choices[0].metric.name if self.choices else selection.by,
            "kind": "final",
            "error": self.error or None,
            "points": [
                {**_entry(choice), "test": self._test_values(choice)} for choice in self.choices
            ],
        }

    def _test_values(self, choice: Choice) -> dict[str, Any]:
        return {
            metric.name: {
                kind: {"value": score.value, "where": dict(score.where)}
                for kind, score in scores.items()
            }
            for metric, scores in self.test_scores(choice).items()
        }


def select(results: StudyResults) -> Selected:
    """Choose as the study of `results` asks; an error is told, and ends nothing."""
    try:
        return Selected(results, choose(results.plan, results.ended, results.failed))
    except ConfigError as e:
        return Selected(results, error=str(e))


def _entry(choice: Choice) -> dict[str, Any]:
    chosen = choice.chosen
    return {
        "point": dict(choice.point),
        "chosen": None if chosen is None else dict(chosen.values),
        "margin": choice.margin,
        "text": choice.text,
        "candidates": [
            {
                "values": dict(each.values),
                "score": None if each.score is None else each.score.value,
                "where": {} if each.score is None else dict(each.score.where),
                "missing": each.missing or None,
            }
            for each in choice.candidates
        ],
    }
