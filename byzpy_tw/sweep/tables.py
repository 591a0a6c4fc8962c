"""Pivots as text: cells, captions and notes, and whole tables as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from byzpy_tw.sweep.pivot import LEFT_OUT, WORST, Key, Pivot, Value
from byzpy_tw.tasks.metric import Metric

STATISTICS = ("mean", "deviation", "min", "max", "count")
_PLUS_MINUS = "±"
_WAITING = "..."


def number(metric: Metric, value: float | None) -> str:
    """Return `value` without its unit, that of a share in percent."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if metric.is_share else f"{value:{metric.format}}"


def cell_text(metric: Metric, value: Value, statistic: str | None = None) -> str:
    """Return the text of a cell: `statistic` over its seeds, or why there is none.

    By default that is the mean, with the standard deviation where there are several seeds.
    ``?`` and ``*`` are marks; ``≤`` says that cells without a value could be worse still (``≥``
    where lower is better).
    """
    if value.mean is None or value.status == "diverged":
        return {"waiting": _WAITING, LEFT_OUT: ""}.get(value.status, value.status)
    if statistic == "count":
        return str(value.count)
    if statistic is not None:
        text = number(metric, getattr(value, statistic))
    else:
        text = number(metric, value.mean)
        if value.deviation is not None:
            text += f" {_PLUS_MINUS} {number(metric, value.deviation)}"
    bound = ("≥ " if metric.better == "lower" else "≤ ") if value.unknown else ""
    return f"{bound}{text}{value.mark}"


def caption(pivot: Pivot, seeds: int, statistic: str | None = None) -> str:
    """Return what the numbers of a table are."""
    metric, kinds = pivot.metric, {"worst": "worst (over the last fifth of the evaluations)"}
    told = f"{kinds.get(pivot.kind, pivot.kind)} {metric.words}".capitalize()
    told += " in percent" if metric.is_share else f" in {metric.unit}" if metric.unit else ""
    if seeds > 1:
        over = statistic or f"mean {_PLUS_MINUS} standard deviation"
        over = {"deviation": "standard deviation", "count": "number"}.get(over, over)
        told += f", {over} over {seeds} seeds"
    return told + ("; lower is better" if metric.better == "lower" else "")


def notes(pivot: Pivot) -> list[str]:
    """Return a line for each mark, and for each cause of cells without a value."""
    found: dict[str, list[str]] = {}
    bounded = False
    for row in pivot.rows:
        for column in pivot.columns:
            value = pivot.value(row, column)
            bounded = bounded or bool(value.unknown)
            if WORST in (*row, *column):
                continue
            if value.why and (value.mark == "?" or value.status not in ("finished", "waiting")):
                sign = "?" if value.mark == "?" else value.status
                found.setdefault(f"{sign}: {value.why}", []).append(_place(row, column))
    lines = [f"{_and_more(places)}: {why}" for why, places in found.items()]
    if any(value.mark == "*" for value in pivot.cells.values()):
        lines.append("*: the rule gives no guarantee")
    if bounded:
        lines.append("worst cases with ≤ or ≥: a cell without a value could be worse still")
    return lines


def _place(row: Key, column: Key) -> str:
    return " / ".join([*row, *column])


def _and_more(places: Sequence[str], most: int = 6) -> str:
    more = f" and {len(places) - most} more" if len(places) > most else ""
    return ", ".join(places[:most]) + more


def _best_rows(pivot: Pivot, column: Key) -> set[Key]:
    """Return the rows with the best mean of a column.

    None where there is only one value, and where the rows are attacks: nobody chooses the
    weakest.
    """
    if any(dimension.name == "attack" for dimension in pivot.row_dimensions):
        return set()
    good = {row: pivot.value(row, column).goodness(pivot.metric) for row in pivot.rows
            if WORST not in row}  # fmt: skip
    known = [value for value in good.values() if value is not None]
    return {row for row, value in good.items() if value == max(known)} if len(known) > 1 else set()


def _texts(
    pivot: Pivot, statistic: str | None, escape: Callable[[str], str], bold: Callable[[str], str]
) -> list[list[str]]:
    """Return the lines below the head: labels of the row, then cells, the best of each bold."""
    best = {column: _best_rows(pivot, column) for column in pivot.columns}
    lines = []
    for row in pivot.rows:
        cells = [
            (
                row in best[column],
                escape(cell_text(pivot.metric, pivot.value(row, column), statistic)),
            )
            for column in pivot.columns
        ]
        lines.append(
            [*map(escape, row), *(bold(text) if is_best else text for is_best, text in cells)]
        )
    return lines


def markdown(pivot: Pivot, seeds: int, statistic: str | None = None) -> str:
    """Return the table as Markdown (GitHub's), with its caption above and its notes below."""
    sides = [dimension.title for dimension in pivot.row_dimensions]
    heads = [", ".join(column) or pivot.metric.words for column in pivot.columns]
    lines = [
        [*map(_markdown, sides), *map(_markdown, heads)],
        [*("---" for _ in sides), *("---:" for _ in heads)],
        *_texts(pivot, statistic, _markdown, lambda text: f"**{text}**"),
    ]
    below = "".join(f"- {_markdown(line)}\n" for line in notes(pivot))
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{_markdown(caption(pivot, seeds, statistic))}\n\n{table}" + (
        f"\n{below}" * bool(below)
    )


def _markdown(text: str) -> str:
    """Return `text` so that Markdown shows it as it is, in a cell of a table."""
    escaped = "".join(f"\\{c}" if c in r"\`*_[]|~" else c for c in text)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", _PLUS_MINUS: r"$\pm$",
    "≤": r"$\leq$", "≥": r"$\geq$",
}  # fmt: skip


def _latex(text: str) -> str:
    """Return `text` so that LaTeX shows it as it is."""
    return "".join(_LATEX.get(c, c) for c in text)


def latex(pivot: Pivot, seeds: int, statistic: str | None = None) -> str:
    """Return the table as LaTeX, for ``\\usepackage{booktabs}``."""
    sides = len(pivot.row_dimensions)
    body = [
        " & ".join(line) + r" \\"
        for line in _texts(pivot, statistic, _latex, lambda text: rf"\textbf{{{text}}}")
    ]
    below = [rf"\par\footnotesize {_latex(line)}." for line in notes(pivot)]
    return "\n".join([
        r"% needs \usepackage{booktabs}",
        r"\begin{table}", r"\centering", rf"\caption{{{_latex(caption(pivot, seeds, statistic))}}}",
        rf"\begin{{tabular}}{{{'l' * max(1, sides)}{'r' * len(pivot.columns)}}}", r"\toprule",
        *_latex_heads(pivot), r"\midrule", *body, r"\bottomrule", r"\end{tabular}", *below,
        r"\end{table}", "",
    ])  # fmt: skip


def _latex_heads(pivot: Pivot) -> list[str]:
    """Return a line of heads for each dimension of the columns; equal neighbours are one."""
    sides = [_latex(dimension.title) for dimension in pivot.row_dimensions]
    levels = len(pivot.column_dimensions)
    if not levels:
        return [" & ".join([*sides, *(_latex(pivot.metric.words) for _ in pivot.columns)]) + r" \\"]
    lines = []
    for level in range(levels - 1):
        cells, rules = [""] * len(sides), []
        at = len(sides) + 1
        for label, width in _spans([column[: level + 1] for column in pivot.columns]):
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{_latex(label[-1])}}}")
            rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
            at += width
        lines += [" & ".join(cells) + r" \\", " ".join(rules)]
    last = [_latex(column[-1]) for column in pivot.columns]
    return [*lines, " & ".join([*sides, *last]) + r" \\"]


def _spans(labels: Sequence[Key]) -> list[tuple[Key, int]]:
    """Return each label with the number of equal neighbours."""
    spans: list[tuple[Key, int]] = []
    for label in labels:
        if spans and spans[-1][0] == label:
            spans[-1] = label, spans[-1][1] + 1
        else:
            spans.append((label, 1))
    return spans


def comparisons(lines: Sequence[tuple[str, str, str, str]], what: str) -> str:
    """Return paired comparisons as Markdown: first, second, mean difference, what it shows."""
    heads = ("", "minus", what, "95 % interval")
    rows = [heads, ("---", "---", "---:", "---"), *(tuple(map(_markdown, line)) for line in lines)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
