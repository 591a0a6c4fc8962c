"""The worker processes of a sweep: each executes one run at a time."""

from __future__ import annotations

import json
import signal
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from attrs import asdict, define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredLock
from twisted.internet.error import ProcessExitedAlready
from twisted.python.failure import Failure

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import RunFailed, error_from_code, format_error
from byzpy_tw.processes.launcher import ChildProtocol, Launcher
from byzpy_tw.sweep.execution import RunEnd
from byzpy_tw.sweep.plan import PlannedRun
from byzpy_tw.sweep.worker import ANSWERS, PROGRAM, Setup
from byzpy_tw.text import clean

STOP_SECONDS = 30.0  # that a worker has to close its run
MOST_ATTEMPTS = 2  # at a run whose worker dies


class WorkerDied(Exception):
    """A worker's process ended in the middle of a run; the text says how."""


class Worker(ChildProtocol):
    """One worker process, from the sweep's side."""

    def __init__(self, reactor: Any, setup: Setup, say: Callable[[str], None]) -> None:
        super().__init__(reactor)
        self._setup, self._say = setup, say
        self._heard = {1: b"", 2: b"", ANSWERS: b""}
        self._run: Deferred[RunEnd] | None = None
        self._waiting: list[Deferred[None]] = []  # for its end
        self.ready: Deferred[None] = Deferred()
        self.over = False

    @property
    def process(self) -> Any:
        return self.transport

    def connectionMade(self) -> None:
        self._order(asdict(self._setup))

    def _order(self, order: Mapping[str, Any]) -> None:
        self.process.write((json.dumps(order) + "\n").encode())

    def execute(self, run: PlannedRun, config: RunConfig) -> Deferred[RunEnd]:
        """Have `run` executed; fails with `WorkerDied` where the process ends before it."""
        self._run = Deferred()
        self._order({"folder": run.folder, "config": config.to_dict()})
        return self._run

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, self._heard[childFD] = (self._heard[childFD] + data).split(b"\n")
        for line in lines:
            if childFD == ANSWERS:
                self._take(json.loads(line))
            else:  # a print of a plugin, or of a library
                self._say(clean(line.decode(errors="replace"), 1000))

    def _take(self, answer: dict[str, Any]) -> None:
        if "say" in answer:
            self._say(answer["say"])
        elif "ready" in answer:
            self.ready.callback(None)
        elif "failed" in answer:
            self.ready.errback(error_from_code(answer["failed"], answer["message"]))
        elif self._run is not None:
            del answer["ended"]
            run, self._run = self._run, None
            run.callback(RunEnd(**answer))

    def processEnded(self, reason: Failure) -> None:
        super().processEnded(reason)
        how = _how_it_ended(reason.value)
        self.over = True
        if not self.ready.called:
            self.ready.errback(RunFailed(f"a worker {how} while it started"))
        if self._run is not None:
            run, self._run = self._run, None
            run.errback(WorkerDied(f"its worker {how}"))
        for waiting in self._waiting:
            waiting.callback(None)

    async def stop(self, reactor: Any) -> None:
        """Let it close its run and end; kill it where that takes too long, or when cancelled."""
        self._run = None
        self.ready.addErrback(lambda _: None)
        if self.over:
            return
        self.process.closeStdin()
        ended: Deferred[None] = Deferred()
        self._waiting.append(ended)
        alarm = reactor.callLater(STOP_SECONDS, self._kill)
        try:
            await ended
        except CancelledError:
            self._kill()
            raise
        finally:
            if alarm.active():
                alarm.cancel()

    def _kill(self) -> None:
        with suppress(ProcessExitedAlready):
            self.process.signalProcess("KILL")


def _how_it_ended(end: Any) -> str:
    """Return the end of a process in words."""
    if getattr(end, "signal", None):
        return f"was killed by {signal.Signals(end.signal).name}"
    code = getattr(end, "exitCode", None)
    return "ended" if code is None else f"ended with exit code {code}"


@define(eq=False)
class WorkerPool:
    """Workers that are started when they are needed, at most as many as runs at a time."""

    _setup: Setup
    _launcher: Launcher
    _reactor: Any
    _say: Callable[[str], None]
    _lock: int | None = None  # a descriptor that locks the folder until all of them have ended
    _idle: deque[Worker] = field(factory=deque, init=False)
    _workers: list[Worker] = field(factory=list, init=False)
    _starting: DeferredLock = field(factory=DeferredLock, init=False)

    async def execute(self, run: PlannedRun, config: RunConfig) -> RunEnd:
        """Execute `run` in a worker, and once more in another where its worker dies.

        Cancelling closes the run in order, and then raises `CancelledError`.
        """
        for attempt in range(1, MOST_ATTEMPTS + 1):
            worker = await self._take_worker()
            try:
                ended = await worker.execute(run, config)
            except CancelledError:
                await worker.stop(self._reactor)
                raise
            except WorkerDied as e:
                why = str(e)
            else:
                self._idle.append(worker)
                return ended
            if attempt < MOST_ATTEMPTS:
                self._say(f"warning: {run.folder}: {why}; the run goes on in another one")
        error = RunFailed(f"{why}, {MOST_ATTEMPTS} times; it may need more memory than there is")
        return RunEnd(format_error(error), error.code, str(error), recorded=False)

    async def _take_worker(self) -> Worker:
        while self._idle:
            if not (worker := self._idle.popleft()).over:
                return worker
        # One after another: what the first one downloads, the others find.
        await self._starting.acquire()
        try:
            worker = Worker(self._reactor, self._setup, self._say)
            self._workers = [w for w in self._workers if not w.over] + [worker]
            pipes: dict[int, str | int] = {0: "w", 1: "r", 2: "r", ANSWERS: "r"}
            if self._lock is not None:
                pipes[ANSWERS + 1] = self._lock
            self._launcher.launch(self._reactor, worker, PROGRAM, pipes)
            await worker.ready
        finally:
            self._starting.release()
        return worker

    async def stop(self) -> None:
        """Stop all workers.  When cancelled, it kills them."""
        stopping = [Deferred.fromCoroutine(worker.stop(self._reactor)) for worker in self._workers]
        await DeferredList(stopping, consumeErrors=True)
