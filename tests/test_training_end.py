"""The end of a run: servers are closed together, and the result is written whatever happens."""

from __future__ import annotations

import contextlib
import io
import json
import signal
from collections.abc import Callable
from typing import Any

from attrs import define, field
from torch import Tensor
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import RunDirectoryError, ServerUnreachable
from byzpy_tw.output.observers import Observers
from byzpy_tw.output.program import ReactorProgram
from byzpy_tw.output.text import TextOutput
from byzpy_tw.output.view import ViewGroup
from byzpy_tw.records.folder import RunDirectory
from byzpy_tw.records.resume import ResumePoint
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.trainer.preparation import Prepared
from byzpy_tw.trainer.server_entry import ServerEntry
from byzpy_tw.trainer.server_interface import RunFingerprint, ignore_loss
from byzpy_tw.trainer.training import Training
from tests.server_harness import registry
from tests.support import folder


@define(eq=False, slots=False)
class HungServer:
    """Joins a run, answers nothing in its rounds, and takes its time to close."""

    name: str
    prepared: Prepared
    bytes_sent: int = 0
    bytes_received: int = 0
    lost: str = ""
    stopped: bool = False
    identity: str | None = None
    suspect: bool = False
    on_lost: Callable[[Any, str], None] = ignore_loss
    closing: Deferred[None] = field(factory=Deferred)
    asked_to_close: bool = False

    async def hello(self) -> Any:
        return self.prepared.environment

    async def open(self, run: str, spec: Any, sink: Any) -> RunFingerprint:
        prepared = self.prepared
        trial = prepared.trial_outcome.trial
        return RunFingerprint(prepared.evaluator.dimension, prepared.digest, trial)

    async def spawn(self, nodes: Any) -> set[str]:
        return set()

    def parameters(self, round: int, vector: Tensor) -> Deferred[None]:
        return succeed(None)

    def compute(self, round: int, nodes: Any) -> Deferred[dict]:
        return Deferred()

    def attack(self, *_: Any) -> Deferred[dict]:
        return Deferred()

    def drop(self, why: str) -> None:
        self.lost = why

    async def close(self) -> None:
        self.asked_to_close = True
        await self.closing


class InterruptedTests(SynchronousTestCase):
    """A run that is interrupted in its first round, on two servers that hang."""

    def setUp(self) -> None:
        self.folder = folder(self) / "run"
        names = ("tcp://a:1", "tcp://b:1")
        config = RunConfig(
            remote_hosts=names,
            dataset="synthetic:n=200,classes=4,features=9",
            model="logreg",
            batch_size=16,
        )
        pool = HandCrankedPool(eager=True)
        rules = resolve_rules(config, registry())
        self.training = Training(
            config, registry(), rules, ViewGroup(TextOutput(lambda _: None, True)),
            RunDirectory.create(self.folder), Observers(registry()), 1, ClockReactor(), pool,
        )  # fmt: skip
        prepared = self.successResultOf(Deferred.fromCoroutine(self.training.prepare()))
        self.servers = [HungServer(name, prepared) for name in names]
        entries = [ServerEntry(s.name, lambda s=s: s) for s in self.servers]
        running = Deferred.fromCoroutine(self.training.run(prepared, entries))
        self.assertNoResult(running)
        pool.eager = False  # from here on it is busy with what was interrupted
        running.cancel()
        self.failureResultOf(running, CancelledError)

    def finish(self) -> Deferred:
        return Deferred.fromCoroutine(self.training.finish())

    def test_servers_are_closed_together(self) -> None:
        """Hung servers cost the end of a run one wait, and a busy pool costs none."""
        ending = self.finish()
        self.assertEqual([s.asked_to_close for s in self.servers], [True, True])
        for server in self.servers:
            server.closing.callback(None)
        self.assertEqual(self.successResultOf(ending)["status"], "interrupted")

    def test_an_interrupt_at_the_very_end(self) -> None:
        """The result is written all the same."""
        ending = self.finish()
        ending.cancel()
        self.failureResultOf(ending)
        self.assertIn("status", json.loads((self.folder / "result.json").read_text()))


class ResumedTests(SynchronousTestCase):
    """A paused run whose servers are not there when it is resumed."""

    def test_stays_paused(self) -> None:
        """It is not failed; its time is that of all processes, and as told as recorded."""
        config, reactor = RunConfig(in_process=True, dataset="synthetic"), ClockReactor()
        begun = ResumePoint(
            "t", None, (), {"run": "t", "seconds_before": 3.0},
            {"status": "paused", "seconds": 25.5},
        )  # fmt: skip
        training = Training(
            config, registry(), resolve_rules(config, registry()),
            ViewGroup(TextOutput(lambda _: None, True)), RunDirectory.create(folder(self) / "run"),
            Observers(registry()), 1, reactor, HandCrankedPool(eager=True), begun,
        )  # fmt: skip
        reactor.advance(4.0)
        error = ServerUnreachable("a: nobody there")
        result = self.successResultOf(Deferred.fromCoroutine(training.finish(error)))
        self.assertEqual((result["status"], result["seconds"]), ("paused", 29.5))
        self.assertEqual((training.resumable, training.leaves_result), ("", False))
        reactor.advance(4.0)
        self.assertIs(training.ended, result)

    def test_the_time_before(self) -> None:
        """It never goes back: of what is on record, the longest counts; damage counts nothing."""
        for before, result, seconds in (
            ({}, {}, 0.0), ({"seconds_before": 9}, {}, 9.0), ({}, {"seconds": 2.5}, 2.5),
            ({"seconds_before": 9}, {"seconds": 25.5}, 25.5), ({"seconds_before": "x"}, {}, 0.0),
        ):  # fmt: skip
            self.assertEqual(ResumePoint("t", None, (), before, result).seconds, seconds)


@define(eq=False)
class OneCallReactor:
    """A reactor that calls what is to be called when it runs, and stops."""

    when_running: Any = None
    stopped: bool = False

    def seconds(self) -> float:
        return 0.0

    def callWhenRunning(self, begin: Callable[[], None]) -> None:
        self.when_running = begin

    def run(self) -> None:
        self.when_running()

    def stop(self) -> None:
        self.stopped = True


class ProgramTests(SynchronousTestCase):
    def test_an_error_while_finishing(self) -> None:
        """A full disk is told in one line, and decides the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

        async def main() -> int:
            raise RunDirectoryError("no space left")

        reactor, errors = OneCallReactor(), io.StringIO()
        with contextlib.redirect_stderr(errors):
            code = ReactorProgram(reactor).run(main)
        self.assertEqual((code, reactor.stopped), (RunDirectoryError.exit_code, True))
        [line] = errors.getvalue().splitlines()
        self.assertIn("RUN_DIRECTORY: no space left", line)
