"""``python -m byzpy_tw explain``: the meaning of an error, and its cure."""

from __future__ import annotations

import argparse
import textwrap

from byzpy_tw.errors import EXIT_CODES, ConfigError, errors_by_code, explanation
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
            print(f"{code:<20} {explanation(kind)[0].splitlines()[0].replace('`', '')}")
        return 0
    code = chosen.code.strip().rstrip(":").upper().replace("-", "_")
    if code not in known:
        containing = [repr(one) for one in known if code and code in one][:3]
        guess = f"; did you mean {' or '.join(containing)}?"
        hint = guess if containing else suggest_nearest(code, known)
        raise ConfigError(
            f"no error has the code {clip(chosen.code)!r}{hint}; without a "
            "code, 'python -m byzpy_tw explain' lists them all"
        )
    kind = known[code]
    cause, cure = explanation(kind)
    title = f"{code} (exit code {kind.exit_code}: {EXIT_CODES[kind.exit_code]})"
    # Without the quotes of code, which mean nothing on a terminal.
    text = "\n\n".join([title, cause, f"What to do: {cure}"]).replace("`", "")
    print("\n\n".join(textwrap.fill(paragraph, 88) for paragraph in text.split("\n\n")))
    return 0
