"""A sweep as a program: its checks, lock, files and exit code."""

from __future__ import annotations

import sys
import time
from itertools import product
from pathlib import Path
from typing import Any, cast

from attrs import evolve
from twisted.internet.task import LoopingCall

from byzpy_tw import files
from byzpy_tw.config.merge import find_unused
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.console import say
from byzpy_tw.errors import ByzpyTwError, CannotRecord, ConfigError, RunDirectoryError
from byzpy_tw.kernels.cpu import cores
from byzpy_tw.kernels.memory import configure_malloc
from byzpy_tw.output.program import IProgramReactor, ReactorProgram, start_logging
from byzpy_tw.output.text import nodes_live
from byzpy_tw.plugins import Registry, load_and_warn
from byzpy_tw.plugins.plugin_files import read_plugin_files
from byzpy_tw.processes.launcher import Launcher
from byzpy_tw.records.folder import CELLS, lock_folder, read_run, to_json
from byzpy_tw.records.initial_values import identify_initial_values
from byzpy_tw.records.weights_file import identify_weights
from byzpy_tw.scheduling import clock
from byzpy_tw.sweep.blocks import summary_lines
from byzpy_tw.sweep.byzfl_export import check_folder, export, write_export
from byzpy_tw.sweep.display import REDRAW_SECONDS, display_for
from byzpy_tw.sweep.estimate import estimate, read_measured
from byzpy_tw.sweep.execution import discard
from byzpy_tw.sweep.grid import grid_of_plan
from byzpy_tw.sweep.impossible import explain_impossible
from byzpy_tw.sweep.lab_json import figures
from byzpy_tw.sweep.long_form import RESULTS, write_long_forms
from byzpy_tw.sweep.outline import (
    axis_lines,
    difference_lines,
    dry_run_lines,
    size_text,
    varies_more,
)
from byzpy_tw.sweep.page import page
from byzpy_tw.sweep.plan import (
    Plan,
    PlannedRun,
    check_values,
    configurations,
    make_plan,
    run_digest,
)
from byzpy_tw.sweep.query import Query, show
from byzpy_tw.sweep.recorded import RecordedRuns
from byzpy_tw.sweep.resolve import check_names, guarantees, versions_of
from byzpy_tw.sweep.results import CONCLUSIVE
from byzpy_tw.sweep.run_lines import LINES, RUNS_FILE, RunLines, check_records, default_records
from byzpy_tw.sweep.scheduler import Sweep
from byzpy_tw.sweep.selected import SELECTED, select
from byzpy_tw.sweep.selection import check_selection
from byzpy_tw.sweep.server_slots import RUNS_EACH
from byzpy_tw.sweep.study import Study
from byzpy_tw.sweep.study_results import read_results
from byzpy_tw.text import clean, printable
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
    file: str | None = None,
    launcher: Launcher | None = None,
    records: str | None = None,
) -> int:
    """Run `study`, of `file`, in worker processes of `launcher`; return the exit code.

    Raises `ConfigError` and its kind for mistakes, before anything runs.
    """
    registry, plan = prepare(study, file)
    grid = grid_of_plan(plan)
    if not plan.possible:
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


def print_dry_run(
    study: Study,
    *,
    folder: Path,
    jobs: int | None = None,
    again: bool = False,
    file: str | None = None,
) -> int:
    """Print what `run_sweep` would do, and how long it would take; return the exit code."""
    registry, plan = prepare(study, file)
    recorded = RecordedRuns.below(folder)
    left = [run for run in plan.possible if again or not recorded.is_over(run)]
    measured = [*read_measured(folder), *recorded.read_times(plan.possible)]
    found = estimate(left, measured, len(plan.possible) - len(left))
    for line in dry_run_lines(plan, found, jobs or jobs_for(plan.runs[0].config, registry)):
        say(printable(line))
    return 0


def print_results(study: Study, query: Query, *, folder: Path, file: str | None = None) -> int:
    """Print what `query` asks for of what is recorded below `folder`, and write its figures."""
    _, plan = prepare(study, file)
    for text in show(read_results(plan, folder), query):
        print(text)
    return 0


def print_export(study: Study, target: Path, *, folder: Path, file: str | None = None) -> int:
    """Write what is recorded below `folder` as ByzFL's files below `target`; say what they are."""
    check_folder(target)
    _, plan = prepare(study, file)
    results = read_results(plan, folder)

    def losses(run: PlannedRun) -> list[float | None]:
        if not results.ended[run.folder].has_folder:
            return []
        return [record.get("loss") for record in read_run(folder / CELLS / run.folder).rounds]

    found = export(results, losses, time.strftime("%d_%m_%y"))
    write_export(found, target)
    for line in found.notes:
        say(printable(line))
    say(printable(f"{len(found.files)} files of ByzFL are in {target}"))
    return 0


def prepare(study: Study, file: str | None) -> tuple[Registry, Plan]:
    """Load the plugins of `study`, and make its plan; an error names its `file`."""
    files = read_plugin_files(study.options.get("plugin") or ())
    registry = load_and_warn(study.options.get("disable_plugin") or (), files)
    try:
        return registry, plan_of(study, registry)
    except ByzpyTwError as e:
        raise e if file is None else e.with_text(f"{file}: {e}") from e.__cause__


def plan_of(study: Study, registry: Registry) -> Plan:
    """Make the plan of `study`: look up its names, and find the runs that cannot be run.

    Raises `ConfigError` and its kind for mistakes that concern all runs.
    """
    check_values(study)
    _, base = next(configurations(study))
    base = identify_initial_values(base)
    if len(study.values_of("weights")) == 1:  # several are told apart by their paths
        base = identify_weights(base)
    for name in ("init_sha256", "weights_sha256"):
        if (digest := getattr(base, name)) is not None:
            study = evolve(study, options={**study.options, name: digest})
    pre = study.values_of("pre_aggregator") or ((),)
    chains = [
        " | ".join([*before, rule])
        for before, rule in product(pre, study.values_of("aggregator") or (base.aggregator,))
    ]
    check_names(registry, study, base)
    server_addresses(base, registry)
    load_trainer_keys(base, warn=True)
    for device in study.values_of("device") or (base.device,):
        open_device(device)
    versions = versions_of(registry)
    plan = make_plan(
        study,
        guarantees(registry),
        lambda config: run_digest(config, versions(config)),
        lambda config: find_unused(config, registry, chains),
    )
    check_selection(plan)
    return plan


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
    grid, display = sweep.grid, sweep.display
    for line in (*_heading(sweep), *difference_lines(grid.plan.study)):
        display.say(line)
    if sweep.records == LINES:
        display.say(
            f"  each run is recorded in one line of {RUNS_FILE} (--records {LINES}), "
            "without a folder"
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


def _heading(sweep: Sweep) -> list[str]:
    """Return the lines about what is run, and where."""
    grid, base, where = sweep.grid, sweep.grid.base, f"records in {sweep.folder}"
    if varies_more(grid.plan):
        lines = [f"  {line}" for line in axis_lines(grid.plan)]
        return [f"byzpy_tw sweep: {size_text(grid.plan)}", *lines, f"  {nodes_live(base)}; {where}"]
    return [
        f"byzpy_tw sweep: {len(grid.defences)} defences under {len(grid.attacks)} attacks, "
        f"{len(grid.runs)} runs of {base.rounds} rounds: {base.model} on {base.dataset}, "
        f"partition {base.partition}",
        f"  {base.num_honest} honest and {base.num_byz} Byzantine nodes, f = {base.f}, "
        f"{nodes_live(base)}; {where}",
    ]


def _summarize(sweep: Sweep, seconds: float) -> None:
    """Write the results, the page and the figures, and print what explains the tables."""
    results, path = sweep.results, sweep.folder / PAGE
    missing = write_long_forms(results, sweep.folder)
    _write(path, page(results, sweep.folder))
    selected = select(results)
    entry = {} if selected.entry is None else {"selection": selected.entry}
    _write(sweep.folder / TABLE, to_json({**figures(results), **entry}, indent=2) + "\n")
    for line in [*summary_lines(results), *selected.lines]:
        say(clean(line, 1000))
    if selected.runs:
        _write(sweep.folder / SELECTED, selected.table.csv())
    else:
        (sweep.folder / SELECTED).unlink(missing_ok=True)  # of an earlier call
    total, done = len(sweep.grid.runs), sum(run.is_over for run in results.ended.values())
    if done > sweep.finished_before:
        say(f"{done - sweep.finished_before} runs in {seconds:.1f} s")
    if done < total:
        say(f"{total - done} of {total} runs are not finished: the same command goes on with them")
    say(f"results: {(sweep.folder / RESULTS).absolute()}.csv{missing and f' ({missing})'}")
    say(f"page: {path.absolute()}")


def _write(path: Path, content: str) -> None:
    """Replace the content of `path`; `CannotRecord` where that fails."""
    try:
        files.write_text(path, content)
    except OSError as e:
        raise CannotRecord(f"cannot write {path}: {e.strerror or e}") from e
