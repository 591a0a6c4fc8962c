"""A trainer on a virtual process: the one module here that knows how a trainer is built.

A change in `byzpy_tw.trainer` needs a change here, and nowhere else in this package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, evolve, field, frozen
from torch import Tensor
from twisted.internet.defer import CancelledError, Deferred, FirstError
from twisted.internet.error import ConnectingCancelledError

from byzpy_tw.algorithms.rules import ResolvedRules, resolve_rules
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ByzpyTwError
from byzpy_tw.events import Event, NodeOnProbation, NodeReadmitted
from byzpy_tw.output.observers import Observers
from byzpy_tw.output.text import TextOutput
from byzpy_tw.output.view import ServersKnown, ViewGroup
from byzpy_tw.plugins import Registry
from byzpy_tw.records.resume import ResumePoint
from byzpy_tw.trainer.in_process_server import InProcessServer
from byzpy_tw.trainer.preparation import Prepared
from byzpy_tw.trainer.run import remote_entry
from byzpy_tw.trainer.server_entry import ServerEntry
from byzpy_tw.trainer.training import Training
from byzpy_tw.transports.table import parse_addresses
from tests.simulation.folder import Folder
from tests.simulation.process import VirtualProcess
from tests.simulation.recorder import Transcript

THREADS = 1  # that torch's rules use: others would be real threads


@frozen(eq=False)
class AggregationInput:
    """The input of one round's aggregation: the `rows` of `nodes`, in order."""

    time: float
    round: int
    nodes: tuple[int, ...]
    f: int
    rows: Tensor


class RecordedAggregation:
    """The run's aggregation, which also writes down what it was given."""

    def __init__(self, aggregation: Any, clock: Any) -> None:
        self._aggregation, self._clock = aggregation, clock
        self.aggregated: list[AggregationInput] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._aggregation, name)

    def __call__(self, rows: Tensor, nodes: Sequence[int], f: int, round: int, memory: Any) -> Any:
        now = self._clock.seconds()
        self.aggregated.append(AggregationInput(now, round, tuple(nodes), f, rows.clone()))
        return self._aggregation(rows, nodes, f, round, memory)


@define(eq=False)
class SimulatedTrainer:
    """One process of a trainer, at work on `process` from where the run was `begun`.

    `error` is what ended it, if that is one of the documented errors, `bug` if not.
    """

    process: VirtualProcess
    config: RunConfig
    registry: Registry
    folder: Folder
    begun: ResumePoint
    speed: float
    on_over: Callable[[SimulatedTrainer], None]
    transcript: Transcript = field(factory=Transcript, init=False)
    said: list[str] = field(factory=list, init=False)
    probation_events: list[NodeOnProbation | NodeReadmitted] = field(factory=list, init=False)
    error: BaseException | None = field(default=None, init=False)
    bug: Any = field(default=None, init=False)  # a Failure
    interrupted: bool = field(default=False, init=False)
    finished: bool = field(default=False, init=False)
    killed: bool = field(default=False, init=False)  # before its end
    training: Training | None = field(default=None, init=False)
    _recorded: Any = field(default=None, init=False)
    _work: Deferred[None] = field(init=False)

    @property
    def over(self) -> bool:
        return self.finished or self.process.dead

    @property
    def aggregated(self) -> list[AggregationInput]:
        return self._recorded.aggregated if self._recorded else []

    @property
    def training_began(self) -> bool:
        """Return whether it came as far as its first round."""
        return self.training is not None and self.training.has_begun

    @property
    def saved(self) -> int:
        """The round of the newest checkpoint that it knows to be on the disk."""
        return self.training.checkpoint_scheduler.round if self.training else self.begun.round

    @property
    def status(self) -> str:
        """As in result.json."""
        result = self.folder.result
        return result["status"] if result else "killed" if self.killed else "none"

    def handle(self, event: Event | ServersKnown) -> None:
        """Remember which nodes are put on probation, and readmitted."""
        if isinstance(event, NodeOnProbation | NodeReadmitted):
            self.probation_events.append(event)

    def start(self) -> None:
        self._work = Deferred.fromCoroutine(self._train())
        self._work.addErrback(self._broken).addBoth(self._ended)

    def interrupt(self) -> None:
        """As a signal does: the second one ends the process at once."""
        if self.interrupted and not self.over:
            self.kill(silent=False)
        elif not self.over:
            self.interrupted = True
            self._work.cancel()

    def kill(self, *, silent: bool) -> None:
        """End the process, or take the power of its machine."""
        if self.process.dead:
            return
        self.killed = not self.finished
        self.process.die(silent=silent)
        self.folder.seal(self.process.loop.random(self.process.name, "power"), silent=silent)
        self.on_over(self)

    def unwind(self) -> None:
        """Unwind what is left of a process that was killed, without any effect."""
        self.interrupted = True
        for _ in range(20):  # each `finally` may wait for something once more
            if self.finished or not hasattr(self, "_work"):
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
        self.finished = True
        if not self.process.dead:
            self.on_over(self)

    async def _train(self) -> None:
        """Train, as `trainer.run` does."""
        config, registry, reactor = self.config, self.registry, self.process
        pool: Any = reactor.pool(2, self.speed)
        rules: ResolvedRules = resolve_rules(config, registry)
        self._recorded = rules.aggregation = RecordedAggregation(rules.aggregation, reactor)
        self.training = training = Training(
            config, registry, rules, ViewGroup(TextOutput(self.said.append), [self]), self.folder,  # type: ignore
            Observers(registry), THREADS, reactor, pool, self.begun,
        )  # fmt: skip
        training.checkpoint_scheduler._thread = reactor.pool(1, self.speed)
        try:
            prepared = await training.prepare()
            await training.run(prepared, self._entries(prepared, pool))
        except ByzpyTwError as e:
            self.error = e
        except CancelledError:
            training.status = "interrupted"
            raise
        finally:
            try:
                await training.finish(self.error)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _entries(self, prepared: Prepared, pool: Any) -> list[ServerEntry]:
        config, reactor = self.config, self.process
        if config.in_process:
            here = InProcessServer(reactor, pool, THREADS, self.registry, prepared)
            return [ServerEntry(here.name, lambda: here, redials=False)]
        addresses = parse_addresses(config.remote_hosts)
        return [remote_entry(a, config, self.registry, reactor) for a in addresses]


def with_fixed_token(begun: ResumePoint) -> ResumePoint:
    """Return `begun` with a constant name for the run, which is otherwise random."""
    return evolve(begun, token="f" * 32)
