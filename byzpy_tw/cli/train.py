"""``python -m byzpy_tw.train``: parse the options of a run, and train.

An option's value is, in this order: what the command line says; what the file of
``--config`` says; with ``--resume``, what the run was begun with; the default.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

import byzpy_tw
from byzpy_tw.cli.run_options import CommandParser, add_run_options
from byzpy_tw.config.merge import convert_option, merge_options
from byzpy_tw.config.paths import expand_home
from byzpy_tw.config.run_config import LOCATIONS, SECTIONS, RunConfig
from byzpy_tw.config.toml import STANDARD_INPUT, drop_run_dir, read_options, to_toml
from byzpy_tw.console import run_command
from byzpy_tw.errors import ByzpyTwError, ConfigError
from byzpy_tw.plugins import Registry, load_and_warn

if TYPE_CHECKING:
    from byzpy_tw.processes.launcher import Launcher

# What the trainer and its servers import: done once, before servers are forked.
_WARM_MODULES = (
    "byzpy_tw.cli.run", "byzpy_tw.tap", "byzpy_tw.server.service", "byzpy_tw.server.reload",
    "byzpy_tw.server.log", "twisted.scripts.twistd",
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line: one option for each field of `RunConfig`."""
    made = CommandParser(
        prog="python -m byzpy_tw.train",
        description="Train a model across servers, some of whose nodes are Byzantine.",
        epilog="exit codes: 0 done, 1 the run failed, 2 bad usage, 3 paused (see --resume), "
        "130 and 143 interrupted (see --resume)",
        allow_abbrev=False,
        exit_on_error=False,  # an `ArgumentError` says which argument it is about
    )
    made.add_argument("--version", action="version", version=f"byzpy_tw {byzpy_tw.__version__}")
    made.add_argument(
        "--resume", metavar="DIR",
        help="go on with the run whose records are in DIR, to the same bits; options that "
        "are given besides replace the run's own where that changes no bits, and --rounds",
    )  # fmt: skip
    made.add_argument(
        "--config", metavar="FILE",
        help="a TOML file of options ('-': standard input); those on the command line go "
        "before it",
    )  # fmt: skip
    made.add_argument(
        "--print-config", action="store_true",
        help="write the file that says what the command line says, and do nothing else; with "
        "--resume, what the run was begun with",
    )  # fmt: skip
    made.add_argument(
        "--until-eof", action="store_true",
        help="stop as at SIGTERM when standard input ends: for a parent process that may die",
    )  # fmt: skip
    groups = {key: made.add_argument_group(title) for key, title in SECTIONS.items()}
    add_run_options(lambda option: groups[option.metadata["section"]])
    return made


@frozen
class Invocation:
    """A parsed command line: its options and those of its file, and what to do."""

    options: dict[str, Any]
    file: str | None = None  # of --config
    beneath: frozenset[str] = frozenset()  # options that only the file gives
    resume: Path | None = None
    print_config: bool = False
    until_eof: bool = False

    @property
    def located(self) -> bool:
        """Return whether the options say where the nodes live."""
        return any(self.options.get(name) for name in LOCATIONS)

    def load_config(self) -> RunConfig:
        """Return the configuration of the run; its nodes live in this process by default."""
        if self.resume is None:
            return self.configuration(**({} if self.located else {"in_process": True}))
        from byzpy_tw.records.resume import load_config_to_resume

        return load_config_to_resume(self.resume, self.options)

    def configuration(self, **more: Any) -> RunConfig:
        """Return the configuration of the options and `more`; `ConfigError` where they clash."""
        try:
            return RunConfig(**{**self.options, **more})
        except ByzpyTwError as e:  # each option is valid by itself
            if self.file is None:
                raise
            raise e.with_text(f"{e} (the options of {self.file} and of the command line)") from None

    def registry(self) -> Registry:
        """Load plugins but the disabled ones, and warn of broken ones."""
        from byzpy_tw.records.run_registry import load_registry

        return load_registry(load_and_warn, self.options, self.resume)


def parse_invocation(arguments: Sequence[str]) -> Invocation:
    """Parse `arguments`, and the file that they name.  Raises `ConfigError`."""
    given = vars(parser().parse_args(arguments))
    file, folder = given.pop("config"), given.pop("resume")
    print_config, until_eof = given.pop("print_config"), given.pop("until_eof")
    resume = None if folder is None else expand_home(folder)
    options = {name: convert_option(name, value) for name, value in given.items()}
    if file is not None:
        if file == str(STANDARD_INPUT) and until_eof:
            raise ConfigError("--config - reads all of standard input: leave out --until-eof")
        beneath = drop_run_dir(resume, read_options(expand_home(file)), file)
        options = merge_options(options, beneath)
    from_file = frozenset(options) - set(given)
    return Invocation(options, file, from_file, resume, print_config, until_eof)


def configuration(arguments: Sequence[str]) -> RunConfig:
    """Return the configuration of a command line."""
    found = parse_invocation(arguments)
    if found.resume is not None:
        raise ConfigError("--resume goes on with a run that has its configuration")
    return found.configuration()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    return run_command(lambda: _run(words))


def _run(words: Sequence[str]) -> int:
    found = parse_invocation(words)
    if found.print_config:
        _print_config(found)
        return 0
    config = found.configuration() if found.resume is None else None
    launcher = _make_launcher(found)  # before there is a thread
    if found.until_eof:
        threading.Thread(target=_end_with_input, daemon=True).start()
    # Imported only now: a mistake on the command line is reported at once.
    from byzpy_tw.cli.run import resume_program, run_program

    registry = found.registry()
    if found.resume is not None:
        return resume_program(found.resume, found.options, registry, launcher)
    assert config is not None
    return run_program(config, registry, found.beneath, launcher)


def _make_launcher(found: Invocation) -> Launcher:
    """Return what starts the servers of ``--local``: a warm parent forks them, where it can."""
    from byzpy_tw.processes.launcher import Launcher

    config = None
    with suppress(ByzpyTwError):  # of a folder that cannot be resumed, which is told later
        config = found.load_config()
    if config is None or not config.local or config.in_process:
        return Launcher()
    cuda = None if config.device == "cpu" else f"--device {config.device}"
    return Launcher.fork(*_WARM_MODULES, why_not=cuda)


def _print_config(found: Invocation) -> None:
    """Print a file of options that begins this run.

    It says where nodes live if the options do, and not the folder of a run that was begun.
    """
    leave_out = ("run_dir",) if found.resume is not None else () if found.located else LOCATIONS
    text = to_toml(found.load_config(), leave_out)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # TOML is UTF-8 on every terminal.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    print(text, end="", flush=True)


def _end_with_input() -> None:
    """Wait for the end of standard input, then stop as at SIGTERM."""
    with suppress(OSError):  # there was none
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
