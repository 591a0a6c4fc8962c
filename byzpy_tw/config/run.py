"""A run's configuration: every option, once.

The fields of `RunConfig` are the single definition from which command-line
options, the keys of a file of options, ``config.json`` and documentation come.
Each field's metadata has its help text, its section, and whether it can change the
bits of the result (``bits``): two runs whose `bits` agree must end with the same
parameters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from byzpy_tw.config.validators import (
    Check,
    check_like,
    converter_like,
    floating,
    hosts,
    kept,
    number,
    one_of,
    optional,
    round_numbers,
    rule,
    texts,
    whole,
    worded,
)
from byzpy_tw.config.validators import flag as flag
from byzpy_tw.errors import ConfigError, RunDirectoryError
from byzpy_tw.plugins.naming import parse
from byzpy_tw.workers.spec import WIRE_DTYPES, RunSpec

# The sections of options, with their titles.
SECTIONS = {
    "where": "where the nodes live (one of these)",
    "nodes": "nodes",
    "training": "training",
    "data": "data",
    "aggregation": "aggregation",
    "running": "running",
}
LOCATIONS = ("remote_hosts", "local", "in_process")


def _option(
    default: Any,
    help: str,
    *,
    section: str,
    bits: bool = True,
    check: Check | None = None,
    metavar: str | None = None,
    convert: Callable[[Any], Any] | None = None,
) -> Any:
    """A field; by its default's type, unless told otherwise, it is checked and converted."""
    metadata = {"help": help, "section": section, "bits": bits, "metavar": metavar}
    return field(
        default=default,
        validator=check or check_like(default),
        converter=convert or converter_like(default),
        metadata=metadata,
    )


@frozen(kw_only=True)
class RunConfig:
    """Everything needed to repeat a run.  Raises `ConfigError` for nonsense."""

    # -- where the nodes live
    remote_hosts: tuple[str, ...] = _option(
        (),
        "servers, as tcp://HOST:PORT,tcp://HOST:PORT,...",
        section="where",
        bits=False,
        check=texts,
        convert=hosts,
        metavar="ADDRESSES",
    )
    local: int | None = _option(
        None,
        "start this many servers on this machine, and stop them afterwards",
        section="where",
        bits=False,
        check=optional(whole(1, 256)),
        metavar="N",
    )
    in_process: bool = _option(
        False,
        "keep the nodes in the trainer's own process, without sockets",
        section="where",
        bits=False,
    )
    # -- nodes
    num_honest: int = _option(3, "honest nodes", section="nodes", check=whole(1, 500_000))
    num_byz: int = _option(1, "Byzantine nodes", section="nodes", check=whole(0, 500_000))
    attack: str = _option(
        "empire",
        "what Byzantine nodes do: NAME[:key=value,...]",
        section="nodes",
        check=rule,
        metavar="NAME",
    )
    # -- training
    rounds: int = _option(50, "rounds to train", section="training", check=whole(1))
    batch_size: int = _option(
        64, "examples in a node's batch", section="training", check=whole(1, 1_000_000)
    )
    micro_batch_size: int = _option(
        32,
        "examples computed at a time on one thread",
        section="training",
        check=whole(1, 8192),
    )
    lr: float = _option(0.05, "learning rate", section="training", check=number(0, above=True))
    momentum: float = _option(0.9, "momentum of the optimizer", section="training", check=number(0))
    weight_decay: float = _option(
        0.0,
        "added to the gradient: this times the parameters",
        section="training",
        check=number(0),
    )
    worker_momentum: float = _option(
        0.0,
        "momentum of each honest node's vectors, kept by the trainer",
        section="training",
        check=number(0),
    )
    lr_milestones: tuple[int, ...] = _option(
        (),
        "rounds from which the learning rate is multiplied by --lr-decay",
        section="training",
        check=round_numbers,
        metavar="ROUND",
    )
    lr_decay: float = _option(
        0.1,
        "factor of the learning rate at each milestone",
        section="training",
        check=number(0, above=True),
    )
    seed: int = _option(
        42,
        "decides every random choice of the run",
        section="training",
        check=whole(0, 2**63 - 1),
    )
    model: str = _option(
        "small-cnn",
        "the model: NAME[:key=value,...]",
        section="training",
        check=rule,
        metavar="NAME",
    )
    # -- data
    dataset: str = _option(
        "mnist",
        "the data: NAME[:key=value,...]; mnist5k needs no download",
        section="data",
        check=rule,
        metavar="NAME",
    )
    data_root: str = _option(
        "./data",
        "where the trainer's (and --local servers') data files are",
        section="data",
        bits=False,
        metavar="DIR",
    )
    partition: str = _option(
        "stride",
        "how the data is cut into shards: NAME[:key=value,...]",
        section="data",
        check=rule,
        metavar="NAME",
    )
    replacement: bool = _option(
        False, "draw batches with replacement, where shards are small", section="data"
    )
    # -- aggregation
    aggregator: str = _option(
        "multi-krum",
        "the rule: NAME[:key=value,...]",
        section="aggregation",
        check=rule,
        metavar="NAME",
    )
    pre_aggregator: tuple[str, ...] = _option(
        (),
        "a rule applied before the aggregator; may be given several times",
        section="aggregation",
        check=rule,
        metavar="NAME",
    )
    f: int = _option(1, "faulty nodes to tolerate", section="aggregation", check=whole(0, 500_000))
    q: int | None = _option(
        None,
        "rows that multi-krum averages (default: n - f - 1)",
        section="aggregation",
        check=optional(whole(1)),
        metavar="Q",
    )
    chunk_size: int = _option(
        32,
        "rows per block of a distance computation; bounds memory, changes no bit",
        section="aggregation",
        bits=False,
        check=whole(1),
    )
    # -- running
    wire_dtype: str = _option(
        "float32",
        "what vectors and parameters are rounded to on their way: float32, "
        "bfloat16 or float16; the latter two halve the bytes",
        section="running",
        check=one_of(*WIRE_DTYPES),
        metavar="DTYPE",
    )
    threads: int | None = _option(
        None,
        "compute threads of this process, and of each --local server (default: all cores)",
        section="running",
        bits=False,
        check=optional(whole(1, 1024)),
        metavar="N",
    )
    device: str = _option(
        "cpu",
        "where the trainer aggregates: cpu, cuda or auto",
        section="running",
        check=one_of("cpu", "cuda", "auto"),
    )
    round_timeout: float = _option(
        60.0,
        "seconds that a round waits for its vectors",
        section="running",
        bits=False,
        check=number(0, above=True),
        metavar="SECONDS",
    )
    replace_timeout: float = _option(
        60.0,
        "seconds that a round with more than --f failures waits for servers to "
        "come back, before the run is paused",
        section="running",
        bits=False,
        check=number(0),
        metavar="SECONDS",
    )
    heartbeat_timeout: float | None = _option(
        None,
        "seconds without an answer to pings until a server is lost (default: 6, or "
        "two fifths of --round-timeout where that is less)",
        section="running",
        bits=False,
        check=optional(number(0, above=True)),
        convert=floating,
        metavar="SECONDS",
    )
    failover: str = _option(
        "on",
        "on: a lost server's nodes move to the others; off: they are charged to --f",
        section="running",
        bits=False,
        check=one_of("on", "off"),
        metavar="on|off",
    )
    min_servers: int | None = _option(
        None,
        "servers that must answer, and be of use, at the start; the others may join "
        "later (default: all)",
        section="running",
        bits=False,
        check=optional(whole(1)),
        metavar="K",
    )
    max_nodes_per_server: int | None = _option(
        None,
        "nodes that failover may give to one server (default: any number)",
        section="running",
        bits=False,
        check=optional(whole(1)),
        metavar="N",
    )
    checkpoint_interval: int | None = _option(
        None,
        "write a checkpoint every so many rounds, 0: never (default: every 10 rounds "
        "or 30 seconds, for at most a twentieth of the time)",
        section="running",
        bits=False,
        check=optional(whole(0)),
        metavar="N",
    )
    keep_checkpoints: str = _option(
        "2",
        "how many checkpoints to keep, the newest ones: a number, or all",
        section="running",
        bits=False,
        check=kept,
        convert=worded,
        metavar="N|all",
    )
    eval_interval: int = _option(
        10,
        "evaluate on the test data every so many rounds (0: only at the end)",
        section="running",
        bits=False,
        check=whole(0),
        metavar="ROUNDS",
    )
    run_dir: str | None = _option(
        None,
        "where the run's records go (default: runs/DATE-TIME-...)",
        section="running",
        bits=False,
        metavar="DIR",
    )
    keys: str | None = _option(
        None,
        "file of keys from 'python -m byzpy_tw keygen', for servers that have some; "
        "--local servers need none",
        section="running",
        bits=False,
        metavar="FILE",
    )
    strict: bool = _option(
        False,
        "refuse what is otherwise a warning: a rule without its guarantee, "
        "servers with other versions",
        section="running",
        bits=False,
    )
    disable_plugin: tuple[str, ...] = _option(
        (),
        "a distribution whose plugins are not even imported, here and by --local "
        "servers, such as one that is broken; may be given several times",
        section="running",
        bits=False,
        check=texts,
        metavar="NAME",
    )
    quiet: bool = _option(False, "print only the result and errors", section="running", bits=False)
    json: bool = _option(
        False, "print one JSON object a line, for programs", section="running", bits=False
    )
    web: str | None = _option(
        None,
        "serve a page that follows the run, such as tcp:8080:interface=127.0.0.1 (or "
        "8080 for just that), with /metrics for Prometheus; off: none",
        section="running",
        bits=False,
        metavar="ENDPOINT",
    )

    def __attrs_post_init__(self) -> None:
        places = [bool(self.remote_hosts), self.local is not None, self.in_process]
        if sum(places) != 1:
            raise ConfigError(
                "say where the nodes live, once: --remote-hosts tcp://HOST:PORT,..., "
                f"--local N, or --in-process (got {sum(places)} of them)"
            )
        if self.remote_hosts or self.local:
            self._check_servers(len(self.remote_hosts) or self.local or 1)
        if not self.worker_momentum < 1:
            raise ConfigError(f"--worker-momentum must be below 1, got {self.worker_momentum}")
        if self.f >= self.n:
            raise ConfigError(
                f"--f {self.f} faulty nodes of n = {self.n} leaves none honest; use a smaller "
                "--f or more nodes"
            )

    def _check_servers(self, servers: int) -> None:
        if not 2 * self.heartbeat < self.round_timeout:
            raise ConfigError(
                f"--heartbeat-timeout {self.heartbeat:g} must be less than half of "
                f"--round-timeout {self.round_timeout:g}: or a round would give up on nodes "
                "whose server is about to be replaced"
            )
        if self.min_servers is not None and self.min_servers > servers:
            raise ConfigError(
                f"--min-servers must be at most {servers}, the number of servers, got "
                f"{self.min_servers}"
            )
        cap = self.max_nodes_per_server
        if cap is not None and cap * servers < self.n:
            raise ConfigError(
                f"--max-nodes-per-server {cap} on {servers} servers leaves no room for "
                f"n = {self.n} nodes; use more servers or a larger cap"
            )

    @property
    def heartbeat(self) -> float:
        """Seconds after which a server that does not answer is lost."""
        if self.heartbeat_timeout is not None:
            return self.heartbeat_timeout
        return min(6.0, 0.4 * self.round_timeout)

    @property
    def n(self) -> int:
        """All nodes, honest and Byzantine."""
        return self.num_honest + self.num_byz

    @property
    def pipeline(self) -> str:
        """The chain of rules as one text, parameters from options filled in."""
        return " | ".join([*self.pre_aggregator, self.aggregator])

    @property
    def rule_parameters(self) -> dict[str, Any]:
        """What the options offer to rules that take parameters of these names."""
        return {"f": self.f, "q": self.q, "chunk_size": self.chunk_size}

    def spec(self) -> RunSpec:
        """What the nodes are built from."""
        return RunSpec(
            dataset=self.dataset,
            model=self.model,
            partition=self.partition,
            shards=self.num_honest,
            seed=self.seed,
            batch_size=self.batch_size,
            micro_batch_size=self.micro_batch_size,
            replacement=self.replacement,
            n=self.n,
            f=self.f,
            wire_dtype=self.wire_dtype,
            patience=self.round_timeout,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the options' names, ready for JSON or TOML."""
        plain = attrs.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}

    @property
    def result_options(self) -> dict[str, Any]:
        """Every option that can change the result's bits, as `to_dict` has it."""
        plain = self.to_dict()
        return {f.name: plain[f.name] for f in attrs.fields(RunConfig) if f.metadata["bits"]}

    @property
    def bits(self) -> str:
        """Hex digest of every option that can change the result's bits."""
        return options_digest(self.result_options)


def options_digest(options: Mapping[str, Any]) -> str:
    """Hex digest of `options`, which are plain values under their names."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()


def from_dict(values: Mapping[str, Any]) -> RunConfig:
    """The configuration that `to_dict` was called on; `ConfigError` where it is none."""
    unknown = sorted(set(values) - {f.name for f in attrs.fields(RunConfig)})
    if unknown:
        raise ConfigError(f"config.json has unknown entries: {', '.join(unknown)[:300]}")
    return RunConfig(**values)


def make_run_dir(config: RunConfig) -> Path:
    """A new folder, named by the time and the rules; made, so that no other run takes it.

    Raises `RunDirectoryError`.
    """
    rule, attack = parse(config.aggregator).name, parse(config.attack).name
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{rule}-{attack if config.num_byz else 'honest'}"
    path, count = Path("runs") / name, 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            count += 1
            path = Path("runs") / f"{name}-{count}"
        except OSError as e:
            raise RunDirectoryError(
                f"cannot make {path.absolute()}: {e.strerror or e}; choose another --run-dir"
            ) from e
