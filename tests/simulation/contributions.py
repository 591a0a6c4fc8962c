"""Invariants of one round: which nodes were used, which were not, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from attrs import define, field
from torch import Tensor

from byzpy_tw.algorithms.participation import Participants
from byzpy_tw.events import NodeOnProbation, NodeReadmitted
from byzpy_tw.rounds.round import Reason
from byzpy_tw.vectors import norm_fault, norm_of
from tests.simulation.history import History
from tests.simulation.recorder import Frame, RecordedRequest
from tests.simulation.reference import Reference
from tests.simulation.trainer import AggregationInput, SimulatedTrainer


@define(eq=False)
class Contributions:
    """The contributions to round `now` of the process `trainer`, which began at about `begins`."""

    history: History
    trainer: SimulatedTrainer
    reference: Reference
    now: AggregationInput
    begins: float
    record: Mapping[str, Any] | None
    _first: dict[int, list[Frame]] = field(factory=dict, init=False)  # of each home of a node

    @property
    def _where(self) -> str:
        return f"{self.trainer.process.name}, round {self.now.round}"

    def violations(self) -> Iterator[str]:
        config, now, asked = self.history.schedule.config, self.now, self.reference.asked
        drawn = {*asked.nodes, *asked.spare}
        if list(now.nodes) != sorted(set(now.nodes) & drawn):
            yield f"{self._where}: the rows of nodes {now.nodes} were used of {sorted(drawn)}"
            return
        missing = len(asked.nodes) - len(now.nodes)
        if missing > asked.f:
            yield f"{self._where}: {missing} nodes are missing, f = {asked.f}"
        yield from self._check_asked(asked)
        if not config.in_process:
            self._first = self._first_frames()
        yield from self._check_rows()
        if self.record is not None:
            yield from self._check_refusals(self.record)

    def _first_frames(self) -> dict[int, list[Frame]]:
        """The first frame of each node in this round, from each place where it may live.

        One in whose moment the trainer hung up may have come before that or not: then
        the one after it may be the first as well.
        """
        transcript = self.trainer.transcript
        ended, settled = set(transcript.lost), set[tuple[int, str]]()
        first: dict[int, list[Frame]] = {}
        for frame in transcript.received:
            node, key = frame.header.index, (frame.header.index, frame.server)
            # Later ones may be read while the pool still aggregates.
            if frame.header.round != self.now.round or frame.time > self.now.time:
                continue
            premature = self._is_premature(frame)
            if frame.time < self.begins or (premature and node < self.reference.config.num_honest):
                continue
            if key not in settled and frame.server in transcript.servers_of(node, frame.time):
                first.setdefault(node, []).append(frame)
                # A Byzantine one is awaited from when it replaces another, and asked later.
                if (frame.time, frame.server) not in ended and not premature:
                    settled.add(key)
        return first

    def _is_premature(self, frame: Frame) -> bool:
        """Return whether it is of a spare node that was not asked yet, and so may be dropped."""
        node = frame.header.index
        if node not in self.reference.asked.spare:
            return False
        asked = [a.time for a in self.trainer.transcript.asked if self._is_about(a, node)]
        return frame.time < min(asked, default=frame.time)

    def _check_asked(self, asked: Participants) -> Iterator[str]:
        """Check that no other nodes than the participants were asked, and that they are told."""
        for request in self.trainer.transcript.asked:
            others = set(request.nodes).difference(asked.nodes, asked.spare)
            if request.round == self.now.round and others:
                yield f"{self._where}: {sorted(others)} were asked, who take no part"
        if self.record is not None:
            everyone = list(range(self.history.schedule.config.n))
            if self.record.get("participants", everyone) != self.reference.everyone(self.record):
                yield f"{self._where}: other participants are on record than {asked.nodes}"
            yield from self._check_replaced(asked, self.record)

    def _check_replaced(self, asked: Participants, record: Mapping[str, Any]) -> Iterator[str]:
        """Check that absent nodes are replaced in order, as far as there are spare ones."""
        replaced = record.get("replaced", [])
        absent = {r["node"] for r in record["refused"] if Reason(r["reason"]).is_absence}
        count = min(len(absent), len(asked.spare))
        if [pair["by"] for pair in replaced] != list(asked.spare[:count]):
            yield f"{self._where}: {replaced} replaced {sorted(absent)} by {asked.spare}"
        if len({pair["node"] for pair in replaced} & absent) != len(replaced):
            yield f"{self._where}: {replaced} are not all of the absent {sorted(absent)}"
        late = {pair["by"] for pair in replaced}
        if not late.issuperset(record.get("unseen", ())):
            yield f"{self._where}: {record['unseen']} were not seen, and replaced nobody"

    # -- those that were used

    def _check_rows(self) -> Iterator[str]:
        now, config = self.now, self.history.schedule.config
        if self.record is None and self.reference.asked.spare:
            return  # it is not known which of them came too late for the attack
        unseen = (self.record or {}).get("unseen", ())
        rows = dict(zip(now.nodes, now.rows, strict=True))
        seen = [n for n in now.nodes if n < config.num_honest and n not in unseen]
        accepted = {n: rows[n] for n in seen}
        for node, row in rows.items():
            frames = self._first.get(node, [])
            sent = [f for f in frames if self._equals_row(node, _vector(f), row)]
            if not config.in_process and not frames:
                yield f"{self._where}: node {node} was used, and its server sent no vector of it"
            elif not config.in_process and not sent:
                yield (
                    f"{self._where}: what was used of node {node} is not what its server sent first"
                )
            elif not any(f.server in self._liars for f in sent):
                if not self._is_computed(node, row, accepted):
                    yield f"{self._where}: node {node}'s vector is not what it computes"

    def _equals_row(self, node: int, sent: Tensor | None, row: Tensor) -> bool:
        if sent is None or sent.numel() != row.numel():
            return False
        return torch.equal(self.reference.row(node, sent), row)

    def _is_computed(self, node: int, row: Tensor, accepted: dict[int, Tensor]) -> bool:
        config, reference = self.history.schedule.config, self.reference
        if node < config.num_honest:
            return self._equals_row(node, reference.honest(node), row)
        # What an attack foresees of the rules' f depends on who had failed by then.
        return any(
            self._equals_row(node, reference.byzantine(node, accepted, f), row)
            for f in range(reference.asked.f, -1, -1)
        )

    @property
    def _liars(self) -> set[str]:
        found = {name for server in self.history.cluster.servers for name in server.liars}
        return found | self.history.liars

    # -- those that were not

    def _check_refusals(self, record: Mapping[str, Any]) -> Iterator[str]:
        now = self.now
        refused = {r["node"]: Reason(r["reason"]) for r in record["refused"]}
        if sorted([*refused, *now.nodes]) != self.reference.everyone(record):
            yield f"{self._where}: {now.nodes} used and {sorted(refused)} refused"
        yield from self._check_probation(refused)
        for node, reason in refused.items():
            wrong = self._find_wrong_refusal(node, reason)
            if wrong:
                yield f"{self._where}: node {node} was refused as {reason.value}, {wrong}"

    def _nodes_told(self, kind: type[NodeOnProbation | NodeReadmitted]) -> list[int]:
        """Return the nodes that events of this `kind` told of in this round."""
        told = self.trainer.probation_events
        return [e.node for e in told if isinstance(e, kind) and e.round == self.now.round]

    def _check_probation(self, refused: dict[int, Reason]) -> Iterator[str]:
        """Check that exactly the nodes on probation are left out, by a model of their conduct."""
        model = self.reference.probation
        left = {n for n, reason in refused.items() if reason is Reason.PROBATION}
        asked = self.reference.everyone(self.record)
        expected = model.nodes.intersection(asked)
        if left != expected:
            yield f"{self._where}: {sorted(left)} left out, on probation {sorted(expected)}"
        told, punished = self._nodes_told(NodeReadmitted), self._nodes_told(NodeOnProbation)
        for node in told:
            if node not in asked:
                yield f"{self._where}: node {node} is readmitted, and takes no part"
            if not self._answered(node):
                yield f"{self._where}: node {node} is readmitted, and sent nothing good"
        if sorted(model.record_success([*self.now.nodes, *told])) != told:
            yield f"{self._where}: {told} are readmitted, and should not be"
        for node, reason in refused.items():
            if reason not in (Reason.PROBATION, Reason.LOST):
                waited = reason in (Reason.LATE, Reason.STALE)
                news = bool(model.record_failure(node, costly=waited))
                if news != (node in punished):
                    yield f"{self._where}: node {node} put on probation: {not news}"

    def _answered(self, node: int) -> bool:
        """Return whether a good vector of it came, of this round or of one before."""
        if self.history.schedule.config.in_process:
            return True
        return any(
            f.header.index == node and f.header.round <= self.now.round and not self._fault(f)
            for f in self.trainer.transcript.received
        )

    def _find_wrong_refusal(self, node: int, reason: Reason) -> str:
        """Describe a wrong refusal: a good vector in time, from the right place, is used."""
        frames = sorted(self._first.get(node, []), key=lambda f: f.time)
        faults = {self._fault(frame) for frame in frames} - {None}
        if self.history.schedule.config.in_process or reason is Reason.PROBATION:
            return ""
        asked = {a.server for a in self.trainer.transcript.asked if self._is_about(a, node)}
        if self.history.liars & asked:
            return ""  # half of a frame, say, is reason enough, and not read here
        if reason.proves_fault:
            return "" if reason in faults else "and sent no such thing"
        if reason is Reason.LOST:
            return self._find_wrong_loss(node)
        if reason is Reason.FAILED:
            return self._find_wrong_failure(node, frames)
        in_time = [f for f in frames if f.time < self._deadline(node)]
        if (
            in_time
            and self._fault(in_time[0]) is None
            and in_time[0].server in self._servers_asked(node)
        ):
            return f"and its good vector came at {in_time[0].time:.6f}"
        return ""

    def _servers_asked(self, node: int) -> set[str]:
        """Where it was asked in this round, and has not been lost since."""
        transcript, since = self.trainer.transcript, self.begins
        lost = {server for time, server in transcript.lost if since <= time <= self.now.time}
        return {a.server for a in transcript.asked if self._is_about(a, node)} - lost

    def _is_about(self, asked: RecordedRequest, node: int) -> bool:
        """Return whether that was a question for `node` in this round."""
        return asked.round == self.now.round and node in asked.nodes

    def _deadline(self, node: int) -> float:
        """No deadline of it is earlier."""
        config = self.history.schedule.config
        asked = self.reference.asked
        attacked = max((*asked.nodes, *asked.spare)) >= config.num_honest
        half = attacked and node < config.num_honest
        return self.begins + config.round_timeout / (2 if half else 1)

    def _find_wrong_failure(self, node: int, frames: list[Frame]) -> str:
        said = any(
            failed == node and self.begins <= time <= self.now.time
            for time, _, failed in self.trainer.transcript.failed
        )
        if said or not frames or self._fault(frames[0]):
            return ""
        return f"and its good vector came at {frames[0].time:.6f}"

    def _find_wrong_loss(self, node: int) -> str:
        """Nothing is charged while a replacement can be had."""
        config, transcript = self.history.schedule.config, self.trainer.transcript
        if config.failover == "off":
            # One that comes back has its nodes from the next round on.
            mine = {p.server for p in transcript.assigned if p.hosts(node) and p.time < self.begins}
            gone = [t for t, server in transcript.lost if server in mine and t <= self.now.time]
            return "" if gone or not mine else "and its server was there"
        if config.max_nodes_per_server is not None:
            return ""  # those that are there may be full
        if self._is_unstable(node):
            return ""
        replace_timeout = config.replace_timeout
        if not replace_timeout and any(t <= self.now.time for t, _ in transcript.lost):
            return ""  # it may have been at this very moment
        start = self.begins - replace_timeout
        longest = max((b - a for a, b in transcript.absent(start, self.now.time)), default=0.0)
        if longest < replace_timeout - 0.01 or not transcript.absent(start, self.now.time):
            return f"and no server was there for {longest:g} s, less than {replace_timeout:g}"
        return ""

    def _is_unstable(self, node: int) -> bool:
        """Return whether a server that had `node` was lost so often that no round waits for it."""
        homes = {_server_of(p.server) for p in self.trainer.transcript.assigned if p.hosts(node)}
        lost = [
            _server_of(server)
            for time, server in self.trainer.transcript.lost
            if time <= self.now.time
        ]
        return any(lost.count(home) >= 3 for home in homes)

    def _fault(self, frame: Frame) -> Reason | None:
        vector = _vector(frame)
        if vector is None or vector.dtype is not self.reference.wire:
            return Reason.MALFORMED
        if vector.numel() != self.reference.parameters.numel():
            return Reason.MALFORMED
        return Reason.NOT_FINITE if norm_fault(norm_of(vector.to(torch.float32))) else None


def _server_of(process: str) -> str:
    """Return the server of a process: s1.3 is the third process of s1."""
    return process.partition(".")[0]


def _vector(frame: Frame) -> Tensor | None:
    try:
        return torch.frombuffer(bytearray(frame.elements), dtype=frame.header.dtype)
    except ValueError:
        return None
