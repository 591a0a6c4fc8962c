"""The worker processes of a sweep, and runs that are recorded in one line."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw import files
from byzpy_tw.errors import CannotRecord, ConfigError, UnsuitableData
from byzpy_tw.plugins import load
from byzpy_tw.records.checkpoint import list_checkpoints
from byzpy_tw.sweep import run_lines
from byzpy_tw.sweep.execution import RunEnd
from byzpy_tw.sweep.long_form import write_long_forms
from byzpy_tw.sweep.recorded import RecordedRuns
from byzpy_tw.sweep.run_lines import (
    FOLDERS,
    LINES,
    RUNS_FILE,
    RunLines,
    check_records,
    default_records,
)
from byzpy_tw.sweep.scheduler import Sweep
from byzpy_tw.sweep.worker import ANSWERS, Setup
from byzpy_tw.sweep.worker_pool import STOP_SECONDS, WorkerPool
from tests.support import PATIENCE, Process, folder
from tests.sweep_grids import grid_of
from tests.test_local_servers import parent_of
from tests.test_server_process import gone

SMALL = {
    "model": "logreg", "dataset": "synthetic:n=200", "num_honest": 3, "num_byz": 1,
    "batch_size": 8, "rounds": 4, "eval_interval": 2, "partition": "iid",
}  # fmt: skip
SETUP = Setup(folder="d", config={})


class Transport:
    """A worker process that the test plays."""

    def __init__(self, protocol: Any) -> None:
        self.protocol, self.orders, self.closed, self.killed = protocol, list[Any](), False, False

    def write(self, data: bytes) -> None:
        self.orders.append(json.loads(data))

    def closeStdin(self) -> None:
        self.closed = True

    def signalProcess(self, name: str) -> None:
        self.killed = name == "KILL"

    def answer(self, **answer: Any) -> None:
        self.protocol.childDataReceived(ANSWERS, (json.dumps(answer) + "\n").encode())

    def end(self) -> None:
        self.protocol.processEnded(Failure(ProcessTerminated(signal=9)))


class Launcher:
    """Starts processes that the test plays."""

    def __init__(self) -> None:
        self.started: list[Transport] = []
        self.pipes: list[Any] = []

    def launch(self, reactor: Any, protocol: Any, program: Any, pipes: Any) -> None:
        self.started.append(Transport(protocol))
        self.pipes.append(pipes)
        protocol.makeConnection(self.started[-1])


class PoolTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.launcher, self.said, self.clock = Launcher(), list[str](), Clock()
        self.pool = WorkerPool(SETUP, self.launcher, self.clock, self.said.append, 9)  # type: ignore[arg-type]
        made = grid_of(SMALL, ["none"], ["mean"], [1, 2], load(only=()))
        self.runs = made.cells[0].runs

    def executing(self, i: int = 0) -> Deferred[RunEnd]:
        run = self.runs[i]
        return Deferred.fromCoroutine(self.pool.execute(run, run.config))

    def end_run(self, process: Transport, **end: Any) -> None:
        process.answer(ended=process.orders[-1]["folder"], **attrs.asdict(RunEnd(**end)))

    def test_runs_come_one_after_another(self) -> None:
        """A worker that is ready has a run, and after its end the next one."""
        first = self.executing()
        [process] = self.launcher.started
        self.assertEqual(process.orders, [json.loads(json.dumps(attrs.asdict(SETUP)))])
        self.assertEqual(self.launcher.pipes, [{0: "w", 1: "r", 2: "r", 3: "r", 4: 9}])
        process.answer(ready=1)
        self.assertEqual(process.orders[1]["folder"], self.runs[0].folder)
        self.assertEqual(
            process.orders[1]["config"], json.loads(json.dumps(self.runs[0].config.to_dict()))
        )
        self.end_run(process, error="DIVERGED: so", code="DIVERGED")
        self.assertEqual(self.successResultOf(first).error, "DIVERGED: so")
        second = self.executing(1)
        self.end_run(process)
        self.assertEqual(self.successResultOf(second), RunEnd())
        self.assertEqual(len(self.launcher.started), 1)

    def test_one_starts_at_a_time(self) -> None:
        """The second one finds what the first one downloads."""
        both = [self.executing(i) for i in range(2)]
        self.assertEqual(len(self.launcher.started), 1)
        self.launcher.started[0].answer(ready=1)
        self.assertEqual(len(self.launcher.started), 2)
        self.launcher.started[1].answer(ready=2)
        for process in self.launcher.started:
            self.end_run(process)
        for one in both:
            self.successResultOf(one)

    def test_a_worker_that_dies(self) -> None:
        """Its run goes on in another one, once; then it has failed, with the cause."""
        running = self.executing()
        for _ in range(2):
            self.assertNoResult(running)
            self.launcher.started[-1].answer(ready=1)
            self.launcher.started[-1].end()
        ended = self.successResultOf(running)
        self.assertIn(
            "RUN_FAILED: its worker was killed by SIGKILL, 2 times; it may need", ended.error
        )
        self.assertFalse(ended.recorded)
        [line] = self.said
        self.assertIn(
            f"warning: {self.runs[0].folder}: its worker was killed by SIGKILL; the run", line
        )
        other = self.executing(1)  # which has a new worker
        self.launcher.started[-1].answer(ready=1)
        self.end_run(self.launcher.started[-1])
        self.successResultOf(other)

    def test_one_that_cannot_start(self) -> None:
        """Its error concerns all runs: it is raised."""
        running = self.executing()
        self.launcher.started[0].answer(failed="UNSUITABLE_DATA", message="no files")
        self.assertEqual(str(self.failureResultOf(running, UnsuitableData).value), "no files")

    def test_cancelled(self) -> None:
        """The worker closes its run and ends; one that takes too long is killed."""
        running = self.executing()
        [process] = self.launcher.started
        process.answer(ready=1)
        running.cancel()
        self.assertTrue(process.closed)
        self.assertNoResult(running)
        self.clock.advance(STOP_SECONDS)
        self.assertTrue(process.killed)
        process.end()
        self.failureResultOf(running, CancelledError)
        self.successResultOf(Deferred.fromCoroutine(self.pool.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lines(self) -> None:
        """Lines of a run, and prints of its process, are shown."""
        running = self.executing()
        [process] = self.launcher.started
        process.answer(ready=1)
        process.answer(say="warning: so")
        process.protocol.childDataReceived(2, b"printed\x1b\nrest")
        self.assertEqual(self.said[0], "warning: so")
        self.assertIn("printed", self.said[1])
        self.end_run(process)
        self.successResultOf(running)


class SetupTests(SynchronousTestCase):
    def test_a_changed_file(self) -> None:
        """A plugin's file must be what the runs' folders are named after."""
        path = folder(self) / "plugin.py"
        path.write_text(
            "import byzpy_tw\n\n@byzpy_tw.hookimpl\ndef byzpy_tw_register():\n    pass\n"
        )
        setup = attrs.evolve(SETUP, plugin_files=(str(path),), digests=("0",))
        error = self.assertRaises(ConfigError, setup.registry)
        self.assertIn("plugin.py has changed since the sweep began", str(error))


class SmallDisk:
    """The module `os`, with a disk that has room for some lines and a half, and syncs no more."""

    def __init__(self, lines: int) -> None:
        self.lines = lines

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, number: int, data: memoryview) -> int:
        self.lines -= 1
        if self.lines < -1:
            self.fsync(number)
        return os.write(number, data if self.lines >= 0 else data[: len(data) // 2])

    def fsync(self, number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class LineTests(TestCase):
    """Runs that are recorded in one line."""

    async def test_the_same_results(self) -> None:
        """As of runs with folders, but for the shares of rounds that nodes were left out in."""
        where, names = folder(self), load(only=())
        made = grid_of(SMALL, ["none", "ipm"], ["median"], [1, 2], names)
        found = []
        for records in (FOLDERS, LINES):
            lab = Sweep(made, where / records, 1, names, reactor, records=records)
            (where / records).mkdir()
            await lab.run()
            found.append(lab)
        self.assertFalse((where / LINES / "cells").exists())
        again = Sweep(made, where / LINES, 1, names, reactor)
        again.load_finished()
        self.assertEqual(again.finished_before, 4)
        known = RecordedRuns.below(where / LINES)
        self.assertTrue(all(known.is_over(run) for run in made.runs))
        self.assertFalse(known.is_over(attrs.evolve(made.runs[0], folder="other")))
        self.assertEqual(len(known.read_times(made.runs)), 4)
        for one, line, read in zip(*(lab.outcomes() for lab in (*found, again)), strict=True):
            self.assertEqual(line, read)
            for run, other in zip(one.ended, line.ended, strict=True):
                self.assertEqual(
                    attrs.evolve(run, seconds=0, shares=(), has_folder=False),
                    attrs.evolve(other, seconds=0),
                )

    async def test_a_full_disk(self) -> None:
        """The sweep ends in one line and with whole records; with room again it does the rest."""
        where, names = folder(self), load(only=())
        made = grid_of(SMALL, ["none", "ipm"], ["median"], [1, 2], names)
        self.patch(run_lines, "os", SmallDisk(lines=1))
        lab = Sweep(made, where, 2, names, reactor, records=LINES)
        error = await self.assertFailure(Deferred.fromCoroutine(lab.run()), CannotRecord)
        path = where / RUNS_FILE
        self.assertEqual(str(error), f"cannot write to {path}: No space left on device")
        [line, after] = path.read_bytes().split(b"\n")
        self.assertEqual((after, json.loads(line)["status"]), (b"", "finished"))

        self.patch(run_lines, "os", os)
        again = Sweep(made, where, 1, names, reactor, records=LINES)
        again.load_finished()
        self.assertEqual(again.finished_before, 1)
        await again.run()
        self.assertEqual(len(RunLines.below(where).read()), 4)
        self.assertEqual(path.read_bytes().count(b"\n"), 4)
        self.assertEqual({o.status for o in again.outcomes()}, {"finished"})

        self.assertEqual(write_long_forms(again.results, where, parquet=False), "")
        table = (where / "results.csv").read_bytes()
        self.patch(files, "os", SmallDisk(lines=0))
        words = f"cannot write the results below {where}: No space left on device"
        with self.assertRaisesRegex(CannotRecord, re.escape(words)):
            write_long_forms(lab.results, where, parquet=False)
        self.assertEqual((where / "results.csv").read_bytes(), table)
        self.assertEqual(list(where.glob(".*")), [])

    def test_the_file(self) -> None:
        """A torn or damaged line is skipped, and the next one is whole; the last one counts."""
        path = folder(self)
        lines = RunLines.below(path)
        self.assertEqual(lines.read(), {})
        for status in ("failed", "finished"):
            lines.append({"folder": "a", "status": status, "seconds": float("nan")})
        lines.close()
        with open(path / RUNS_FILE, "ab") as file:
            file.write(b'[]\n{"folder": "b", "sta')
        lines.append({"folder": "c"})
        lines.close()
        self.assertEqual(set(lines.read()), {"a", "c"})
        self.assertEqual(lines.read()["a"], {"folder": "a", "status": "finished", "seconds": None})
        lines.forget({"a", "x"})
        self.assertEqual(lines.read(), {"c": {"folder": "c"}})

    def test_the_default(self) -> None:
        """Many short runs have a line each."""
        made = grid_of({**SMALL, "rounds": 5}, ["none"], ["mean"], [1], load(only=()))
        run = made.cells[0].runs[0]
        long = attrs.evolve(run, config=attrs.evolve(run.config, rounds=101))
        self.assertEqual(default_records([run] * 1000), LINES)
        self.assertEqual(default_records([run] * 999), FOLDERS)
        self.assertEqual(default_records([run] * 999 + [long]), FOLDERS)
        begun = attrs.evolve(run, config=attrs.evolve(run.config, init="a.safetensors"))
        self.assertEqual(default_records([begun] * 1000), FOLDERS)
        error = self.assertRaises(ConfigError, check_records, LINES, [begun])
        self.assertIn("use --records folders", str(error))
        check_records(FOLDERS, [begun])


def children_of(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if parent_of(int(name)) == pid:
                    found.append(int(name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


@pytest.mark.slow
class KilledTests(TestCase):
    """A sweep whose processes are killed."""

    ROUNDS = "400"

    def sweep(self, where: Path) -> Process:
        words = ["--aggregators", "mean", "median", "--attacks", "none", "ipm", "--jobs", "2"]
        words += ["--rounds", self.ROUNDS, "--model", "logreg", "--num-honest", "3"]
        words += ["--num-byz", "1", "--batch-size", "16", "--eval-interval", "100", "--out", "lab"]
        return Process.start(self, [sys.executable, "-m", "byzpy_tw", "sweep", *words], cwd=where)

    def workers(self, sweep: Process) -> list[int]:
        (warm,) = children_of(sweep.popen.pid)
        return children_of(warm)

    async def wait_until_inside(self, where: Path) -> None:
        """Wait until a run is in the first half of its rounds."""
        began = reactor.seconds()
        while not any(
            0 < path.read_bytes().count(b"\n") <= int(self.ROUNDS) // 2
            for path in (where / "lab" / "cells").glob("*/rounds.jsonl")
        ):
            self.assertLess(reactor.seconds() - began, PATIENCE)
            await deferLater(reactor, 0.01)

    async def test_to_the_same_results(self) -> None:
        """A worker is killed, then Ctrl-C comes, then the sweep is killed; the next call does the
        rest, runs inside from their checkpoints, and no process is left."""
        where = folder(self)
        first = self.sweep(where)
        first.wait_for(r"^\[1/4\]")
        pids = self.workers(first)
        os.kill(max(pids), signal.SIGKILL)
        first.wait_for(
            "warning: .*: its worker was killed by SIGKILL; the run goes on in another one"
        )
        await self.wait_until_inside(where)
        first.signal(signal.SIGINT)
        self.assertEqual(first.wait(), 130, first.output)
        paths = [path.parent for path in (where / "lab" / "cells").glob("*/result.json")]
        results = {p: json.loads((p / "result.json").read_text()) for p in paths}
        self.assertIn("interrupted", {r["status"] for r in results.values()}, first.output)
        for path, result in results.items():
            begun = result["status"] == "interrupted" and result["rounds"] > 0
            self.assertEqual(bool(list_checkpoints(path)), begun, first.output)
        self.assertTrue(all(gone(pid, 10) for pid in pids))

        second = self.sweep(where)
        second.wait_for(r"^\[\d/4\]|going on after")
        pids = self.workers(second)
        second.signal(signal.SIGKILL)
        second.wait()
        self.assertTrue(all(gone(pid, 30) for pid in pids), second.output)

        third = self.sweep(where)
        self.assertEqual(third.wait(), 0, third.output)
        self.assertNotIn("damaged", third.output)
        table = json.loads((where / "lab" / "lab.json").read_text())
        found = {r["folder"]: r["parameters_sha256"] for c in table["cells"] for r in c["runs"]}
        config = json.loads((paths[0] / "config.json").read_text())["config"]
        self.assertEqual(config["threads"], 1)
        given = {"rounds": int(self.ROUNDS), "model": "logreg", "num_honest": 3, "num_byz": 1,
                 "batch_size": 16, "eval_interval": 100}  # fmt: skip
        names = load(only=())
        made = grid_of(given, ["none", "ipm"], ["mean", "median"], [42], names)
        here = Sweep(made, where / "here", 1, names, reactor)
        await here.run()
        self.assertEqual(
            found, {f"cells/{e.run.folder}": e.digest for o in here.outcomes() for e in o.ended}
        )
