"""Plans in a few lines: their sizes, their axes, and how long their runs will take."""

from __future__ import annotations

from byzpy_tw.config.validators import toml_key
from byzpy_tw.sweep.estimate import Estimate
from byzpy_tw.sweep.grid import EXCLUDED, grid_of_plan
from byzpy_tw.sweep.impossible import explain_impossible
from byzpy_tw.sweep.plan import Plan, value_text
from byzpy_tw.sweep.study import RULE_OPTIONS, Axis, Study
from byzpy_tw.text import clip


def varies_more(plan: Plan) -> bool:
    """Return whether other options vary than rules, attacks and seeds."""
    return not set(plan.varying) <= {"attack", *RULE_OPTIONS}


def size_text(plan: Plan) -> str:
    """Return how many runs there are, and the axes that make them."""
    axes = [axis for axis in plan.study.axes_in_order if len(axis.values) > 1]
    counts = " x ".join(f"{len(axis.values)} {_name(axis)}" for axis in axes)
    count = len(plan.runs)
    return f"{count} run{'s' * (count != 1)}" + (f" = {counts}" if counts else "")


def axis_lines(plan: Plan) -> list[str]:
    """Return a line for each axis, with its values."""
    axes = [axis for axis in plan.study.axes_in_order if len(axis.values) > 1]
    width = max(map(len, map(_name, axes)), default=0)
    return [f"{_name(axis):<{width}}  {clip(_values(axis), 200)}" for axis in axes]


def _name(axis: Axis) -> str:
    if axis.options == RULE_OPTIONS:
        return "rules"
    return ", ".join(map(toml_key, axis.options))


def _values(axis: Axis) -> str:
    """Return the values of an axis: those of several options in brackets, chains as one text."""
    if axis.options == RULE_OPTIONS:
        return ", ".join(" | ".join([*before, rule]) for before, rule in axis.values)
    texts = [", ".join(map(value_text, values)) for values in axis.values]
    return ", ".join(texts if len(axis.options) == 1 else (f"({text})" for text in texts))


def dry_run_lines(plan: Plan, estimate: Estimate, jobs: int) -> list[str]:
    """Return what there is to run, what is done, and how long the rest will take."""
    lines = [size_text(plan), *(f"  {line}" for line in axis_lines(plan))]
    if excluded := plan.study.combinations - len(plan.runs):
        lines.append(f"{excluded} combinations are left out by exclude")
    impossible = sum(run.impossible is not None for run in plan.runs)
    if same := len(plan.runs) - impossible - len(plan.possible):
        lines.append(f"{same} have the same effect as others, and are run with them")
    left = len(plan.possible) - estimate.done
    lines.append(f"{estimate.done} done, {left} to run, {impossible} impossible")
    if impossible:
        cells = [cell for cell in grid_of_plan(plan).cells if cell.impossible != EXCLUDED]
        lines += [f"  {line}" for line in explain_impossible(cells)]
    lines += _time_lines(estimate, left, jobs)
    return [*lines, *difference_lines(plan.study)]


def difference_lines(study: Study) -> list[str]:
    """Return what differs from the program whose file the study was, if there is anything."""
    lines = [f"  {key}: there {there}; here {here}" for key, there, here in study.differences]
    return ["differences from the program of this file:", *lines] if lines else []


def _time_lines(estimate: Estimate, left: int, jobs: int) -> list[str]:
    if not left:
        return []
    if estimate.unknown == left:
        return ["no run of this kind is finished in this folder: how long it takes is not known"]
    at_a_time = f", {jobs} at a time" if jobs > 1 else ""
    lines = [
        f"about {duration_text(estimate.seconds / jobs)} for {left - estimate.unknown} of them"
        f"{at_a_time}, as {estimate.finished} finished run{'s' * (estimate.finished != 1)} of "
        "this folder took"
    ]
    if estimate.unknown:
        lines.append(f"nothing like the other {estimate.unknown} is finished in this folder")
    return lines


def duration_text(seconds: float) -> str:
    """Return a time in words, with about two digits."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            value = seconds / size
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{max(1, round(seconds))} s"
