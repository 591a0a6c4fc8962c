"""``python -m byzpy_tw plugins``: every name that a run may use."""

from __future__ import annotations

import argparse
import json
from typing import Any

HELP = "list every name that a run may use"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    parser.add_argument(
        "--disable-plugin", action="append", default=[], metavar="NAME",
        help="a distribution to leave out; may be given several times",
    )  # fmt: skip


def run(chosen: argparse.Namespace) -> int:
    """Print every name with its kind, parameters, distribution and version.

    Distributions that cannot be used are listed last, with the reason.
    """
    from byzpy_tw.plugins import load_and_warn

    names = load_and_warn(chosen.disable_plugin)
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
    rows += [
        {
            "kind": "broken",
            "name": broken.distribution,
            "aliases": [],
            "parameters": {},
            "distribution": broken.distribution,
            "version": broken.version,
            "why": broken.why,
        }
        for broken in names.broken
    ]
    if chosen.json:
        print(json.dumps(rows, indent=2, default=str))
        return 0
    kind = ""
    for row in rows:
        if row["kind"] != kind:
            kind = row["kind"]
            print("broken" if kind == "broken" else f"{kind}s")
        if kind == "broken":
            print(f"  {row['name']} {row['version']}: {row['why']}")
            continue
        name = row["name"] + "".join(f" = {alias}" for alias in row["aliases"])
        parameters = ", ".join(f"{key}={p['default']}" for key, p in row["parameters"].items())
        print(f"  {name:<24} {row['distribution']} {row['version']:<8} {parameters}".rstrip())
    return 0
