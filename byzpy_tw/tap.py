"""``twistd byzpy-server``: its options, and the service they make."""

from __future__ import annotations

import socket
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.python import usage

from byzpy_tw.console import make_streams_tolerant
from byzpy_tw.errors import ByzpyTwError, CannotListen, ConfigError, format_error


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError(f"a port is a number from 0 to 65535, not {number}")
    return number


_port.coerceDoc = "A number from 0 to 65535; 0 picks a free port."  # type: ignore[attr-defined]


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        found = int(text)
        if found < least:
            raise ValueError(f"must be at least {least:,}, got {found}")
        return found

    number.coerceDoc = f"At least {least:,}."  # type: ignore[attr-defined]
    return number


_positive = _at_least(1)


def _seconds(text: str) -> float:
    number = float(text)
    if not 0.1 <= number <= 1e6:
        raise ValueError(f"must be from 0.1 to 1,000,000 seconds, got {text}")
    return number


_seconds.coerceDoc = "Seconds, at least 0.1."  # type: ignore[attr-defined]


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
        ["max-runs", None, 16, "Runs open at once.", _positive],
        ["max-connections", None, 256, "Connections at once; a run takes two.", _positive],
        ["max-data-mib", None, 8192, "All runs' datasets together, in MiB.", _positive],
        ["max-working-mib", None, 4096,
         "What one thread keeps of a micro-batch, in MiB.", _positive],
        ["max-shown-mib", None, 4096,
         "What the attacks of one round of a run are shown, in MiB.", _positive],
        ["max-commands", None, 64,
         "Commands being answered at once on one connection.", _at_least(8)],
        ["max-box-bytes", None, 300_000,
         "Bytes of one command with its arguments.", _at_least(200_000)],
        ["handshake-timeout", None, 10.0,
         "Time for a new connection to show its certificate and say what it is for.",
         _seconds],
        ["idle-timeout", None, 120.0,
         "Time after which a trainer that is not heard of is hung up on, its runs closed.",
         _seconds],
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

    def __init__(self) -> None:
        super().__init__()
        self.disabled: list[str] = []

    def opt_disable_plugin(self, name: str) -> None:
        """A distribution whose plugins are not imported; may be given several times."""
        self.disabled.append(name)

    def postOptions(self) -> None:
        from byzpy_tw.config.paths import absolute

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
            from byzpy_tw.protocol.keys import SERVER, load_keys

            try:
                self.loaded = load_keys(absolute(self["keys"]), SERVER)
            except ByzpyTwError as e:
                raise usage.UsageError(format_error(e)) from None
        from byzpy_tw.plugins.registry import check_disabled

        try:
            self.data_root = absolute(self["data-root"])
            self.disabled = check_disabled(self.disabled)
        except ByzpyTwError as e:
            raise usage.UsageError(format_error(e)) from None
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


def _load_late_modules() -> None:
    """Have Python load what it loads when it is first used, such as readers of packages' files.

    After ``--uid`` it may be too late: nobody can read a Python that lies in root's home.
    """
    files("byzpy_tw.datasets").joinpath("mnist5k.npz").is_file()
    "".encode("cp437")  # of names in NumPy's archives
    "".encode("idna")


def makeService(options: Options, reactor: Any = None) -> IService:
    """The server, not started: no thread, socket or device before twistd forks."""
    if reactor is None:
        from twisted.internet import reactor  # type: ignore[no-redef]

        make_streams_tolerant()  # the log's terminal may lack a character of a run's name
    from byzpy_tw.kernels.cpu import cores
    from byzpy_tw.server.parent import UntilEOF
    from byzpy_tw.server.service import ByzpyServer, Limits

    _load_late_modules()
    services = MultiService()
    server = ByzpyServer(
        reactor=reactor,
        host=options["host"],
        port=options["port"],
        data_root=options.data_root,
        device=options["device"],
        threads=options["threads"] or cores(),
        insecure=bool(options["insecure"]),
        process=True,
        keys=options.loaded,
        disabled=tuple(options.disabled),
        limits=Limits(
            nodes=options["max-nodes"],
            vector_mib=options["max-vector-mib"],
            runs=options["max-runs"],
            connections=options["max-connections"],
            data_mib=options["max-data-mib"],
            working_mib=options["max-working-mib"],
            shown_mib=options["max-shown-mib"],
            commands=options["max-commands"],
            box_bytes=options["max-box-bytes"],
            hello_seconds=options["handshake-timeout"],
            idle_seconds=options["idle-timeout"],
        ),
    )
    server.setServiceParent(services)
    if options["until-eof"]:
        UntilEOF(reactor).setServiceParent(services)
    return services
