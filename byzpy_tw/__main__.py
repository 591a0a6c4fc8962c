"""``python -m byzpy_tw``: all commands but the run itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import byzpy_tw
from byzpy_tw.cli import (
    conformance,
    doctor,
    explain,
    keygen,
    new_plugin,
    plugins,
    report,
    sweep,
    verify,
)
from byzpy_tw.console import print_error, run_command
from byzpy_tw.errors import ConfigError
from byzpy_tw.plugins.naming import suggest_nearest
from byzpy_tw.text import clip

_MODULES = (plugins, doctor, keygen, report, conformance, explain, sweep, new_plugin, verify)
COMMANDS = {m.__name__.rpartition(".")[2].replace("_", "-"): m for m in _MODULES}

_ABOUT = "All commands but the run itself, which is python -m byzpy_tw.train."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    return run_command(lambda: _run(words))


def _run(words: list[str]) -> int:
    if words[:1] == ["lab"]:
        print_error(
            "byzpy_tw: warning: 'lab' is called 'sweep' now; 'lab' goes in the next release"
        )
        words = ["sweep", "--out", "runs/lab", *words[1:]]
    if words[:1] == ["doctor"]:  # it parses its own words
        return doctor.main(words[1:])
    parser = argparse.ArgumentParser(prog="python -m byzpy_tw", description=_ABOUT)
    parser.add_argument("--version", action="version", version=f"byzpy_tw {byzpy_tw.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = {}
    for name, command in COMMANDS.items():
        about = f"{command.HELP[:1].upper()}{command.HELP[1:]}."
        made[name] = commands.add_parser(name, help=command.HELP, description=about)
        command.options(made[name])
    chosen, unknown = parser.parse_known_args(words)
    if unknown:
        raise ConfigError(_describe_unknown(chosen.command, made[chosen.command], unknown))
    return COMMANDS[chosen.command].run(chosen)


def _describe_unknown(command: str, parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    """Return an error's text about words that `command` does not take."""
    near = suggest_nearest(unknown[0].partition("=")[0], parser._option_string_actions)
    hint = "" if unknown[0].startswith("-") else getattr(COMMANDS[command], "LISTS", "")
    words = clip(f"unrecognized arguments: {' '.join(unknown)}", 200)
    return f"{words}{near}{hint}; see: {parser.prog} --help"


if __name__ == "__main__":
    sys.exit(main())
