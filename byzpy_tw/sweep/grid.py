"""The table of a plan: what is compared down, attacks across.

A *cell* has the runs of all seeds.  A row is a defence and, where the plan varies more than
that, the values of the other options.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

import attrs
from attrs import field, frozen

from byzpy_tw.config.run_config import RunConfig, flag
from byzpy_tw.config.validators import toml_key
from byzpy_tw.sweep.plan import Plan, PlannedRun
from byzpy_tw.sweep.study import RULE_OPTIONS

EXCLUDED = "left out by the study's exclude"
_NOT_IN_ROWS = ("attack", *RULE_OPTIONS)  # rows begin with the rules


@frozen(kw_only=True)
class Cell:
    """A defence under an attack.

    ``impossible`` says why it cannot be run, ``missing_guarantee`` why its rule promises nothing.
    """

    row: int
    column: int
    defence: str
    attack: str
    runs: tuple[PlannedRun, ...] = ()
    impossible: str | None = None
    missing_guarantee: str | None = None


@frozen(kw_only=True)
class Grid:
    """Attacks across, defences down; `cells` row by row.  ``base`` is the first run's options."""

    plan: Plan = field(repr=False)
    base: RunConfig
    attacks: tuple[str, ...]
    defences: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...] = field(repr=False)

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """Its runs, one for each folder."""
        return tuple({run.folder: run for cell in self.cells for run in cell.runs}.values())


def grid_of_plan(plan: Plan) -> Grid:
    """Return the table of `plan`."""
    varying = [name for name in plan.varying if name not in _NOT_IN_ROWS]
    found: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in plan.runs:
        found.setdefault((_row_name(run, varying), run.config.attack), []).append(run)
    rows, columns = (tuple(dict.fromkeys(names)) for names in zip(*found, strict=True))
    return Grid(
        plan=plan,
        base=plan.runs[0].config,
        attacks=columns,
        defences=rows,
        seeds=tuple(dict.fromkeys(run.config.seed for run in plan.runs)),
        cells=tuple(
            make_cell(r, c, row, column, found.get((row, column), ()))
            for r, row in enumerate(rows)
            for c, column in enumerate(columns)
        ),
    )


def _row_name(run: PlannedRun, varying: Iterable[str]) -> str:
    others = ", ".join(f"{toml_key(name)} = {run.point[name]}" for name in varying)
    return f"{run.config.pipeline} ({others})" if others else run.config.pipeline


def make_cell(row: int, column: int, defence: str, attack: str, runs: Iterable[PlannedRun]) -> Cell:
    """Return the cell of `runs`, of which it has those that can be run."""
    runs = tuple(runs)
    possible = tuple(run for run in runs if run.impossible is None)
    reason = next((run.impossible for run in runs), EXCLUDED)
    return Cell(
        row=row,
        column=column,
        defence=defence,
        attack=attack,
        runs=possible,
        impossible=None if possible else reason,
        missing_guarantee=next((run.missing_guarantee for run in possible), None),
    )


_NEEDED = ("eval_interval", "data_root", "plugin", "init")  # by the figures, beside the bits


def command_line(config: RunConfig) -> str:
    """Return the command line that repeats `config`'s run where its nodes were, to the same bits.

    It has the options that decide the figures, and leaves out timeouts and the like.
    """
    return " ".join(command_words(config).values())


def command_words(config: RunConfig) -> dict[str, str]:
    """Return the parts of `command_line` by the options' names, quoted for a shell."""
    found = {"": ["python", "-m", "byzpy_tw.train"]}
    if config.remote_hosts:
        found["remote_hosts"] = [flag("remote_hosts"), ",".join(config.remote_hosts)]
        if config.keys is not None:
            found["keys"] = [flag("keys"), config.keys]
    elif config.local is None:
        found["in_process"] = [flag("in_process")]
    else:
        found["local"] = [flag("local"), str(config.local)]
    for option in attrs.fields(RunConfig):
        value = getattr(config, option.name)
        decides = option.metadata["bits"] or option.name in _NEEDED
        if value != option.default and decides:
            values = value if isinstance(value, tuple) else () if value is True else (value,)
            found[option.name] = [flag(option.name), *map(str, values)]
    return {name: shlex.join(words) for name, words in found.items()}
