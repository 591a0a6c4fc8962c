"""``python -m byzpy_tw``: what is not a run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import byzpy_tw
from byzpy_tw.errors import BadKeys, ByzpyTwError, ConfigError, message_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m byzpy_tw", description=__doc__)
    parser.add_argument("--version", action="version", version=f"byzpy_tw {byzpy_tw.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    plugins = commands.add_parser("plugins", help="list every name that a run may use")
    plugins.add_argument("--json", action="store_true", help="as JSON, for programs")
    keys = commands.add_parser("keygen", help="make the keys of servers and trainers")
    keys.add_argument("folder", metavar="DIR", help="where they go; its CA, once there, is kept")
    keys.add_argument(
        "--server", nargs="+", action="extend", metavar="NAME", default=[],
        help="one NAME.pem for each, instead of one server.pem for all",
    )  # fmt: skip
    keys.add_argument(
        "--trainer", action="store_true",
        help="write another trainer.pem with the CA that DIR has",
    )  # fmt: skip
    keys.add_argument("--days", type=int, default=365, help="validity (default: 365)")
    trial = commands.add_parser(
        "conformance", help="put rules, or a server, to bad inputs, and say what held"
    )
    trial.add_argument("names", nargs="*", metavar="NAME",
                       help="rules or distributions (default: all that are installed)")  # fmt: skip
    trial.add_argument("--server", metavar="ADDRESS", help="a server without keys: tcp://HOST:PORT")
    trial.add_argument("--count", type=int, default=500, help="conversations (default: 500)")
    trial.add_argument("--seed", type=int, default=0, help="decides them all (default: 0)")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "conformance":
            return conform(chosen.names, chosen.server, chosen.count, chosen.seed)
        if chosen.command == "keygen":
            return make_keys(chosen.folder, chosen.server, chosen.trainer, chosen.days)
        return list_plugins(as_json=chosen.json)
    except ByzpyTwError as e:
        print(f"byzpy_tw: error: {message_of(e)}", file=sys.stderr)
        return e.exit_code


def make_keys(folder: str, servers: Sequence[str], trainer: bool, days: int) -> int:
    """Write keys, and say what to do with them."""
    from byzpy_tw.wire.keygen import CA_FILE, generate

    if days < 1:
        raise BadKeys(f"--days must be at least 1, got {days}")
    for path in generate(Path(folder), servers, trainer=trainer, days=days):
        if path.name == CA_FILE:
            say = "the CA's key: it stays here, and is needed only to add servers"
        elif path.name == "trainer.pem":
            say = f"for the trainer: python -m byzpy_tw.train --keys {path} ..."
        else:
            say = f"for a server: twistd -n byzpy-server --keys {path.name} ..."
        print(f"wrote {path}  {say}")
    return 0


def conform(names: Sequence[str], server: str | None, count: int, seed: int) -> int:
    """Examine rules, or a server; 1 where something did not hold."""
    try:
        from byzpy_tw.testing import conformance
    except ModuleNotFoundError as e:
        raise ConfigError(f"{e}: this needs pip install 'byzpy-tw[test]'") from e
    from byzpy_tw.plugins import load
    from byzpy_tw.wire.addresses import parse_address

    if server is not None and names:
        raise ConfigError("give names of rules or a --server, not both")
    if count < 1:
        raise ConfigError(f"--count must be at least 1, got {count}")
    if server is not None:
        return conformance.server(parse_address(server), count, seed, print)
    return min(1, conformance.rules(load(), names, print))


def list_plugins(*, as_json: bool) -> int:
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
    if as_json:
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


if __name__ == "__main__":
    sys.exit(main())
