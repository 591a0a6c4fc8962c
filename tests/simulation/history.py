"""One history, from its schedule to what is found wrong with it."""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from attrs import define, field
from twisted.logger import LogLevel, globalLogPublisher

from byzpy_tw.datasets import Dataset
from byzpy_tw.datasets.synthetic import synthetic
from byzpy_tw.plugins import Registry, hookimpl, load
from byzpy_tw.plugins.hookspecs import Registration
from byzpy_tw.records.folder import RunDirectory, read_run
from tests.simulation.adversary import Adversary
from tests.simulation.cluster import VirtualServers
from tests.simulation.event_loop import EventLoop
from tests.simulation.network import Network
from tests.simulation.recorder import WireRecorder
from tests.simulation.reference import References
from tests.simulation.sampling import Sampled
from tests.simulation.schedule import DATA, SAMPLED, Schedule
from tests.simulation.trainer import SimulatedTrainer
from tests.simulation.trainer_lifecycle import TrainerLifecycle

# A disk would only take its time: what outlives a loss of power is drawn (`folder`).
MEMORY = next((path for path in ("/dev/shm",) if os.access(path, os.W_OK)), None)
# Of virtual time, and as many rounds' timeouts, for each process of the trainer: one that
# has not ended then hangs.
MOST_SECONDS = 1_000.0
MOST_EVENTS = 200_000
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

    @hookimpl
    def register_algorithms(self) -> list[Registration]:
        return [Registration(SAMPLED, Sampled)]


@cache
def registry() -> Registry:
    """The built-in rules, and the data and the algorithm of simulated runs."""
    return load(only=(), extra={"simulation": _Plugin()})


@cache
def references() -> References:
    return References(registry())


@define(eq=False)
class History:
    """A history: all that happened."""

    schedule: Schedule
    loop: EventLoop
    cluster: VirtualServers
    lifecycle: TrainerLifecycle
    liars: set[str] = field(factory=set, init=False)  # who else than servers say what they will
    ended: bool = field(default=False, init=False)  # within the bounds
    ended_at: float = field(default=0.0, init=False)
    logged: list[str] = field(factory=list, init=False)  # as failures
    left: list[str] = field(factory=list, init=False)  # what servers still hold, long after
    rounds: list[dict[str, Any]] = field(factory=list, init=False)  # of rounds.jsonl, at last
    result: dict[str, Any] | None = field(default=None, init=False)  # result.json, at last

    @property
    def trainer(self) -> SimulatedTrainer:
        """Its last process."""
        return self.lifecycle.current

    @property
    def status(self) -> str:
        """As in result.json."""
        return self.result["status"] if self.result else self.trainer.status

    def lines(self) -> list[str]:
        """Return all of it, a line an event."""
        made = []
        for time, who, what in self.loop.lines:
            made.append(f"{time:12.6f}  {who}: {self._plain(what)}")
        return made

    def _plain(self, text: str) -> str:
        """Replace the folder's name, which is no function of the seed."""
        return text.replace(str(self.lifecycle.path), "RUN_DIR")

    @property
    def digest(self) -> str:
        """Equal for equal histories, and for no others."""
        text = "\n".join([*self.lines(), repr(self.rounds), self.status])
        return hashlib.sha256(text.encode()).hexdigest()


class Peers(Protocol):
    """Other peers in a history, besides its servers and its trainer."""

    events: int  # that they take, at most
    over: bool  # whether they have done what they came for

    def begin(self, history: History) -> None: ...

    def leave(self) -> None:
        """Leave the network."""


@contextmanager
def single_threaded() -> Iterator[None]:
    """Limit torch to this thread, which is every reactor's and every pool's.

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


def simulate(
    schedule: Schedule,
    prepare: Callable[[SimulatedTrainer], None] | None = None,
    peers: Peers | None = None,
) -> History:
    """Let `schedule` happen, `single_threaded`, with `peers` about.

    `prepare` is called with the trainer before it starts.
    """
    with TemporaryDirectory(prefix="byzpy_tw-", dir=MEMORY) as folder:
        history = _set_up(schedule, Path(folder) / "run")
        with _failures(history.logged):
            _run(history, prepare or (lambda trainer: None), peers)
            gc.collect()  # so that a Deferred whose failure nobody took says so
    return history


@contextmanager
def _failures(found: list[str]) -> Iterator[None]:
    """Collects what is logged as a failure."""

    def observe(event: Any) -> None:
        if event.get("log_level") in (LogLevel.error, LogLevel.critical) or event.get("isError"):
            failure = event.get("log_failure")
            found.append(failure.getTraceback() if failure else repr(event.get("log_format")))

    globalLogPublisher.addObserver(observe)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observe)


def _set_up(schedule: Schedule, folder: Path) -> History:
    loop, names = EventLoop(schedule.seed), registry()
    network = Network(loop, schedule.profile)
    cluster = VirtualServers(loop, network, names)
    for number in range(schedule.servers):
        cluster.add(schedule.threads, schedule.speeds[number + 1])
    lifecycle = TrainerLifecycle(
        loop, network, names, schedule.config, folder, schedule.speeds[0],
        schedule.resumes, schedule.resume_delay,
    )  # fmt: skip
    return History(schedule, loop, cluster, lifecycle)


def _run(
    history: History, prepare: Callable[[SimulatedTrainer], None], peers: Peers | None
) -> None:
    loop, cluster, lifecycle = history.loop, history.cluster, history.lifecycle
    lifecycle.prepare = prepare
    adversary = Adversary(loop, cluster.network, cluster, lifecycle)

    def watch(client: Any, server: Any) -> None:
        trainer = lifecycle.owner(client.process)
        if trainer is None:
            return
        tap = WireRecorder(
            loop, len(adversary.connections) + 1, server.process.name, trainer.transcript
        )
        client.outgoing.on_sent, client.incoming.on_read = tap.on_sent, tap.on_read
        client.on_lost = tap.on_lost
        adversary.connections.append((client, tap))

    cluster.network.watch = watch
    for server in cluster.servers:
        server.start()
    if peers is not None:
        peers.begin(history)
    lifecycle.begin()
    for fault in history.schedule.faults:
        adversary.plan(fault)
    until, events = _bounds(history.schedule)
    events += 0 if peers is None else peers.events
    history.ended = loop.run(lambda: lifecycle.over, until=until, events=events)
    history.ended_at = loop.now
    if peers is not None:
        history.ended &= loop.run(lambda: peers.over, until=2 * until, events=events)
        peers.leave()
    _keep_records(history)
    lifecycle.over = True
    lifecycle.current.kill(silent=False)
    adversary.leave()
    for server in cluster.servers:
        if server.process is not None:
            server.process.thaw()
    loop.pass_time(loop.now + AFTERWARDS, events=MOST_EVENTS)
    history.left += lifecycle.left
    history.left += [what for server in cluster.servers for what in server.leftovers]
    for server in cluster.servers:
        server.kill()
    for trainer in lifecycle.trainers:
        trainer.unwind()


def _bounds(schedule: Schedule) -> tuple[float, int]:
    """Seconds and events within which a history is over."""
    config, processes = schedule.config, schedule.resumes + 1
    round = 2 * config.round_timeout + config.replace_timeout
    return processes * (
        MOST_SECONDS + schedule.resume_delay + config.rounds * round
    ), processes * MOST_EVENTS


def _keep_records(history: History) -> None:
    """Keep the records that the folder holds now."""
    history.trainer.folder.close()
    RunDirectory.reopen(history.lifecycle.path).close()  # raises where a process still has it
    run = read_run(history.lifecycle.path)
    history.rounds, history.result = run.rounds, run.result
