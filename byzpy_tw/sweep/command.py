"""A lab as a program: from the options to the page, in a reactor of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from twisted.internet.task import LoopingCall

from byzpy_tw import files
from byzpy_tw.config.run import RunConfig
from byzpy_tw.config.unused import drop_unused
from byzpy_tw.console import say
from byzpy_tw.errors import CannotRecord, ConfigError, RunDirectoryError
from byzpy_tw.kernels.cpu import cores
from byzpy_tw.kernels.memory import configure_malloc
from byzpy_tw.output.program import IProgramReactor, ReactorProgram, start_logging
from byzpy_tw.plugins import Registry, load_and_warn
from byzpy_tw.protocol.addresses import parse_addresses
from byzpy_tw.records.folder import lock_folder, to_json
from byzpy_tw.rounds.resolved_rules import resolve_rules
from byzpy_tw.scheduling import clock
from byzpy_tw.sweep import text
from byzpy_tw.sweep.display import REDRAW_SECONDS, Lines, Live, display_for
from byzpy_tw.sweep.findings import sentences
from byzpy_tw.sweep.grid import Grid, command_line, make_grid, run_digest, with_sweep_defaults
from byzpy_tw.sweep.page import page
from byzpy_tw.sweep.resolve import check_names, versions
from byzpy_tw.sweep.results import CONCLUSIVE, CellResult
from byzpy_tw.sweep.scheduler import CELLS, Sweep, discard
from byzpy_tw.text import clean
from byzpy_tw.trainer.run import load_trainer_keys

_WATCHING = ("run_started", "round_completed", "run_finished")

PAGE, TABLE = "lab.html", "lab.json"


def run_sweep(
    given: Mapping[str, Any],
    *,
    attacks: Sequence[str],
    defences: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    jobs: int | None = None,
    again: bool = False,
) -> int:
    """Run the grid in a reactor of this process; the exit code.

    Raises `ConfigError` and its kind for what is wrong before anything runs.
    """
    registry = load_and_warn(given.get("disable_plugin") or ())
    grid = grid_of(given, attacks, defences, seeds, registry)
    if all(cell.impossible for cell in grid.cells):
        cell = grid.cells[0]
        raise ConfigError(f"no cell can be run; {cell.defence}: {cell.impossible}")
    with _held(folder):
        configure_malloc()
        start_logging(folder)
        from twisted.internet import reactor

        lab = Sweep(grid, folder, jobs or jobs_for(grid.base, registry), registry, reactor)
        if again:
            _discard(lab)
        lab.find()
        display = display_for(lab, sys.stdout, say)
        return ReactorProgram(cast(IProgramReactor, reactor)).run(
            lambda: work(lab, display, reactor)
        )


def grid_of(
    given: Mapping[str, Any],
    attacks: Sequence[str],
    defences: Sequence[str],
    seeds: Sequence[int],
    registry: Registry,
) -> Grid:
    """The grid, its names looked up and every cell examined."""
    base = drop_unused(RunConfig(**with_sweep_defaults(given)), registry, chains=defences)
    check_names(registry, base, attacks, defences)
    parse_addresses(base.remote_hosts)
    load_trainer_keys(base, warn=True)

    def examine(config: RunConfig) -> str | None:
        return resolve_rules(config, registry).missing_guarantee

    return make_grid(
        given, attacks, defences, seeds, examine,
        lambda config: run_digest(config, versions(config, registry)),
    )  # fmt: skip


def jobs_for(base: RunConfig, registry: Registry) -> int:
    """Runs at a time, where it is not said.

    On servers one, since each has all of their cores; with observers too, who could not
    tell the rounds of two runs apart.  Here two, which fill each other's pauses; more would
    wait for one interpreter.
    """
    watched = any(getattr(registry.manager.hook, name).get_hookimpls() for name in _WATCHING)
    alone = watched or not base.in_process or base.threads is not None
    return 1 if alone else min(2, cores())


def _held(folder: Path) -> IO[str]:
    """The lab's folder, which no other lab may use until this is closed."""
    try:
        (folder / CELLS).mkdir(parents=True, exist_ok=True)
        return lock_folder(folder)
    except OSError as e:
        raise RunDirectoryError(f"cannot write to {folder}: {e.strerror or e}") from e


def _discard(lab: Sweep) -> None:
    """Remove what earlier calls have left of this grid's runs."""
    for cell in lab.grid.cells:
        for trial in cell.trials:
            discard(lab.path(trial))


async def work(lab: Sweep, display: Lines | Live, reactor: Any) -> int:
    """Run what is left of the lab, and leave table and page, however that ends."""
    lab.display = display
    base, say = lab.grid.base, display.say
    down, across = len(lab.grid.defences), len(lab.grid.attacks)
    say(
        f"byzpy_tw lab: {down} defences under {across} attacks, {lab.grid.trials} runs of "
        f"{base.rounds} rounds: {base.model} on {base.dataset}, partition {base.partition}"
    )
    say(
        f"  {base.num_honest} honest and {base.num_byz} Byzantine nodes, f = {base.f}, "
        f"{_place(base)}; records in {lab.folder}"
    )
    if lab.before:
        say(f"  {lab.before} finished before and are not run again (--again runs them)")
    began = clock.seconds(reactor)
    ticking = LoopingCall(display.tick)
    ticking.clock = reactor
    ticking.start(REDRAW_SECONDS)
    try:
        await lab.run()
    finally:
        ticking.stop()
        display.close()
        if any(outcome.begun for outcome in lab.outcomes()):
            _leave(lab, clock.seconds(reactor) - began)
    return 0 if all(o.status in _GOOD for o in lab.outcomes()) else 1


_GOOD = (*CONCLUSIVE, "impossible")


def _place(base: RunConfig) -> str:
    if base.in_process:
        return "in this process"
    return f"on {base.local or len(base.remote_hosts)} servers"


def _leave(lab: Sweep, seconds: float) -> None:
    """The page and the figures as files, and what there is to say below the table."""
    outcomes = lab.outcomes()
    write_whole(lab.folder / PAGE, page(lab.grid, outcomes, lab.folder))
    write_whole(lab.folder / TABLE, to_json(figures(lab.grid, outcomes), indent=2) + "\n")
    for line in (*text.notes(lab.grid, outcomes), *sentences(lab.grid, outcomes)):
        say(clean(line, 1000))
    whole, done = lab.grid.trials, sum(ended.is_over for o in outcomes for ended in o.ended)
    if done > lab.before:
        say(f"{done - lab.before} runs in {seconds:.1f} s")
    if done < whole:
        left = whole - done
        say(f"{left} of {whole} runs are not finished: the same command goes on with them")
    say(f"page: {(lab.folder / PAGE).absolute()}")


def figures(grid: Grid, outcomes: Sequence[CellResult]) -> dict[str, Any]:
    """What lab.json holds: the options, and each cell with its runs."""
    return {
        "options": grid.base.to_dict(),
        "attacks": grid.attacks,
        "defences": grid.defences,
        "seeds": grid.seeds,
        "cells": [_cell(outcome) for outcome in outcomes],
    }


def _cell(outcome: CellResult) -> dict[str, Any]:
    return {
        "defence": outcome.cell.defence,
        "attack": outcome.cell.attack,
        "status": outcome.status,
        "why": outcome.why,
        "no_guarantee": outcome.cell.missing,
        "attack_failures": outcome.attack_failures or None,
        "final_accuracy": outcome.final,
        "worst_accuracy": outcome.worst,
        "best_accuracy": outcome.best,
        "byzantine_left_out": outcome.out(honest=False),
        "honest_left_out": outcome.out(honest=True),
        "runs": [
            {
                "seed": ended.trial.seed,
                "folder": f"{CELLS}/{ended.trial.folder}",
                "status": ended.status,
                "final_accuracy": ended.final,
                "seconds": ended.seconds,
                "parameters_sha256": ended.digest,
                "command": command_line(ended.trial.config),
            }
            for ended in outcome.ended
        ],
    }


def write_whole(path: Path, content: str) -> None:
    """Replace the content of `path`; `CannotRecord` where that fails."""
    try:
        files.write_text(path, content)
    except OSError as e:
        raise CannotRecord(f"cannot write {path}: {e.strerror or e}") from e
