"""``twistd byzpy-server``: its options, and the service they make."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.python import usage

from byzpy_tw.errors import ByzpyTwError, CannotListen, ConfigError, message_of


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError(f"a port is a number from 0 to 65535, not {number}")
    return number


_port.coerceDoc = "A number from 0 to 65535; 0 picks a free port."  # type: ignore[attr-defined]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(f"must be at least 1, got {number}")
    return number


_positive.coerceDoc = "At least 1."  # type: ignore[attr-defined]


class Options(usage.Options):
    """What a server's operator decides."""

    synopsis = "[options]"
    longdesc = (
        "Host nodes of Byzantine-robust training runs. With --keys, trainers with keys of "
        "the same cluster are served, wherever they are. Without, only trainers on this "
        "machine are (protected mode), or with --insecure any."
    )
    optParameters = [
        ["host", None, "0.0.0.0", "Address to listen on."],
        ["port", None, 29000, "Port to listen on.", _port],
        ["data-root", None, "./data", "Where this server's data files are."],
        ["device", None, "cpu", "Where nodes compute: cpu, cuda or auto."],
        ["threads", None, None, "Compute threads (default: all cores).", _positive],
        ["keys", None, None, "File of keys, from 'python -m byzpy_tw keygen'."],
        ["max-nodes", None, 4096, "Nodes hosted at once, of all runs.", _positive],
        ["max-vector-mib", None, 1024, "Largest model's vector, in MiB.", _positive],
    ]  # fmt: skip
    optFlags = [
        ["insecure", None, "Serve every host that can reach this one, without keys."],
        [
            "until-eof",
            None,
            "Stop when standard input ends: for a parent process that may die.",
        ],
    ]
    compData = usage.Completions(
        optActions={"data-root": usage.CompleteDirs(), "keys": usage.CompleteFiles("*.pem")}
    )
    loaded: Any = None  # what --keys names

    def postOptions(self) -> None:
        if self["device"] not in ("cpu", "cuda", "auto"):
            raise usage.UsageError(
                f"{ConfigError.code}: --device must be cpu, cuda or auto, not {self['device']!r}"
            )
        if self["keys"] is not None and self["insecure"]:
            raise usage.UsageError(
                f"{ConfigError.code}: --keys and --insecure exclude one another: with keys "
                "every peer is served that has keys of the same cluster, and no other"
            )
        if self["keys"] is not None:
            from byzpy_tw.wire.keys import SERVER, load_keys

            try:
                self.loaded = load_keys(Path(self["keys"]).absolute(), SERVER)
            except ByzpyTwError as e:
                raise usage.UsageError(message_of(e)) from None
        _check_port(self["host"], self["port"])


def _check_port(host: str, port: int) -> None:
    """`UsageError` where nothing could listen there: one line, no traceback."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
            trial.listen(1)
        except OSError as e:
            raise usage.UsageError(
                f"{CannotListen.code}: cannot listen on {host}:{port}: "
                f"{e.strerror or e}; choose another --port or --host, or stop what listens there"
            ) from e


def makeService(options: Options, reactor: Any = None) -> IService:
    """The server, not started: no thread, socket or device before twistd forks."""
    if reactor is None:
        from twisted.internet import reactor  # type: ignore[no-redef]
    from byzpy_tw.kernels.machine import cores
    from byzpy_tw.server.parent import UntilEOF
    from byzpy_tw.server.service import ByzpyServer, Limits

    services = MultiService()
    server = ByzpyServer(
        reactor=reactor,
        host=options["host"],
        port=options["port"],
        data_root=Path(options["data-root"]).absolute(),
        device=options["device"],
        threads=options["threads"] or cores(),
        insecure=bool(options["insecure"]),
        process=True,
        keys=options.loaded,
        limits=Limits(nodes=options["max-nodes"], vector_mib=options["max-vector-mib"]),
    )
    server.setServiceParent(services)
    if options["until-eof"]:
        UntilEOF(reactor).setServiceParent(services)
    return services
