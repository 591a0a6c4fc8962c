"""Processes of a reactor: forked from a warm parent, or started anew where there is none."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from attrs import define, field
from twisted.internet.error import (
    ConnectionDone,
    ProcessDone,
    ProcessExitedAlready,
    ProcessTerminated,
)
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.internet.process import ProcessReader, ProcessWriter
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from byzpy_tw.processes.child_program import ChildProgram
from byzpy_tw.processes.warm_parent import CannotFork, WarmParent, fork_warm_parent

PARENT_LOST = "the process that forked local processes is gone: new ones are started by themselves"


PIPE_SECONDS = 1.0  # between a process's exit and its end, where another one holds its pipes


class ChildProtocol(ProcessProtocol):
    """A protocol that hears of its process's end even where another process holds the pipes.

    The processes that a plugin has started may do that, and live on.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._closing: IDelayedCall | None = None

    def processExited(self, reason: Failure) -> None:
        if self._closing is None:
            self._closing = self._reactor.callLater(PIPE_SECONDS, self._close_pipes)

    def _close_pipes(self) -> None:
        process: Any = self.transport
        for pipe in list(process.pipes.values()):
            # Not `loseConnection`, which waits until somebody has read what was written.
            pipe.connectionLost(Failure(ConnectionDone()))

    def processEnded(self, reason: Failure) -> None:
        if self._closing is not None and self._closing.active():
            self._closing.cancel()


class ForkedProcess:
    """The transport of a `ProcessProtocol` whose process a warm parent has forked."""

    def __init__(self, reactor: Any, protocol: ProcessProtocol, ours: Mapping[int, Any]) -> None:
        """`ours` are this side's pipe ends: by descriptor in the child, its direction and number.

        The direction is the child's, as in Twisted: what is "w" is written here.
        """
        self.pid: int | None = None
        self._protocol, self._over = protocol, False
        self._status: int | None = None
        self._exited = False  # or nobody can tell any more
        self.pipes: dict[int, Any] = {
            name: (ProcessWriter if mode == "w" else ProcessReader)(reactor, self, name, number)
            for name, (mode, number) in ours.items()
        }

    def write(self, data: bytes) -> None:
        """Write to its standard input."""
        if 0 in self.pipes:
            self.pipes[0].write(data)

    def closeStdin(self) -> None:
        if 0 in self.pipes:
            self.pipes[0].loseConnection()

    def loseConnection(self) -> None:
        for pipe in list(self.pipes.values()):
            pipe.loseConnection()

    def signalProcess(self, name: str) -> None:
        if self.pid is None or self._over or self._status is not None:
            raise ProcessExitedAlready()
        try:
            os.kill(self.pid, getattr(signal, f"SIG{name}"))
        except ProcessLookupError:
            raise ProcessExitedAlready() from None
        finally:
            if self._exited and name == "KILL":  # nobody else will tell of its exit
                self._protocol.processExited(Failure(_reason(None)))

    def childDataReceived(self, name: int, data: bytes) -> None:
        self._protocol.childDataReceived(name, data)

    def childConnectionLost(self, name: int, reason: Failure) -> None:
        os.close(self.pipes.pop(name).fileno())
        with suppress(AttributeError):  # of a pipe beyond the standard ones
            self._protocol.childConnectionLost(name)
        self._check_over()

    def exited(self, status: int | None) -> None:
        """Take the exit status, None where nobody can tell it."""
        self._exited, self._status = True, status
        if status is not None:
            self._protocol.processExited(Failure(_reason(status)))
        self._check_over()

    def _check_over(self) -> None:
        if self._exited and not self.pipes and not self._over:
            self._over = True
            self._protocol.processEnded(Failure(_reason(self._status)))


def _reason(status: int | None) -> Exception:
    code = None if status is None else os.waitstatus_to_exitcode(status)
    if code == 0:
        return ProcessDone(status)
    by_signal = code is not None and code < 0
    return ProcessTerminated(
        None if by_signal else code, -code if by_signal and code else None, status
    )


@implementer(IReadDescriptor)
@define(eq=False)
class Launcher:
    """Starts processes, through `parent` where there is one; `why_not` is the reason where not."""

    parent: WarmParent | None = None
    why_not: str = ""
    warn: Callable[[str], None] = field(default=lambda line: None)  # of a parent that is lost
    _logged: bool = field(default=False, init=False)  # the reason, once
    _reactor: Any = field(default=None, init=False)  # once it has been used
    _ordered: deque[ForkedProcess] = field(factory=deque, init=False)  # not forked yet
    _running: dict[int, ForkedProcess] = field(factory=dict, init=False)  # by PID

    log = Logger()

    @classmethod
    def fork(cls, *modules: str, why_not: str | None = None) -> Launcher:
        """Return a launcher with a warm parent that has `modules`, or none for `why_not`.

        Call it before there is a reactor or a thread.
        """
        if why_not is not None:
            return cls(why_not=why_not)
        try:
            return cls(fork_warm_parent(modules))
        except CannotFork as e:
            return cls(why_not=str(e))
        except OSError as e:
            return cls(why_not=f"cannot fork: {e.strerror or e}")

    def launch(
        self,
        reactor: Any,
        protocol: ProcessProtocol,
        program: ChildProgram,
        pipes: Mapping[int, str | int],
    ) -> None:
        """Start `program` with `pipes`, as of `spawnProcess`; `protocol` hears of its end."""
        if self.parent is not None and self._fork(reactor, protocol, program, pipes):
            return
        if self.why_not and not self._logged:
            self._logged = True
            self.log.info("processes are not forked: {why}", why=self.why_not)
        command = program.command
        reactor.spawnProcess(
            protocol, command[0], command, env=dict(os.environ), path=None, childFDs=dict(pipes)
        )

    def _fork(
        self,
        reactor: Any,
        protocol: ProcessProtocol,
        program: ChildProgram,
        pipes: Mapping[int, str | int],
    ) -> bool:
        """Order the process; return whether that could be done."""
        assert self.parent is not None
        ours, theirs, made = dict[int, Any](), list[int](), list[int]()
        for name, mode in sorted(pipes.items()):
            if isinstance(mode, int):  # it gets one of this process
                theirs.append(mode)
                continue
            read, write = os.pipe()
            made.append(read if mode == "w" else write)
            theirs.append(made[-1])
            ours[name] = mode, write if mode == "w" else read
        try:
            self.parent.order(program, os.environ, theirs)
        except OSError as e:
            for _, number in ours.values():
                os.close(number)
            self.log.warn("cannot order a process: {why}", why=e.strerror or str(e))
            return False
        finally:
            for number in made:
                os.close(number)
        if self._reactor is None:
            self._reactor = reactor
            reactor.addReader(self)
        process = ForkedProcess(reactor, protocol, ours)
        self._ordered.append(process)
        protocol.makeConnection(process)
        return True

    def close(self) -> None:
        """Let the warm parent end."""
        if self._reactor is not None:
            self._reactor.removeReader(self)
            self._reactor = None
        if self.parent is not None:
            self.parent.close()
            self.parent = None

    # -- of IReadDescriptor

    def fileno(self) -> int:
        return -1 if self.parent is None else self.parent.socket.fileno()

    def logPrefix(self) -> str:
        return "launcher"

    def doRead(self) -> None:
        assert self.parent is not None
        try:
            for answer in self.parent.answers():
                self._take(answer)
        except EOFError:
            self._lose_parent()

    def connectionLost(self, reason: Failure) -> None:
        """Called where the reactor drops all that it reads."""
        self.close()

    def _take(self, answer: Mapping[str, Any]) -> None:
        if "forked" in answer:
            if answer["forked"] in self._running:
                return  # the process and its parent both say it
            process = self._ordered.popleft()
            process.pid = answer["forked"]
            self._running[answer["forked"]] = process
        elif "failed" in answer:
            process = self._ordered.popleft()
            process.childDataReceived(2, f"{answer['failed']}\n".encode())
            process.exited(None)
        elif (ended := self._running.pop(answer["ended"], None)) is not None:
            ended.exited(answer["status"])

    def _lose_parent(self) -> None:
        """Go on without: what runs is over when its pipes close, and nothing is forked any more."""
        parent = self.parent
        self.close()
        if parent is not None:
            parent.reap()
        self.warn(PARENT_LOST)
        for process in (*self._ordered, *self._running.values()):
            process.exited(None)
        self._ordered.clear()
        self._running.clear()
