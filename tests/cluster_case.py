"""A cluster of fake servers for tests on a virtual clock."""

from __future__ import annotations

from typing import Any

import torch
from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.cli.train import configuration
from byzpy_tw.errors import ServerDiffers, ServerUnreachable
from byzpy_tw.events import Incident
from byzpy_tw.output.event_text import describe
from byzpy_tw.plugins import load
from byzpy_tw.rounds.round_rows import RoundRows
from byzpy_tw.testing import FakeServer
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.trainer.cluster import Cluster, Terms
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.server_entry import ServerEntry
from byzpy_tw.trainer.server_interface import RunFingerprint
from byzpy_tw.workers.environment import environment

REGISTRY = load()
HERE = environment(REGISTRY, probe="p", device="cpu", threads=1)
D = 3
TIMEOUT, REPLACE = 20.0, 30.0


@define(eq=False, slots=False)
class World:
    """The servers that there are, and how each behaves when it is dialled."""

    reactor: ClockReactor
    servers: list[FakeServer] = field(factory=list)  # every connection that was made
    down: set[str] = field(factory=set)  # servers that are not there
    silent: set[int] = field(factory=set)  # nodes that do not answer
    room: dict[str, int] = field(factory=dict)  # nodes that a server takes
    digest: str = "data"
    devices: dict[str, str] = field(factory=dict)  # what servers compute on, if no CPU
    wrong: dict[str, str] = field(factory=dict)  # servers that lie, and the command
    slow: dict[str, Deferred] = field(factory=dict)  # servers whose next spawn waits for it
    opening: dict[str, Deferred] = field(factory=dict)  # and whose next run does

    def server(self, name: str) -> FakeServer:
        here = evolve(HERE, device=self.devices.get(name, "cpu"))
        self.servers.append(
            FakeServer(name, D, here, before=self.before, silent=lambda node: node in self.silent)
        )
        return self.servers[-1]

    def before(self, server: FakeServer, command: str) -> Deferred | None:
        if command == "hello" and server.name in self.down:
            raise ServerUnreachable(f"{server.name}: nobody there")
        if self.wrong.get(server.name) == command:
            raise ServerDiffers(f"{server.name} is not as it should be")
        server.digest, server.room = self.digest, self.room.get(server.name, 100)
        waits = {"open": self.opening, "spawn": self.slow}.get(command, {})
        return waits.pop(server.name, None)

    def on(self, name: str) -> FakeServer:
        """The newest connection to `name`."""
        return [server for server in self.servers if server.name == name][-1]


class ClusterCase(SynchronousTestCase):
    options = "--num-honest 3 --num-byz 1 --f 1 --attack empire"

    def setUp(self) -> None:
        self.reactor = ClockReactor()
        self.world = World(self.reactor)
        self.happened: list[Incident] = []

    def cluster(self, more: str = "", *, names: str = "abc", **terms_more: Any) -> Cluster:
        servers = ",".join(f"tcp://{name}:1" for name in names)
        words = f"--remote-hosts {servers} {self.options} --round-timeout {TIMEOUT}"
        words += f" --replace-timeout {REPLACE} {more}"
        self.config = config = configuration(words.split())
        chosen = {"local_data": False} | terms_more
        terms = Terms(config, REGISTRY, "run", HERE, RunFingerprint(D, "data"), **chosen)
        self.collector = Collector(
            RoundRows(torch.zeros(config.n, D)), self.reactor, HandCrankedPool(eager=True)
        )
        entries = [ServerEntry(name, lambda name=name: self.world.server(name)) for name in names]
        return Cluster(entries, terms, self.collector, self.reactor, self.happened.append)

    @property
    def said(self) -> list[str]:
        return [describe(event) for event in self.happened]

    def start(self, more: str = "", **options: Any) -> Cluster:
        cluster = self.cluster(more, **options)
        self.successResultOf(Deferred.fromCoroutine(cluster.start()))
        return cluster

    def lives(self, cluster: Cluster) -> dict[str, list[int]]:
        return {state.name: list(state.nodes) for state in cluster.server_states()}
