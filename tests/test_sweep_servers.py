"""The servers of a sweep: each hosts all nodes of some runs."""

from __future__ import annotations

import csv
import signal
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.plugins import load
from byzpy_tw.sweep.execution import RunEnd
from byzpy_tw.sweep.long_form import write_long_forms
from byzpy_tw.sweep.plan import PlannedRun
from byzpy_tw.sweep.scheduler import Sweep
from byzpy_tw.sweep.server_slots import REPLACE_SECONDS, ROOM_SECONDS, ServerSlots
from tests.support import PATIENCE, address_of, folder, servers, start_server
from tests.sweep_grids import grid_of
from tests.test_sweep_workers import SMALL

A, B = "tcp://127.0.0.1:1", "tcp://127.0.0.1:2"
CONFIG = RunConfig(remote_hosts=(A, B), min_servers=2, max_nodes_per_server=3)
BUSY, LOST = RunEnd("busy", "SERVER_BUSY"), RunEnd("lost", "SERVER_UNREACHABLE")
PLACES = ("folder",)
PAUSED = RunEnd("paused", "BUDGET_EXCEEDED", resumable=True)


class SlotTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.said = Clock(), list[str]()
        self.slots = ServerSlots((A, B), self.clock, self.said.append)
        self.begun: list[tuple[str, Deferred[RunEnd]]] = []
        self.configs: list[RunConfig] = []

    def execute(self, run: PlannedRun, config: RunConfig) -> Any:
        [address] = config.remote_hosts
        self.begun.append((address, Deferred()))
        self.configs.append(config)
        return self.begun[-1][1]

    def start(self, name: str = "r") -> Deferred[RunEnd]:
        run = PlannedRun(folder=name, config=CONFIG, point={})
        return Deferred.fromCoroutine(self.slots.execute(run, CONFIG, self.execute))

    @property
    def where(self) -> list[str]:
        return [address for address, _ in self.begun]

    def end(self, number: int, ended: RunEnd = RunEnd()) -> None:  # noqa: B008  # it is frozen
        self.begun[number][1].callback(ended)

    def test_the_one_with_the_fewest(self) -> None:
        """All nodes of a run are on one server; the next run is where fewer are."""
        runs = [self.start() for _ in range(3)]
        self.assertEqual(self.where, [A, B, A])
        config = self.configs[0]
        self.assertEqual((config.remote_hosts, config.min_servers), ((A,), None))
        self.assertEqual(config.replace_timeout, REPLACE_SECONDS)
        self.end(0)
        self.end(2)
        runs.append(self.start())
        self.assertEqual(self.where[-1], A)
        self.end(1)
        self.end(3)
        for run in runs:
            self.assertEqual(self.successResultOf(run), RunEnd())

    def test_no_room(self) -> None:
        """A run that finds no room waits for another's, and then for an end, or some seconds."""
        first, second = self.start("one"), self.start("two")
        self.end(1, BUSY)
        self.assertEqual(self.where, [A, B, A])
        self.end(2, BUSY)
        self.assertEqual(len(self.begun), 3)
        self.end(0)  # so that there is room at A
        self.successResultOf(first)
        self.assertEqual(self.where[3:], [A])
        self.end(3, BUSY)
        self.assertNoResult(second)
        self.clock.advance(ROOM_SECONDS)
        self.assertEqual(len(self.begun), 5)
        self.end(4)
        self.assertEqual(self.successResultOf(second), RunEnd())
        self.assertEqual(self.said, [])

    def test_one_that_is_lost(self) -> None:
        """Its runs go on at another, and new ones begin there."""
        run = self.start("one")
        self.end(0, LOST)
        self.assertEqual(self.where, [A, B])
        self.assertEqual(self.said, ["warning: one: lost; it goes on at another server"])
        other = self.start()
        self.assertEqual(self.where, [A, B, B])
        self.end(1)
        self.end(2)
        self.successResultOf(run)
        self.successResultOf(other)

    def test_all_are_lost(self) -> None:
        """The last error stays; so it does for a run that pauses everywhere."""
        for ended in (LOST, PAUSED):
            self.setUp()
            run = self.start()
            self.end(0, ended)
            self.end(1, ended)
            self.assertEqual(self.successResultOf(run), ended)

    def test_cancelled_while_it_waits(self) -> None:
        """It is not waited for any more, and no timer stays."""
        run = self.start()
        self.end(0, BUSY)
        self.end(1, BUSY)
        run.cancel()
        self.failureResultOf(run, CancelledError)
        self.slots.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])


@pytest.mark.slow
class BitsTests(TestCase):
    async def test_as_in_process(self) -> None:
        """On two servers, of which one has room for one run, the results are the same."""
        where, names = folder(self), load(only=())
        hosts = (*servers(self, 1), *servers(self, 1, "--max-runs", "1"))
        found = []
        for name, more in (("here", {}), ("there", {"remote_hosts": hosts})):
            made = grid_of({**SMALL, **more}, ["none", "ipm"], ["median"], [1, 2], names)
            lab = Sweep(made, where / name, 4, names, reactor)
            await lab.run()
            self.assertEqual({o.status for o in lab.outcomes()}, {"finished"})
            found.append([
                (run.digest, run.metrics, run.evaluations)
                for o in lab.outcomes() for run in o.ended
            ])  # fmt: skip
        self.assertEqual(*found)

    async def test_one_is_killed(self) -> None:
        """The run that it had goes on at the other one, and the results are the same."""
        names, where = load(only=()), folder(self)
        killed, other = start_server(self), start_server(self)
        there = {"remote_hosts": tuple(map(address_of, (killed, other))), "replace_timeout": 1.0}
        long = {**SMALL, "rounds": 300, "eval_interval": 50}
        tables, said = [], list[str]()
        for name, more in (("here", {}), ("there", there)):
            made = grid_of({**long, **more}, ["none", "ipm"], ["median"], [1], names)
            lab = Sweep(made, where / name, 2, names, reactor)
            self.patch(lab.display, "say", said.append)
            running = Deferred.fromCoroutine(lab.run())
            if more:
                await self.wait_for_rounds(where / name, 2)
                killed.signal(signal.SIGKILL)
            await running
            write_long_forms(lab.results, where / name, parquet=False)
            tables.append([self.rows(where / name / f"{table}.csv")
                           for table in ("results", "evaluations")])  # fmt: skip
        self.assertEqual(*tables)
        self.assertIn("it goes on at another server", "\n".join(said))

    def rows(self, path: Path) -> list[dict[str, str]]:
        """The rows of a table, without what tells of time and place."""
        with open(path, newline="") as file:
            return [
                {k: v for k, v in row.items() if "seconds" not in k and k not in PLACES}
                for row in csv.DictReader(file)
            ]

    async def wait_for_rounds(self, where: Path, runs: int) -> None:
        """Wait until so many runs have done some rounds."""
        began = reactor.seconds()
        while sum(p.stat().st_size > 0 for p in where.glob("cells/*/rounds.jsonl")) < runs:
            self.assertLess(reactor.seconds() - began, PATIENCE)
            await deferLater(reactor, 0.01)
