"""Processes that a command starts: forked from a warm parent, or each by itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw.processes import launcher as launcher_module
from byzpy_tw.processes import warm_parent
from byzpy_tw.processes.blas import one_blas_thread
from byzpy_tw.processes.child_program import ChildProgram
from byzpy_tw.processes.launcher import PARENT_LOST, PIPE_SECONDS, ChildProtocol, Launcher
from byzpy_tw.processes.warm_parent import CannotFork, WarmParent, fork_warm_parent
from tests.support import environment

PROGRAM = ChildProgram("some.module", "run", ("a", "b c"))


class ForkedTests(SynchronousTestCase):
    """A real warm parent, without torch; `tests.forking` tells what it saw."""

    found: dict[str, Any]

    @classmethod
    def setUpClass(cls) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "tests.forking"], capture_output=True, text=True, timeout=60,
            env=environment(), cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        if done.returncode:
            raise AssertionError(done.stderr)
        cls.found = json.loads(done.stdout)

    def told(self, i: int) -> dict[str, Any]:
        return json.loads(self.found["children"][i]["heard"]["1"])

    def test_the_warm_parent_has_one_thread(self) -> None:
        """Nothing is computed in it, and OpenBLAS is loaded without threads of its own."""
        self.assertEqual(self.found["threads"], 1)

    def test_blas_has_its_threads_elsewhere(self) -> None:
        """Where it came from and in what it forks, as many as without it."""
        usual = subprocess.run(
            [sys.executable, "-c", "import os, numpy; print(len(os.listdir('/proc/self/task')))"],
            capture_output=True, text=True, timeout=60, env=environment(),
        )  # fmt: skip
        self.assertEqual([self.found["here"], self.told(0)["threads"]], [int(usual.stdout)] * 2)

    def test_a_forked_process_is_as_one_started_anew(self) -> None:
        """Its words, descriptors, group, signals and environment."""
        told = self.told(0)
        self.assertEqual(told["argv"], ["-c", "n0", "b c"])
        self.assertEqual(told["descriptors"], ["0", "1", "2", "3"])
        self.assertTrue(told["own_group"])
        self.assertTrue(told["interrupt"])
        self.assertEqual(told["variable"], "y\udcff")
        self.assertEqual(told["parent"], self.found["pid"])
        self.assertTrue(told["shown"].startswith("tests.forking"), told["shown"])
        self.assertEqual(self.found["children"][0]["heard"]["3"], "ready\n")
        self.assertEqual(self.found["children"][0]["heard"]["2"], "end\n")

    def test_random_numbers_are_its_own(self) -> None:
        """Two that are forked draw others, of Python's generator and of NumPy's."""
        for key in ("random", "numpy"):
            self.assertEqual(len({self.told(i)[key] for i in range(3)}), 3, key)

    def test_ends_are_told(self) -> None:
        """With the exit code, or the signal; without either once the warm parent is gone."""
        ends = [(c["code"], c["signal"]) for c in self.found["children"]]
        self.assertEqual(ends, [(7, None), (None, 9), (None, None)])

    def test_after_the_warm_parent_is_gone(self) -> None:
        """Its children go on; it is said once, and others are started anew."""
        self.assertEqual(self.found["children"][2]["heard"]["2"], "end\n")
        self.assertEqual(self.found["warned"], [PARENT_LOST])
        self.assertEqual(self.found["again"]["code"], 0)
        self.assertEqual(json.loads(self.found["again"]["heard"]["1"]), {"numpy": False})
        self.assertFalse(self.found["zombie"])

    def test_a_second_thread(self) -> None:
        """Nothing is forked beside one."""
        self.assertEqual(self.found["why"], "this process has 2 threads already")


class Reactor:
    """Records what it is to read, and the processes that are started anew."""

    def __init__(self) -> None:
        self.readers: list[Any] = []
        self.started: list[Any] = []
        self.addReader, self.removeReader = self.readers.append, self.forget
        self.addWriter = self.removeWriter = lambda writer: None

    def forget(self, reader: Any) -> None:
        if reader in self.readers:
            self.readers.remove(reader)

    def spawnProcess(self, *args: Any, **more: Any) -> None:
        self.started.append((args, more))


class Ended(ProcessProtocol):
    """Collects ends."""

    def __init__(self) -> None:
        self.ends: list[Any] = []

    def processEnded(self, reason: Any) -> None:
        self.ends.append(reason.value)


class Held(ChildProtocol):
    """Collects output and ends of a process whose pipes another one holds."""

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self.heard, self.ends = b"", list[Any]()
        self.over: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.heard += data

    def processEnded(self, reason: Any) -> None:
        super().processEnded(reason)
        self.ends.append(reason.value)
        self.over.callback(None)


class HeldPipesTests(TestCase):
    async def test_a_process_that_leaves_one_behind(self) -> None:
        """Its end is heard of, and its output, though another process has its pipes."""
        self.patch(launcher_module, "PIPE_SECONDS", 0.1)
        held = Held(reactor)
        program = ChildProgram("tests.forking", "leave_one_behind")
        Launcher().launch(reactor, held, program, {0: "w", 1: "r", 3: "r"})
        await held.over.addTimeout(30, reactor)  # type: ignore[arg-type]
        self.assertEqual(held.ends[0].exitCode, 0)
        os.kill(int(held.heard), signal.SIGKILL)  # it is still there


class LauncherTests(SynchronousTestCase):
    """The launcher's side, with a warm parent played by the test."""

    def setUp(self) -> None:
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.reactor, self.warned = Reactor(), list[str]()
        self.launcher = Launcher(WarmParent(ours, 1), warn=self.warned.append)
        self.addCleanup(self.theirs.close)
        self.addCleanup(self.launcher.close)

    def launched(self) -> Any:
        ended = Ended()
        self.launcher.launch(self.reactor, ended, PROGRAM, {1: "r"})
        for pipe in list(ended.transport.pipes.values()):
            self.addCleanup(
                lambda p=pipe: p.connected and p.connectionLost(Failure(ConnectionDone()))
            )
        return ended

    def answer(self, **answer: Any) -> None:
        self.theirs.send(json.dumps(answer).encode())
        self.launcher.doRead()

    def lose_pipe(self, ended: Any) -> None:
        ended.transport.pipes[1].connectionLost(Failure(ConnectionDone()))

    def test_the_order(self) -> None:
        """It has the program, the environment, and the child's ends of the pipes."""
        self.launched()
        text, descriptors, _, _ = socket.recv_fds(self.theirs, 1 << 20, 9)
        order = json.loads(text)
        self.assertEqual(order["program"]["words"], ["a", "b c"])
        self.assertEqual(order["environment"], dict(os.environ))
        self.assertEqual(len(descriptors), 1)
        os.close(descriptors[0])

    def test_a_descriptor_of_this_process(self) -> None:
        """The child gets it as well, and it stays open here; orders go to standard input."""
        mine, other = os.pipe()
        self.addCleanup(os.close, mine)
        self.addCleanup(os.close, other)
        ended = Ended()
        self.launcher.launch(self.reactor, ended, PROGRAM, {0: "w", 1: other})
        self.addCleanup(ended.transport.pipes[0].connectionLost, Failure(ConnectionDone()))
        _, (read, write), _, _ = socket.recv_fds(self.theirs, 1 << 20, 9)
        os.write(write, b"x")
        self.assertEqual(os.read(mine, 9), b"x")
        os.fstat(other)
        ended.transport.write(b"order")
        ended.transport.pipes[0].doWrite()
        self.assertEqual(os.read(read, 9), b"order")
        os.close(read)
        os.close(write)

    def test_an_end_needs_the_exit_and_all_pipes(self) -> None:
        """In either order, as of processes that Twisted starts."""
        first, second = self.launched(), self.launched()
        self.answer(forked=70)
        self.answer(forked=71)
        self.lose_pipe(first)
        self.assertEqual(first.ends, [])
        self.answer(ended=70, status=0)
        self.answer(ended=71, status=256)
        self.assertEqual([first.ends[0].exitCode, second.ends], [0, []])
        self.assertRaises(ProcessExitedAlready, second.transport.signalProcess, "KILL")
        self.lose_pipe(second)
        self.assertEqual(second.ends[0].exitCode, 1)

    def held(self, clock: Clock) -> Held:
        """Return a process whose pipes stay open, and have what nobody reads."""
        held = Held(clock)
        self.launcher.launch(self.reactor, held, PROGRAM, {0: "w", 1: "r"})
        for name in (0, 1):
            pipe = held.transport.pipes[name]
            self.addCleanup(
                lambda p=pipe: p.connected and p.connectionLost(Failure(ConnectionDone()))
            )
        held.transport.write(b"order")
        return held

    def test_pipes_that_another_process_holds(self) -> None:
        """They are closed shortly after the exit; nothing waits where they close before."""
        clock = Clock()
        held, usual = self.held(clock), self.held(clock)
        for pid in (70, 71):
            self.answer(forked=pid)
            self.answer(ended=pid, status=9)
        for pipe in list(usual.transport.pipes.values()):
            pipe.connectionLost(Failure(ConnectionDone()))
        self.assertEqual([len(usual.ends), len(clock.getDelayedCalls())], [1, 1])
        clock.advance(PIPE_SECONDS / 2)
        self.assertEqual(held.ends, [])
        clock.advance(PIPE_SECONDS / 2)
        self.assertEqual([held.ends[0].signal, held.transport.pipes], [9, {}])

    def test_a_kill_after_the_warm_parent_is_gone(self) -> None:
        """The process is over soon; then its PID, which may be another's, gets no signal."""
        clock, sent = Clock(), list[Any]()
        self.patch(os, "kill", lambda *words: sent.append(words))
        held = self.held(clock)
        self.answer(forked=70)
        self.theirs.close()
        self.launcher.doRead()
        clock.advance(PIPE_SECONDS)
        self.assertEqual(held.ends, [])  # it goes on
        held.transport.signalProcess("KILL")
        clock.advance(PIPE_SECONDS)
        self.assertEqual([len(held.ends), sent], [1, [(70, signal.SIGKILL)]])
        self.assertRaises(ProcessExitedAlready, held.transport.signalProcess, "KILL")
        self.assertEqual(len(sent), 1)

    def test_a_process_tells_its_own_pid(self) -> None:
        """The warm parent may be killed before it does; who is told twice counts once."""
        first, second = self.launched(), self.launched()
        for pid in (70, 70, 71):
            self.answer(forked=pid)
        self.assertEqual([first.transport.pid, second.transport.pid], [70, 71])
        said = list[str]()
        self.patch(os, "fork", lambda: 0)
        self.patch(warm_parent, "run_forked", lambda *words: said.append("runs"))
        self.patch(warm_parent._Service, "_answer", lambda _, **answer: said.append(str(answer)))
        order = {"program": {"module": "m", "function": "f", "words": ()}, "environment": {}}
        warm_parent._Service(self.theirs, None)._fork(order, ())
        self.assertEqual(said[:2], [str({"forked": os.getpid()}), "runs"])

    def test_one_that_cannot_be_forked(self) -> None:
        """It has ended, with the reason as its output."""
        ended, heard = self.launched(), list[bytes]()
        ended.childDataReceived = lambda number, data: heard.append(data)
        self.answer(failed="cannot fork: no memory")
        self.lose_pipe(ended)
        self.assertEqual(heard, [b"cannot fork: no memory\n"])
        self.assertEqual(len(ended.ends), 1)

    def test_a_lost_parent(self) -> None:
        """Processes that were ordered, or run, are over with their pipes."""
        running, ordered = self.launched(), self.launched()
        self.answer(forked=70)
        self.theirs.close()
        self.launcher.doRead()
        self.assertEqual(self.warned, [PARENT_LOST])
        self.assertEqual(self.reactor.readers.count(self.launcher), 0)
        for one in (running, ordered):
            self.assertEqual(one.ends, [])
            self.lose_pipe(one)
            self.assertEqual(len(one.ends), 1)

    def test_an_order_that_cannot_be_sent(self) -> None:
        """Its process is started anew."""
        self.theirs.close()
        ended = Ended()
        self.launcher.launch(self.reactor, ended, PROGRAM, {1: "r"})
        [(args, _)] = self.reactor.started
        self.assertIs(args[0], ended)

    def test_without_a_parent(self) -> None:
        """Processes are started anew, by the same Python, and the log says why, once."""
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        launcher = Launcher.fork("json", why_not="--device cuda")
        for _ in range(2):
            launcher.launch(self.reactor, Ended(), PROGRAM, {0: "w"})
        args, more = self.reactor.started[1]
        code = "from some.module import run; run()"
        self.assertEqual(args[2], [sys.executable, "-c", code, "a", "b c"])
        self.assertEqual(more["childFDs"], {0: "w"})
        self.assertEqual([e["why"] for e in events if "why" in e], ["--device cuda"])


class CannotForkTests(SynchronousTestCase):
    def test_beside_a_reactor(self) -> None:
        """Not where one is installed, whose descriptors a child would share."""
        self.patch(warm_parent, "count_threads", lambda: 1)
        error = self.assertRaises(CannotFork, fork_warm_parent, ())
        self.assertIn("a reactor is installed already", str(error))

    def test_on_another_system(self) -> None:
        """Where forked processes are not safe, nothing is imported for them."""
        self.patch(sys, "platform", "darwin")
        error = self.assertRaises(CannotFork, fork_warm_parent, ("no.such.module",))
        self.assertIn("darwin", str(error))

    def test_the_variable_is_left_as_it_was(self) -> None:
        """OPENBLAS_NUM_THREADS is 1 during the import only."""
        for before in (None, "3"):
            if before is None:
                os.environ.pop("OPENBLAS_NUM_THREADS", None)
            else:
                os.environ["OPENBLAS_NUM_THREADS"] = before
            with one_blas_thread() as blas:
                self.assertEqual(os.environ["OPENBLAS_NUM_THREADS"], "1")
            self.assertEqual(os.environ.pop("OPENBLAS_NUM_THREADS", None), before)
        self.assertEqual(blas._threads, 3)
