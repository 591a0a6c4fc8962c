"""The time of a few nodes' gradients on a server, for other sizes of micro-batches.

Everything goes by the commands of a run, so that a server elsewhere is measured as one here.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

import attrs
import torch
from attrs import define, field
from torch import Tensor
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from byzpy_tw.errors import BadFrame, ByzpyTwError, ServerError
from byzpy_tw.protocol.frames import Header
from byzpy_tw.scheduling import clock
from byzpy_tw.trainer.server_interface import Server
from byzpy_tw.workers.micro_batch import larger_sizes, proposed_size
from byzpy_tw.workers.spec import NodeSpec, RunSpec

NODES = 8  # whose gradients are timed together, at most
REPEATS, SECONDS = 3, 0.5  # at most, after one to warm up


@define(eq=False)
class GradientTimer:
    """Times one run's gradients on `server`, and is the `Sink` of their vectors."""

    server: Server
    nodes: Sequence[NodeSpec]
    _clock: IReactorTime
    _memory: dict[int, Tensor] = field(factory=dict, init=False)
    _missing: set[int] = field(factory=set, init=False)
    _arrival: Deferred[None] = field(factory=Deferred, init=False)

    async def measure(self, spec: RunSpec) -> float:
        """Return the least seconds from parameters to the last vector of a round of `spec`.

        The server opens a run for it, and closes it again.  Raises the errors of either.
        """
        server, number = self.server, 0
        try:
            await server.hello()
            opened = await server.open(f"doctor-{secrets.token_hex(12)}", spec, self)
            await server.spawn(self.nodes)
            dtype = getattr(torch, spec.wire_dtype)
            vector = torch.zeros(opened.dimension, dtype=dtype)
            self._memory = {node.node: torch.empty_like(vector) for node in self.nodes}
            await self._round(number, vector)
            begun, took = clock.seconds(self._clock), []
            for number in range(1, REPEATS + 1):
                took.append(await self._round(number, vector))
                if clock.seconds(self._clock) - begun > SECONDS:
                    break
            await server.close()
            return min(took)
        finally:
            server.drop("the measurement is over")

    async def _round(self, number: int, vector: Tensor) -> float:
        begun, nodes = clock.seconds(self._clock), list(self._memory)
        self._missing, self._arrival = set(nodes), Deferred()
        self.server.parameters(number, vector)
        for node, why in (await self.server.compute(number, nodes)).items():
            raise ServerError(f"{self.server.name}: node {node}: {why}")
        await self._arrival
        return clock.seconds(self._clock) - begun

    def allocate(self, server: Server, header: Header) -> Tensor | None:
        memory = self._memory.get(header.index)
        if memory is None or header.index not in self._missing:
            raise BadFrame("a vector that nobody asked for")
        if header.elements != memory.numel() or header.dtype is not memory.dtype:
            raise BadFrame(f"{header.elements} elements of {header.dtype}")
        return memory

    def vector_received(self, server: Server, header: Header) -> None:
        self._missing.discard(header.index)
        if not self._missing and not self._arrival.called:
            self._arrival.callback(None)


async def advise_micro_batch(
    make_server: Callable[[], Server],
    spec: RunSpec,
    nodes: Sequence[NodeSpec],
    reactor: IReactorTime,
    patience: float,
) -> str | None:
    """Return a line that proposes a larger micro-batch, where that is clearly faster, or None.

    No size is begun after `patience` seconds, and each has as many.
    """
    begun = clock.seconds(reactor)
    nodes = [node for node in nodes if node.honest][:NODES]
    current = min(spec.micro_batch_size, spec.batch_size)
    sizes = larger_sizes(current, spec.batch_size) if nodes else []
    seconds: dict[int, float] = {}
    for size in [current, *sizes] if sizes else ():
        timer = GradientTimer(make_server(), nodes, reactor)
        work = timer.measure(attrs.evolve(spec, micro_batch_size=size))
        try:
            seconds[size] = await Deferred.fromCoroutine(work).addTimeout(patience, reactor)
        except (ByzpyTwError, TimeoutError):
            break  # it is over a limit there
        late = clock.seconds(reactor) - begun > patience
        if late or seconds[size] > min(seconds.values()):
            break  # larger ones are slower still
    better = proposed_size(seconds, current) if seconds else None
    if better is None:
        return None
    now, then = seconds[current], seconds[better]
    what = "gradients" if spec.local_steps is None else "updates"
    return (
        f"--micro-batch-size {better} would be {now / then:.1f} times as fast ({len(nodes)} "
        f"{what} in {1000 * then:.3g} ms, not {1000 * now:.3g}); it changes the bits of a run"
    )
