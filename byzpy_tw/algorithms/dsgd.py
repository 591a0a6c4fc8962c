"""Distributed SGD: each node sends a gradient each round, and their aggregate is the step.

This is the one place with the arithmetic of a round.  The trainer, verification and the
simulator call it; it does no I/O and reads no clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from attrs import define, evolve, field
from torch import Tensor

from byzpy_tw.algorithms.aggregation import Aggregated
from byzpy_tw.algorithms.algorithm import Revealed
from byzpy_tw.algorithms.participation import Participants
from byzpy_tw.algorithms.rules import ResolvedRules
from byzpy_tw.algorithms.sampling import Sampling
from byzpy_tw.algorithms.state import State, map_leaves
from byzpy_tw.attacks.knowledge.codec import PAST, PIECES, STEP, encode_pieces
from byzpy_tw.attacks.knowledge.levels import pieces_of
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BadRuleOutput, Diverged
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import norm_fault, norm_of, round_to_dtype


@define(eq=False)
class Dsgd:
    """Distributed SGD of all nodes, or of a sample of them in each round."""

    config: RunConfig
    rules: ResolvedRules
    _sampling: Sampling | None = field(init=False)
    _everyone: Participants | None = field(default=None, init=False)  # made once

    @_sampling.default
    def _make_sampling(self) -> Sampling | None:
        return Sampling.of(self.config)

    @property
    def wire(self) -> torch.dtype:
        """The type of vectors that travel."""
        dtype: torch.dtype = getattr(torch, self.config.wire_dtype)
        return dtype

    def begin(self, parameters: Tensor) -> State:
        """Return the state before round 0; the ``(d,)`` `parameters` are not copied."""
        return State(0, parameters, self.rules.optimizer.begin(parameters))

    def resume(self, state: State) -> State:
        """Return a state that was read from a file, on the device that computes the steps."""
        device = self.rules.aggregation.device.place

        def move(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        optimizer = map_leaves(state.optimizer, move)
        return evolve(state, parameters=move(state.parameters), optimizer=optimizer)

    # -- from parameters to vectors

    def keeps_vector(self, node: int) -> bool:
        return node >= self.config.num_honest or not self.config.worker_momentum

    def participants(self, state: State) -> Participants:
        if self._sampling is not None:
            return self._asking(*self._sampling.draw(state.round), f=self._sampling.f)
        if self._everyone is None:
            self._everyone = self._asking(range(self.config.n), f=self.config.f)
        return self._everyone

    def _asking(self, nodes: Iterable[int], spare: Iterable[int] = (), *, f: int) -> Participants:
        """Return `nodes` as participants, of whose vectors `f` may be faulty."""
        return Participants(nodes, f, spare)

    def request(self, state: State) -> Tensor:
        return round_to_dtype(self._fetch(state.parameters), self.wire)

    def _fetch(self, vector: Tensor) -> Tensor:
        """Return `vector` in the CPU's memory."""
        (found,) = self.rules.aggregation.device.fetch([vector])
        return found

    def receive(self, state: State, node: int, sent: Tensor) -> Tensor:
        """Return the row that is aggregated for the vector that `node` sent, ``(d,)`` float32.

        With ``worker_momentum`` that is an honest node's next momentum,
        m = beta m + (1 - beta) g, from zero (Karimireddy et al., ICML 2021, Algorithm 1).  The
        momentum of a node that sends nothing stays as it was.
        """
        if self.keeps_vector(node):
            return sent
        beta = self.config.worker_momentum
        old = state.momenta.get(node)
        start = torch.zeros_like(sent) if old is None else old * beta
        return start.add_(sent, alpha=1 - beta)

    def reveal(self, state: State, nodes: Sequence[int], rows: Tensor, f: int) -> Revealed:
        """Return what the attack is shown of the rows, ``(h, d)``, of the honest `nodes`.

        `f` is the budget that the rules are expected to have.
        """
        config, rules, memory = self.config, self.rules, dict(state.attack)
        weights = rules.aggregation.node_weights
        context = Context(
            seed=config.seed, round=state.round, nodes=tuple(nodes), n=config.n, f=f,
            byzantine=self._attackers(state), pipeline=rules.aggregation.pipeline(f),
            weights=None if weights is None else weights.of_shown(nodes),
            node_weights=None if weights is None else weights.shares.clone(),
            **self.root_context(state),
        )  # fmt: skip
        with plugin_call(f"attack {config.attack!r}"):
            known = Knowledge.for_attack(
                rules.attack_with_budget(f), rows, context=context, state=memory,
                step=state.step, memory=dict(state.aggregation),
            )  # fmt: skip
        found = {piece: getattr(known, piece) for piece in PIECES}
        shown = {piece: tensor for piece, tensor in found.items() if tensor is not None}
        return Revealed(encode_pieces(shown, self.wire), memory)

    def _attackers(self, state: State) -> int:
        """Return the number of Byzantine vectors that an attack of this round is tried with."""
        config = self.config
        if self._sampling is None:
            return config.num_byz
        nodes, _ = self._sampling.draw(state.round)
        return max(1, sum(node >= config.num_honest for node in nodes))  # a spare one, at least

    @property
    def _shows_step(self) -> bool:
        """True if the attack is shown the last round's change of the parameters."""
        attack = self.rules.attack
        return attack is not None and STEP in pieces_of(attack)

    def past_vectors(self, state: State) -> Mapping[int, Tensor]:
        """Return the vectors that a replaying attack sends again, by Byzantine node."""
        return state.history.get(state.round - getattr(self.rules.attack, "age", 0), {})

    # -- from vectors to the next state

    def computable(self, n: int, f: int) -> str | None:
        """Return why the vectors of `n` nodes cannot be aggregated with budget `f`, or None."""
        return self.rules.aggregation.computable(n, f)

    def guarantee(self, n: int, f: int) -> str | None:
        """Return why the aggregate of `n` nodes gives no guarantee with budget `f`, or None."""
        return self.rules.aggregation.pipeline(f).guarantee(n)

    def aggregate(self, state: State, nodes: tuple[int, ...], f: int, rows: Tensor) -> Aggregated:
        """Aggregate the ``(m, d)`` `rows`, one for each of the m `nodes` in order, with budget `f`.

        Without any node, as in a round of Byzantine nodes that saw nothing to attack, that is zero.
        Raises the rules' errors.
        """
        if not nodes:
            return Aggregated(torch.zeros(rows.shape[1]), 0.0, None, state.aggregation)
        return self.rules.aggregation(
            rows, nodes, f, state.round, state.aggregation, **self.root_context(state)
        )  # fmt: skip

    def root_context(self, state: State) -> dict[str, Any]:
        """Return what the rules need of the root set in a round, as entries of their `Context`.

        Raises `Diverged` where its vector is not finite.
        """
        found: dict[str, Any] = {}
        if (root_set := self.rules.root_set) is None:
            return found
        needs = self.rules.root_needs
        if "root" in needs:
            sent = round_to_dtype(root_set.vector(state.round, self.request(state)), self.wire)
            found["root"] = sent.float()
            if (fault := norm_fault(norm_of(found["root"]))) is not None:
                raise Diverged(
                    f"round {state.round}: what the root set makes of the parameters is no "
                    f"vector: {fault}; try a smaller learning rate"
                )
        if "score" in needs:
            scale = self.vector_scale(state.round)
            found["score"] = partial(root_set.losses, state.round, scale, state.parameters)
        return found

    def vector_scale(self, round: int) -> float:
        """Return the multiple of a node's vector that a plain step adds to the parameters."""
        return -self.rules.learning_rate(round, self.config.rounds)

    def advance(
        self,
        state: State,
        nodes: Sequence[int],
        rows: Tensor,
        aggregated: Aggregated,
        attack: Mapping[str, Any],
        *,
        reuse: bool = False,
        lent: bool = False,
    ) -> State:
        """Return the state after a round, by the `rows` of `nodes`, in order, and their aggregate.

        `attack` is the attack's memory after the round.  With `reuse` the tensors of `state`
        become the new state's, and `state` is not to be used any more, but for its parameters
        where they are `lent` to a reader that is not done.  A round without any vector makes no
        step.  Raises `Diverged` where the parameters are no longer finite.
        """
        parameters, optimizer = state.parameters, dict(state.optimizer)
        if lent or not reuse:
            parameters = parameters.clone()
        if not reuse:
            optimizer = map_leaves(optimizer, _clone)
        before = parameters.clone() if self._shows_step else None
        if nodes or state.rows is not None:
            self._step(parameters, aggregated.vector, optimizer, state.round)
        return evolve(
            state,
            round=state.round + 1,
            parameters=parameters,
            optimizer=optimizer,
            momenta=self._momenta(state, nodes, rows, reuse),
            history=self._history(state, nodes, rows),
            aggregation=aggregated.memory,
            attack=attack,
            step=None if before is None else self._fetch(parameters - before),
        )

    def _step(self, parameters: Tensor, vector: Tensor, state: dict[str, Any], round: int) -> None:
        """Take the optimizer's step in place; raise `Diverged` where it is not finite."""
        lr = self.rules.learning_rate(round, self.config.rounds)
        with plugin_call(self.rules.optimizer_owner):
            vector, kind = vector.to(parameters.device), _kind(parameters)
            self.rules.optimizer.step(parameters, vector, state, lr, round)
            if _kind(parameters) != kind:
                raise BadRuleOutput(
                    f"{self.rules.optimizer_owner}: a step made the parameters "
                    f"{tuple(parameters.shape)} of {parameters.dtype} on {parameters.device}, "
                    f"expected {tuple(kind[0])} of {kind[1]} on {kind[2]} as before"
                )
        # The sum of finite numbers may overflow.  Both ends of the range are NaN where
        # one number is; `isfinite` takes fifteen times as long.
        if not all(map(math.isfinite, map(float, torch.aminmax(parameters)))):
            raise Diverged("the parameters are no longer finite; try a smaller learning rate")

    def _momenta(
        self, state: State, nodes: Sequence[int], rows: Tensor, reuse: bool
    ) -> Mapping[int, Tensor]:
        if not self.config.worker_momentum:
            return state.momenta
        momenta = dict(state.momenta)
        for node, row in zip(nodes, rows, strict=True):
            if node < self.config.num_honest:
                if reuse and node in momenta:
                    momenta[node].copy_(row)
                else:
                    momenta[node] = row.clone()
        return momenta

    def _history(
        self, state: State, nodes: Sequence[int], rows: Tensor
    ) -> Mapping[int, Mapping[int, Tensor]]:
        """Keep the vectors of Byzantine nodes as long as the attack may send them again."""
        attack = self.rules.attack
        if attack is None or PAST not in pieces_of(attack):
            return {}
        # A vector that came over the wire goes back as it was.
        pairs, honest = zip(nodes, rows, strict=True), self.config.num_honest
        sent = {node: row.to(self.wire, copy=True) for node, row in pairs if node >= honest}
        kept = {**state.history, state.round: sent}
        kept.pop(state.round - attack.age, None)
        return kept


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device


def _clone(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
