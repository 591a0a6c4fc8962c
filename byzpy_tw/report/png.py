"""Runs as a PNG, for papers and slides: the curves, and for one run the strips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from byzpy_tw.errors import ConfigError, RunDirectoryError
from byzpy_tw.records.schema import EXCLUDED, SELECTED, STATES
from byzpy_tw.report.curves import comparison_charts
from byzpy_tw.report.history import LETTERS
from byzpy_tw.report.html import page_colours
from byzpy_tw.report.labels import labels, shorten
from byzpy_tw.report.model import RunReport
from byzpy_tw.text import printable

_MOST_STRIPS = 64
_ACROSS = 3  # charts in a row
_LINE = 130  # characters of the title, and of a line of the legend
_HIGHEST = 1e150  # value that is drawn: matplotlib squares and adds them


def write_png(reports: Sequence[RunReport], path: Path) -> None:
    """Draw `reports` into `path`.

    Raises `ConfigError` without matplotlib, `RunDirectoryError` where `path` is not writable.
    """
    try:
        # Not pyplot: it keeps figures, and may look for a display.
        from matplotlib.figure import Figure
    except ModuleNotFoundError as e:
        raise ConfigError(f"--png: {e}: pip install 'byzpy-tw[png]'") from e
    runs = [
        {**report.plain(), "name": label}
        for report, label in zip(reports, labels(reports), strict=True)
    ]
    figure = _drawn(Figure, runs)
    try:
        figure.savefig(path, dpi=150, format="png")
    except OSError as e:
        raise RunDirectoryError(f"cannot write {printable(path)}: {e.strerror or e}") from e


def _drawn(make: Callable[..., Any], runs: Sequence[Mapping[str, Any]]) -> Any:
    """Return the figure of `runs`, whose names are labels."""
    strips = runs[0]["nodes"][:_MOST_STRIPS] if len(runs) == 1 else []
    charts = comparison_charts(runs)
    rows = -(-len(charts) // _ACROSS)
    across = max(1, _LINE // (max(len(run["name"]) for run in runs) + 4))  # labels in a line
    below = 0.2 * -(-len(runs) // across) if len(runs) > 1 else 0
    height = 3.4 * rows + below + (0.8 + 0.2 * len(strips) if strips else 0)
    figure = make(figsize=(11, height), layout="constrained")
    parts: Any = [figure]
    if strips:
        parts = figure.subfigures(2, 1, height_ratios=[3.4 * rows, height - 3.4 * rows])
        _strips(parts[1].subplots(), runs[0]["rounds"], strips)
    most = max(len(chart["series"]) for chart in charts)
    named = next(chart for chart in charts if len(chart["series"]) == most)
    grid = list(parts[0].subplots(rows, _ACROSS).flat)
    for axes, chart in zip(grid, charts, strict=False):
        _curves(axes, chart)
        if most > 1 and chart is named:  # below the charts, where it covers no curve
            figure.legend(
                *axes.get_legend_handles_labels(), loc="outside lower center", ncols=across,
                frameon=False, fontsize=8,
            )  # fmt: skip
    for axes in grid[len(charts) :]:
        axes.remove()
    title = shorten(", ".join(run["name"] for run in runs), _LINE)
    figure.suptitle(literal(f"{len(runs)} runs: {title}" if len(runs) > 1 else title), fontsize=10)
    return figure


def _curves(axes: Any, chart: Mapping[str, Any]) -> None:
    lines = chart["series"]
    for line in lines:
        colour, width = int(line["mark"][1:]), line["width"]
        points = [
            (c * width + width / 2, max(-_HIGHEST, min(v, _HIGHEST)))
            for c, v in enumerate(line["mean"]) if v is not None
        ]  # fmt: skip
        axes.plot(
            [x for x, _ in points], [y for _, y in points], linewidth=1.4,
            marker="." if line.get("dots") and len(points) <= 60 else "",
            color=page_colours()[line["mark"]], linestyle="-" if line["dash"] == colour else "--",
            label=literal(line["name"]),
        )  # fmt: skip
    axes.set(title=chart["title"], xlabel="round", xlim=(0, chart["rounds"]["span"]))
    lowest = min((v for line in lines for v in line["mean"] if v is not None), default=0)
    axes.set_ylim(chart.get("floor", 0 if lowest >= 0 else None), chart.get("ceiling"))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _strips(axes: Any, rounds: Mapping[str, int], nodes: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    colours = [page_colours()[state] for state in STATES]
    cells = [[LETTERS.index(letter) for letter in node["letters"]] for node in nodes]
    done = rounds["columns"] * rounds["width"]
    if done:
        axes.imshow(
            cells, aspect="auto", interpolation="nearest", cmap=ListedColormap(colours),
            vmin=-0.5, vmax=len(STATES) - 0.5, extent=(0, done, len(nodes) - 0.5, -0.5),
        )  # fmt: skip
    axes.hlines([i + 0.5 for i in range(len(nodes) - 1)], 0, done, colors="white", linewidth=1.5)
    labels = [f"{n['node']}{'' if n['honest'] else ' Byzantine'}" for n in nodes]
    axes.set_yticks(range(len(nodes)), labels, fontsize=8)
    axes.set(xlabel="round", ylabel="node", xlim=(0, rounds["span"]))
    words = dict(enumerate(STATES))
    used = {index for row in cells for index in row} | {SELECTED}
    if rounds["chooses"]:
        used.add(EXCLUDED)
    else:
        words[SELECTED] = "given to the rule"
    patches = [Patch(color=colours[i], label=words[i]) for i in sorted(used)]
    axes.legend(
        handles=patches, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(patches),
        frameon=False, fontsize=8,
    )  # fmt: skip


def literal(text: str) -> str:
    """Return `text` so that matplotlib finds no formula in it, and no label to hide."""
    return text.replace("$", r"\$").lstrip("_") or "run"
