"""The options of commands about plugins: which are used, and which are not even imported."""

from __future__ import annotations

import argparse

from byzpy_tw.plugins import Registry, load_and_warn
from byzpy_tw.plugins.plugin_files import read_plugin_files


def add_plugin_options(parser: argparse.ArgumentParser, disabled: str = "") -> None:
    """Add ``--plugin`` and ``--disable-plugin``, None where not given.

    `disabled` is what the help of the latter says at its end.
    """
    parser.add_argument(
        "--plugin", action="append", metavar="FILE.py",
        help="a file of Python code with hooks, FILE.py; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--disable-plugin", action="append", metavar="NAME",
        help="a distribution whose plugins are not imported; may be given several times" + disabled,
    )  # fmt: skip


def load_chosen(chosen: argparse.Namespace) -> Registry:
    """Load plugins as these options say, and warn of broken ones."""
    return load_and_warn(chosen.disable_plugin or (), read_plugin_files(chosen.plugin or ()))
