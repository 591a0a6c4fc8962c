"""One round on record, computed again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import torch
from attrs import define, frozen
from torch import Tensor

from byzpy_tw.audit.replay import RoundReplay
from byzpy_tw.kernels.parallel import thread_limit
from byzpy_tw.records.checkpoint import State
from byzpy_tw.records.recorded_run import accepted_nodes
from byzpy_tw.rounds.learner import add_up
from byzpy_tw.rounds.round import Reason, Round
from byzpy_tw.vectors import norm_of, round_to_dtype, sha256_of


@frozen(eq=False)
class RecomputedRound:
    """A round computed again: the state after it, its hash and what else is on record."""

    state: State
    digest: str
    figures: Mapping[str, Any]


@define(eq=False)
class RoundRecomputer:
    """Computes rounds of `replay` from their records, on `pool`."""

    replay: RoundReplay
    pool: Executor
    threads: int

    def round(self, state: State, record: Mapping[str, Any]) -> RecomputedRound:
        """Computed again; of what an attack may have foreseen, what meets the hash."""
        replay, config = self.replay, self.replay.config
        nodes = accepted_nodes(record, config.n)
        honest = [n for n in nodes if n < config.num_honest]
        byzantine = [n for n in nodes if n >= config.num_honest]
        matrix = torch.zeros(config.n, replay.host.dimension)
        norms: dict[int, float] = {}
        losses: dict[int, float] = {}
        for node, gradient in replay.gradients(state, honest):
            sent = round_to_dtype(gradient.vector, replay.wire)
            norms[node], losses[node] = self._do(norm_of, sent.float()), gradient.loss
            matrix[node] = replay.row(state, node, sent)
        owns = {node: replay.own(state, node) for node in byzantine}
        best: RecomputedRound | None = None
        for f in self._foreseen(record, honest):
            attack = state.attack
            if f is not None:
                attack = self._do(self._attacked, state, honest, owns, matrix, norms, f)
            ran = self._do(self._stepped, state, nodes, record, matrix, attack, norms, losses)
            if ran.digest == record["parameters_sha256"]:
                return ran
            best = best or ran
        assert best is not None
        return best

    def _foreseen(self, record: Mapping[str, Any], honest: Sequence[int]) -> list[int | None]:
        """What f the attack may have been told of: as recorded, else the likely one first."""
        config = self.replay.config
        if not config.num_byz or not honest:
            return [None]
        told = record.get("foreseen_f")
        if type(told) is int and 0 <= told <= config.f:
            return [told]
        round = Round(record["round"], config.num_honest, config.num_byz, config.f)
        for refused in record["refused"]:
            known = refused["node"] < config.num_honest or refused["reason"] == "probation"
            if known and refused["reason"] in {r.value for r in Reason}:
                round.refuse(refused["node"], Reason(refused["reason"]))
        likely = round.expected_budget(self.replay.rules.aggregation.computable)
        return list(dict.fromkeys([likely, *range(config.f, -1, -1)]))

    def _attacked(
        self,
        state: State,
        honest: Sequence[int],
        owns: Mapping[int, Tensor | None],
        matrix: Tensor,
        norms: dict[int, float],
        f: int,
    ) -> Mapping[str, Any]:
        """Fill in what Byzantine nodes send; what the attack remembers."""
        replay = self.replay
        with thread_limit(self.threads):
            seen = replay.show(state, honest, matrix[list(honest)], f)
            for node, own in owns.items():
                sent = replay.sent(state, node, seen, own, replay.past(state, node))
                matrix[node] = replay.row(state, node, sent)
                norms[node] = norm_of(matrix[node])
        return seen.memory

    def _stepped(
        self,
        state: State,
        nodes: tuple[int, ...],
        record: Mapping[str, Any],
        matrix: Tensor,
        attack: Mapping[str, Any],
        norms: Mapping[int, float],
        losses: Mapping[int, float],
    ) -> RecomputedRound:
        replay = self.replay
        with thread_limit(self.threads):
            after, aggregated = replay.after(state, nodes, record["f"], matrix, attack)
        chosen = aggregated.selected
        figures: dict[str, Any] = {
            "norms": {str(n): norms[n] for n in nodes},
            "aggregate_norm": aggregated.norm,
            "selected": None if chosen is None else list(chosen),
            "excluded": [] if chosen is None else sorted(set(nodes) - set(chosen)),
            "loss": math.fsum(losses.values()) / len(losses) if losses else None,
        }
        if "accuracy" in record:
            learner = replay.learner
            tested = add_up([learner.test(job) for job in range(learner.evaluation_jobs)])
            figures |= {"accuracy": tested.accuracy, "test_loss": tested.loss}
        return RecomputedRound(after, sha256_of(after.parameters), figures)

    def _do(self, work: Callable[..., Any], *args: Any) -> Any:
        """In the pool, where torch computes on one thread, as it did in the run."""
        return self.pool.submit(work, *args).result()
