"""Runs as a PNG, for papers and slides: the curves, and for one run the strips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from byzpy_tw.errors import ConfigError, RunDirectoryError
from byzpy_tw.report.history import STATES
from byzpy_tw.report.model import RunReport
from byzpy_tw.text import printable

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5568c", "#b07d00", "#3a9bd0", "#4d4d4d")
_LETTERS = "sxrtlp-"
_STATE_COLOURS = ("#cfe0ea", "#0072b2", "#d55e00", "#f0b429", "#24292e", "#b77fb0", "#ffffff")
_MOST_STRIPS = 64


def write_png(run_reports: Sequence[RunReport], path: Path) -> None:
    """Draw `run_reports` into `path`.

    Raises `ConfigError` where matplotlib is missing, `RunDirectoryError` where `path`
    cannot be written.
    """
    try:
        # Not pyplot: it keeps figures, and may look for a display.
        from matplotlib.figure import Figure
    except ModuleNotFoundError as e:
        raise ConfigError(f"--png: {e}: pip install 'byzpy-tw[png]'") from e
    plain = [run_report.plain() for run_report in run_reports]
    strips = plain[0]["nodes"][:_MOST_STRIPS] if len(plain) == 1 else []
    height = 3.4 + (0.8 + 0.2 * len(strips) if strips else 0)
    figure = Figure(figsize=(11, height), layout="constrained")
    top, bottom = figure, None
    if strips:
        top, bottom = figure.subfigures(2, 1, height_ratios=[3.4, height - 3.4])
    for axes, (name, title) in zip(
        top.subplots(1, 3),
        (("accuracy", "accuracy"), ("test_loss", "loss"), ("seconds", "seconds a round")),
        strict=True,
    ):
        _curves(axes, plain, name, title)
    if bottom is not None:
        _strips(bottom.subplots(), plain[0], strips)
    figure.suptitle(
        " · ".join(_literal(run_report.name) for run_report in run_reports)[:120], fontsize=10
    )
    try:
        figure.savefig(path, dpi=150, format="png")
    except OSError as e:
        raise RunDirectoryError(f"cannot write {printable(path)}: {e.strerror or e}") from e


def _curves(axes: Any, plain: Sequence[dict[str, Any]], name: str, title: str) -> None:
    for i, run in enumerate(plain):
        width, means = run["rounds"]["width"], run["curves"][name]["mean"]
        points = [(c * width + width / 2, v) for c, v in enumerate(means) if v is not None]
        mark = "." if len(points) <= 60 and name != "seconds" else ""
        axes.plot(
            [x for x, _ in points], [y for _, y in points], linewidth=1.4, marker=mark,
            color=_COLOURS[i % len(_COLOURS)], label=_literal(run["name"][:30]),
            linestyle="-" if i < len(_COLOURS) else "--",
        )  # fmt: skip
    axes.set(title=title, xlabel="round", xlim=(0, max(r["rounds"]["span"] for r in plain)))
    axes.set_ylim(*((0, 1) if name == "accuracy" else (0, None)))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(plain) > 1 and name == "accuracy":
        axes.legend(frameon=False, fontsize=8)


def _strips(axes: Any, run: dict[str, Any], nodes: Sequence[dict[str, Any]]) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    cells = [[_LETTERS.index(letter) for letter in node["letters"]] for node in nodes]
    done = run["rounds"]["columns"] * run["rounds"]["width"]
    if done:
        axes.imshow(
            cells, aspect="auto", interpolation="nearest", cmap=ListedColormap(_STATE_COLOURS),
            vmin=-0.5, vmax=len(_STATE_COLOURS) - 0.5, extent=(0, done, len(nodes) - 0.5, -0.5),
        )  # fmt: skip
    labels = [f"{n['node']}{'' if n['honest'] else ' Byzantine'}" for n in nodes]
    axes.set_yticks(range(len(nodes)), labels, fontsize=8)
    axes.set(xlabel="round", ylabel="node", xlim=(0, run["rounds"]["span"]))
    used = {index for row in cells for index in row} | {0, 1}
    patches = [
        Patch(color=_STATE_COLOURS[i], label=state) for i, state in enumerate(STATES) if i in used
    ]
    axes.legend(
        handles=patches, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(patches),
        frameon=False, fontsize=8,
    )  # fmt: skip


def _literal(text: str) -> str:
    """Text in which matplotlib finds no formula, and that is no label to hide."""
    return text.replace("$", r"\$").lstrip("_") or "run"
