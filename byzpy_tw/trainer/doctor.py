"""The check whether a run would start: this machine, each server, and the fault budget.

Servers are checked at the same time as this machine, and each wait is bounded.  Nothing is
written, and no server keeps anything of it.
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
from attrs import asdict, define, field
from twisted.internet.defer import Deferred, TimeoutError, gatherResults

import byzpy_tw
import twisted
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.run import RunConfig
from byzpy_tw.config.unused import unused_notices
from byzpy_tw.errors import ByzpyTwError, RunDirectoryError, ServerDiffers, format_error
from byzpy_tw.kernels.cpu import cores
from byzpy_tw.plugins import Registry
from byzpy_tw.protocol.addresses import parse_addresses
from byzpy_tw.records.folder import ROUNDS
from byzpy_tw.rounds.feasibility import Feasibility, list_feasible_rules
from byzpy_tw.rounds.placement import Placement, placement_notices
from byzpy_tw.scheduling.threads import defer_to_pool
from byzpy_tw.trainer.handshake import Handshake, same_bits, same_server_error
from byzpy_tw.trainer.preparation import Prepared, prepare_data
from byzpy_tw.trainer.reactor import ITrainerReactor
from byzpy_tw.trainer.run import load_trainer_keys
from byzpy_tw.trainer.server_check import ServerCheck
from byzpy_tw.trainer.server_client import RemoteServer
from byzpy_tw.trainer.server_interface import Opened
from byzpy_tw.workers.spec import NodeSpec, node_specs

WAIT = 5.0  # seconds for the answers that a healthy server gives at once
READING = 60.0  # and for the data here
AHEAD = 5.0  # seconds that a server's clock may be off


@define(eq=False)
class Doctor:
    """The findings about a run, once `examine` is done.

    ``troubles`` keep a run from starting, ``warnings`` do not; each is one line with the cure.
    """

    config: RunConfig
    registry: Registry
    _reactor: ITrainerReactor
    _pool: Executor
    wait: float = WAIT
    resumed: Path | None = None  # the folder of a run that is to be gone on with
    troubles: list[str] = field(factory=list, init=False)
    warnings: list[str] = field(factory=list, init=False)
    servers: list[ServerCheck] = field(factory=list, init=False)
    budget: list[Feasibility] = field(factory=list, init=False)
    here: Prepared | None = field(default=None, init=False)
    done: bool = field(default=False, init=False)
    busy: bool = field(default=False, init=False)  # whether a thread is still at work

    @property
    def well(self) -> bool:
        """Tell whether a run would start."""
        return self.done and not self.troubles

    @property
    def threads(self) -> int:
        return self.config.threads or cores()

    async def examine(self) -> None:
        """Look at everything."""
        config = self.config
        self._try(self._check_rules)
        may_open = not self.troubles
        self._try(self._check_folder)
        self._try(lambda: self._make_checks(may_open))
        self.budget = list_feasible_rules(config, self.registry)
        checks = [Deferred.fromCoroutine(check.run()) for check in self.servers]
        await gatherResults([Deferred.fromCoroutine(self._check_here()), *checks])
        self._judge()
        self.done = True

    def _try(self, look: Callable[[], None]) -> None:
        try:
            look()
        except ByzpyTwError as e:
            self._trouble(e)

    def _trouble(self, error: ByzpyTwError) -> None:
        """Note `error` once: the same one may keep rules and data from being made."""
        line = format_error(error)
        if line not in self.troubles:
            self.troubles.append(line)

    # -- before anything is asked

    def _check_rules(self) -> None:
        self.warnings += unused_notices(self.config)
        rules = resolve_rules(self.config, self.registry)
        if rules.missing_guarantee is not None:
            self.warnings.append(
                f"no guarantee: {self.config.pipeline}: {rules.missing_guarantee} "
                "(--strict makes this an error)"
            )

    def _check_folder(self) -> None:
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
        """The nearest folder to the run's that is there already."""
        path = self.resumed or Path(self.config.run_dir or "runs")
        path = path.absolute()
        while not path.exists() and path != path.parent:
            path = path.parent
        return path

    def _make_checks(self, may_open: bool) -> None:
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
        specs = node_specs(honest=config.num_honest, byzantine=config.num_byz, attack=config.attack)
        placed = Placement(tuple(map(str, addresses)), config.n, config.max_nodes_per_server)
        for address in addresses:
            placed.add_server(str(address))
        if addresses:
            placed.assign_unassigned()
        for address in addresses:
            server = RemoteServer(address, self._reactor, beat, keys=keys)
            nodes = [specs[node] for node in placed.nodes_on(str(address))]
            spare = self._spare(specs, nodes)
            self.servers.append(
                ServerCheck(
                    server, self._handshake, nodes, spare, self.wait, may_open, self._reactor
                )
            )

    @property
    def _handshake(self) -> Handshake:
        return Handshake(self.config, self.registry, self.warnings.append)

    def _spare(self, specs: Sequence[NodeSpec], nodes: Sequence[NodeSpec]) -> NodeSpec | None:
        """Return a Byzantine node, if a server has none at first and failover may bring one."""
        if self.config.failover == "off" or not self.config.num_byz:
            return None
        return None if any(not node.honest for node in nodes) else specs[-1]

    # -- here

    async def _check_here(self) -> None:
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

    def _load(self) -> Prepared:
        rules = resolve_rules(self.config, self.registry)
        prepared = prepare_data(self.config, self.registry, rules, self.threads)
        self.warnings += prepared.warnings
        return prepared

    # -- the judgement

    def _judge(self) -> None:
        """Compare servers with this machine, and with each other; count those that are left."""
        known: dict[tuple[str, str], str] = {}  # the name of each process's first address
        for check in self.servers:
            identity = check.server.identity
            if identity is not None and known.setdefault(identity, check.name) != check.name:
                check.error = same_server_error(check.name, known[identity])
            if check.error is None:
                try:
                    self._compare(check)
                except ByzpyTwError as e:
                    check.error = e
            self.warnings += check.warnings
        errors = [format_error(c.error) for c in self.servers if c.error is not None]
        least = self.config.min_servers or len(self.servers)
        if len(self.servers) - len(errors) >= least:
            without = f"(--min-servers {least}: others will do)"
            self.warnings += [f"{line} {without}" for line in errors]
        else:
            self.troubles += errors

    def _compare(self, check: ServerCheck) -> None:
        theirs, handshake = check.environment, self._handshake
        if theirs is not None and self.here is not None and check.may_open:
            handshake.compare(check.name, self.here.environment, theirs)
        ahead, trip = check.clock_ahead, check.round_trip or 0.0
        if ahead is not None and abs(ahead) > AHEAD + trip:
            side = "ahead of" if ahead > 0 else "behind"
            self.warnings.append(
                f"{check.name}'s clock is {abs(ahead):.0f} s {side} this machine's: keys are "
                "judged by it, and logs will not fit together; set it (NTP)"
            )
        if check.opened is None:
            return
        own = getattr(self.registry.make("partition", self.config.partition), "local", False)
        if self.here is not None:
            prepared = self.here
            digest = check.opened.digest if own else prepared.digest
            mine = Opened(prepared.evaluator.dimension, digest, prepared.trial_outcome.trial)
            exact = theirs is not None and same_bits(prepared.environment, theirs)
            handshake.check_opened(check.name, check.opened, mine, exact=exact, local=own)
        elif not own:
            self._alike(check)

    def _alike(self, check: ServerCheck) -> None:
        """Raise `ServerDiffers` where servers disagree, without data here to compare with."""
        first = next(s for s in self.servers if s.opened is not None)
        assert first.opened is not None and check.opened is not None
        if first.opened.digest != check.opened.digest:
            raise ServerDiffers(
                f"{check.name} holds other data for {self.config.dataset!r} than {first.name} "
                f"(digests {check.opened.digest[:12]} and {first.opened.digest[:12]}); give "
                "all the same files, with --data-root"
            )

    # -- in figures

    @property
    def checkpoint_bytes(self) -> int | None:
        """The size of one checkpoint, without the memory of rules."""
        if self.here is None:
            return None
        config, d = self.config, self.here.evaluator.dimension
        return 4 * d * (2 + (config.num_honest if config.worker_momentum else 0))

    def to_plain(self) -> dict[str, Any]:
        """Return all findings, ready for JSON."""
        config = self.config
        return {
            "would_start": self.well,
            "troubles": self.troubles,
            "warnings": self.warnings,
            "here": self._here_plain(),
            "servers": [_server_plain(check) for check in self.servers],
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
            prepared = self.here
            found |= {
                "data_digest": prepared.digest,
                "examples": [len(prepared.dataset.train.y), len(prepared.dataset.test.y)],
                "shards": [min(prepared.shards), max(prepared.shards)],
                "dimension": prepared.evaluator.dimension,
                "instructions": prepared.environment.instructions,
            }
        return found


def versions() -> Mapping[str, str]:
    """Return the versions of this process's software."""
    return {
        "byzpy_tw": byzpy_tw.__version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "Twisted": twisted.__version__,
    }


def _server_plain(check: ServerCheck) -> dict[str, Any]:
    theirs, opened, peer = check.environment, check.opened, check.server.endpoint.peer
    return {
        "address": str(check.server.address),
        "name": check.name,
        "well": check.error is None,
        "error": None if check.error is None else format_error(check.error),
        "keys": peer.name if peer is not None else None,
        "nodes": [node.node for node in check.nodes],
        "environment": None if theirs is None else asdict(theirs),
        "data_digest": opened.digest if opened else None,
        "dimension": opened.dimension if opened else None,
        "round_trip": check.round_trip,
        "clock_ahead": check.clock_ahead,
        "bytes_a_second": check.bandwidth,
        "gradient_seconds": check.gradient,
    }
