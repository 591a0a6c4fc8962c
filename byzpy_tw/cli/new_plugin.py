"""``python -m byzpy_tw new-plugin``: a plugin's distribution, with tests that pass."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from byzpy_tw.config.paths import expand_home
from byzpy_tw.plugins import load_and_warn
from byzpy_tw.scaffold.writing import KINDS, check, write, write_single_file

HELP = "write a new plugin, complete with tests, to start from"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="KIND", choices=tuple(KINDS), help=", ".join(KINDS))
    parser.add_argument("name", metavar="NAME", help="lower-case and hyphens, as in steady-median")
    parser.add_argument("--into", metavar="DIR", default=".", help="for its folder (default: here)")
    parser.add_argument(
        "--single-file", action="store_true",
        help="write one file for --plugin, without packaging and tests",
    )  # fmt: skip


def run(chosen: argparse.Namespace) -> int:
    """Write the plugin, and print the next steps."""
    check(chosen.kind, chosen.name, load_and_warn())
    if chosen.single_file:
        alone = write_single_file(chosen.kind, chosen.name, expand_home(chosen.into))
        print(f"wrote {alone.module}: all of the {chosen.kind}")
        print(f"next:\n  {alone.command}")
        return 0
    made = write(chosen.kind, chosen.name, expand_home(chosen.into))
    print(f"wrote {made.folder}")
    print(f"  {made.module.relative_to(made.folder)}: all of the {chosen.kind}; begin here")
    print(f"  {made.tests.relative_to(made.folder)}: its tests, which pass")
    print("next:")
    print(f"  cd {made.folder}")
    lacking = [name for name in ("pytest", "hypothesis") if find_spec(name) is None]
    if lacking:
        print(f"  pip install {' '.join(lacking)}")
    print("  python -m pytest tests")
    print("  pip install -e .")
    print(f"  {made.command}")
    return 0
