"""Whether a run would start: what is here, each server, and the fault budget.

Servers are examined at once, beside what is looked at here, and each wait is bounded.
Nothing is written, and no server keeps anything of it.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy
import torch
from attrs import asdict, define, field, frozen
from twisted.internet.defer import Deferred, TimeoutError, gatherResults

import byzpy_tw
import twisted
from byzpy_tw.config.run import RunConfig
from byzpy_tw.config.unused import unused
from byzpy_tw.errors import ByzpyTwError, RunDirectoryError, ServerDiffers, format_error
from byzpy_tw.kernels.cpu import cores
from byzpy_tw.plugins import Registry
from byzpy_tw.protocol.addresses import parse_addresses
from byzpy_tw.records.folder import ROUNDS
from byzpy_tw.rounds.feasibility import Feasibility, list_feasible_rules
from byzpy_tw.rounds.placement import Placement, placement_notices
from byzpy_tw.rounds.resolved_rules import resolve_rules
from byzpy_tw.scheduling.threads import defer_to_pool
from byzpy_tw.trainer import handshake
from byzpy_tw.trainer.run import load_trainer_keys
from byzpy_tw.trainer.server_check import ServerCheck
from byzpy_tw.trainer.server_client import RemoteServer
from byzpy_tw.trainer.server_interface import Opened
from byzpy_tw.trainer.training import Prepared, prepare_data
from byzpy_tw.workers.host import make_shards
from byzpy_tw.workers.spec import NodeSpec, node_specs

WAIT = 5.0  # seconds for whatever a server in health does at once
READING = 60.0  # and for the data here
AHEAD = 5.0  # seconds that a server's clock may be off


@frozen(eq=False)
class Here:
    """What the trainer would have, and the sizes of its shards."""

    prepared: Prepared
    shards: tuple[int, ...]


@define(eq=False)
class Doctor:
    """Looks at everything with `examine`; then its fields say what was found.

    ``troubles`` keep a run from starting, ``warnings`` do not; each is one line with the
    cure.
    """

    config: RunConfig
    registry: Registry
    _reactor: Any
    _pool: Executor
    wait: float = WAIT
    resumed: Path | None = None  # the folder of a run that is to be gone on with
    troubles: list[str] = field(factory=list, init=False)
    warnings: list[str] = field(factory=list, init=False)
    servers: list[ServerCheck] = field(factory=list, init=False)
    budget: list[Feasibility] = field(factory=list, init=False)
    here: Here | None = field(default=None, init=False)
    done: bool = field(default=False, init=False)
    busy: bool = field(default=False, init=False)  # whether a thread is still at work

    @property
    def well(self) -> bool:
        """Whether a run would start."""
        return self.done and not self.troubles

    @property
    def threads(self) -> int:
        return self.config.threads or cores()

    async def examine(self) -> None:
        config = self.config
        self._try(self._rules)
        whole = not self.troubles  # or nothing could be opened
        self._try(self._folder)
        self._try(lambda: self._servers(whole))
        self.budget = list_feasible_rules(config, self.registry)
        looking = [Deferred.fromCoroutine(server.run()) for server in self.servers]
        await gatherResults([Deferred.fromCoroutine(self._look_here()), *looking])
        self._judge()
        self.done = True

    def _try(self, look: Callable[[], None]) -> None:
        try:
            look()
        except ByzpyTwError as e:
            self._trouble(e)

    def _trouble(self, error: ByzpyTwError) -> None:
        """One line, once: what keeps rules from being made keeps data from it too, say."""
        line = format_error(error)
        if line not in self.troubles:
            self.troubles.append(line)

    # -- before anything is asked

    def _rules(self) -> None:
        self.warnings += unused(self.config)
        rules = resolve_rules(self.config, self.registry)
        if rules.missing_guarantee is not None:
            self.warnings.append(
                f"no guarantee: {self.config.pipeline}: {rules.missing_guarantee} "
                "(--strict makes this an error)"
            )

    def _folder(self) -> None:
        path, config = self.folder, self.config
        if self.resumed is None and config.run_dir is not None:
            records = Path(config.run_dir) / ROUNDS
            if records.exists() and records.stat().st_size:
                raise RunDirectoryError(
                    f"{config.run_dir} holds another run; choose another --run-dir, or go on "
                    f"with that one: --resume {config.run_dir}"
                )
        if not path.is_dir():
            raise RunDirectoryError(f"{path} is no folder; choose another --run-dir")
        if not os.access(path, os.W_OK | os.X_OK):
            raise RunDirectoryError(f"cannot write to {path}; choose another --run-dir")

    @property
    def folder(self) -> Path:
        """The part of the run's folder that is there already."""
        path = self.resumed or Path(self.config.run_dir or "runs")
        path = path.absolute()
        while not path.exists() and path != path.parent:
            path = path.parent
        return path

    def _servers(self, whole: bool) -> None:
        config = self.config
        if config.remote_hosts or config.local:
            count = len(config.remote_hosts) or config.local or 1
            self.warnings += placement_notices(
                config.n, count, config.f, config.max_nodes_per_server
            )
        addresses = parse_addresses(config.remote_hosts)
        keys = load_trainer_keys(config)
        self.warnings += keys.keys.warnings if keys is not None else ()
        beat = min(config.heartbeat, self.wait)
        hosts = [RemoteServer(a, self._reactor, beat, keys=keys) for a in addresses]
        specs = node_specs(honest=config.num_honest, byzantine=config.num_byz, attack=config.attack)
        placed = Placement(tuple(map(str, addresses)), config.n, config.max_nodes_per_server)
        for address in addresses:
            placed.add_server(str(address))
        if addresses:
            placed.assign_unassigned()
        for host in hosts:
            nodes = [specs[node] for node in placed.nodes_on(str(host.address))]
            self.servers.append(
                ServerCheck(
                    host,
                    config,
                    self.registry,
                    nodes,
                    self._spare(specs, nodes),
                    self.wait,
                    whole,
                    self._reactor,
                )  # fmt: skip
            )

    def _spare(self, specs: Sequence[NodeSpec], nodes: Sequence[NodeSpec]) -> NodeSpec | None:
        """A Byzantine node, where a server has none at first and failover may bring one."""
        if self.config.failover == "off" or not self.config.num_byz:
            return None
        return None if any(not node.honest for node in nodes) else specs[-1]

    # -- here

    async def _look_here(self) -> None:
        looking = defer_to_pool(self._reactor, self._pool, self._load)
        try:
            self.here = await looking.addTimeout(READING, self._reactor)
        except TimeoutError:
            self.busy = True
            self.troubles.append(
                f"the data {self.config.dataset!r} could not be read within {READING:g} s: is "
                "it being downloaded? Try again later, or use --dataset mnist5k"
            )
        except ByzpyTwError as e:
            self._trouble(e)

    def _load(self) -> Here:
        rules = resolve_rules(self.config, self.registry)
        prepared = prepare_data(self.config, self.registry, rules, self.threads)
        self.warnings += prepared.warnings
        shards = make_shards(self.config.spec(), self.registry, prepared.dataset)
        return Here(prepared, tuple(map(len, shards)))

    # -- what it comes to

    def _judge(self) -> None:
        """Compare servers with what is here, and with each other; count who is left."""
        known: dict[tuple[str, str], str] = {}  # the name of each process's first address
        for server in self.servers:
            identity = server.host.identity
            if identity is not None and known.setdefault(identity, server.name) != server.name:
                server.error = handshake.same_server_error(server.name, known[identity])
            if server.error is None:
                try:
                    self._compare(server)
                except ByzpyTwError as e:
                    server.error = e
            self.warnings += server.warnings
        wrong = [server for server in self.servers if server.error is not None]
        least = self.config.min_servers or len(self.servers)
        told = [format_error(server.error) for server in wrong if server.error is not None]
        if len(self.servers) - len(wrong) >= least:
            without = f"(--min-servers {least}: others will do)"
            self.warnings += [f"{line} {without}" for line in told]
        else:
            self.troubles += told

    def _compare(self, server: ServerCheck) -> None:
        config = self.config
        if server.environment is not None and self.here is not None and server.whole:
            handshake.compare(
                server.name, config, self.registry, self.here.prepared.environment,
                server.environment, self._warn,
            )  # fmt: skip
        ahead, trip = server.clock_ahead, server.round_trip or 0.0
        if ahead is not None and abs(ahead) > AHEAD + trip:
            side = "ahead of" if ahead > 0 else "behind"
            self.warnings.append(
                f"{server.name}'s clock is {abs(ahead):.0f} s {side} this machine's: keys are "
                "judged by it, and logs will not fit together; set it (NTP)"
            )
        if server.opened is None:
            return
        own = getattr(self.registry.make("partition", config.partition), "local", False)
        if self.here is not None:
            prepared = self.here.prepared
            digest = server.opened.digest if own else prepared.digest
            mine = Opened(prepared.learner.dimension, digest, prepared.trial_outcome.trial)
            theirs = server.environment
            handshake.check_opened(
                server.name, server.opened, mine, config, notify=self._warn, local=own,
                exact=theirs is not None and handshake.same_bits(prepared.environment, theirs),
            )  # fmt: skip
        elif not own:
            self._alike(server)

    def _warn(self, line: str) -> None:
        self.warnings.append(line.removeprefix("warning: "))

    def _alike(self, server: ServerCheck) -> None:
        """Without data here, servers must at least agree among themselves."""
        first = next(s for s in self.servers if s.opened is not None)
        assert first.opened is not None and server.opened is not None
        if first.opened.digest != server.opened.digest:
            raise ServerDiffers(
                f"{server.name} holds other data for {self.config.dataset!r} than {first.name} "
                f"(digests {server.opened.digest[:12]} and {first.opened.digest[:12]}); give "
                "all the same files, with --data-root"
            )

    # -- in figures

    @property
    def checkpoint_bytes(self) -> int | None:
        """Of one checkpoint, but for what rules remember."""
        if self.here is None:
            return None
        config, d = self.config, self.here.prepared.learner.dimension
        return 4 * d * (2 + (config.num_honest if config.worker_momentum else 0))

    def to_plain(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        config = self.config
        return {
            "would_start": self.well,
            "troubles": self.troubles,
            "warnings": self.warnings,
            "here": self._here_plain(),
            "servers": [_server_plain(server) for server in self.servers],
            "budget": {
                "n": config.n,
                "f": config.f,
                "rules": [asdict(line) for line in self.budget],
            },
        }

    def _here_plain(self) -> dict[str, Any]:
        disk = shutil.disk_usage(self.folder) if self.folder.is_dir() else None
        found: dict[str, Any] = {
            "versions": versions(),
            "plugins": dict(self.registry.distributions),
            "threads": self.threads,
            "cores": cores(),
            "device": self.config.device,
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "folder": str(self.folder),
            "disk_free_bytes": disk.free if disk else None,
            "checkpoint_bytes": self.checkpoint_bytes,
        }
        if self.here is not None:
            prepared = self.here.prepared
            found |= {
                "data_digest": prepared.digest,
                "examples": [len(prepared.dataset.train.y), len(prepared.dataset.test.y)],
                "shards": [min(self.here.shards), max(self.here.shards)],
                "dimension": prepared.learner.dimension,
                "instructions": prepared.environment.instructions,
            }
        return found


def versions() -> Mapping[str, str]:
    """Of what this process runs on."""
    return {
        "byzpy_tw": byzpy_tw.__version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "Twisted": twisted.__version__,
    }


def _server_plain(server: ServerCheck) -> dict[str, Any]:
    theirs, opened = server.environment, server.opened
    return {
        "address": str(server.host.address),
        "name": server.name,
        "well": server.error is None,
        "error": None if server.error is None else format_error(server.error),
        "keys": server.host.peer.name if server.host.peer is not None else None,
        "nodes": [node.node for node in server.nodes],
        "environment": None if theirs is None else asdict(theirs),
        "data_digest": opened.digest if opened else None,
        "dimension": opened.dimension if opened else None,
        "round_trip": server.round_trip,
        "clock_ahead": server.clock_ahead,
        "bytes_a_second": server.bandwidth,
        "gradient_seconds": server.gradient,
    }
