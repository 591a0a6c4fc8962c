"""A recorded round, computed again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import torch
from attrs import define, frozen
from torch import Tensor

from byzpy_tw.algorithms.state import State
from byzpy_tw.audit.replay import RoundReplay
from byzpy_tw.kernels.parallel import thread_limit
from byzpy_tw.rounds.evaluator import add_up
from byzpy_tw.rounds.round import Reason, Round
from byzpy_tw.vectors import norm_of, round_to_dtype, sha256_of


@frozen(eq=False)
class RecomputedRound:
    """A round computed again: the state after it, its hash, and verified entries of a record."""

    state: State
    digest: str
    entries: Mapping[str, Any]


@define(eq=False)
class RoundRecomputer:
    """Computes rounds of `replay` from their records, on `pool`."""

    replay: RoundReplay
    pool: Executor
    threads: int

    def recompute(self, state: State, record: Mapping[str, Any]) -> RecomputedRound:
        """Compute the round of `record` from the `state` before it.

        The budget that the attack was told of is on record since some version; before, the
        first one that meets the recorded hash is taken.
        """
        replay, algorithm, config = self.replay, self.replay.algorithm, self.replay.config
        refused = {one["node"] for one in record["refused"]}
        nodes = tuple(node for node in range(config.n) if node not in refused)
        honest = [n for n in nodes if n < config.num_honest]
        byzantine = [n for n in nodes if n >= config.num_honest]
        matrix = torch.zeros(config.n, replay.host.dimension)
        norms: dict[int, float] = {}
        losses: dict[int, float] = {}
        for node, gradient in replay.gradients(state, honest):
            sent = round_to_dtype(gradient.vector, algorithm.wire)
            norms[node], losses[node] = self._in_pool(norm_of, sent.float()), gradient.loss
            matrix[node] = algorithm.receive(state, node, sent)
        owns = {node: replay.own_gradient(state, node) for node in byzantine}
        best: RecomputedRound | None = None
        for f in self._candidate_budgets(record, honest):
            attack = state.attack
            if f is not None:
                attack = self._in_pool(self._attack, state, honest, owns, matrix, norms, f)
            ran = self._in_pool(self._step, state, nodes, record, matrix, attack, norms, losses)
            if ran.digest == record["parameters_sha256"]:
                return ran
            best = best or ran
        assert best is not None
        return best

    def _candidate_budgets(
        self, record: Mapping[str, Any], honest: Sequence[int]
    ) -> list[int | None]:
        """Return the budgets that the attack may have been told of, the likely one first."""
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
        likely = round.expected_budget(self.replay.algorithm.computable)
        return list(dict.fromkeys([likely, *range(config.f, -1, -1)]))

    def _attack(
        self,
        state: State,
        honest: Sequence[int],
        owns: Mapping[int, Tensor | None],
        matrix: Tensor,
        norms: dict[int, float],
        f: int,
    ) -> Mapping[str, Any]:
        """Fill in the rows of Byzantine nodes; return the attack's memory after that."""
        replay = self.replay
        with thread_limit(self.threads):
            shown = replay.algorithm.reveal(state, honest, matrix[list(honest)], f)
            for node, own in owns.items():
                sent = replay.attack_vector(state, node, len(honest), shown, own)
                matrix[node] = replay.algorithm.receive(state, node, sent)
                norms[node] = norm_of(matrix[node])
        return shown.memory

    def _step(
        self,
        state: State,
        nodes: tuple[int, ...],
        record: Mapping[str, Any],
        matrix: Tensor,
        attack: Mapping[str, Any],
        norms: Mapping[int, float],
        losses: Mapping[int, float],
    ) -> RecomputedRound:
        algorithm, evaluator = self.replay.algorithm, self.replay.evaluator
        with thread_limit(self.threads):
            aggregated = algorithm.aggregate(state, nodes, record["f"], matrix)
            after = algorithm.advance(state, nodes, matrix, aggregated, attack)
        chosen = aggregated.selected
        entries: dict[str, Any] = {
            "norms": {str(n): norms[n] for n in nodes},
            "aggregate_norm": aggregated.norm,
            "selected": None if chosen is None else list(chosen),
            "excluded": [] if chosen is None else sorted(set(nodes) - set(chosen)),
            "loss": math.fsum(losses.values()) / len(losses) if losses else None,
        }
        if "accuracy" in record:
            evaluator.load(after.parameters)
            tested = add_up([evaluator.evaluate(job) for job in range(evaluator.jobs)])
            entries |= {"accuracy": tested.accuracy, "test_loss": tested.loss}
        return RecomputedRound(after, sha256_of(after.parameters), entries)

    def _in_pool(self, work: Callable[..., Any], *args: Any) -> Any:
        """Return what `work` returns in the pool, where torch computes on one thread."""
        return self.pool.submit(work, *args).result()
