"""A run computed again in this process, from the recorded membership of each round.

A node's vector is a function of the run's spec, the node, the round and the parameters;
the next parameters are a function of the accepted vectors.  So a round is:

1. `gradients` of honest nodes, and the `row` of each, which has its momentum;
2. `reveal` of those rows to the attack, and `attack_vector` of each Byzantine node;
3. `step`, the aggregation of the rows and the optimizer's step.

Nothing is kept between calls: all that a round changes is in a `State`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from attrs import define, frozen
from torch import Tensor

from byzpy_tw.attacks.behaviour import Behaviour
from byzpy_tw.attacks.knowledge.codec import (
    PAST,
    decode_knowledge,
    decode_piece,
)
from byzpy_tw.attacks.knowledge.levels import pieces_of
from byzpy_tw.config.run import RunConfig
from byzpy_tw.errors import BrokenPlugin
from byzpy_tw.kernels.cpu import resolve_device
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.plugins import Registry
from byzpy_tw.records.checkpoint import State
from byzpy_tw.rounds.aggregation import Aggregated
from byzpy_tw.rounds.learner import Learner, worker_momentum
from byzpy_tw.rounds.resolved_rules import ResolvedRules, resolve_rules
from byzpy_tw.rounds.reveal import reveal
from byzpy_tw.vectors import round_to_dtype
from byzpy_tw.workers.building import build_host, make_model
from byzpy_tw.workers.gradients import Answer, Gradient
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.spec import node_specs


class ImmediateExecutor(Executor):
    """An executor that runs each job when it is submitted."""

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        future.set_result(work(*args, **kwargs))
        return future


@frozen(eq=False)
class RevealedKnowledge:
    """The pieces of knowledge about `h` honest rows, rounded to the wire's type.

    ``memory`` is the attack's memory after it.
    """

    h: int
    pieces: Mapping[str, Tensor]
    memory: Mapping[str, Any]


@define(eq=False)
class RoundReplay:
    """Computes the rounds of one configuration.  Make one with `prepare_replay`."""

    config: RunConfig
    rules: ResolvedRules
    host: NodeHost
    learner: Learner
    first: State  # before round 0
    _pool: Executor
    _most_jobs: int = 4  # of gradients at once, so that few vectors wait

    @property
    def wire(self) -> torch.dtype:
        """The type of vectors that travel."""
        return self.host.wire

    # -- honest nodes

    def gradients(self, state: State, nodes: Sequence[int]) -> Iterator[tuple[int, Gradient]]:
        """Yield the gradient of each of `nodes`, float32, in the order in which they are ready."""
        ready: SimpleQueue[tuple[Sequence[int], list[Answer]]] = SimpleQueue()
        self.host.parameters.copy_(round_to_dtype(state.parameters, self.wire))
        size, working = self.host.group_size, 0
        waiting = deque(nodes[i : i + size] for i in range(0, len(nodes), size))
        while waiting or working:
            while waiting and working < self._most_jobs:
                group, working = waiting.popleft(), working + 1
                done = partial(_put, ready, group)
                self.host.gradients(self._pool, group, state.round, done)
            group, answers = ready.get()
            working -= 1
            for node, answer in zip(group, answers, strict=True):
                if isinstance(answer, BaseException):
                    where = f"node {node}, round {state.round}"
                    raise BrokenPlugin(f"{where}: {answer!r}") from answer
                yield node, answer

    def gradient(self, state: State, node: int) -> Tensor:
        """Return the gradient of one node: ``(d,)`` float32."""
        return next(self.gradients(state, [node]))[1].vector

    def row(self, state: State, node: int, sent: Tensor) -> Tensor:
        """Return the row to aggregate of a vector that `node` `sent`: ``(d,)`` float32."""
        row, beta = sent.to(torch.float32), self.config.worker_momentum
        if node >= self.config.num_honest or not beta:
            return row
        return worker_momentum(state.momenta.get(node), row, beta)

    # -- Byzantine ones

    def reveal(self, state: State, nodes: Sequence[int], rows: Tensor, f: int) -> RevealedKnowledge:
        """Return the attack's knowledge of the honest `nodes`, whose rows are ``(h, d)``.

        `f` is the budget that the rules were expected to have.
        """
        memory = dict(state.attack)
        pieces = reveal(
            self.rules, state.round, tuple(nodes), rows, f,
            state=memory, memory=dict(state.aggregation), wire=self.wire,
        )  # fmt: skip
        shown = {piece: decode_piece(tensor) for piece, tensor in pieces.items()}
        return RevealedKnowledge(len(rows), shown, memory)

    def past_vector(self, state: State, node: int) -> Tensor | None:
        """Return the earlier vector of `node` that an attack which replays sends again."""
        age = getattr(self.rules.attack, "age", 0)
        return state.history.get(state.round - age, {}).get(node)

    def own_gradient(self, state: State, node: int) -> Tensor | None:
        """Return the gradient that `node`'s attack starts from, if it needs one: ``(d,)``."""
        return self.gradient(state, node) if self.host.needs_own(node) else None

    def attack_vector(
        self,
        state: State,
        node: int,
        shown: RevealedKnowledge,
        own: Tensor | None,
        past: Tensor | None,
    ) -> Tensor:
        """Return the vector of the Byzantine `node`, in the wire's type."""
        host = self.host
        if host.behaviour(node) == Behaviour.GARBAGE:  # accepted, where d is as small as that
            return host.garbage(node, state.round)
        known = decode_knowledge(
            shown.pieces, h=shown.h, d=host.dimension, own=own,
            past=None if past is None else decode_piece(past),
        )  # fmt: skip
        with plugin_call(f"attack {self.config.attack!r}"):
            vector = host.attack(node, state.round, known)
        return round_to_dtype(vector, self.wire)

    # -- the step

    def step(
        self,
        state: State,
        nodes: tuple[int, ...],
        f: int,
        matrix: Tensor,
        attack: Mapping[str, Any],
    ) -> tuple[State, Aggregated]:
        """Aggregate the rows `nodes` of the ``(n, d)`` `matrix`; return the state after it.

        `attack` is the attack's memory.  `learner` holds the new parameters then.  Raises the
        rules' errors, and `Diverged`.
        """
        aggregation, learner = self.rules.aggregation, self.learner
        aggregation.memory = dict(state.aggregation)
        aggregated = aggregation(matrix, nodes, f, state.round)
        learner.restore(state.parameters, state.velocity)
        assert aggregated.vector is not None  # it has just been made
        learner.step(aggregated.vector, state.round)
        momenta = dict(state.momenta)
        if self.config.worker_momentum:
            momenta |= {n: matrix[n].clone() for n in nodes if n < self.config.num_honest}
        made = State(
            state.round + 1, learner.parameters.clone(), learner.velocity.clone(), momenta,
            self._history(state, nodes, matrix), dict(aggregation.memory), attack,
        )  # fmt: skip
        return made, aggregated

    def _history(
        self, state: State, nodes: Sequence[int], matrix: Tensor
    ) -> Mapping[int, Mapping[int, Tensor]]:
        attack = self.rules.attack
        if attack is None or PAST not in pieces_of(attack):
            return {}
        byzantine = [n for n in nodes if n >= self.config.num_honest]
        sent = {n: matrix[n].to(self.wire, copy=True) for n in byzantine}
        kept = {**state.history, state.round: sent}
        kept.pop(state.round - attack.age, None)
        return kept


def _put(ready: SimpleQueue, group: Sequence[int], answers: list[Answer]) -> None:
    ready.put((group, answers))


def prepare_replay(
    config: RunConfig, registry: Registry, data_root: Path, pool: Executor, most_jobs: int = 4
) -> RoundReplay:
    """Read the data, and make the nodes and the rules of `config`.

    Raises the errors of names, parameters and data.
    """
    spec = config.spec()
    host = build_host(spec, registry, data_root=data_root)
    for node in node_specs(
        honest=config.num_honest, byzantine=config.num_byz, attack=config.attack
    ):
        host.spawn(node)
    model = make_model(spec, registry, host.dataset).to(resolve_device(config.device))
    who = registry.owner("model", config.model)
    learner = Learner.of(config, model, host.dataset, copied=host.trial_outcome.copied, who=who)
    first = State(0, learner.parameters.clone(), learner.velocity.clone())
    return RoundReplay(
        config, resolve_rules(config, registry), host, learner, first, pool, most_jobs
    )
