"""What must hold of every history, whatever befell it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from attrs import define, field
from torch import Tensor

from byzpy_tw.runs.round import Reason
from byzpy_tw.testing.simulate.history import History
from byzpy_tw.testing.simulate.reference import Reference, References
from byzpy_tw.testing.simulate.tap import Frame
from byzpy_tw.testing.simulate.trainer import Used
from byzpy_tw.vectors import fault_of, norm_of
from byzpy_tw.wire.frames import Header


def violations(history: History, references: References) -> list[str]:
    """What is wrong with `history`; empty if nothing is."""
    return [*_sound(history), *_Rounds(history, references.of(history.schedule.config)).wrong()]


def _sound(history: History) -> Iterator[str]:
    """It ended, and nothing was raised or left behind."""
    trainer, world = history.trainer, history.world
    if not history.ended:
        yield f"the trainer hangs: not over at {history.ended_at:g} s, {world.count} events"
    if trainer.bug is not None:
        yield f"the trainer ended with a bug: {trainer.bug.getTraceback()}"
    for failure in world.raised:
        yield f"an event raised: {failure.getTraceback()}"
    for text in history.logged:
        yield f"logged as a failure: {text}"
    yield from history.left
    result, rounds = trainer.records.result, trainer.records.rounds
    if not history.ended or history.killed or trainer.bug is not None:
        return
    if result is None or not trainer.records.closed:
        yield "the run ended without a result"
        return
    if [r["round"] for r in rounds] != list(range(len(rounds))):
        yield f"rounds.jsonl has rounds {[r['round'] for r in rounds]}"
    done = len(rounds) == history.schedule.config.rounds
    if (result["status"] == "finished") != (done and trainer.error is None):
        interrupted = any(f.kind == "interrupt" for f in history.schedule.faults)
        if not (interrupted and result["status"] == "interrupted"):
            yield f"{result['status']} after {len(rounds)} rounds, with {trainer.error!r}"


@define(eq=False)
class _Rounds:
    """Goes through the rounds that were aggregated, in order."""

    history: History
    reference: Reference
    _first: dict[tuple[int, int], Frame] = field(factory=dict, init=False)

    def wrong(self) -> Iterator[str]:
        used, records = self.history.trainer.used, self.history.trainer.records.rounds
        if [u.round for u in used] != list(range(len(used))):
            yield f"rounds {[u.round for u in used]} were aggregated"
            return
        begins = max((p.time for p in self.history.heard.placed), default=0.0)
        for now in used:
            yield from self._contributions(now, begins)
            self.reference.step(now.nodes, now.f, now.matrix)
            begins = now.time
            if now.round >= len(records):
                return  # it was not recorded: the run ended here
            record = records[now.round]
            if record["parameters_sha256"] != self.reference.digest:
                yield f"round {now.round} gave other parameters than its contributions do"

    # -- those that were used

    def _contributions(self, now: Used, begins: float) -> Iterator[str]:
        config, where = self.history.schedule.config, f"round {now.round}"
        if list(now.nodes) != sorted(set(now.nodes) & set(range(config.n))):
            yield f"{where}: the rows of nodes {now.nodes} were used"
            return
        if config.n - len(now.nodes) > config.f:
            yield f"{where}: {config.n - len(now.nodes)} nodes are missing, f = {config.f}"
        first = self._arrivals(now.round, begins)
        accepted = {n: now.matrix[n] for n in now.nodes if n < config.num_honest}
        for node in now.nodes:
            yield from self._used(where, node, now.matrix[node], first.get(node), accepted)
        records = self.history.trainer.records.rounds
        if now.round < len(records):
            refused = {r["node"]: Reason(r["reason"]) for r in records[now.round]["refused"]}
            if sorted([*refused, *now.nodes]) != list(range(config.n)):
                yield f"{where}: {now.nodes} used and {sorted(refused)} refused"
            for node, reason in refused.items():
                yield from self._refused(where, node, reason, first.get(node), begins)

    def _arrivals(self, round: int, begins: float) -> dict[int, Frame]:
        """The first frame of each node, from where it lived, in that round."""
        first: dict[int, Frame] = {}
        heard = self.history.heard
        for frame in heard.received:
            node = frame.header.index
            if frame.header.round != round or frame.time < begins or node in first:
                continue
            if heard.home(node, frame.time) == frame.server:
                first[node] = frame
        return first

    def _used(
        self, where: str, node: int, row: Tensor, frame: Frame | None, accepted: dict[int, Tensor]
    ) -> Iterator[str]:
        if frame is None:
            yield f"{where}: node {node} was used, and its server sent no vector of it"
            return
        sent = _vector(frame)
        if sent is None or not torch.equal(sent.to(torch.float32), row):
            yield f"{where}: what was used of node {node} is not what its server sent first"
        elif frame.server not in self._liars:
            right = self.reference.vector(node, accepted)
            if not torch.equal(right.to(torch.float32), row):
                yield f"{where}: node {node}'s vector is not what it computes"

    @property
    def _liars(self) -> set[str]:
        return {name for server in self.history.cluster.servers for name in server.liars}

    # -- those that were not

    def _refused(
        self, where: str, node: int, reason: Reason, frame: Frame | None, begins: float
    ) -> Iterator[str]:
        """A contribution is lost where it was good, in time, and from the right place."""
        if frame is None:
            if reason.proof:
                yield f"{where}: node {node} is {reason.value}, and sent nothing"
            return
        fault, config = self._fault(frame), self.history.schedule.config
        if fault is not None:
            expected = {fault}
        else:
            half = config.num_byz and node < config.num_honest
            deadline = begins + config.round_timeout / (2 if half else 1)
            expected = set()
            if frame.time >= deadline:
                expected |= {Reason.LATE, Reason.STALE}
        heard = self.history.heard
        if frame.time >= heard.lost.get(frame.server, math.inf):
            expected.add(Reason.LOST)
        for time, server, failed in heard.failed:
            if (server, failed) == (frame.server, node) and begins <= time <= frame.time:
                expected.add(Reason.FAILED)
        if fault is not None and frame.time >= begins + config.round_timeout / 2:
            expected |= {Reason.LATE, Reason.STALE}
        if reason not in expected:
            yield (
                f"{where}: node {node} was refused as {reason.value}, and its "
                f"{'bad' if fault else 'good'} vector came at {frame.time:.6f}"
            )

    def _fault(self, frame: Frame) -> Reason | None:
        vector = _vector(frame)
        if vector is None or vector.dtype is not self.reference.wire:
            return Reason.MALFORMED
        if vector.numel() != self.reference.parameters.numel():
            return Reason.MALFORMED
        return Reason.NOT_FINITE if fault_of(norm_of(vector.to(torch.float32))) else None


def _vector(frame: Frame) -> Tensor | None:
    header: Header = frame.header
    try:
        return torch.frombuffer(bytearray(frame.elements), dtype=header.dtype)
    except ValueError:
        return None
