"""``python -m byzpy_tw.train``: one run, over servers or in this process."""

from __future__ import annotations

import argparse
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

import byzpy_tw
from byzpy_tw.errors import ByzpyTwError, ConfigError, message_of
from byzpy_tw.plugins.naming import nearest
from byzpy_tw.runs.config import RunConfig, flag

_SECTIONS = {
    "where": "where the nodes live (one of these)",
    "nodes": "nodes",
    "training": "training",
    "data": "data",
    "aggregation": "aggregation",
    "running": "running",
}


class _Parser(argparse.ArgumentParser):
    """argparse that names the nearest option for a misspelt one."""

    def error(self, message: str) -> typing.NoReturn:
        lead = "unrecognized arguments: "
        if message.startswith(lead):
            word = message[len(lead) :].split()[0].split("=")[0]
            message += nearest(word, [flag(f.name) for f in attrs.fields(RunConfig)])
        self.exit(2, f"byzpy_tw: error: {ConfigError.code}: {message}\n"
                     f"see: {self.prog} --help\n")  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line, one option for each field of `RunConfig`."""
    made = _Parser(
        prog="python -m byzpy_tw.train",
        description="Train a model across servers, some of whose nodes are Byzantine.",
        epilog="exit codes: 0 done, 1 the run failed, 2 bad usage, 3 paused (see --resume), "
        "130 and 143 interrupted (see --resume)",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"byzpy_tw {byzpy_tw.__version__}")
    made.add_argument(
        "--resume", metavar="DIR", default=argparse.SUPPRESS,
        help="go on with the run whose records are in DIR, to the same bits; options that "
        "are given besides replace the run's own where that changes no bits, and --rounds",
    )  # fmt: skip
    groups = {key: made.add_argument_group(title) for key, title in _SECTIONS.items()}
    hints = typing.get_type_hints(RunConfig)
    for option in attrs.fields(RunConfig):
        groups[option.metadata["section"]].add_argument(
            flag(option.name), **_argument(option, hints[option.name])
        )
    return made


def _argument(option: attrs.Attribute, hint: Any) -> dict[str, Any]:
    """The keywords that make `option` an argparse argument."""
    told: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS}
    told["help"] = option.metadata["help"].replace("%", "%%")
    if option.default not in (None, (), False):
        told["help"] += f" (default: {option.default})"
    if hint is bool:
        return {**told, "action": "store_true"}
    told["metavar"] = option.metadata["metavar"] or option.name.upper().replace("_", "-")
    if option.name == "remote_hosts":
        return {**told, "type": _addresses}
    if typing.get_origin(hint) is tuple:
        kind = typing.get_args(hint)[0]
        return {**told, "nargs": "+", "action": "extend", "type": kind}
    kinds = [k for k in typing.get_args(hint) or (hint,) if k is not type(None)]
    return {**told, "type": kinds[0]}


def _addresses(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def configuration(arguments: Sequence[str]) -> RunConfig:
    """The configuration that a command line describes."""
    given = _given(arguments)
    if "resume" in given:
        raise ConfigError("--resume goes on with a run that has its configuration")
    return RunConfig(**given)


def _given(arguments: Sequence[str]) -> dict[str, Any]:
    """The options that a command line names, and nothing else."""
    given = vars(parser().parse_args(arguments))
    return {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    try:
        given = _given(sys.argv[1:] if arguments is None else arguments)
        folder = given.pop("resume", None)
        config = RunConfig(**given) if folder is None else None
        # Imported only now: a mistake on the command line is told at once.
        from byzpy_tw.plugins import load
        from byzpy_tw.trainer.program import resume_program, run_program

        if config is None:
            return resume_program(Path(folder), given, load())
        return run_program(config, load())
    except KeyboardInterrupt:  # before the run has its own way to be interrupted
        return 130
    except ByzpyTwError as e:
        print(f"byzpy_tw: error: {message_of(e)}", file=sys.stderr)
        return e.exit_code


if __name__ == "__main__":
    sys.exit(main())
