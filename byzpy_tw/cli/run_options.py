"""The options of a run as arguments of a command: one for each field of `RunConfig`."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

import attrs

from byzpy_tw.config.merge import OPTIONS
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.config.validators import flag
from byzpy_tw.errors import ConfigError
from byzpy_tw.plugins.naming import suggest_nearest
from byzpy_tw.text import clip

_NUMBERS: dict[type, str] = {int: "a whole number", float: "a number"}


class CommandParser(argparse.ArgumentParser):
    """A parser that suggests the nearest option for a misspelt one."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        try:
            found, unknown = self.parse_known_args(args, namespace)
        except argparse.ArgumentError as e:
            self.error(": ".join(part for part in (e.argument_name, e.message) if part))
        if unknown:
            self._refuse(unknown)
        return found

    def _refuse(self, unknown: list[str]) -> typing.NoReturn:
        word = unknown[0].split("=")[0]
        message = clip(f"unrecognized arguments: {' '.join(unknown)}", 200)
        message += suggest_nearest(word, self._option_string_actions)
        if word.endswith(".toml"):
            message += f"; for a file of options: --config {clip(word)}"
        self.error(message)

    def error(self, message: str) -> typing.NoReturn:
        self.exit(2, f"byzpy_tw: error: {ConfigError.code}: {message}\n"
                     f"see: {self.prog} --help\n")  # fmt: skip


def add_run_options(
    group_of: Callable[[attrs.Attribute], Any],
    defaults: Mapping[str, Any] = MappingProxyType({}),
    leave_out: Collection[str] = (),
) -> None:
    """Add an argument for each field of `RunConfig` to its group; `defaults` are for the help."""
    hints = typing.get_type_hints(RunConfig)
    for name, option in OPTIONS.items():
        if name not in leave_out:
            keywords = _argparse_keywords(option, hints[name], defaults.get(name, option.default))
            group_of(option).add_argument(flag(name), **keywords)


_METAVARS = {int: "N", float: "X"}  # how help calls the value of an option


def _argparse_keywords(option: attrs.Attribute, hint: Any, default: Any) -> dict[str, Any]:
    keywords: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS}
    keywords["help"] = option.metadata["help"].replace("%", "%%")
    if default not in (None, (), False):
        keywords["help"] += f" (default: {default})"
    if hint is bool:
        return {**keywords, "action": argparse.BooleanOptionalAction}
    kinds = [k for k in typing.get_args(hint) or (hint,) if k is not type(None)]
    name = _METAVARS.get(kinds[0]) or option.name.upper().replace("_", "-")
    keywords["metavar"] = option.metadata["metavar"] or name
    if option.name == "remote_hosts":
        return keywords  # the field's converter splits it
    if typing.get_origin(hint) is tuple:
        kind = typing.get_args(hint)[0]
        return {**keywords, "nargs": "+", "action": "extend", "type": _reader(kind)}
    return {**keywords, "type": _reader(kinds[0])}


def _reader(kind: Any) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"must be {_NUMBERS[kind]}, got {clip(text)!r}"
            ) from None

    return read
