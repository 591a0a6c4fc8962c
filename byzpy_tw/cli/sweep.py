"""``python -m byzpy_tw sweep``: many runs that differ in some options, as a table and a page."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from byzpy_tw.cli.run_options import add_run_options
from byzpy_tw.cli.sweep_query import add_query_options, query_of
from byzpy_tw.config.merge import OPTIONS
from byzpy_tw.config.paths import expand_home
from byzpy_tw.config.toml import STANDARD_INPUT
from byzpy_tw.errors import ConfigError
from byzpy_tw.sweep import default_study as defaults
from byzpy_tw.sweep.foreign_files import read_blades_file, read_byzfl_file
from byzpy_tw.sweep.study import OPTIONS_OF_ONE_RUN, Axis, Study
from byzpy_tw.sweep.study_file import read_study
from byzpy_tw.text import clip

HELP = "compare rules under attacks, or a study of any options: a live table, and a page"
# For an error about a word too many.
LISTS = (
    "; --aggregators, --preaggregators, --attacks and --seeds take lists, which make the grid; "
    "any other option may be a list in a study's file: python -m byzpy_tw sweep study.toml"
)

# What workers, and servers of --local, import: done once, before they are forked.
_WARM_MODULES = (
    "byzpy_tw.sweep.command", "byzpy_tw.sweep.worker", "byzpy_tw.tap",
    "byzpy_tw.server.service", "byzpy_tw.server.reload", "byzpy_tw.server.log",
    "twisted.scripts.twistd",
)  # fmt: skip
# Options that lists set, or that no sweep takes.
_RESERVED = ("attack", "aggregator", "pre_aggregator", "seed", "in_process", *OPTIONS_OF_ONE_RUN)


def options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "python -m byzpy_tw sweep [STUDY.toml] [OPTIONS]"  # all would fill a screen
    parser.description = (
        "Train once for each combination of a study's options, by default with each defence "
        "under each attack, and show what is left of the accuracy, or of the task's first metric. "
        "Runs that an earlier call finished are not run again."
    )
    parser.epilog = (
        "exit codes: 0 done, 1 a run failed, paused or did not end, 2 bad usage, 130 and 143 "
        "interrupted (the same command goes on)"
    )
    parser.add_argument(
        "study", nargs="?", metavar="STUDY.toml",
        help="a file of a run's options, as of --config, in which an option may be a list, and a "
        "section [sweep]; options on the command line replace those of the file",
    )  # fmt: skip
    parser.add_argument(
        "--byzfl", metavar="CONFIG.json",
        help="run the benchmark of ByzFL in this file; options on the command line replace its own",
    )  # fmt: skip
    parser.add_argument(
        "--blades", metavar="FILE.yaml",
        help="likewise an experiment of Blades, with one batch a round "
        "(needs pip install 'byzpy-tw[blades]')",
    )  # fmt: skip
    parser.add_argument(
        "--export-byzfl", metavar="DIR",
        help="write what is recorded as the files of ByzFL, for its functions of plots; nothing "
        "is run",
    )  # fmt: skip
    axes = parser.add_argument_group("the grid")
    axes.add_argument(
        "--attacks", nargs="+", metavar="NAME",
        help=f"attacks, across (default: {' '.join(defaults.ATTACKS)})",
    )  # fmt: skip
    axes.add_argument(
        "--aggregators", nargs="+", metavar="NAME",
        help="rules, down; also pipelines, as 'nnm | median' "
        f"(default: {' '.join(defaults.DEFENCES)})",
    )  # fmt: skip
    axes.add_argument(
        "--preaggregators", nargs="+", metavar="NAME",
        help="each is put before each rule; 'none' is the rule alone (default: none)",
    )  # fmt: skip
    axes.add_argument(
        "--seeds", nargs="+", type=int, metavar="SEED",
        help="a run for each in every cell; the table has means (default: 42)",
    )  # fmt: skip
    _add_sweep_options(axes)
    add_query_options(parser)
    runs = parser.add_argument_group(
        "every run",
        "as of python -m byzpy_tw.train; the defaults in brackets are those without a file",
    )
    add_run_options(lambda option: runs, {**defaults.DEFAULT_OPTIONS, "f": "--num-byz"}, _RESERVED)


def _add_sweep_options(group: Any) -> None:
    """Add the options of the sweep as a whole."""
    group.add_argument(
        "--out", metavar="DIR",
        help="where the page and the runs' folders go (default: runs/sweep; of STUDY.toml "
        "runs/STUDY)",
    )  # fmt: skip
    group.add_argument(
        "--jobs", type=_jobs, metavar="N",
        help="runs at a time, with --threads threads each (default: one for each core, or for as "
        "many as --threads says; 2 for each server; 1 with an observer)",
    )  # fmt: skip
    group.add_argument(
        "--records", choices=("folders", "lines"),
        help="a folder for each run, or one line of runs.jsonl, without rounds, checkpoints and "
        "reports, for thousands of short ones (default: lines from 1,000 runs on, of at most 100 "
        "rounds each)",
    )  # fmt: skip
    group.add_argument("--again", action="store_true", help="repeat runs that are finished, too")
    group.add_argument(
        "--dry-run", action="store_true",
        help="say how many runs there are, how many are done or impossible, and how long the "
        "rest will take, and run nothing",
    )  # fmt: skip


def _jobs(text: str) -> int:
    jobs = int(text)
    if not 1 <= jobs <= 64:
        raise argparse.ArgumentTypeError("from 1 to 64")
    return jobs


def run(chosen: argparse.Namespace) -> int:
    """Run the study; return 1 where a run failed."""
    if chosen.out == "":  # that would be the current folder
        raise ConfigError("--out must be the name of a folder, got ''")
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in vars(chosen).items()
        if key in OPTIONS
    }
    file = file_of(chosen)
    study = _default_study(chosen, given) if file is None else _read(chosen, given)
    if file == str(STANDARD_INPUT):
        file = "standard input"
    if not query_of(chosen).is_nothing or chosen.export_byzfl is not None:
        return _show(chosen, study, file)
    where = {"folder": folder_of(chosen), "jobs": chosen.jobs, "again": chosen.again, "file": file}
    if chosen.dry_run:
        from byzpy_tw.sweep.command import print_dry_run

        return print_dry_run(study, **where)
    from byzpy_tw.processes.launcher import Launcher

    device = study.options.get("device") or "cpu"
    launcher = Launcher.fork(
        *_WARM_MODULES, why_not=None if device == "cpu" else f"--device {device}"
    )
    from byzpy_tw.sweep.command import run_sweep

    return run_sweep(study, **where, launcher=launcher, records=chosen.records)


def _show(chosen: argparse.Namespace, study: Study, file: str | None) -> int:
    """Print, or export, what is recorded."""
    from byzpy_tw.sweep.command import print_export, print_results

    folder, query = folder_of(chosen), query_of(chosen)
    if not query.is_nothing:
        print_results(study, query, folder=folder, file=file)
    if chosen.export_byzfl is not None:
        print_export(study, expand_home(chosen.export_byzfl), folder=folder, file=file)
    return 0


def _default_study(chosen: argparse.Namespace, given: Mapping[str, Any]) -> Study:
    """Return the study of a command line without a file."""
    return defaults.default_study(
        given,
        attacks=chosen.attacks or defaults.ATTACKS,
        defences=defaults.combine_chains(
            chosen.aggregators or defaults.DEFENCES, chosen.preaggregators or ()
        ),
        seeds=chosen.seeds or defaults.SEEDS,
    )


def _read(chosen: argparse.Namespace, given: Mapping[str, Any]) -> Study:
    """Return the study of the file, with the command line in place of what it says."""
    lists = _lists(chosen)
    if chosen.byzfl is not None:
        return read_byzfl_file(expand_home(chosen.byzfl), given, lists)
    if chosen.blades is not None:
        return read_blades_file(expand_home(chosen.blades), given, lists)
    path = expand_home(chosen.study)
    if not (path == STANDARD_INPUT or path.suffix or path.exists()):  # a value too many
        raise ConfigError(f"unrecognized arguments: {clip(chosen.study)}{LISTS}")
    return read_study(path, given, lists)


def _lists(chosen: argparse.Namespace) -> list[Axis]:
    """Return the axes of the command line's lists."""
    lists = []
    if chosen.attacks:
        lists.append(Axis(("attack",), tuple((name,) for name in dict.fromkeys(chosen.attacks))))
    if chosen.aggregators or chosen.preaggregators:
        lists += defaults.rule_axes(chosen.aggregators or (), chosen.preaggregators or ())
    if chosen.seeds:
        lists.append(Axis(("seed",), tuple((seed,) for seed in dict.fromkeys(chosen.seeds))))
    return lists


def file_of(chosen: argparse.Namespace) -> str | None:
    """Return the file of the study; raises `ConfigError` for two of them."""
    given = [file for file in (chosen.study, chosen.byzfl, chosen.blades) if file is not None]
    if len(given) > 1:
        raise ConfigError(f"one study at a time, got {' and '.join(map(clip, given))}")
    return given[0] if given else None


def folder_of(chosen: argparse.Namespace) -> Path:
    """Return the folder of the sweep, by default one with the name of the study's file."""
    if chosen.out is not None:
        return expand_home(chosen.out)
    file = Path(file_of(chosen) or "-")
    return Path("runs") / ("sweep" if file == STANDARD_INPUT else file.stem)
