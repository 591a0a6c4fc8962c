"""One history, from its schedule to what is found wrong with it."""

from __future__ import annotations

import gc
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from attrs import define, field
from twisted.logger import LogLevel, globalLogPublisher

from byzpy_tw.datasets import Dataset
from byzpy_tw.datasets.synthetic import synthetic
from byzpy_tw.plugins import Registry, hookimpl, load
from byzpy_tw.plugins.hookspecs import Registration
from byzpy_tw.testing.simulate.adversary import Adversary
from byzpy_tw.testing.simulate.cluster import TRAINER, Cluster
from byzpy_tw.testing.simulate.machine import Machine
from byzpy_tw.testing.simulate.network import Network
from byzpy_tw.testing.simulate.reference import References
from byzpy_tw.testing.simulate.schedule import DATA, Schedule
from byzpy_tw.testing.simulate.tap import Heard, Tap
from byzpy_tw.testing.simulate.trainer import SimulatedTrainer
from byzpy_tw.testing.simulate.world import World

# Of virtual time, and as many rounds' timeouts: a trainer that has not ended then hangs.
MOST_SECONDS = 1_000.0
MOST_EVENTS = 100_000
# After the trainer's end: by then each system has found out that a silent peer is gone.
AFTERWARDS = 9_000.0


@cache
def _data() -> Dataset:
    made = synthetic(n=160, classes=4, features=9, spread=2.0)
    return Dataset(DATA, made.train, made.test, made.classes)


class _Plugin:
    @hookimpl
    def register_datasets(self) -> list[Registration]:
        # Always the same object, so that it is made once.
        return [Registration(DATA, lambda: _data())]


@cache
def registry() -> Registry:
    """The built-in rules, and the data of simulated runs."""
    return load(only=(), extra={"simulation": _Plugin()})


@cache
def references() -> References:
    return References(registry())


@define(eq=False)
class History:
    """What happened."""

    schedule: Schedule
    world: World
    cluster: Cluster
    trainer: SimulatedTrainer
    heard: Heard
    ended: bool = field(default=False, init=False)  # within the bounds
    killed: bool = field(default=False, init=False)  # the trainer, before its end
    ended_at: float = field(default=0.0, init=False)
    logged: list[str] = field(factory=list, init=False)  # as failures
    left: list[str] = field(factory=list, init=False)  # what servers still hold, long after

    @property
    def status(self) -> str:
        """As in result.json."""
        result = self.trainer.records.result
        if result is None:
            return "killed" if self.killed else "none"
        return result["status"]

    def lines(self) -> list[str]:
        """All of it, a line an event."""
        made = []
        for time, who, what in self.world.lines:
            # The run's name, as a server may repeat it, is no function of the seed.
            what = re.sub(r"'[0-9a-f]{16}'", "'RUN'", what)
            made.append(f"{time:12.6f}  {who}: {what}")
        return made

    @property
    def digest(self) -> str:
        """Equal for equal histories, and for no others."""
        rounds = [{k: r[k] for k in sorted(r)} for r in self.trainer.records.rounds]
        text = "\n".join([*self.lines(), repr(rounds), str(self.trainer.error), self.status])
        text = re.sub(r"'[0-9a-f]{16}'", "'RUN'", text)
        return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Hold torch to this thread, which is every reactor's and every pool's.

    And let garbage wait: when it is looked for must not depend on what was before, nor
    should looking take a second, as it does with all that torch has loaded.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()
        torch.set_num_threads(before)


def happen(
    schedule: Schedule, prepare: Callable[[SimulatedTrainer], None] | None = None
) -> History:
    """Let `schedule` happen, `on_one_thread`.

    `prepare` is called with the trainer before it starts.
    """
    history = _set_up(schedule)
    failures: list[str] = []

    def observe(event: Any) -> None:
        if event.get("log_level") in (LogLevel.error, LogLevel.critical) or event.get("isError"):
            failure = event.get("log_failure")
            failures.append(failure.getTraceback() if failure else repr(event.get("log_format")))

    globalLogPublisher.addObserver(observe)
    try:
        _run(history, prepare)
        gc.collect()  # so that a Deferred whose failure nobody took says so
    finally:
        globalLogPublisher.removeObserver(observe)
    history.logged = failures
    return history


def _set_up(schedule: Schedule) -> History:
    world, names = World(schedule.seed), registry()
    network = Network(world, schedule.manner)
    cluster, heard = Cluster(world, network, names), Heard()
    for number in range(schedule.servers):
        cluster.add(schedule.threads, schedule.speeds[number + 1])
    machine = Machine(world, network, "trainer", TRAINER)
    trainer = SimulatedTrainer(machine, schedule.config, names, schedule.speeds[0])
    return History(schedule, world, cluster, trainer, heard)


def _run(history: History, prepare: Callable[[SimulatedTrainer], None] | None) -> None:
    world, cluster, trainer = history.world, history.cluster, history.trainer
    adversary = Adversary(world, cluster.network, cluster, trainer.machine, trainer.interrupt)

    def watch(client: Any, server: Any) -> None:
        if client.machine is not trainer.machine:
            return
        tap = Tap(world, len(adversary.connections) + 1, server.machine.name, history.heard)
        client.outgoing.on_sent, client.incoming.on_read = tap.on_sent, tap.on_read
        client.on_lost = tap.on_lost
        adversary.connections.append((client, tap))

    cluster.network.watch = watch
    for server in cluster.servers:
        server.start()
    for fault in history.schedule.faults:
        adversary.plan(fault)
    if prepare is not None:
        prepare(trainer)
    world.call(0.0, trainer.machine, trainer.start)
    config = history.schedule.config
    until = MOST_SECONDS + 2 * config.rounds * config.round_timeout
    history.ended = world.run(lambda: trainer.over, until=until, events=MOST_EVENTS)
    history.ended_at = world.now
    history.killed = trainer.machine.dead
    world.note("trainer", f"{history.status}: {trainer.error}")
    world.pass_time(world.now + 1.0, events=MOST_EVENTS)
    # One that was interrupted twice leaves them to its system; known of the present trainer.
    if trainer.machine.transports and not (history.killed or trainer.interrupted):
        history.left.append(f"the trainer keeps {len(trainer.machine.transports)} connections")
    trainer.machine.die(silent=False)  # the process ends
    adversary.leave()
    for server in cluster.servers:
        if server.machine is not None:
            server.machine.thaw()
    world.pass_time(world.now + AFTERWARDS, events=MOST_EVENTS)
    history.left += [what for server in cluster.servers for what in server.held]
    for server in cluster.servers:
        server.kill()
    trainer.bury()

