"""The table of a sweep, and its findings, as text.

Attacks stand across, defences down; a defence has two lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

from byzpy_tw.report.summary import NO_CHOICE
from byzpy_tw.sweep.conclusions import value_text
from byzpy_tw.sweep.findings import Finding, findings, recorded_chance
from byzpy_tw.sweep.grid import Cell, Grid
from byzpy_tw.sweep.impossible import explain_impossible
from byzpy_tw.sweep.results import CONCLUSIVE, CellResult, common_metrics
from byzpy_tw.sweep.scores import COLLAPSE, RELATIVE_COLLAPSE, scores
from byzpy_tw.tasks.metric import Metric

CORNER = "defence \\ attack"
WEIGHT = "wt B: percent of the weight in the aggregates that Byzantine nodes had"
SUCCESS = "ASR: attack success rate in percent; lower is better"
OUT = "out: percent of the rounds in which Byzantine (B) and honest (H) nodes were left out"
_LEAST = "90.0 (90.0-90.0)"  # so that columns do not jump as cells are filled
_FOLD = 24  # a name longer than this takes a second line

Line = list[tuple[str, float | None]]


def entry(
    outcome: CellResult, *, fallen: bool = False, progress: str = "", brief: bool = False
) -> tuple[str, str]:
    """Return the two lines of a cell; `brief` is its final value alone."""
    status = outcome.status
    if brief and status == "finished":
        return f"{number(outcome)}{mark_of(outcome, fallen)}", ""
    if status == "finished":
        mark = mark_of(outcome, fallen)
        return f"{number(outcome)}{mark} ({span(outcome)})", out_text(outcome)
    if status == "waiting":
        return progress or ".", ""
    if status == "impossible":
        return "impossible", ""
    return f"{status}{'?' * bool(_failed_calls(outcome))}", out_text(outcome)


def mark_of(outcome: CellResult, fallen: bool) -> str:
    """Return the sign behind a cell's number, which `notes` explain."""
    if outcome.attack_failures:
        return "?"
    return "!" if fallen else "*" if outcome.cell.missing_guarantee else ""


def out_text(outcome: CellResult) -> str:
    """Return ``wt B 25 out H 3``, or ``out B 97 H 3`` for a rule without weights.

    Before it ``ASR 99.5``, where an attack's success is measured.  Of a rule with weights the
    Byzantine nodes that it left out say little: where it takes one of several equal vectors, it
    leaves out most of them and follows them all the same.  Returns nothing where none is known, or
    the attack failed.
    """
    if outcome.attack_failures:
        return ""
    weight, honest = outcome.byzantine_weight, outcome.left_out(honest=True)
    parts = []
    if outcome.attack_success is not None:
        parts.append(f"ASR {percent(outcome.attack_success)}")
    if weight is not None:
        parts.append(f"wt B {percent(weight, 0)}")
    if honest is not None:
        share = outcome.left_out(honest=False) if weight is None else None
        faulty = "" if share is None else f"B {percent(share, 0)} "
        parts.append(f"out {faulty}H {percent(honest, 0)}")
    return " ".join(parts)


def styled_table(
    grid: Grid,
    outcomes: Sequence[CellResult],
    progress: Callable[[Cell], str],
    *,
    brief: bool = False,
) -> list[Line]:
    """Return the lines of the table in parts, each with the score that colours it."""
    down, values, columns = findings(outcomes), scores(outcomes), len(grid.attacks)
    cells = [
        entry(o, fallen=(o.cell.row, o.cell.column) in down, progress=progress(o.cell), brief=brief)
        for o in outcomes
    ]
    heads = [_folded(attack, ":") for attack in grid.attacks]
    sides = [_folded(defence, "|") for defence in grid.defences]
    first = max(map(len, [CORNER, *chain.from_iterable(sides)]))
    widths = [
        max(
            map(
                len,
                [
                    _LEAST[: 5 if brief else None],
                    *heads[c],
                    *chain.from_iterable(cells[c::columns]),
                ],
            )
        )
        for c in range(columns)
    ]
    lines: list[Line] = []

    def add(sides: tuple[str, str], texts: Sequence[tuple[str, str]], values: Sequence) -> None:
        """Add two lines, or one where there is nothing in the second."""
        for i, side in enumerate(sides):
            if i == 0 or side or any(text[i] for text in texts):
                lines.append([(side.ljust(first), None)])
                for text, width, value in zip(texts, widths, values, strict=True):
                    # One column to the left is the cell's, one is between cells.
                    lines[-1] += [(" ", None), (f" {text[i]:<{width}}", value if text[i] else None)]

    add((CORNER, ""), heads, [None] * columns)
    for row, side in enumerate(sides):
        here = slice(row * columns, (row + 1) * columns)
        add(side, cells[here], values[here])
    return lines


def _folded(name: str, at: str) -> tuple[str, str]:
    """Return `name` on two lines, cut behind its first `at` where there is one."""
    head, sign, rest = name.partition(at)
    if not sign or (at == "|" and len(name) <= _FOLD):
        return name, ""
    return (f"{head.strip()} |", rest.strip()) if at == "|" else (f"{head}{sign}", rest)


def notes(grid: Grid, outcomes: Sequence[CellResult]) -> list[str]:
    """Explain the table: its figures, its marks, and why cells are empty."""
    lines = [legend(grid, outcomes), *explain_shares(grid, outcomes)]
    lines += explain_marks(grid, outcomes)
    lines += [f"impossible: {line}" for line in explain_impossible([o.cell for o in outcomes])]
    for reason, cells in _grouped(outcomes, lambda o: "" if o.cell.impossible else o.reason):
        names = _names(cells)
        under = f" under {cells[0].cell.attack}" if len(cells) == 1 else ""
        reason = reason.removeprefix(f"{names}: ")  # a rule's error names the rule as well
        lines.append(f"{cells[0].status}: {names}{under}: {reason}")
    return lines


def explain_shares(grid: Grid, outcomes: Sequence[CellResult]) -> list[str]:
    """Explain the second lines of the cells."""
    texts, base = " ".join(map(out_text, outcomes)), grid.base
    of = f", who are {base.num_byz} of {base.n} nodes ({percent(base.num_byz / base.n, 0)} %)"
    lines = [SUCCESS] * ("ASR " in texts) + [WEIGHT + of] * ("wt B" in texts)
    return lines + [OUT] * ("out " in texts)


def explain_marks(grid: Grid, outcomes: Sequence[CellResult]) -> list[str]:
    """Explain the marks in the table."""
    lines = []
    if found := findings(outcomes):
        metric = metric_of(outcomes)
        line = f"!: {_collapse(metric)}"
        if any(Finding.NEAR_CHANCE in told for told in found.values()):
            line += f", or near chance ({value_text(metric, recorded_chance(outcomes, metric))})"
        lines.append(line)
    for attack in grid.attacks:
        same = [outcome for outcome in outcomes if outcome.cell.attack == attack]
        for reason, cells in _grouped(same, _failed_calls):
            lines.append(f"?: nothing is concluded: {_names(cells)} under {attack}: {reason}")
    for reason, cells in _grouped(outcomes, lambda o: o.cell.missing_guarantee):
        lines.append(f"*: no guarantee: {_names(cells)}: {reason}")
    return lines


def _collapse(metric: Metric) -> str:
    if not metric.is_share:
        part = RELATIVE_COLLAPSE[metric.better]
        return f"worse than the best of its row or column by {part:.0%} of that or more"
    side = "below" if metric.better == "higher" else "above"
    return f"{100 * COLLAPSE:g} points or more {side} the best of its row or column"


def _failed_calls(outcome: CellResult) -> str:
    """Return the number of failed attack calls in a cell that came to its end all the same."""
    return outcome.attack_failures if outcome.status in CONCLUSIVE else ""


def _grouped(
    outcomes: Sequence[CellResult], reason_of: Callable[[CellResult], str | None]
) -> list[tuple[str, list[CellResult]]]:
    """Return each reason with the outcomes that have it."""
    found: dict[str, list[CellResult]] = {}
    for outcome in outcomes:
        if reason := reason_of(outcome):
            found.setdefault(reason, []).append(outcome)
    return list(found.items())


def _names(outcomes: Sequence[CellResult]) -> str:
    return ", ".join(dict.fromkeys(outcome.cell.defence for outcome in outcomes))


def metric_of(outcomes: Sequence[CellResult]) -> Metric:
    """Return the metric that the table is about."""
    return common_metrics(outcomes)[0]


def metric_words(metric: Metric) -> str:
    """Return the name and the unit of the numbers in the table."""
    if metric.is_share:
        return f"{metric.words} in percent"
    return metric.words + (f" in {metric.unit}" if metric.unit else "")


def legend(grid: Grid, outcomes: Sequence[CellResult]) -> str:
    metric, ends = metric_of(outcomes), "lowest and highest"
    dash = "-" if metric.is_share else "to"
    extremes = f"worst over the last fifth of the evaluations {dash} best of all"
    text = f"final {metric_words(metric)} ({extremes})"
    if metric.better == "lower":
        text, ends = f"{text}; lower is better", "worst and best"
    if len(grid.seeds) == 1:
        return text
    return f"{text}; the mean, {ends} of {len(grid.seeds)} seeds"


def cell_line(outcome: CellResult) -> str:
    """Return a cell in one line, for output to a file."""
    if outcome.status == "finished":
        words = f"{with_unit(outcome)} (worst {number(outcome, 'worst')}, "
        words += f"best {number(outcome, 'best')})"
        parts = [words, out_text(outcome), outcome.attack_failures]
    else:
        words = ": ".join(filter(None, [outcome.status, outcome.reason]))
        parts = [words, _failed_calls(outcome)]
    return f"{outcome.cell.defence} under {outcome.cell.attack}: {', '.join(filter(None, parts))}"


def percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def number(outcome: CellResult, kind: str = "final") -> str:
    """Return a cell's final, worst or best value without its unit."""
    metric, value = outcome.metric, outcome.figures(outcome.metric)[kind]
    if value is None or metric.is_share:
        return percent(value)
    return f"{value:{metric.format}}"


def with_unit(outcome: CellResult) -> str:
    """Return a cell's final value with its unit."""
    return value_text(outcome.metric, outcome.final)


def span(outcome: CellResult, dash: str = "-") -> str:
    """Return a cell's worst and best value."""
    dash = dash if outcome.metric.is_share else " to "
    return dash.join(number(outcome, kind) for kind in ("worst", "best"))


def exclusion_sentence(outcome: CellResult) -> str:
    """Return sentences about the weight of Byzantine nodes, and who was left out; may be empty.

    Empty also where the attack failed: leaving out nodes that send nothing shows nothing.
    """
    if outcome.attack_failures:
        return ""
    shares, weight = outcome.shares, outcome.byzantine_weight
    unknown = shares and all(share.excluded is None for share in shares)
    no_choice = NO_CHOICE.format(outcome.cell.defence) if unknown else ""
    had = f"Byzantine nodes had {percent(weight, 0)} % of the weight in the aggregates. "
    text = had * (weight is not None)
    if not any(share.left_out for share in shares):
        none = no_choice or "No node was left out in any round."
        return f"{text}{none}" if shares else text.strip()
    faulty, honest = (percent(outcome.left_out(honest=which), 0) for which in (False, True))
    if outcome.left_out(honest=False) is None:  # there is none
        text += f"An honest node was left out in {honest} % of the rounds"
    else:
        text += f"A Byzantine node was left out in {faulty} % of the rounds"
        text += f", an honest one in {honest} %"
    worst = max((share for share in shares if share.honest), key=lambda share: share.left_out)
    if worst.left_out:
        text += f"; of the honest ones most often node {worst.node}, "
        text += f"in {percent(worst.left_out, 0)} %"
    if worst.left_out and worst.refused:
        text += f" ({percent(worst.refused, 0)} % refused)"
    return f"{text}. {no_choice}".strip()
