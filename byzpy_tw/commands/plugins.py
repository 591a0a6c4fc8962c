"""``python -m byzpy_tw plugins``: every name that a run may use."""

from __future__ import annotations

import argparse
import json
from typing import Any

HELP = "list every name that a run may use"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(chosen: argparse.Namespace) -> int:
    """Print every name with its kind, parameters, distribution and version."""
    from byzpy_tw.plugins import load

    rows: list[dict[str, Any]] = [
        {
            "kind": entry.kind,
            "name": entry.name,
            "aliases": list(entry.aliases),
            "parameters": {
                p.name: {"type": p.kind_text, "default": None if p.required else p.default}
                for p in entry.parameters.values()
            },
            "distribution": entry.distribution,
            "version": entry.version,
        }
        for entry in load().entries()
    ]
    if chosen.json:
        print(json.dumps(rows, indent=2, default=str))
        return 0
    kind = ""
    for row in rows:
        if row["kind"] != kind:
            kind = row["kind"]
            print(f"{kind}s")
        name = row["name"] + "".join(f" = {alias}" for alias in row["aliases"])
        parameters = ", ".join(
            f"{key}={p['default']}" for key, p in row["parameters"].items()
        )
        print(f"  {name:<24} {row['distribution']} {row['version']:<8} {parameters}".rstrip())
    return 0
