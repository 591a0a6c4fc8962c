"""``python -m byzpy_tw plugins``: list every name that a run may use."""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
from typing import Any

import attrs

from byzpy_tw.cli.plugin_options import add_plugin_options, load_chosen
from byzpy_tw.errors import UnknownName
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.naming import suggest_nearest
from byzpy_tw.plugins.registry import Entry
from byzpy_tw.plugins.signatures import Parameter
from byzpy_tw.text import clip

HELP = "list every name that a run may use, or tell of one"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="NAME",
        help="tell of this one with its parameters: their values, and what none stands for "
        "(default: list all)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    add_plugin_options(parser)


def run(chosen: argparse.Namespace) -> int:
    """Print every name with its kind, parameters and distribution; broken distributions last.

    With a name, the things that it names, with their parameters; raises `UnknownName`.
    """
    names = load_chosen(chosen)
    entries = list(names.entries()) if chosen.name is None else _named(names, chosen.name)
    broken = names.broken if chosen.name is None else ()
    if chosen.json:
        rows = [*map(_row, entries), *({**_BROKEN, **attrs.asdict(b)} for b in broken)]
        rows = [{**row, "name": row.get("name", row["distribution"])} for row in rows]
        print(json.dumps(rows, indent=2, default=str))
        return 0
    if chosen.name is not None:
        print("\n\n".join(map(_description, entries)))
        return 0
    for kind, same in itertools.groupby(entries, key=lambda entry: entry.kind):
        print("\n".join([f"{kind}s", *(f"  {_line(entry)}".rstrip() for entry in same)]))
    if broken:
        print("\n".join(["broken", *(f"  {b.distribution} {b.version}: {b.why}" for b in broken)]))
    return 0


_BROKEN: dict[str, Any] = {"kind": "broken", "aliases": [], "parameters": {}}


def _named(names: Registry, name: str) -> list[Entry]:
    """Return everything that has this name or alias: an attack and a rule may share one."""
    found = [entry for entry in names.entries() if name in (entry.name, *entry.aliases)]
    if not found:
        known = {word for entry in names.entries() for word in (entry.name, *entry.aliases)}
        raise UnknownName(
            f"nothing is called {clip(name)!r}{suggest_nearest(name, sorted(known))}; without a "
            "name, 'python -m byzpy_tw plugins' lists them all"
        )
    return found


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "aliases": list(entry.aliases),
        "parameters": {p.name: _parameter(p) for p in entry.parameters.values()},
        "distribution": entry.distribution,
        "version": entry.version,
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    default = None if parameter.required else parameter.default
    found = {"type": parameter.type_text, "default": default}
    told = {"none": parameter.none, "meanings": dict(parameter.meanings)}
    return {**found, **{key: value for key, value in told.items() if value}}


def _line(entry: Entry) -> str:
    parameters = ", ".join(p.text for p in entry.parameters.values())
    return f"{_names(entry):<24} {entry.distribution} {entry.version:<8} {parameters}"


def _names(entry: Entry) -> str:
    return " = ".join([entry.name, *entry.aliases])


def _description(entry: Entry) -> str:
    """Return the name, the first paragraph of its documentation, and a line a parameter."""
    said = inspect.cleandoc(entry.factory.__doc__ or "").split("\n\n")[0].replace("`", "")
    lines = [f"{entry.kind} {_names(entry)} ({entry.distribution} {entry.version})"]
    lines += [f"  {line}" for line in said.splitlines()]
    for parameter in entry.parameters.values():
        none = f"; none is {parameter.none}" if parameter.none else ""
        lines.append(f"  {parameter.text} ({parameter.type_text}{none})")
        lines += [f"    {word}: {meaning}" for word, meaning in parameter.meanings.items()]
    return "\n".join(lines)
