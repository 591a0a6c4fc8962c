"""Files of other packages as studies; an error names the file, and where in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from byzpy_tw.config.toml import STANDARD_INPUT
from byzpy_tw.errors import ByzpyTwError, ConfigError
from byzpy_tw.sweep.blades_study import read_blades
from byzpy_tw.sweep.byzfl_study import read_byzfl
from byzpy_tw.sweep.study import Axis, Study
from byzpy_tw.sweep.study_file import replace_options
from byzpy_tw.text import clip


def read_byzfl_file(path: Path, given: Mapping[str, Any], lists: Sequence[Axis]) -> Study:
    """Read a ``config.json`` of ByzFL, with the options `given` and the axes `lists` in its place.

    Raises `ConfigError` with the file, the key, the value and what to do.
    """
    return _read_file(path, _parse_json, read_byzfl, given, lists)


def read_blades_file(path: Path, given: Mapping[str, Any], lists: Sequence[Axis]) -> Study:
    """Read a YAML file of Blades, likewise; `ConfigError` without PyYAML, too."""
    return _read_file(path, _parse_yaml, read_blades, given, lists)


def _read_file(
    path: Path,
    parse: Callable[[str], Any],
    read: Callable[[Any, Collection[str]], Study],
    given: Mapping[str, Any],
    lists: Sequence[Axis],
) -> Study:
    file, text = _read_text(path)
    replaced = {*given, *(name for axis in lists for name in axis.options)}
    try:
        return replace_options(read(parse(text), replaced), given, lists)
    except ByzpyTwError as e:
        raise e.with_text(f"{file}: {e}") from None
    except RecursionError:
        raise ConfigError(f"{file}: nested too deeply") from None


def _parse_yaml(text: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError as e:
        raise ConfigError(f"{e}: pip install 'byzpy-tw[blades]'") from e
    try:
        events = yaml.parse(text, yaml.SafeLoader)
        alias = next((event for event in events if isinstance(event, yaml.AliasEvent)), None)
        content = yaml.safe_load(text) if alias is None else None
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        raise ConfigError(f"not valid YAML: {clip(' '.join(str(e).split()), 200)}") from None
    if alias is not None:  # a few lines of them can stand for gigabytes
        raise ConfigError(
            f"line {alias.start_mark.line + 1}: *{clip(alias.anchor)} is an alias: write out "
            "the value in its place"
        )
    return content


def _read_text(path: Path) -> tuple[str, str]:
    """Return the file's name for messages, and its text."""
    file = "standard input" if path == STANDARD_INPUT else str(path)
    try:
        from_pipe = path == STANDARD_INPUT
        data = sys.stdin.buffer.read() if from_pipe else path.read_bytes()
        return file, data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8 text") from None
    except (OSError, ValueError) as e:  # ValueError: no path at all
        raise ConfigError(f"cannot read {file}: {getattr(e, 'strerror', None) or e}") from None


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_refuse_twice)
    except json.JSONDecodeError as e:
        line = clip(repr(text.split("\n")[e.lineno - 1].strip()))
        raise ConfigError(f"not valid JSON: {e.msg} at line {e.lineno}: {line}") from None
    except RecursionError:
        raise ConfigError("not valid JSON: nested too deeply") from None
    except ValueError as e:  # Python reads no integer of thousands of digits
        raise ConfigError(f"not valid JSON: {clip(str(e), 200)}") from None


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the table of `pairs`; of two equal keys ByzFL takes the last, and says nothing."""
    table = dict(pairs)
    for key, _ in pairs if len(table) < len(pairs) else ():
        if sum(key == other for other, _ in pairs) > 1:
            raise ConfigError(f"the key {clip(key)!r} is given twice in one table")
    return table
