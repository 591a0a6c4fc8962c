"""``python -m byzpy_tw conformance``: test rules, or a server, with bad inputs."""

from __future__ import annotations

import argparse

from byzpy_tw.cli.plugin_options import add_plugin_options, load_chosen
from byzpy_tw.errors import BadAddress, ConfigError

HELP = "put rules, or a server, to bad inputs, and say what held"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help="rules or distributions (default: all that are installed)",
    )  # fmt: skip
    parser.add_argument(
        "--server", metavar="ADDRESS", help="a server without keys: tcp://HOST:PORT"
    )
    parser.add_argument(
        "--count", type=int, default=500, metavar="N", help="conversations (default: 500)"
    )
    add_plugin_options(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="decides every conversation (default: 0)"
    )


def run(chosen: argparse.Namespace) -> int:
    """Test rules, or a server; return 1 where a promise was broken."""
    try:
        from byzpy_tw.testing import conformance
    except ModuleNotFoundError as e:
        raise ConfigError(f"{e}: this needs pip install 'byzpy-tw[test]'") from e
    from byzpy_tw.transports import Address
    from byzpy_tw.transports.table import parse_address

    if chosen.server is not None and chosen.names:
        raise ConfigError("give names of rules or a --server, not both")
    if chosen.count < 1:
        raise ConfigError(f"--count must be at least 1, got {chosen.count}")
    if chosen.server is None:
        return min(1, conformance.rules(load_chosen(chosen), chosen.names, print))
    address = parse_address(chosen.server)
    if not isinstance(address, Address) or address.scheme != "tcp":
        raise BadAddress(f"{address}: a server to be tested is written as tcp://HOST:PORT")
    try:
        from tests.fuzzing import one_server
    except ModuleNotFoundError as e:
        raise ConfigError(
            f"{e}: --server uses the fuzzing client of byzpy_tw's repository; run it from a "
            "checkout"
        ) from e
    return one_server.server(address, chosen.count, chosen.seed, print)
