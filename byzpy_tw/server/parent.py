"""A server that another process started, and that must not outlive it."""

from __future__ import annotations

import os
from typing import Any

from attrs import define
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorCore
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure


@define(eq=False)
class _StopAtEOF(Protocol):
    """Stops the reactor when standard input ends."""

    _reactor: IReactorCore

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._reactor.running:
            self._reactor.stop()


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
