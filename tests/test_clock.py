"""The machine's clock is set while things go on, and nothing that is measured notices."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.base import ReactorBase
from twisted.internet.task import Clock
from twisted.python.runtime import seconds as wall
from twisted.trial.unittest import SynchronousTestCase, TestCase

import byzpy_tw
from byzpy_tw.scheduling import clock
from byzpy_tw.trainer.round_runner import Stopwatch
from tests.support import PATIENCE, TWISTD, Process, address_of, environment, folder
from tests.test_local_servers import server_pids

TWO_HOURS = 7200
SMALL = ("--dataset", "synthetic:n=400,classes=4,features=9", "--model", "logreg",
         "--batch-size", "16", "--num-byz", "0", "--f", "0", "--aggregator", "mean",
         "--eval-interval", "20")  # fmt: skip

# As NTP would set it: time.time() is off by the seconds in the file CLOCK_FILE.
STEPPED = """
import os, time
real = time.time
def stepped():
    try:
        with open(os.environ["CLOCK_FILE"]) as file:
            return real() + float(file.read())
    except (OSError, ValueError):
        return real()
time.time = stepped
"""


class SetClock:
    """A clock for child processes, which `set` sets."""

    def __init__(self, case: Any, offset: float = 0) -> None:
        self._folder = folder(case)
        (self._folder / "sitecustomize.py").write_text(STEPPED)
        self.set(offset)
        places = [str(self._folder), str(Path(byzpy_tw.__file__).parent.parent)]
        path = os.environ.get("PYTHONPATH")
        self.environment = {
            **environment(),
            "PYTHONPATH": os.pathsep.join(places + ([path] if path else [])),
            "CLOCK_FILE": str(self._folder / "clock"),
        }

    def set(self, offset: float) -> None:
        new = self._folder / "clock.new"
        new.write_text(f"{offset}\n")
        new.replace(self._folder / "clock")


class Reactor(ReactorBase):
    """Twisted's own way with time, and no descriptors."""

    def installWaker(self) -> None: ...


class ClockTests(SynchronousTestCase):
    def test_of_our_own_process(self) -> None:
        """It is monotonic; what was scheduled before happens when it would have."""
        reactor, happened = Reactor(), list[str]()
        later = reactor.callLater(100, happened.append, "later")
        reactor.callLater(0, happened.append, "at once")
        clock.use_monotonic_clock(reactor)
        clock.use_monotonic_clock(reactor)  # a second time does nothing
        self.assertIs(reactor.seconds, time.monotonic)
        self.assertApproximates(later.getTime(), time.monotonic() + 100, 5)
        reactor.runUntilCurrent()
        self.assertEqual(happened, ["at once"])
        later.reset(0)
        reactor.callLater(0, happened.append, "new")
        reactor.runUntilCurrent()
        self.assertEqual(sorted(happened), ["at once", "later", "new"])

    def test_of_a_users_process(self) -> None:
        """The reactor stays as it is; measures are monotonic."""
        reactor = Reactor()
        before = time.monotonic()
        self.assertTrue(before <= clock.seconds(reactor) <= time.monotonic())
        self.assertIs(reactor.seconds, wall)
        watch = Stopwatch(reactor)
        watch.lap("honest")
        self.assertTrue(0 <= watch.total < 60)

    def test_made_up_time(self) -> None:
        """Is left as it is, for measures and as the time of day."""
        made_up = Clock()
        clock.use_monotonic_clock(made_up)
        made_up.advance(7.5)
        self.assertEqual((clock.seconds(made_up), clock.time_of_day(made_up)), (7.5, 7.5))

    def test_time_of_day(self) -> None:
        """Is the system's, whatever the reactor measures by."""
        for use_monotonic_clock in (False, True):
            reactor = Reactor()
            if use_monotonic_clock:
                clock.use_monotonic_clock(reactor)
            self.assertApproximates(clock.time_of_day(reactor), time.time(), 5)

    def test_nobody_measures_otherwise(self) -> None:
        """No module asks a reactor, or the system, for the time by itself."""
        found = []
        package = Path(byzpy_tw.__file__).parent
        for path in package.rglob("*.py"):
            place = path.relative_to(package).as_posix()
            if place == "scheduling/clock.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    asked = ast.unparse(node.func)
                    reactor = asked.endswith(".seconds") and not asked.endswith("clock.seconds")
                    if asked == "time.time" or reactor or asked.endswith("_clock.seconds"):
                        found.append(f"{place}:{node.lineno} {asked}")
        self.assertEqual(found, [])


@pytest.mark.slow
class SetBackTests(TestCase):
    def test_a_server_that_stops_is_noticed(self) -> None:
        """In time, although the clock was set back by two hours; no record is below zero."""
        machine, path = SetClock(self), folder(self) / "run"
        begun = time.monotonic()
        training = Process.start(
            self,
            [sys.executable, "-m", "byzpy_tw.train", "--run-dir", str(path), "--local", "2",
             *SMALL, "--num-honest", "4", "--rounds", "1000000", "--round-timeout", "60",
             "--heartbeat-timeout", "1.5"],
            cwd=folder(self), env=machine.environment,
        )  # fmt: skip
        training.wait_for("accuracy")
        machine.set(-TWO_HOURS)
        pid, other = server_pids(path)
        shown = [line for line in training.lines if "accuracy" in line][-1]
        later = int(shown.split()[1]) + 100
        training.wait_for(rf"^round +{later} ", 60)  # rounds go on by the clock that was set
        os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        training.wait_for("is lost: no answer to pings for 1.5 s", 30)
        self.assertLess(time.monotonic() - stopped, 15)
        os.kill(pid, signal.SIGCONT)
        training.wait_for("is back", 60)
        os.kill(other, signal.SIGKILL)  # it is started again, and dialled: timers, both
        training.wait_for("ended: starting it again", 60)
        training.signal(signal.SIGINT)
        self.assertEqual(training.wait(60), 130, training.output)
        whole = time.monotonic() - begun
        result = json.loads((path / "result.json").read_text())
        rounds = [json.loads(line) for line in (path / "rounds.jsonl").open()]
        self.assertTrue(0 < result["seconds"] < whole, result["seconds"])
        self.assertTrue(0 < result["seconds_a_round"] < whole)
        for record in rounds:
            measured = [record["seconds"], *record["phases"].values()]
            self.assertTrue(all(0 <= seconds < whole for seconds in measured), record)
        self.assertLess(sum(record["seconds"] for record in rounds), whole)
        self.assertNotIn("Traceback", training.output)

    def test_doctor(self) -> None:
        """It compares the times of day, which is where clocks that differ matter."""
        machine = SetClock(self, -TWO_HOURS)
        server = Process.start(
            self,
            [*TWISTD, "-n", "--pidfile=", "--logfile=-", "byzpy-server", "--host", "127.0.0.1",
             "--port", "0", "--until-eof"],
            env=machine.environment,
        )  # fmt: skip
        words = ["doctor", "--remote-hosts", address_of(server), *SMALL, "--num-honest", "4"]
        told = subprocess.run(
            [sys.executable, "-m", "byzpy_tw", *words],
            capture_output=True, text=True, timeout=PATIENCE, cwd=folder(self),
            env=environment(),
        )  # fmt: skip
        self.assertEqual(told.returncode, 0, told.stdout + told.stderr)
        self.assertRegex(told.stdout, r"clock is (7199|7200|7201) s behind this machine's")

    def test_in_a_users_process(self) -> None:
        """`run_async` measures right there too, and does not change the user's reactor."""
        machine = SetClock(self)
        program = Process.start(
            self, [sys.executable, "-c", PROGRAM, str(folder(self) / "run")],
            cwd=folder(self), env=machine.environment,
        )  # fmt: skip
        self.assertEqual(program.wait(), 0, program.output)
        told = json.loads(program.lines[-1])
        self.assertTrue(told["untouched"])
        self.assertTrue(all(0 <= seconds < 60 for seconds in told["seconds"]), told)


# The clock is set back by an hour at each evaluation.
PROGRAM = """
import json, os, sys
from pathlib import Path
from twisted.internet import reactor
from twisted.python.runtime import seconds as wall
import byzpy_tw

def show(line):
    shown.append(line)
    Path(os.environ["CLOCK_FILE"]).write_text(f"{-3600 * len(shown)}")

def over(result):
    path = Path(sys.argv[1])
    rounds = [json.loads(line) for line in (path / "rounds.jsonl").open()]
    measured = [s for r in rounds for s in (r["seconds"], *r["phases"].values())]
    measured += [result.figures["seconds"], result.figures["seconds_a_round"]]
    print(json.dumps({"untouched": reactor.seconds is wall, "seconds": measured}))

def begin():
    running = byzpy_tw.run_async(
        dataset="synthetic:n=400,classes=4,features=9", model="logreg", batch_size=16,
        num_honest=4, num_byz=0, f=0, aggregator="mean", rounds=6, eval_interval=1,
        run_dir=sys.argv[1], show=show)
    running.addCallback(over).addErrback(lambda why: print(why.getTraceback()))
    running.addBoth(lambda _: reactor.stop())

shown = []
reactor.callWhenRunning(begin)
reactor.run()
"""
