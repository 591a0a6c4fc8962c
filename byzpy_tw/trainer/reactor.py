"""The interfaces of the reactor that a trainer needs."""

from __future__ import annotations

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFromThreads,
    IReactorProcess,
    IReactorTCP,
    IReactorTime,
)


class ITrainerReactor(
    IReactorCore, IReactorFromThreads, IReactorProcess, IReactorTCP, IReactorTime
):
    """A reactor that keeps time, connects, starts processes and hears of threads."""
