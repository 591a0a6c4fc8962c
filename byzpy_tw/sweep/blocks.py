"""Blocks: a study as tables of pipelines under attacks, one for each combination of other axes."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from byzpy_tw.sweep.conclusions import sentences
from byzpy_tw.sweep.grid import Grid, grid_of_plan
from byzpy_tw.sweep.pivot import Dimension, Key, dimensions
from byzpy_tw.sweep.plan import Plan, PlannedRun
from byzpy_tw.sweep.results import CellResult
from byzpy_tw.sweep.scores import goodness
from byzpy_tw.sweep.study import RULE_OPTIONS
from byzpy_tw.sweep.study_results import StudyResults
from byzpy_tw.sweep.text import notes

_MOST_LINES = 60
_OF_A_TABLE = ("attack", *RULE_OPTIONS)


@frozen(kw_only=True)
class Block:
    """A table, and the values of the other axes in words; no words where there are none."""

    title: str
    grid: Grid


def blocks(plan: Plan) -> tuple[Block, ...]:
    """Return the tables of `plan`, in the order of its axes."""
    others = _others(plan)
    found: dict[Key, list[PlannedRun]] = {}
    for run in plan.runs:
        found.setdefault(tuple(other.of(run) for other in others), []).append(run)
    titles = [other.title for other in others]
    return tuple(
        Block(
            title=", ".join(f"{t} = {label}" for t, label in zip(titles, key, strict=True)),
            grid=grid_of_plan(Plan(plan.study, tuple(runs))),
        )
        for key, runs in found.items()
    )


def _others(plan: Plan) -> list[Dimension]:
    """Return the axes that are not those of a table."""
    return [d for d in dimensions(plan) if not set(d.options) & set(_OF_A_TABLE)]


def outcomes_of(results: StudyResults, block: Block) -> list[CellResult]:
    """Return the result of each cell of `block`, as far as its runs have ended."""
    return [results.outcome(cell) for cell in block.grid.cells]


@frozen(kw_only=True)
class Filled:
    """A table with its results, and what it is about in words."""

    title: str
    grid: Grid
    outcomes: Sequence[CellResult]


def filled_tables(results: StudyResults) -> list[Filled]:
    """Return each table of a study with its results."""
    return [
        Filled(title=block.title, grid=block.grid, outcomes=outcomes_of(results, block))
        for block in blocks(results.plan)
    ]


def worst_table(results: StudyResults) -> list[Filled]:
    """Return one table whose cells are the worst of all of them, as far as runs have ended.

    Nothing for a study of one table, or of tables with other pipelines or attacks.
    """
    tables = filled_tables(results)
    if len({(each.grid.defences, each.grid.attacks) for each in tables}) > 1 or len(tables) == 1:
        return []
    outcomes = [_worst(same) for same in zip(*(t.outcomes for t in tables), strict=True)]
    title = f"the worst of {len(tables)} values of {' and '.join(_names(results.plan))}"
    return [Filled(title=title, grid=tables[0].grid, outcomes=outcomes)]


def _names(plan: Plan) -> list[str]:
    return [other.title for other in _others(plan)]


def _worst(same: Sequence[CellResult]) -> CellResult:
    found = [(good, outcome) for outcome in same if (good := goodness(outcome)) is not None]
    if found:
        return min(found, key=lambda pair: pair[0])[1]
    return next((o for o in same if o.has_runs), same[0])


def summary_lines(results: StudyResults) -> list[str]:
    """Return what explains each table, and its findings in sentences.

    Lines that several tables share are there once, behind what the tables are about.
    """
    told: dict[str, list[str]] = {}
    tables = blocks(results.plan)
    for block in tables:
        outcomes = outcomes_of(results, block)
        if any(outcome.has_runs for outcome in outcomes):
            for line in (*notes(block.grid, outcomes), *sentences(block.grid, outcomes)):
                told.setdefault(line, []).append(block.title)
    lines = [f"{about(places, len(tables))}{line}" for line, places in told.items()]
    more = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], *([f"{more} more findings are on the page"] if more > 0 else [])]


def about(places: Sequence[str], of: int) -> str:
    """Return words to stand before a line about these of so many tables; none for all of them."""
    if len(places) == of:
        return ""
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return f"{'; '.join(places[:3])}{more}: "
