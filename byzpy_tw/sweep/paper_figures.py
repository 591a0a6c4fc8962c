"""Figures of a study for a paper: a heat map and curves, as SVG, PDF or PNG by matplotlib.

Equal results give an equal SVG, byte for byte: it has no date, and names that are not drawn at
random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from byzpy_tw.errors import ConfigError, RunDirectoryError
from byzpy_tw.report.curves import COLOURS
from byzpy_tw.report.html import page_colours
from byzpy_tw.report.png import literal
from byzpy_tw.sweep.colours import colour, is_dark
from byzpy_tw.sweep.pivot import WORST, Key, Pivot
from byzpy_tw.sweep.results import CellResult
from byzpy_tw.sweep.scores import score_of
from byzpy_tw.sweep.tables import caption, cell_text
from byzpy_tw.text import printable

FORMATS = ("svg", "pdf", "png")
_SETTINGS: dict[Any, Any] = {"svg.hashsalt": "byzpy_tw", "svg.fonttype": "none", "pdf.fonttype": 42}
_UNDATED: Mapping[str, Mapping[str, None]] = {
    "svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None},
}  # fmt: skip
_ACROSS = 3  # panels of curves
_MOST_PANELS = 30


def write_heat_map(pivot: Pivot, path: Path, seeds: int, statistic: str | None = None) -> None:
    """Draw `pivot` as a heat map into `path`, whose suffix says the format.

    Raises `ConfigError` for another format and without matplotlib, `RunDirectoryError` where
    `path` is not writable.
    """
    _write(path, lambda figure: _heat_map(figure, pivot, seeds, statistic))


def write_curves(pivot: Pivot, path: Path) -> None:
    """Draw the curves of the cells of `pivot` into `path`: a panel a column, a line a row.

    Several seeds are their mean, in a band from the lowest to the highest.  Raises as
    `write_heat_map`.
    """
    columns = [
        column for column in pivot.columns if WORST not in column and _has_curves(pivot, column)
    ]
    if not columns:
        raise ConfigError("--curves: no run of these cells has been evaluated")
    if len(columns) > _MOST_PANELS:
        raise ConfigError(
            f"--curves: {len(columns)} columns are more than the {_MOST_PANELS} panels of a "
            "figure; give axes one value by --fix"
        )
    _write(path, lambda figure: _curves(figure, pivot, columns))


def _has_curves(pivot: Pivot, column: Key) -> bool:
    outcomes = (pivot.value(row, column).outcome for row in pivot.rows)
    return any(each.evaluations for o in outcomes if o is not None for each in o.ended)


def _write(path: Path, draw: Callable[[Any], None]) -> None:
    form = path.suffix.lower().lstrip(".")
    if form not in FORMATS:
        raise ConfigError(
            f"{printable(path)}: a figure is .svg, .pdf or .png, by the end of its name"
        )
    try:
        # Not pyplot: it keeps figures, and may look for a display.
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError as e:
        raise ConfigError(f"{printable(path)}: {e}: pip install 'byzpy-tw[figures]'") from e
    try:
        with rc_context(_SETTINGS):
            figure = Figure(layout="constrained")
            draw(figure)
            figure.savefig(path, format=form, dpi=200, metadata=dict(_UNDATED[form]))
    except OSError as e:
        raise RunDirectoryError(f"cannot write {printable(path)}: {e.strerror or e}") from e


def _heat_map(figure: Any, pivot: Pivot, seeds: int, statistic: str | None) -> None:
    rows, columns = pivot.rows, pivot.columns
    figure.set_size_inches(2.2 + 0.95 * len(columns), 1.2 + 0.5 * len(rows))
    axes = figure.subplots()
    good = {at: value.goodness(pivot.metric) for at, value in pivot.cells.items()}
    best = max((g for g in good.values() if g is not None), default=0.0)
    image = []
    for i, row in enumerate(rows):
        line = []
        for j, column in enumerate(columns):
            here = good.get((row, column))
            shade = None if here is None else score_of(pivot.metric, here, best)
            behind = (255, 255, 255) if shade is None else colour(shade)
            line.append(behind)
            text = cell_text(pivot.metric, pivot.value(row, column), statistic)
            ink = "white" if shade is not None and is_dark(behind) else "black"
            axes.text(j, i, literal(text) if text else "", ha="center", va="center", color=ink,
                      fontsize=7)  # fmt: skip
        image.append(line)
    axes.imshow(image, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(columns)), [_label(key, pivot) for key in columns], rotation=30,
                    ha="right", rotation_mode="anchor", fontsize=8)  # fmt: skip
    axes.set_yticks(range(len(rows)), [_label(key, pivot) for key in rows], fontsize=8)
    for j, column in enumerate(columns):  # the worst case is apart from what it sums up
        axes.axvline(j - 0.5, color="white", linewidth=4 if WORST in column else 1)
    for i in range(len(rows)):
        axes.axhline(i - 0.5, color="white", linewidth=1)
    axes.set_xlabel(_title(pivot.column_dimensions), fontsize=8)
    axes.set_ylabel(_title(pivot.row_dimensions), fontsize=8)
    axes.set_title(literal(caption(pivot, seeds, statistic)), fontsize=8)
    axes.spines[:].set_visible(False)


def _label(key: Key, pivot: Pivot) -> str:
    return literal(", ".join(key) or pivot.metric.words)


def _title(dimensions: Sequence[Any]) -> str:
    return literal(", ".join(dimension.title for dimension in dimensions)) if dimensions else ""


def _curves(figure: Any, pivot: Pivot, columns: Sequence[Key]) -> None:
    across = min(_ACROSS, len(columns))
    down = -(-len(columns) // across)
    rows = [row for row in pivot.rows if WORST not in row]
    figure.set_size_inches(3.2 * across, 2.4 * down + 0.22 * (-(-len(rows) // 3)))
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    handles: dict[str, Any] = {}
    for axes, column in zip(panels.flat, columns, strict=False):
        for i, row in enumerate(rows):
            outcome = pivot.value(row, column).outcome
            if outcome is not None and (drawn := _line(axes, pivot, outcome, i)) is not None:
                handles.setdefault(_label(row, pivot), drawn)
        axes.set_title(_label(column, pivot), fontsize=8)
        axes.set_xlabel("round", fontsize=7)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
    for axes in list(panels.flat)[len(columns) :]:
        axes.remove()
    figure.supylabel(literal(pivot.metric.title), fontsize=8)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center",
                  ncols=min(3, max(1, len(handles))), frameon=False, fontsize=7)  # fmt: skip


def _line(axes: Any, pivot: Pivot, outcome: CellResult, index: int) -> Any:
    """Draw a cell's curve; return its line, None where there is nothing."""
    found: dict[int, list[float]] = {}
    for ended in outcome.ended:
        for rounds, value in ended.curve(pivot.metric.name):
            found.setdefault(rounds, []).append(value)
    if not found:
        return None
    points = sorted(found.items())
    xs = [at for at, _ in points]
    shade, styles = page_colours()[f"c{index % COLOURS}"], ("-", "--", ":", "-.")
    [line] = axes.plot(
        xs, [sum(values) / len(values) for _, values in points], color=shade, linewidth=1.2,
        linestyle=styles[(index // COLOURS) % len(styles)],
    )  # fmt: skip
    low, high = ([end(values) for _, values in points] for end in (min, max))
    if low != high:
        axes.fill_between(xs, low, high, color=shade, alpha=0.15, linewidth=0)
    return line
