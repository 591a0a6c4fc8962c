"""The interfaces of the reactor that a trainer needs."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorProcess

from byzpy_tw.output.program import IProgramReactor
from byzpy_tw.scheduling.threads import IComputeReactor


class ITrainerReactor(IProgramReactor, IReactorProcess, IComputeReactor):
    """A reactor that keeps time, starts processes and hears of threads; a transport connects it."""
