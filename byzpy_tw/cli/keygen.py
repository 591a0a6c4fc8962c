"""``python -m byzpy_tw keygen``: the keys of servers and trainers."""

from __future__ import annotations

import argparse

from byzpy_tw.config.paths import expand_home
from byzpy_tw.errors import BadKeys

HELP = "make the keys of servers and trainers"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="where they go; its CA, once there, is kept")
    parser.add_argument(
        "--server", nargs="+", action="extend", metavar="NAME", default=[],
        help="one NAME.pem for each, instead of one server.pem for all",
    )  # fmt: skip
    parser.add_argument("--trainer", action="store_true", help="another trainer.pem, by DIR's CA")
    parser.add_argument(
        "--days", type=int, default=365, metavar="N", help="validity in days (default: 365)"
    )


def run(chosen: argparse.Namespace) -> int:
    """Write keys, and print their use."""
    from byzpy_tw.protocol.keygen import CA_FILE, generate

    if chosen.days < 1:
        raise BadKeys(f"--days must be at least 1, got {chosen.days}")
    folder = expand_home(chosen.folder)
    for path in generate(folder, chosen.server, trainer=chosen.trainer, days=chosen.days):
        uses = {
            CA_FILE: "the CA's key: it stays here, and is needed only to add servers",
            "trainer.pem": f"for the trainer: python -m byzpy_tw.train --keys {path} ...",
        }
        use = f"for a server: twistd -n byzpy-server --keys {path.name} ..."
        print(f"wrote {path}  {uses.get(path.name, use)}")
    return 0
