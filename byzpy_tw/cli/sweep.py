"""``python -m byzpy_tw sweep``: defences against attacks, as a table and a page."""

from __future__ import annotations

import argparse

from byzpy_tw.cli.run_options import add_run_options
from byzpy_tw.config.merge import OPTIONS
from byzpy_tw.config.paths import expand_home
from byzpy_tw.errors import ConfigError
from byzpy_tw.sweep import default_study as defaults
from byzpy_tw.sweep.study import OPTIONS_OF_ONE_RUN

HELP = "compare defences against attacks: a live table, and a page"
# For an error about a word too many.
LISTS = (
    "; --aggregators, --preaggregators, --attacks and --seeds take lists, which make the grid; "
    "--f, --partition and the like are the same in all runs: start a sweep for each value, with "
    "an --out of its own"
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
    parser.usage = "python -m byzpy_tw sweep [OPTIONS]"  # all of them would fill a screen
    parser.description = (
        "Train once with each defence under each attack, and show what is left of the "
        "accuracy, or of the task's first metric. Runs that an earlier call finished are not run "
        "again."
    )
    parser.epilog = (
        "exit codes: 0 done, 1 a run failed, 2 bad usage, 130 and 143 interrupted (the "
        "same command goes on)"
    )
    axes = parser.add_argument_group("the grid")
    axes.add_argument(
        "--attacks", nargs="+", metavar="NAME", default=list(defaults.ATTACKS),
        help=f"attacks, across (default: {' '.join(defaults.ATTACKS)})",
    )  # fmt: skip
    axes.add_argument(
        "--aggregators", nargs="+", metavar="NAME", default=list(defaults.DEFENCES),
        help="rules, down; also pipelines, as 'nnm | median' "
        f"(default: {' '.join(defaults.DEFENCES)})",
    )  # fmt: skip
    axes.add_argument(
        "--preaggregators", nargs="+", metavar="NAME", default=[defaults.NO_PREAGGREGATOR],
        help="each is put before each rule; 'none' is the rule alone (default: none)",
    )  # fmt: skip
    axes.add_argument(
        "--seeds", nargs="+", type=int, metavar="SEED", default=list(defaults.SEEDS),
        help="a run for each in every cell; the table has means (default: 42)",
    )  # fmt: skip
    axes.add_argument(
        "--out", metavar="DIR", default="runs/sweep",
        help="where the page and the runs' folders go (default: runs/sweep)",
    )  # fmt: skip
    axes.add_argument(
        "--jobs", type=_jobs, metavar="N",
        help="runs at a time, with --threads threads each (default: 2 in this process, unless "
        "--threads is given; on servers 1)",
    )  # fmt: skip
    axes.add_argument(
        "--records", choices=("folders", "lines"),
        help="a folder for each run, or one line of runs.jsonl, without rounds, checkpoints and "
        "reports, for thousands of short ones (default: lines from 1,000 runs on, of at most 100 "
        "rounds each)",
    )  # fmt: skip
    axes.add_argument("--again", action="store_true", help="repeat runs that are finished, too")
    runs = parser.add_argument_group(
        "every run", "as of python -m byzpy_tw.train, with the sweep's own defaults"
    )
    add_run_options(lambda option: runs, {**defaults.DEFAULT_OPTIONS, "f": "--num-byz"}, _RESERVED)


def _jobs(text: str) -> int:
    jobs = int(text)
    if not 1 <= jobs <= 64:
        raise argparse.ArgumentTypeError("from 1 to 64")
    return jobs


def run(chosen: argparse.Namespace) -> int:
    """Run the grid; return 1 where a run failed."""
    if not chosen.out:  # that would be the current folder
        raise ConfigError("--out must be the name of a folder, got ''")
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in vars(chosen).items()
        if key in OPTIONS
    }
    study = defaults.default_study(
        given,
        attacks=chosen.attacks,
        defences=defaults.combine_chains(chosen.aggregators, chosen.preaggregators),
        seeds=chosen.seeds,
    )
    from byzpy_tw.processes.launcher import Launcher

    device = study.options.get("device") or "cpu"
    launcher = Launcher.fork(
        *_WARM_MODULES, why_not=None if device == "cpu" else f"--device {device}"
    )
    from byzpy_tw.sweep.command import run_sweep

    return run_sweep(
        study,
        folder=expand_home(chosen.out),
        jobs=chosen.jobs,
        again=chosen.again,
        launcher=launcher,
        records=chosen.records,
    )
