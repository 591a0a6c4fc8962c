"""A run computed again, in this process, from who took part in each round.

A node's vector is a function of the run's spec, the node, the round and the parameters;
the parameters that follow are one of the vectors that were accepted.  So a round is:

1. `gradients` of honest nodes, and each one's `row`, which has its momentum;
2. `show` what Byzantine nodes are shown of those rows, and `sent`, what they make of it;
3. `after`, the state of the run once the rows are aggregated and the step is taken.

Nothing here is kept between calls: all that a round changes is in a `State`.
"""

from __future__ import annotations

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
from byzpy_tw.errors import BrokenPlugin, ByzpyTwError
from byzpy_tw.kernels.cpu import resolve_device
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
    """A pool whose jobs are done as they come."""

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        future.set_result(work(*args, **kwargs))
        return future


@frozen(eq=False)
class RevealedKnowledge:
    """What a round's Byzantine nodes are shown of `h` honest rows, as it has travelled.

    ``memory`` is what the attack remembers from then on.
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
    _together: int = 4  # jobs of gradients at once, so that few vectors wait

    @property
    def wire(self) -> torch.dtype:
        return self.host.wire

    # -- honest nodes

    def gradients(self, state: State, nodes: Sequence[int]) -> Iterator[tuple[int, Gradient]]:
        """The gradient of each of `nodes`, float32, in whatever order they are ready."""
        ready: SimpleQueue[tuple[Sequence[int], list[Answer]]] = SimpleQueue()
        self.host.parameters.copy_(round_to_dtype(state.parameters, self.wire))
        left, working = list(nodes), 0
        while left or working:
            while left and working < self._together:
                size = self.host.group_size
                group, left, working = left[:size], left[size:], working + 1
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
        """``(d,)`` float32, of one node."""
        return next(self.gradients(state, [node]))[1].vector

    def row(self, state: State, node: int, sent: Tensor) -> Tensor:
        """What the trainer makes of what `node` `sent`, before it aggregates: ``(d,)``."""
        row, beta = sent.to(torch.float32), self.config.worker_momentum
        if node >= self.config.num_honest or not beta:
            return row
        return worker_momentum(state.momenta.get(node), row, beta)

    # -- Byzantine ones

    def show(self, state: State, nodes: Sequence[int], rows: Tensor, f: int) -> RevealedKnowledge:
        """What the attack is shown of the honest `nodes`, whose rows are ``(h, d)``.

        `f` is the budget that the rules were to have when it was shown.
        """
        memory = dict(state.attack)
        pieces = reveal(
            self.rules, state.round, tuple(nodes), rows, f,
            state=memory, memory=dict(state.aggregation), wire=self.wire,
        )  # fmt: skip
        shown = {piece: decode_piece(tensor) for piece, tensor in pieces.items()}
        return RevealedKnowledge(len(rows), shown, memory)

    def past(self, state: State, node: int) -> Tensor | None:
        """What `node` sent when an attack that replays wants it to be sent again."""
        age = getattr(self.rules.attack, "age", 0)
        return state.history.get(state.round - age, {}).get(node)

    def own(self, state: State, node: int) -> Tensor | None:
        """The gradient that `node`'s attack starts from, where it does: ``(d,)``."""
        return self.gradient(state, node) if self.host.needs_own(node) else None

    def sent(
        self,
        state: State,
        node: int,
        shown: RevealedKnowledge,
        own: Tensor | None,
        past: Tensor | None,
    ) -> Tensor:
        """What Byzantine `node` sends, in the wire's type."""
        host = self.host
        if host.behaviour(node) == Behaviour.GARBAGE:  # accepted, where d is as small as that
            return host.garbage(node, state.round)
        known = decode_knowledge(
            shown.pieces, h=shown.h, d=host.dimension, own=own,
            past=None if past is None else decode_piece(past),
        )  # fmt: skip
        try:
            return round_to_dtype(host.attack(node, state.round, known), self.wire)
        except ByzpyTwError:
            raise
        except Exception as e:  # a plugin's code
            raise BrokenPlugin(f"attack {self.config.attack!r}: raised {e!r}") from e

    # -- the step

    def after(
        self,
        state: State,
        nodes: tuple[int, ...],
        f: int,
        matrix: Tensor,
        attack: Mapping[str, Any],
    ) -> tuple[State, Aggregated]:
        """The state after the rows `nodes` of the ``(n, d)`` `matrix` are aggregated.

        `attack` is what the attack remembers.  `learner` holds the new parameters then.
        Raises what the rules raise, and `Diverged`.
        """
        aggregation, learner = self.rules.aggregation, self.learner
        aggregation.memory = dict(state.aggregation)
        aggregated = aggregation(matrix, nodes, f, state.round)
        learner.restore(state.parameters, state.velocity)
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
    config: RunConfig, registry: Registry, data_root: Path, pool: Executor, group_size: int = 4
) -> RoundReplay:
    """What computes the rounds of `config`: the data is read, the nodes are made.

    Raises what is wrong with a name or a parameter, or with the data.
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
        config, resolve_rules(config, registry), host, learner, first, pool, group_size
    )
