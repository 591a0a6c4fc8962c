"""A worker of a sweep: a process that executes runs, one after another, as it is told.

Its orders are lines of JSON on standard input, first a `Setup`, then runs.  Its answers are lines
on descriptor `ANSWERS`: it is ready, a run has ended, or something is to be said.  When standard
input ends, it closes its run in order, with a checkpoint, and ends too.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from attrs import asdict, define, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import connectionDone
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from byzpy_tw.config.paths import absolute
from byzpy_tw.config.run_config import RunConfig, from_dict
from byzpy_tw.console import make_streams_tolerant
from byzpy_tw.errors import ByzpyTwError, ConfigError
from byzpy_tw.kernels.memory import configure_malloc
from byzpy_tw.kernels.parallel import pool as make_pool
from byzpy_tw.output.program import ReactorProgram, start_logging
from byzpy_tw.plugins import Registry, load
from byzpy_tw.plugins.plugin_files import read_plugin_files
from byzpy_tw.processes.child_program import ChildProgram
from byzpy_tw.scheduling.threads import defer_to_pool
from byzpy_tw.sweep.execution import RunExecutor
from byzpy_tw.sweep.plan import PlannedRun
from byzpy_tw.sweep.resolve import cache_datasets
from byzpy_tw.workers.data import make_dataset

ANSWERS = 3  # the descriptor of a worker's answers
PROGRAM = ChildProgram("byzpy_tw.sweep.worker", "main", ("byzpy_tw sweep: worker",))
MOST_BYTES = 1 << 24  # of a line


@frozen(kw_only=True)
class Setup:
    """The part of a worker's orders that is the same for all of its runs.

    `digests` are those of the plugin files.
    """

    folder: str
    config: Mapping[str, Any]  # of any run: its data is read first
    disabled: tuple[str, ...] = ()
    plugin_files: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    lines: bool = False  # whether runs are recorded in one line each

    def registry(self) -> Registry:
        """Load the plugins; raises `ConfigError` for a file that is not as it was."""
        files = read_plugin_files(self.plugin_files)
        if tuple(file.digest for file in files) != tuple(self.digests):
            names = ", ".join(str(file.path) for file in files)
            raise ConfigError(f"--plugin: {names} has changed since the sweep began")
        return cache_datasets(load(disabled=self.disabled, files=files))


def main() -> None:
    """Work until standard input ends; the program of a worker's process."""
    from twisted.internet import reactor

    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)  # Ctrl-C in a terminal reaches the sweep alone, which closes its runs
    make_streams_tolerant()
    configure_malloc()
    worker = _Worker(reactor)
    sys.exit(ReactorProgram(reactor, lambda line: None).run(worker.work))  # type: ignore[arg-type]


@define(eq=False)
class _Worker(LineOnlyReceiver):
    """Reads orders, and executes them in order."""

    _reactor: Any
    _orders: deque[Mapping[str, Any]] = field(factory=deque, init=False)
    _ended: bool = field(default=False, init=False)  # standard input
    _news: Deferred[None] | None = field(default=None, init=False)
    _running: Deferred[Any] | None = field(default=None, init=False)

    delimiter = b"\n"
    MAX_LENGTH = MOST_BYTES

    async def work(self) -> int:
        """Do what is ordered until the orders end; return the exit code."""
        make: Any = StandardIO
        make(self, stdin=0, stdout=os.open(os.devnull, os.O_WRONLY), reactor=self._reactor)
        order = await self._next()
        if order is None:
            return 0
        setup = Setup(**order)
        try:
            executor = await self._prepare(setup)
        except ByzpyTwError as e:
            _answer(failed=e.code, message=str(e))
            return 1
        _answer(ready=os.getpid())
        while (order := await self._next()) is not None:
            config = from_dict(order["config"])
            run = PlannedRun(folder=order["folder"], config=config, point={})
            self._running = Deferred.fromCoroutine(executor.execute(run, config))
            try:
                ended = await self._running
            except CancelledError:
                return 0
            finally:
                self._running = None
            _answer(ended=order["folder"], **asdict(ended))
        return 0

    async def _prepare(self, setup: Setup) -> RunExecutor:
        """Load the plugins and read the data, before any run needs it."""
        folder = Path(setup.folder)
        start_logging(folder)
        registry, config = setup.registry(), from_dict(setup.config)
        await read_data(self._reactor, registry, config)
        return RunExecutor(
            folder, registry, self._reactor, lambda line: _answer(say=line), setup.lines,
            shares_pool=True,
        )  # fmt: skip

    async def _next(self) -> Mapping[str, Any] | None:
        """Return the next order; None where there will be no more."""
        while not self._orders and not self._ended:
            self._news = Deferred()
            await self._news
        return None if self._ended else self._orders.popleft()

    def lineReceived(self, line: bytes) -> None:
        self._orders.append(json.loads(line))
        self._tell()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._ended = True
        self._tell()
        if self._running is not None:
            self._running.cancel()

    def _tell(self) -> None:
        if self._news is not None:
            news, self._news = self._news, None
            news.callback(None)


def _answer(**answer: Any) -> None:
    """Write a line to the sweep; one that is gone hears nothing."""
    data = memoryview((json.dumps(answer) + "\n").encode())
    with suppress(OSError):
        while data:
            data = data[os.write(ANSWERS, data) :]


async def read_data(reactor: Any, registry: Registry, config: RunConfig) -> None:
    """Read the data of `config`, which `registry` keeps.  Raises what reading it raises."""
    pool, root = make_pool(1), absolute(config.data_root)
    make = partial(make_dataset, registry, config.dataset, config.partition, root)
    try:
        await defer_to_pool(reactor, pool, make)
    finally:
        pool.shutdown(wait=False)
