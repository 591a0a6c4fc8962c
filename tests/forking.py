"""``python -m tests.forking``: a process with a warm parent, and what it forks, for tests.

It prints a JSON object of what it saw.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol

from byzpy_tw.processes.child_program import ChildProgram
from byzpy_tw.processes.launcher import Launcher
from byzpy_tw.processes.warm_parent import count_threads

PIPES = {0: "w", 1: "r", 2: "r", 3: "r"}


class Child(ProcessProtocol):
    """Collects what comes through each pipe."""

    def __init__(self) -> None:
        self.heard: dict[int, bytes] = {}
        self.listening: Deferred[None] = Deferred()
        self.ended: Deferred[dict[str, Any]] = Deferred()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self.heard[childFD] = self.heard.get(childFD, b"") + data
        if childFD == 3 and not self.listening.called:
            self.listening.callback(None)

    def processEnded(self, reason: Any) -> None:
        reason.trap(ProcessDone, ProcessTerminated)
        heard = {number: data.decode() for number, data in self.heard.items()}
        how = {"code": reason.value.exitCode, "signal": reason.value.signal}
        self.ended.callback({**how, "heard": heard})


def child() -> None:
    """Tell of this process, wait for the end of standard input, and end with a code."""
    with open("/proc/self/cmdline", "rb") as file:
        shown = file.read().rstrip(b"\0").decode()
    print(json.dumps({
        "argv": sys.argv, "descriptors": sorted(os.listdir("/proc/self/fd"))[:-1],
        "own_group": os.getpgrp() == os.getpid(), "threads": count_threads(),
        "random": random.random(), "numpy": float(sys.modules["numpy"].random.random()),
        "variable": os.environ.get("TOLD"), "shown": shown,
        "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "parent": os.getppid(),
    }), flush=True)  # fmt: skip
    os.write(3, b"ready\n")
    sys.stdin.read()
    print("end", file=sys.stderr)
    sys.exit(7)


def leave_one_behind() -> None:
    """End, and leave a process that holds this one's pipes; print its PID."""
    print(subprocess.Popen(["sleep", "60"]).pid, flush=True)


def restarted() -> None:
    """Tell that this process was started anew: nothing was imported for it."""
    print(json.dumps({"numpy": "numpy" in sys.modules}))


async def main(reactor: Any, launcher: Launcher) -> dict[str, Any]:
    assert launcher.parent is not None
    pid, warned = launcher.parent.pid, list[str]()
    launcher.warn = warned.append
    os.environ["TOLD"] = "y\udcff"
    children = [Child() for _ in range(3)]
    for i, started in enumerate(children):
        launcher.launch(
            reactor, started, ChildProgram("tests.forking", "child", (f"n{i}", "b c")), PIPES
        )
    for started in children:
        await started.listening
    threads = len(os.listdir(f"/proc/{pid}/task"))
    children[0].transport.closeStdin()
    first = await children[0].ended
    children[1].transport.signalProcess("KILL")
    second = await children[1].ended
    os.kill(pid, signal.SIGKILL)
    while launcher.parent is not None:
        await sleep(reactor)
    children[2].transport.closeStdin()
    third = await children[2].ended
    again = Child()
    launcher.launch(reactor, again, ChildProgram("tests.forking", "restarted"), {1: "r", 2: "r"})
    found = {"pid": pid, "threads": threads, "children": [first, second, third],
             "warned": warned, "again": await again.ended}  # fmt: skip
    found["zombie"] = os.path.exists(f"/proc/{pid}")
    return found


def sleep(reactor: Any) -> Deferred[None]:
    waiting: Deferred[None] = Deferred()
    reactor.callLater(0.01, waiting.callback, None)
    return waiting


def refused() -> str:
    """Return why a process with a second thread has no warm parent."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        return Launcher.fork().why_not
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    why = refused()
    launcher = Launcher.fork("numpy.random")
    here = count_threads()  # OpenBLAS has its threads back
    from twisted.internet.task import react

    async def report(reactor: Any) -> None:
        found = {**await main(reactor, launcher), "why": why, "here": here}
        print(json.dumps(found))

    react(lambda reactor: Deferred.fromCoroutine(report(reactor)))
