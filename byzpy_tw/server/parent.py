"""A server that another process started, waits for, and must not be outlived by."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from attrs import define
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorCore
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure

from byzpy_tw.transports import ServerAddress


class CannotStart(SystemExit, Exception):
    """The end of a process that cannot serve, with exit code 1; its log has the reason.

    As an `Exception`, twistd tells its parent process, which waits for a daemon's start and
    prints the first 100 bytes, and removes the pidfile.  It does not for a `SystemExit`, and
    the parent would wait for ever.
    """

    __module__ = "builtins"  # which Python leaves out where it shows an exception

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.code = 1


@define(eq=False)
class _StopAtEOF(Protocol):
    """Stops the reactor when standard input ends."""

    _reactor: IReactorCore

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._reactor.running:
            self._reactor.stop()


@define(eq=False)
class Announcement(Service):
    """Write a line of JSON with the server's address to a pipe of the parent, and close that.

    It belongs behind the server among the services, for it starts once that listens.
    """

    _descriptor: int
    _find_address: Callable[[], ServerAddress]

    def startService(self) -> None:
        super().startService()
        line = json.dumps({"address": str(self._find_address()), "pid": os.getpid()})
        with suppress(OSError), os.fdopen(self._descriptor, "w") as pipe:  # a parent that is gone
            pipe.write(f"{line}\n")


@define(eq=False)
class UntilEOF(Service):
    """Stop when standard input, a pipe from the parent, is closed.

    A pipe closes however the parent ends, kill -9 included.  The server leaves its parent's
    process group, so that Ctrl-C in a terminal reaches the parent alone, which then closes
    its runs in order.  Computations under way are waited for, in `ByzpyServer._stop`.
    """

    _reactor: IReactorCore

    def startService(self) -> None:
        super().startService()
        if os.getpgrp() != os.getpid():
            os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_WRONLY)
        make: Any = StandardIO  # mypy takes the class of Windows
        make(_StopAtEOF(self._reactor), stdin=0, stdout=null)
