"""The one place that knows how a trainer is put together.

Whatever changes in `byzpy_tw.trainer` changes here, and nowhere else in this package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from torch import Tensor
from twisted.internet.defer import CancelledError, Deferred, FirstError
from twisted.internet.error import ConnectingCancelledError

from byzpy_tw.errors import ByzpyTwError
from byzpy_tw.plugins import Registry
from byzpy_tw.runs.config import RunConfig
from byzpy_tw.runs.record import to_json
from byzpy_tw.runs.rules import Rules, rules_of
from byzpy_tw.testing.simulate.machine import Machine
from byzpy_tw.trainer.hosts import Host
from byzpy_tw.trainer.inprocess import InProcessHost
from byzpy_tw.trainer.observers import Observers
from byzpy_tw.trainer.remote import RemoteHost
from byzpy_tw.trainer.screen import Screen
from byzpy_tw.trainer.training import Training
from byzpy_tw.wire.addresses import parse_addresses

THREADS = 1  # that torch's rules use: others would be real threads


@frozen(eq=False)
class Used:
    """What the trainer aggregated in a round: rows `nodes` of `matrix`."""

    time: float
    round: int
    nodes: tuple[int, ...]
    f: int
    matrix: Tensor


@define(eq=False)
class Records:
    """A run's folder, in memory."""

    path: Path = Path("in-memory")
    config: dict[str, Any] | None = None
    rounds: list[dict[str, Any]] = field(factory=list)
    result: dict[str, Any] | None = None
    closed: bool = False
    sealed: bool = False  # the process that wrote them is gone

    def write_config(self, config: Mapping[str, Any]) -> None:
        if not self.sealed:
            self.config = json.loads(to_json(config))

    def append_round(self, record: Mapping[str, Any]) -> None:
        if not self.sealed:
            self.rounds.append(json.loads(to_json(record)))

    def write_result(self, result: Mapping[str, Any]) -> None:
        if not self.sealed:
            self.result = json.loads(to_json(result))

    def close(self) -> None:
        self.closed = self.closed or not self.sealed


class WatchedRules:
    """The run's aggregation, which also writes down what it was given."""

    def __init__(self, aggregation: Any, clock: Any) -> None:
        self.__dict__.update(_aggregation=aggregation, _clock=clock, used=[])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._aggregation, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._aggregation, name, value)

    def __call__(self, matrix: Tensor, nodes: Sequence[int], f: int, round: int) -> Any:
        now = self._clock.seconds()
        self.used.append(Used(now, round, tuple(nodes), f, matrix.clone()))
        return self._aggregation(matrix, nodes, f, round)


@define(eq=False)
class SimulatedTrainer:
    """A trainer at work on `machine`.  `ended` fires with the error that ended it, or None.

    An error that is none of the documented ones is in `bug`.
    """

    machine: Machine
    config: RunConfig
    registry: Registry
    speed: float = 1.0
    records: Records = field(factory=Records, init=False)
    said: list[str] = field(factory=list, init=False)
    error: BaseException | None = field(default=None, init=False)
    bug: Any = field(default=None, init=False)  # a Failure
    interrupted: bool = field(default=False, init=False)
    _finished: bool = field(default=False, init=False)
    _watched: Any = field(default=None, init=False)
    _work: Deferred[None] = field(init=False)

    @property
    def over(self) -> bool:
        return self._finished or self.machine.dead

    @property
    def used(self) -> list[Used]:
        return self._watched.used if self._watched else []

    def start(self) -> None:
        self._work = Deferred.fromCoroutine(self._train())
        self._work.addErrback(self._broken).addBoth(self._ended)

    def interrupt(self) -> None:
        """As a signal does: the second one ends the process at once."""
        if self.interrupted and not self.over:
            self.machine.die(silent=False)
        elif not self.over:
            self.interrupted = True
            self._work.cancel()

    def bury(self) -> None:
        """Unwind what is left of a process that was killed, without any effect."""
        self.records.sealed = self.interrupted = True
        for _ in range(20):  # each `finally` may wait for something once more
            if self._finished or not hasattr(self, "_work"):
                break
            self._work.cancel()

    def _broken(self, failure: Any) -> None:
        while failure.check(FirstError):  # it was waiting for several things
            failure = failure.value.subFailure
        # A connection that was being made says in its own way that it was given up.
        known = failure.check(CancelledError, ConnectingCancelledError)
        if not (known and self.interrupted):
            self.bug = failure

    def _ended(self, _: Any) -> None:
        self._finished = True

    async def _train(self) -> None:
        """As `trainer.program.train`."""
        config, registry, reactor = self.config, self.registry, self.machine
        pool: Any = reactor.pool(2, self.speed)
        rules: Rules = rules_of(config, registry)
        self._watched = rules.aggregation = WatchedRules(rules.aggregation, reactor)
        screen = Screen(self.said.append)
        training = Training(
            config, registry, rules, screen, self.records,  # type: ignore[arg-type]
            Observers(registry), THREADS, reactor, pool,
        )  # fmt: skip
        try:
            prepared = await training.prepare()
            hosts: list[Host]
            if config.in_process:
                hosts = [
                    InProcessHost(
                        reactor, pool, THREADS, registry, prepared.dataset, prepared.environment
                    )
                ]
            else:
                addresses = parse_addresses(config.remote_hosts)
                hosts = [RemoteHost(address, reactor) for address in addresses]
            await training.run(hosts)
        except ByzpyTwError as e:
            self.error = e
        except CancelledError:
            training.status = "interrupted"
            raise
        finally:
            await training.finish(self.error)
            pool.shutdown(wait=False, cancel_futures=True)
