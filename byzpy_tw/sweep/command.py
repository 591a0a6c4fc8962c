"""A sweep as a program: its checks, lock, files and exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

from attrs import asdict, evolve
from twisted.internet.task import LoopingCall

from byzpy_tw import files
from byzpy_tw.config.merge import drop_unused
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.console import say
from byzpy_tw.errors import CannotRecord, ConfigError, RunDirectoryError
from byzpy_tw.kernels.cpu import cores
from byzpy_tw.kernels.memory import configure_malloc
from byzpy_tw.output.program import IProgramReactor, ReactorProgram, start_logging
from byzpy_tw.output.text import nodes_live
from byzpy_tw.plugins import Registry, load_and_warn
from byzpy_tw.plugins.plugin_files import read_plugin_files
from byzpy_tw.processes.launcher import Launcher
from byzpy_tw.records.first_values import identify_first_values
from byzpy_tw.records.folder import CELLS, lock_folder, to_json
from byzpy_tw.records.metrics import KINDS
from byzpy_tw.scheduling import clock
from byzpy_tw.sweep import text
from byzpy_tw.sweep.comparison import Finding, findings, recorded_chance
from byzpy_tw.sweep.conclusions import sentences
from byzpy_tw.sweep.display import REDRAW_SECONDS, display_for
from byzpy_tw.sweep.execution import discard
from byzpy_tw.sweep.grid import Grid, command_line, grid_of_plan
from byzpy_tw.sweep.impossible import explain_impossible
from byzpy_tw.sweep.page import page
from byzpy_tw.sweep.plan import Plan, configurations, make_plan, run_digest
from byzpy_tw.sweep.resolve import check_names, guarantees, versions
from byzpy_tw.sweep.results import CONCLUSIVE, CellResult, common_metrics
from byzpy_tw.sweep.run_lines import FILE, LINES, RunLines, check_records, default_records
from byzpy_tw.sweep.scheduler import Sweep
from byzpy_tw.sweep.server_slots import RUNS_EACH
from byzpy_tw.sweep.study import Study
from byzpy_tw.text import clean
from byzpy_tw.trainer.run import load_trainer_keys, server_addresses
from byzpy_tw.workers.device import open_device

PAGE, TABLE = "lab.html", "lab.json"  # names that programs know
_WATCHING = ("run_started", "round_completed", "run_event", "run_finished")
_GOOD = (*CONCLUSIVE, "impossible")


def run_sweep(
    study: Study,
    *,
    folder: Path,
    jobs: int | None = None,
    again: bool = False,
    launcher: Launcher | None = None,
    records: str | None = None,
) -> int:
    """Run `study` in worker processes of `launcher`; return the exit code.

    Raises `ConfigError` and its kind for mistakes, before anything runs.
    """
    files = read_plugin_files(study.options.get("plugin") or ())
    registry = load_and_warn(study.options.get("disable_plugin") or (), files)
    grid = grid_of_plan(plan_of(study, registry))
    if all(cell.impossible for cell in grid.cells):
        raise ConfigError(f"no cell can be run; {'; '.join(explain_impossible(grid.cells))}")
    records = records or default_records(grid.runs)
    check_records(records, grid.runs)
    try:
        (folder / CELLS).mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder)
    except OSError as e:
        raise RunDirectoryError(f"cannot write to {folder}: {e.strerror or e}") from e
    with lock:
        configure_malloc()
        start_logging(folder)
        from twisted.internet import reactor

        sweep = Sweep(
            grid, folder, jobs or jobs_for(grid.base, registry), registry, reactor,
            launcher=launcher or Launcher(), lock=lock.fileno(),
            records=records,
        )  # fmt: skip
        if again:
            for run in grid.runs:
                discard(sweep.path(run))
            RunLines.below(folder).forget({run.folder for run in grid.runs})
        sweep.load_finished()
        sweep.display = display_for(sweep, sys.stdout, say)
        return ReactorProgram(cast(IProgramReactor, reactor)).run(lambda: work(sweep, reactor))


def plan_of(study: Study, registry: Registry) -> Plan:
    """Make the plan of `study`: look up its names, and find the runs that cannot be run."""
    _, base = next(configurations(study))
    base = identify_first_values(base)
    if base.init_sha256 is not None:
        study = evolve(study, options={**study.options, "init_sha256": base.init_sha256})
    chains = {" | ".join([*pre, rule]) for pre, rule in product(
        study.values_of("pre_aggregator") or (base.pre_aggregator,),
        study.values_of("aggregator") or (base.aggregator,),
    )}  # fmt: skip
    drop_unused(base, registry, chains=chains)
    check_names(registry, study, base)
    server_addresses(base, registry)
    load_trainer_keys(base, warn=True)
    open_device(base.device)  # an error here concerns all runs
    return make_plan(
        study, guarantees(registry), lambda config: run_digest(config, versions(config, registry))
    )


def jobs_for(base: RunConfig, registry: Registry) -> int:
    """Return the default number of runs at a time.

    Some for each server, which hosts all nodes of a run.  One with observers, which could not
    tell the rounds of two runs apart.  One for each core where nodes are in the runs' processes,
    or for as many cores as each has threads.
    """
    watched = any(getattr(registry.manager.hook, name).get_hookimpls() for name in _WATCHING)
    if watched:
        return 1
    if servers := len(base.remote_hosts) or base.local:
        return RUNS_EACH * servers
    return max(1, cores() // (base.threads or 1))


async def work(sweep: Sweep, reactor: Any) -> int:
    """Run the rest of the sweep; write its table and page, however that ends."""
    grid, base, display = sweep.grid, sweep.grid.base, sweep.display
    display.say(
        f"byzpy_tw sweep: {len(grid.defences)} defences under {len(grid.attacks)} attacks, "
        f"{len(grid.runs)} runs of {base.rounds} rounds: {base.model} on {base.dataset}, "
        f"partition {base.partition}"
    )
    display.say(
        f"  {base.num_honest} honest and {base.num_byz} Byzantine nodes, f = {base.f}, "
        f"{nodes_live(base)}; records in {sweep.folder}"
    )
    if sweep.records == LINES:
        display.say(
            f"  each run is recorded in one line of {FILE} (--records {LINES}), without a folder"
        )
    if sweep.finished_before:
        display.say(
            f"  {sweep.finished_before} finished before and are not run again (--again runs them)"
        )
    if impossible := explain_impossible(grid.cells):
        count = sum(cell.impossible is not None for cell in grid.cells)
        display.say(f"  {count} of {len(grid.cells)} cells cannot be run:")
        for line in impossible:
            display.say(f"  {line}")
    began = clock.seconds(reactor)
    ticking = LoopingCall(display.tick)
    ticking.clock = reactor
    ticking.start(REDRAW_SECONDS)
    try:
        await sweep.run()
    finally:
        ticking.stop()
        display.close()
        if any(outcome.has_runs for outcome in sweep.outcomes()):
            _summarize(sweep, clock.seconds(reactor) - began)
    return 0 if all(o.status in _GOOD for o in sweep.outcomes()) else 1


def _summarize(sweep: Sweep, seconds: float) -> None:
    """Write the page and the figures, and print what explains the table."""
    grid, outcomes, path = sweep.grid, sweep.outcomes(), sweep.folder / PAGE
    _write(path, page(grid, outcomes, sweep.folder))
    _write(sweep.folder / TABLE, to_json(figures(grid, outcomes), indent=2) + "\n")
    for line in (*text.notes(grid, outcomes), *sentences(grid, outcomes)):
        say(clean(line, 1000))
    total, done = len(grid.runs), sum(run.is_over for o in outcomes for run in o.ended)
    if done > sweep.finished_before:
        say(f"{done - sweep.finished_before} runs in {seconds:.1f} s")
    if done < total:
        say(f"{total - done} of {total} runs are not finished: the same command goes on with them")
    say(f"page: {path.absolute()}")


def figures(grid: Grid, outcomes: Sequence[CellResult]) -> dict[str, Any]:
    """Return the contents of lab.json: the options, and each cell with its runs."""
    found, metrics = findings(outcomes), common_metrics(outcomes)
    return {
        "options": grid.base.to_dict(),
        "attacks": grid.attacks,
        "defences": grid.defences,
        "seeds": grid.seeds,
        "metrics": [asdict(metric) for metric in metrics],
        "chance": {metric.name: recorded_chance(outcomes, metric) for metric in metrics},
        "cells": [_cell(o, found.get((o.cell.row, o.cell.column), frozenset())) for o in outcomes],
    }


def _cell(outcome: CellResult, found: frozenset[Finding]) -> dict[str, Any]:
    metrics = {metric.name: outcome.figures(metric) for metric in outcome.task_metrics}
    accuracy = metrics.get("accuracy", {})
    return {
        "defence": outcome.cell.defence,
        "attack": outcome.cell.attack,
        "status": outcome.status,
        "why": outcome.reason,
        "no_guarantee": outcome.cell.missing_guarantee,
        "attack_failures": outcome.attack_failures or None,
        **{f"{kind}_accuracy": accuracy.get(kind) for kind in KINDS},
        "metrics": metrics,
        "findings": sorted(finding.value for finding in found),
        "byzantine_weight": outcome.byzantine_weight,
        "byzantine_left_out": outcome.left_out(honest=False),
        "honest_left_out": outcome.left_out(honest=True),
        "runs": [
            {
                "seed": ended.run.config.seed,
                "folder": f"{CELLS}/{ended.run.folder}",
                "status": ended.status,
                "final_accuracy": ended.metrics.get("accuracy", {}).get("final"),
                "metrics": ended.metrics,
                "seconds": ended.seconds,
                "parameters_sha256": ended.digest,
                "command": command_line(ended.run.config),
            }
            for ended in outcome.ended
        ],
    }


def _write(path: Path, content: str) -> None:
    """Replace the content of `path`; `CannotRecord` where that fails."""
    try:
        files.write_text(path, content)
    except OSError as e:
        raise CannotRecord(f"cannot write {path}: {e.strerror or e}") from e
