"""``python -m byzpy_tw explain``: the meaning of an error, and its cure."""

from __future__ import annotations

import argparse
import textwrap

from byzpy_tw.errors import EXIT_CODES, ByzpyTwError, ConfigError, cause, cure, errors_by_code
from byzpy_tw.plugins.naming import suggest_nearest
from byzpy_tw.text import clip

HELP = "say what an error's code means, and what to do about it"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "code", nargs="?", metavar="CODE",
        help="what an error message begins with, such as BUDGET_EXCEEDED (default: list them)",
    )  # fmt: skip


def run(chosen: argparse.Namespace) -> int:
    """Print the explanation of a code, or every code with its first line."""
    known = errors_by_code()
    if chosen.code is None:
        for code, kind in known.items():
            print(f"{code:<20} {_plain(cause(kind).splitlines()[0])}")
        return 0
    code = chosen.code.strip().rstrip(":").upper().replace("-", "_")
    if code not in known:
        having = [one for one in known if code and code in one]
        hint = suggest_nearest(code, known)
        if having:
            hint = f"; did you mean {' or '.join(map(repr, having[:3]))}?"
        raise ConfigError(
            f"no error has the code {clip(chosen.code)!r}{hint}; without a "
            "code, 'python -m byzpy_tw explain' lists them all"
        )
    print(_text(known[code]))
    return 0


def _text(kind: type[ByzpyTwError]) -> str:
    paragraphs = [
        f"{kind.code} (exit code {kind.exit_code}: {EXIT_CODES[kind.exit_code]})",
        *cause(kind).split("\n\n"),
        f"What to do: {cure(kind)}",
    ]
    return "\n\n".join(textwrap.fill(_plain(p), 88) for p in paragraphs)


def _plain(text: str) -> str:
    """Return `text` without the quotes of code, which mean nothing on a terminal."""
    return text.replace("`", "")
