"""The checks of ``doctor``: this machine, each server, and the fault budget.

Servers are checked at the same time as this machine, and each wait is bounded.  Nothing is
written, and no server keeps anything of it.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import numpy
import torch
from attrs import asdict, define, evolve, field
from twisted.internet.defer import Deferred, TimeoutError, gatherResults

import byzpy_tw
import twisted
from byzpy_tw.algorithms.participation import Participation, RoundSize
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.merge import unused_notices
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ByzpyTwError, RunDirectoryError, ServerDiffers, format_error
from byzpy_tw.kernels.cpu import cores
from byzpy_tw.plugins import Registry
from byzpy_tw.records.folder import ROUNDS
from byzpy_tw.rounds.feasibility import Feasibility, list_feasible_rules, round_sizes
from byzpy_tw.rounds.placement import Placement, placement_notices
from byzpy_tw.scheduling.threads import defer_to_pool
from byzpy_tw.text import clean_value
from byzpy_tw.trainer.gradient_timer import NODES, advise_micro_batch
from byzpy_tw.trainer.handshake import Handshake, same_bits, same_server_error
from byzpy_tw.trainer.in_process_server import InProcessServer
from byzpy_tw.trainer.preparation import Prepared, guarantee_notices, prepare_data
from byzpy_tw.trainer.reactor import ITrainerReactor
from byzpy_tw.trainer.run import load_trainer_keys, server_addresses
from byzpy_tw.trainer.server_check import ServerCheck
from byzpy_tw.trainer.server_client import RemoteServer
from byzpy_tw.trainer.server_interface import Server
from byzpy_tw.transports.table import find_transport
from byzpy_tw.workers.data import is_local
from byzpy_tw.workers.device import open_device
from byzpy_tw.workers.spec import NodeSpec, node_spec

WAIT = 5.0  # seconds for the answers that a healthy server gives at once
READING = 60.0  # and for the data here
CLOCK_TOLERANCE = 5.0  # seconds that a server's clock may be off


@define(eq=False)
class Doctor:
    """The findings about a run, once `examine` is done.

    ``troubles`` keep a run from starting, ``warnings`` do not; each is one line with the cure.
    ``advice`` makes a run faster.
    """

    config: RunConfig
    registry: Registry
    _reactor: ITrainerReactor
    _pool: Executor
    wait: float = WAIT
    resumed: Path | None = None  # the folder of a run that is to be resumed
    troubles: list[str] = field(factory=list, init=False)
    warnings: list[str] = field(factory=list, init=False)
    advice: list[str] = field(factory=list, init=False)
    servers: list[ServerCheck] = field(factory=list, init=False)
    sizes: Sequence[RoundSize] = field(default=(), init=False)  # of the run's rounds
    participation: Participation | None = field(default=None, init=False)  # without an error
    budget: list[Feasibility] = field(factory=list, init=False)
    here: Prepared | None = field(default=None, init=False)
    until: str | None = field(default=None, init=False)  # the last day of the keys here
    done: bool = field(default=False, init=False)
    busy: bool = field(default=False, init=False)  # whether a thread is still at work

    @property
    def well(self) -> bool:
        """Tell whether a run would start."""
        return self.done and not self.troubles

    async def examine(self) -> None:
        config = self.config
        with self._noting_errors():
            self.warnings += unused_notices(config)
            rules = resolve_rules(config, self.registry)
            self.participation = rules.participation
            self.warnings += guarantee_notices(rules)
        may_open = not self.troubles
        with self._noting_errors():
            self._check_folder()
        with self._noting_errors():
            self._make_checks(may_open)
        self.sizes = round_sizes(config, self.registry)
        self.budget = list_feasible_rules(config, self.registry, self.sizes)
        checks = [Deferred.fromCoroutine(check.run()) for check in self.servers]
        await gatherResults([Deferred.fromCoroutine(self._prepare()), *checks])
        self._compare_all()
        if not self.troubles and self.resumed is None:  # the run's micro-batches stay as they are
            await self._advise()
        self.done = True

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        """Note an error once: the same one may keep rules and data from being made."""
        try:
            yield
        except ByzpyTwError as e:
            if (line := format_error(e)) not in self.troubles:
                self.troubles.append(line)

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
        """The run's folder, or its nearest parent that exists."""
        path = (self.resumed or Path(self.config.run_dir or "runs")).absolute()
        while not path.exists() and path != path.parent:
            path = path.parent
        return path

    def _make_checks(self, may_open: bool) -> None:
        config, cap = self.config, self.config.max_nodes_per_server
        moves = config.failover == "on" and not (may_open and self._has_local_data)
        if count := len(config.remote_hosts) or config.local:
            self.warnings += placement_notices(config.n, count, config.f, cap, moves)
        addresses = server_addresses(config, self.registry)
        keys = load_trainer_keys(config)
        if keys is not None:
            self.until = keys.keys.until
            self.warnings += keys.keys.warnings
        beat = min(config.heartbeat, self.wait)
        most = None if self.participation is None else self.participation.asked
        sampled = most is not None and most < config.n
        placement = Placement(tuple(map(str, addresses)), config.n, cap, all_placed=False)
        for address in addresses:
            placement.add_server(str(address))
        assigned: dict[str, list[int]] = {}
        if addresses:
            # One node is asked, and where rounds ask some the others are not there.
            assigned = placement.place(range(len(addresses)) if sampled else range(config.n))
        for address in addresses:
            transport = find_transport(address.scheme, self.registry)
            server = RemoteServer(address, self._reactor, beat, keys=keys, transport=transport)
            nodes = [self._spec(node) for node in assigned.get(str(address), ())]
            # A Byzantine node, where the server has none at first and failover may bring one.
            may_come = moves and config.num_byz
            lacks = may_come and all(node.honest for node in nodes)
            spare = self._spec(config.n - 1) if lacks else None
            check = ServerCheck(
                server, self._handshake, nodes, spare, self.wait, may_open,
                most if sampled else None, self._reactor,
            )  # fmt: skip
            self.servers.append(check)

    def _spec(self, node: int) -> NodeSpec:
        return node_spec(node, honest=self.config.num_honest, attack=self.config.attack)

    @property
    def _has_local_data(self) -> bool:
        """Tell whether each server has data of its own, so that nodes never move."""
        return is_local(self.registry, self.config.partition)

    @property
    def _handshake(self) -> Handshake:
        return Handshake(self.config, self.registry, self.warnings.append)

    async def _prepare(self) -> None:
        """Read the data and try the model and rules here, as a run would."""

        def prepare() -> Prepared:
            config, registry, threads = self.config, self.registry, self.config.threads or cores()
            return prepare_data(config, registry, resolve_rules(config, registry), threads)

        preparing = defer_to_pool(self._reactor, self._pool, prepare)
        try:
            with self._noting_errors():
                self.here = await preparing.addTimeout(READING, self._reactor)
                self.warnings += [*self.here.messages, *self.here.warnings]
        except TimeoutError:
            self.busy = True
            self.troubles.append(
                f"the data {self.config.dataset!r} could not be read within {READING:g} s: is "
                "it being downloaded? Try again later, or use --dataset mnist5k"
            )

    def _compare_all(self) -> None:
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
            first = next(c.environment.device for c in self.servers if c.environment)
            handshake.compare_devices(check.name, theirs.device, [first])
        ahead, trip = check.clock_ahead, check.round_trip or 0.0
        if ahead is not None and abs(ahead) > CLOCK_TOLERANCE + trip:
            side = "ahead of" if ahead > 0 else "behind"
            self.warnings.append(
                f"{check.name}'s clock is {abs(ahead):.0f} s {side} this machine's: keys are "
                "judged by it, and logs will not fit together; set it (NTP)"
            )
        if check.opened is None:
            return
        local = self._has_local_data
        if self.here is not None:
            mine = self.here.opened
            if local:
                mine = evolve(mine, digest=check.opened.digest)
            exact = theirs is not None and same_bits(self.here.environment, theirs)
            handshake.check_opened(check.name, check.opened, mine, exact=exact, local=local)
        elif not local:  # without data here servers are compared with each other
            name, digest = next((s.name, s.opened.digest) for s in self.servers if s.opened)
            if digest != check.opened.digest:
                raise ServerDiffers(
                    f"{check.name} holds other data for {self.config.dataset!r} than {name} "
                    f"(digests {clean_value(check.opened.digest)} and {clean_value(digest)}); "
                    "give all the same files, with --data-root"
                )

    async def _advise(self) -> None:
        """Measure larger micro-batches on a server of each kind of device, one after the other."""
        here, seen = self.here, set[str]()
        for check in self.servers:
            there = check.environment.device if check.environment is not None else ""
            if check.error is None and there not in seen:
                seen.add(there)
                remake = partial(attrs.evolve, check.server)
                await self._advise_for(f"{check.name} ({there})", remake, check.nodes)
        if not self.servers and here is not None:
            config, registry = self.config, self.registry
            device, threads = open_device(config.device), config.threads or cores()
            nodes = [self._spec(node) for node in range(min(config.num_honest, NODES))]
            make = partial(
                InProcessServer, self._reactor, self._pool, threads, registry, here, device
            )
            await self._advise_for(device.description, make, nodes)

    async def _advise_for(
        self, where: str, make_server: Callable[[], Server], nodes: Sequence[NodeSpec]
    ) -> None:
        line = await advise_micro_batch(
            make_server, self.config.spec(), nodes, self._reactor, self.wait
        )
        self.advice += [f"{where}: {line}"] if line is not None else []

    def to_plain(self) -> dict[str, Any]:
        """Return all findings, ready for JSON."""
        config = self.config
        return {
            "would_start": self.well,
            "troubles": self.troubles,
            "warnings": self.warnings,
            "advice": self.advice,
            "here": self._here_plain(),
            "servers": [_server_plain(check) for check in self.servers],
            "budget": {
                "n": config.n,
                "f": config.f,
                **self._sampling_plain(),
                "rounds": [{"n": size.n, "f": size.f} for size in self.sizes],
                "rules": [asdict(r) for r in self.budget],
            },
        }

    def _sampling_plain(self) -> dict[str, Any]:
        if self.participation is None:
            return {}
        entry = self.participation.sampling_entry(self.config)
        return {name: value for name, value in entry.items() if name != "f"}

    def _here_plain(self) -> dict[str, Any]:
        config, folder, prepared = self.config, self.folder, self.here
        found: dict[str, Any] = {
            "versions": {
                "byzpy_tw": byzpy_tw.__version__,
                "Python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": numpy.__version__,
                "Twisted": twisted.__version__,
            },
            "plugins": dict(self.registry.distributions),
            "threads": config.threads or cores(),
            "cores": cores(),
            "device": config.device if prepared is None else prepared.environment.device,
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "folder": str(folder),
            "disk_free_bytes": shutil.disk_usage(folder).free if folder.is_dir() else None,
            "checkpoint_bytes": None,
            "keys_until": self.until,
        }
        if prepared is not None:
            d, kept = (
                prepared.evaluator.dimension,
                config.num_honest if config.worker_momentum else 0,
            )
            if self.participation is not None and self.participation.keeps:
                kept = config.n
            found |= {
                "checkpoint_bytes": 4 * d * (2 + kept),  # without the memory of rules
                "data_digest": prepared.digest,
                "examples": [len(prepared.dataset.train), len(prepared.dataset.test)],
                "shards": [int(prepared.shards.min()), int(prepared.shards.max())],
                "dimension": d,
                "instructions": prepared.environment.instructions,
            }
        return found


def _server_plain(check: ServerCheck) -> dict[str, Any]:
    theirs, opened, peer = check.environment, check.opened, check.server.endpoint.peer
    return {
        "address": str(check.server.address),
        "name": check.name,
        "well": check.error is None,
        "error": None if check.error is None else format_error(check.error),
        "keys": peer.name if peer is not None else None,
        "keys_until": None if check.until is None else f"{check.until:%Y-%m-%d}",
        "nodes": [node.node for node in check.nodes],
        "environment": None if theirs is None else asdict(theirs),
        "data_digest": opened.digest if opened else None,
        "dimension": opened.dimension if opened else None,
        "round_trip": check.round_trip,
        "clock_ahead": check.clock_ahead,
        "bytes_a_second": check.bandwidth,
        "gradient_seconds": check.gradient,
    }
