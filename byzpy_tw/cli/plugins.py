"""``python -m byzpy_tw plugins``: list every name that a run may use."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping
from typing import Any

import attrs

from byzpy_tw.plugins import Registry, load_and_warn

HELP = "list every name that a run may use"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    parser.add_argument(
        "--disable-plugin", action="append", default=[], metavar="NAME",
        help="a distribution to leave out; may be given several times",
    )  # fmt: skip


def run(chosen: argparse.Namespace) -> int:
    """Print every name with its kind, parameters and distribution; broken distributions last."""
    rows = _rows(load_and_warn(chosen.disable_plugin))
    if chosen.json:
        print(json.dumps(rows, indent=2, default=str))
        return 0
    for kind, same in itertools.groupby(rows, key=lambda row: row["kind"]):
        print(kind if kind == "broken" else f"{kind}s")
        for row in same:
            print(f"  {_line(row)}".rstrip())
    return 0


def _rows(names: Registry) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "kind": entry.kind,
            "name": entry.name,
            "aliases": list(entry.aliases),
            "parameters": {
                p.name: {"type": p.type_text, "default": None if p.required else p.default}
                for p in entry.parameters.values()
            },
            "distribution": entry.distribution,
            "version": entry.version,
        }
        for entry in names.entries()
    ]
    none = {"kind": "broken", "aliases": [], "parameters": {}}
    return rows + [{**none, "name": b.distribution, **attrs.asdict(b)} for b in names.broken]


def _line(row: Mapping[str, Any]) -> str:
    if row["kind"] == "broken":
        return f"{row['name']} {row['version']}: {row['why']}"
    name = row["name"] + "".join(f" = {alias}" for alias in row["aliases"])
    parameters = ", ".join(f"{key}={p['default']}" for key, p in row["parameters"].items())
    return f"{name:<24} {row['distribution']} {row['version']:<8} {parameters}"
