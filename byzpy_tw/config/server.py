"""A server's configuration: every option of ``twistd byzpy-server``, once.

The command line, the documentation and the service are made from the fields below.  An
option's metadata has its ``help``, ``metavar``, ``constraint`` and ``key``, its spelling
without the dashes in front.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import attrs
from attrs import field, frozen

from byzpy_tw.config.validators import DEVICES, device_name, option, texts, toml_key
from byzpy_tw.errors import ConfigError
from byzpy_tw.parameters import integer_in, optional, real_in

MAX_BOX_BYTES = 300_000  # the largest of our commands has under 200,000
MAX_COMMANDS_IN_FLIGHT = 64

_HOST, _PORT = "0.0.0.0", 29000
_positive = integer_in(1)
_seconds = real_in(0.1, 1e6)
_count = partial(option, check=_positive, metavar="N")
_timeout = partial(option, check=_seconds, metavar="SECONDS")


@frozen(kw_only=True)
class Limits:
    """The most that one server does for all trainers; a limit without a ``key`` has no option."""

    nodes: int = _count(
        4096,
        "Nodes hosted at once, of all runs; where rounds ask some of a run's nodes, those asked.",
        key="max-nodes",
    )
    vector_mib: int = _count(1024, "Largest model's vector, in MiB.", key="max-vector-mib")
    runs: int = _count(16, "Runs open at once.", key="max-runs")
    shards: int = 500_000  # honest nodes of a run, wherever they are
    batch: int = 65_536  # examples of one node's batch
    micro_batch: int = 4_096  # examples computed on at once by one thread
    connections: int = _count(256, "Connections at once; a run takes two.", key="max-connections")
    unauthenticated: int = 16  # further connections without a certificate, or to be turned away
    data_mib: int = _count(
        8192, "All runs' datasets in memory together, in MiB.", key="max-data-mib"
    )
    pieces: int = 2**24  # of data that a partition may deal out one by one
    working_mib: int = _count(
        4096,
        "Memory that one thread keeps of a micro-batch, that it keeps of local steps of all runs, "
        "and that all runs' frozen parameters and buffers take together, in MiB each.",
        key="max-working-mib",
    )
    knowledge_mib: int = _count(
        4096, "Knowledge of the attacks of one round of a run, in MiB.", key="max-shown-mib"
    )
    commands: int = option(
        MAX_COMMANDS_IN_FLIGHT, "Commands being answered at once on one connection.",
        integer_in(8), key="max-commands", metavar="N",
    )  # fmt: skip
    box_bytes: int = option(
        MAX_BOX_BYTES, "Bytes of one command with its arguments.",
        integer_in(200_000), key="max-box-bytes", metavar="N",
    )  # fmt: skip
    hello_seconds: float = _timeout(
        10.0, "Time for a new connection to show its certificate and say what it is for.",
        key="handshake-timeout",
    )  # fmt: skip
    idle_seconds: float = _timeout(
        120.0, "Time after which a silent trainer is disconnected and its runs are closed.",
        key="idle-timeout",
    )  # fmt: skip
    linger_seconds: float = 5.0  # for a peer to close its end of the connection
    ticket_seconds: float = 60.0  # between OpenRun and OpenStream

    @property
    def vector_elements(self) -> int:
        """The most parameters that a model may have."""
        return self.vector_mib * 2**20 // 4


@frozen(kw_only=True)
class ServerConfig:
    """Everything that a server's operator decides.  Raises `ConfigError` for nonsense."""

    host: str = option(_HOST, "Host, or its address, to listen on.")
    port: int = option(_PORT, "Port to listen on; 0 picks a free one.", integer_in(0, 65535))
    listen: str | None = option(
        None, "Address to listen on, such as tls://0.0.0.0:29000, in place of --host and --port.",
        metavar="ADDRESS",
    )  # fmt: skip
    data_root: str = option("./data", "Folder of this server's data files.", metavar="DIR")
    device: str = option("cpu", f"Where nodes compute: {DEVICES}.", device_name)
    threads: int | None = option(
        None, "Compute threads (default: all cores).", optional(_positive), metavar="N"
    )
    keys: str | None = option(
        None, "File of keys, from 'python -m byzpy_tw keygen'.", metavar="FILE"
    )
    limits: Limits = field(factory=Limits)
    insecure: bool = option(False, "Serve every machine that can reach this one, without keys.")
    until_eof: bool = option(
        False, "Stop when standard input ends: for a parent process that may die."
    )
    announce_fd: int | None = option(
        None, "Open file descriptor to write one line of JSON to, with the address and the pid, "
        "once the server listens: for a parent process.",
        optional(integer_in(3)), metavar="FD",
    )  # fmt: skip
    metrics: str | None = option(
        None, "Serve metrics for Prometheus at this endpoint; a port alone is for this machine.",
        metavar="ENDPOINT",
    )  # fmt: skip
    disable_plugin: tuple[str, ...] = option(
        (), "A distribution whose plugins are not imported; may be given several times.",
        texts, metavar="NAME",
    )  # fmt: skip

    plugin: tuple[str, ...] = option(
        (), "A file of Python code with hooks, FILE.py; may be given several times.",
        texts, metavar="FILE.py",
    )  # fmt: skip

    def __attrs_post_init__(self) -> None:
        if self.listen is not None and (self.host, self.port) != (_HOST, _PORT):
            raise ConfigError(
                f"--listen {self.listen} says all of where to listen: leave --host and --port out"
            )
        if self.keys is not None and self.insecure:
            raise ConfigError(
                "--keys and --insecure exclude one another: with keys every peer is served that "
                "has keys of the same cluster, and no other"
            )


def server_options() -> Iterator[tuple[str, attrs.Attribute[Any]]]:
    """Each option's spelling, without dashes, and its field, of `ServerConfig` or `Limits`."""
    for f in attrs.fields(ServerConfig):
        for one in attrs.fields(Limits) if f.name == "limits" else (f,):
            if one.metadata:
                yield one.metadata.get("key") or toml_key(one.name), one


def server_config(values: dict[str, Any]) -> ServerConfig:
    """The configuration of these values, by the options' spellings."""
    own: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    for key, one in server_options():
        if key in values:
            (limits if "key" in one.metadata else own)[one.name] = values[key]
    return ServerConfig(limits=Limits(**limits), **own)
