"""Files of options: what ``--config`` reads and ``--print-config`` writes.

They are TOML.  A key is an option without the dashes in front.  It stands in its section or
above all sections; hyphens and underscores are the same.  Paths are as on the command line,
relative to the current folder.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

import byzpy_tw
from byzpy_tw.config.merge import OPTIONS, convert_option, find_option
from byzpy_tw.config.paths import absolute
from byzpy_tw.config.run_config import LOCATIONS, SECTIONS, RunConfig
from byzpy_tw.config.validators import toml_key
from byzpy_tw.errors import BadParameter, ConfigError
from byzpy_tw.parameters import to_plain
from byzpy_tw.plugins.naming import suggest_nearest
from byzpy_tw.text import clip

STANDARD_INPUT = Path("-")


@frozen
class FileOption:
    """An option as it stands in a file; ``place`` is the file, the key and the section."""

    name: str
    value: Any
    place: str

    def convert(self, value: Any) -> Any:
        """Return `value`, that of the file or one of several, as `RunConfig` has it."""
        try:
            return convert_option(self.name, value, self.place)
        except BadParameter as e:  # in the text of a rule
            raise BadParameter(f"{self.place}: {e}") from None


def read_options(path: Path) -> dict[str, Any]:
    """Read the options in `path`, each checked; `ConfigError` has the file, key and constraint."""
    file, table = read_toml(path)
    found = file_options(table, file)
    return {name: option.convert(option.value) for name, option in found.items()}


def file_options(
    table: Mapping[str, Any], file: str, more: Collection[str] = ()
) -> dict[str, FileOption]:
    """Return the options in the content of `file`, by their names, in its order.

    `more` are sections that it may have besides those of options.
    """
    options: dict[str, FileOption] = {}
    for key, value in table.items():
        if key in SECTIONS:
            if not isinstance(value, dict):
                raise ConfigError(f"{file}: {key!r} is a section: write [{key}] above its options")
            for inner, item in value.items():
                _add(options, file, key, inner, item)
        elif isinstance(value, dict) and key.replace("-", "_") not in OPTIONS:
            known = [*SECTIONS, *more]
            raise ConfigError(
                f"{file}: there is no section [{clip(key)}]{suggest_nearest(key, known)} "
                f"(sections: {', '.join(known)})"
            )
        else:
            _add(options, file, None, key, value)
    return options


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """Read a TOML file: its name for messages, and its content; raises `ConfigError`."""
    file = "standard input" if path == STANDARD_INPUT else str(path)
    return file, _parse(path, file)


def _parse(path: Path, file: str) -> dict[str, Any]:
    try:
        from_pipe = path == STANDARD_INPUT
        data = sys.stdin.buffer.read() if from_pipe else path.read_bytes()
    except (OSError, ValueError) as e:  # ValueError: no path at all
        why = getattr(e, "strerror", None) or e
        raise ConfigError(f"cannot read {file}: {why}; --print-config writes such a file") from None
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        line = data[: e.start].count(b"\n") + 1
        raise ConfigError(f"{file} is not UTF-8 text (line {line})") from None
    except (tomllib.TOMLDecodeError, RecursionError) as e:
        raise ConfigError(f"{file} is not valid TOML: {e}{_quote_line(str(e), data)}") from None
    except ValueError:  # Python reads no integer of such a length
        found = re.search(rb"\d[\d_]{4000,}", data)
        where = f" (line {data[: found.start()].count(10) + 1})" if found else ""
        raise ConfigError(
            f"{file} has a number of thousands of digits{where}: no option takes one"
        ) from None


def _quote_line(message: str, data: bytes) -> str:
    """The line that a TOML error is about, and the usual mistake."""
    found = re.search(r"at line (\d+)", message)
    if found is None:
        return ""
    line = data.decode("utf-8-sig").split("\n")[int(found[1]) - 1].strip()
    hint = " (words and paths stand in quotes)" if "Invalid value" in message else ""
    return f": {clip(line)!r}{hint}"


def _add(
    options: dict[str, FileOption], file: str, section: str | None, key: str, value: Any
) -> None:
    """Add one key of the file to `options`."""
    under = "" if section is None else f" under [{section}]"
    try:
        option = find_option(key)
    except ConfigError as e:
        raise ConfigError(f"{file}: {e}{under}") from None
    name, right_section = option.name, option.metadata["section"]
    if section not in (None, right_section):
        raise ConfigError(f"{file}: {key!r} does not belong{under} but under [{right_section}]")
    if name in options:
        raise ConfigError(f"{file}: {toml_key(name)!r} is given twice")
    options[name] = FileOption(name, value, f"{file}: {toml_key(name)}{under}")


def drop_run_dir(resume: Path | None, options: dict[str, Any], file: str) -> dict[str, Any]:
    """Drop the run's own folder from a file beside ``--resume``; `ConfigError` for another."""
    if resume is None:
        return options
    run_dir = options.get("run_dir")
    if run_dir is not None and absolute(run_dir) != absolute(resume):
        raise ConfigError(
            f"{file}: run-dir is {clip(run_dir)!r}, and --resume names {clip(str(resume))!r}: "
            "leave out one of them"
        )
    return {name: value for name, value in options.items() if name != "run_dir"}


def to_toml(config: RunConfig, leave_out: Collection[str] = ()) -> str:
    """`config` for `read_options`; options without a value or in `leave_out` are comments."""
    lines = [
        f"# Options of a run of byzpy_tw {byzpy_tw.__version__}:",
        "#   python -m byzpy_tw.train --config FILE",
        "# Options on the command line override these.",
    ]
    for section, title in SECTIONS.items():
        lines += ["", "", f"[{section}]" + (f"  # {title}" if title != section else "")]
        for name, option in OPTIONS.items():
            if option.metadata["section"] == section:
                lines += ["", *_option_lines(option, getattr(config, name), name in leave_out)]
    return "\n".join(lines) + "\n"


def _option_lines(option: Any, value: Any, left_out: bool) -> list[str]:
    """One option: its help, and its line."""
    help = textwrap.wrap(option.metadata["help"], 88)
    unset = value is None or (option.name in LOCATIONS and not value)
    text = (option.metadata["metavar"] or "...") if value is None else _toml_value(value)
    entry = f"{toml_key(option.name)} = {text}"
    return [*(f"# {line}" for line in help), f"#{entry}" if unset or left_out else entry]


def options_to_toml(options: Mapping[str, Any]) -> str:
    """Write `options` for a process to read, without those that are None."""
    given = ((name, value) for name, value in options.items() if value is not None)
    return "".join(f"{toml_key(name)} = {_toml_value(value)}\n" for name, value in given)


def _toml_value(value: Any) -> str:
    """The value as TOML, on one line to be a comment: tomli_w breaks lists into lines."""
    value = to_plain(value)  # not in a library's own notation
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise ConfigError(f"{clip(repr(value))} is not UTF-8 text, as a TOML file must be")
        # JSON's strings are TOML's, but for this one character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"[{', '.join(map(_toml_value, value))}]"
