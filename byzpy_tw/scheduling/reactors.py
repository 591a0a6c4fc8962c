"""The parts of a reactor that this program uses, as one interface for each use."""

from __future__ import annotations

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFromThreads,
    IReactorTCP,
    IReactorThreads,
    IReactorTime,
)


class IComputeReactor(IReactorTime, IReactorFromThreads):
    """Timers, and calls from the threads of a pool."""


class IServerReactor(IReactorCore, IReactorTCP, IReactorThreads, IComputeReactor):
    """All that a server needs."""
