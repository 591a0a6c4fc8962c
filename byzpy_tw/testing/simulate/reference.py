"""What a run must come to, computed here, from who took part in each round.

A node's vector is a function of the run's spec, the node, the round and the parameters;
the parameters that follow are one of the vectors that were accepted.  What was computed
once is remembered, for all histories of one configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch
from attrs import define, evolve, field
from torch import Tensor

from byzpy_tw.attacks.knowledge import Knowledge
from byzpy_tw.nodes.host import NodeHost, build, make_model
from byzpy_tw.nodes.spec import node_specs
from byzpy_tw.plugins import Registry
from byzpy_tw.runs.config import RunConfig
from byzpy_tw.runs.learner import Learner
from byzpy_tw.runs.rules import Rules, rules_of
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import narrowed, sha256_of
from byzpy_tw.wire.pieces import PIECES, knowledge_of, narrow, widened

MOST_KEPT = 20_000  # vectors and steps


class _AtOnce:
    """A pool whose jobs are done as they come."""

    def submit(self, work: Callable[..., Any], *args: Any) -> Future:
        future: Future = Future()
        future.set_result(work(*args))
        return future


@define(eq=False)
class _Known:
    """What is remembered of one configuration."""

    config: RunConfig
    rules: Rules
    host: NodeHost
    learner: Learner
    first: Tensor  # parameters of round 0
    vectors: dict[Any, Tensor] = field(factory=dict, init=False)
    steps: dict[Any, tuple[Tensor, Tensor]] = field(factory=dict, init=False)


@define(eq=False)
class References:
    """Makes the `Reference` of a run."""

    registry: Registry
    _known: dict[str, _Known] = field(factory=dict, init=False)

    def of(self, config: RunConfig) -> Reference:
        # Where the nodes live is no part of it.
        config = evolve(config, in_process=True, remote_hosts=())
        if config.bits not in self._known:
            self._known[config.bits] = self._work_out(config)
        return Reference(self._known[config.bits])

    def _work_out(self, config: RunConfig) -> _Known:
        spec, registry = config.spec(), self.registry
        host = build(spec, registry, data_root=None)  # type: ignore[arg-type]
        for node in node_specs(
            honest=config.num_honest, byzantine=config.num_byz, attack=config.attack
        ):
            host.spawn(node)
        learner = Learner(
            make_model(spec, registry, host.dataset), host.dataset, lr=config.lr,
            momentum=config.momentum, weight_decay=config.weight_decay,
            milestones=config.lr_milestones, decay=config.lr_decay,
        )  # fmt: skip
        first = host.parameters.clone()
        return _Known(config, rules_of(config, registry), host, learner, first)


@define(eq=False)
class Reference:
    """One run, round by round: `vector` of the present round, then `step` to the next."""

    _known: _Known
    round: int = field(default=0, init=False)
    parameters: Tensor = field(init=False)
    _velocity: Tensor = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.parameters = self._known.first
        self._velocity = torch.zeros_like(self.parameters)

    @property
    def config(self) -> RunConfig:
        return self._known.config

    @property
    def wire(self) -> torch.dtype:
        return self._known.host.wire

    @property
    def digest(self) -> str:
        """Of the present parameters."""
        return sha256_of(self.parameters)

    def vector(self, node: int, accepted: dict[int, Tensor]) -> Tensor:
        """What `node` sends, in the wire's type, given the honest rows that were accepted."""
        honest = node < self.config.num_honest
        shown = () if honest else tuple((n, _key(row)) for n, row in accepted.items())
        key = self.round, node, _key(self.parameters), shown
        found = self._known.vectors
        if key not in found:
            if len(found) > MOST_KEPT:
                found.clear()
            made = self._honest(node) if honest else self._byzantine(node, accepted)
            found[key] = narrowed(made, self.wire)
        return found[key]

    def _honest(self, node: int) -> Tensor:
        host, answers = self._known.host, []  # type: ignore[var-annotated]
        host.parameters.copy_(narrowed(self.parameters, self.wire))
        host.gradients(_AtOnce(), [node], self.round, answers.extend)  # type: ignore
        return answers[0].vector

    def _byzantine(self, node: int, accepted: dict[int, Tensor]) -> Tensor:
        """As the trainer shows it and the node's server makes it."""
        host, config, h = self._known.host, self.config, len(accepted)
        attack = self._known.rules.attack
        context = Context(
            seed=config.seed, round=self.round, nodes=tuple(accepted), n=config.n,
            f=config.f, byzantine=config.num_byz,
        )  # fmt: skip
        known = Knowledge.for_attack(
            attack, torch.stack(list(accepted.values())), context=context, state={}
        )
        pieces = {p: getattr(known, p) for p in PIECES if getattr(known, p) is not None}
        shown = {p: widened(t) for p, t in narrow(pieces, self.wire).items()}
        own = self._honest(node) if host.needs_own(node) else None
        return host.attack(
            node, self.round, knowledge_of(shown, h=h, d=host.dimension, own=own)
        )

    def step(self, nodes: tuple[int, ...], f: int, matrix: Tensor) -> None:
        """To the next round, by the rows `nodes` of `matrix`."""
        key = (
            self.round, nodes, f, _key(matrix[list(nodes)]),
            _key(self.parameters), _key(self._velocity),
        )  # fmt: skip
        found = self._known.steps
        if key not in found:
            if len(found) > MOST_KEPT:
                found.clear()
            found[key] = self._stepped(nodes, f, matrix)
        self.parameters, self._velocity = found[key]
        self.round += 1

    def _stepped(self, nodes: tuple[int, ...], f: int, matrix: Tensor) -> tuple[Tensor, Tensor]:
        aggregated = self._known.rules.aggregation(matrix, nodes, f, self.round)
        learner = self._known.learner
        learner.parameters.copy_(self.parameters)
        learner.velocity.copy_(self._velocity)
        learner.step(aggregated.vector, self.round)
        return learner.parameters.clone(), learner.velocity.clone()


def _key(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()
