"""What a run must come to, computed here, from who took part in each round.

A node's vector is a function of the run's spec, the node, the round and the parameters;
the parameters that follow are one of the vectors that were accepted.  What was computed
once is remembered, for all histories of one configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import torch
from attrs import define, evolve, field, frozen
from torch import Tensor

from byzpy_tw.attacks.knowledge import Knowledge
from byzpy_tw.attacks.tiers import pieces_of
from byzpy_tw.errors import ByzpyTwError
from byzpy_tw.nodes.host import NodeHost, build, make_model
from byzpy_tw.nodes.spec import node_specs
from byzpy_tw.plugins import Registry
from byzpy_tw.runs.config import RunConfig
from byzpy_tw.runs.learner import Learner
from byzpy_tw.runs.probation import Probation
from byzpy_tw.runs.rules import Rules, rules_of
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import narrowed, sha256_of
from byzpy_tw.wire.pieces import PAST, PIECES, knowledge_of, narrow, widened

MOST_KEPT = 1_000  # vectors and steps of a configuration


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
    vectors: dict[Any, Any] = field(factory=dict, init=False)  # and steps


@define(eq=False)
class References:
    """Makes the `Reference` of a run."""

    registry: Registry
    _known: dict[str, _Known] = field(factory=dict, init=False)

    def of(self, config: RunConfig) -> Reference:
        # Where the nodes live is no part of it.
        config = evolve(
            config, in_process=True, remote_hosts=(), min_servers=None, heartbeat_timeout=None
        )
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


@frozen(eq=False)
class Point:
    """A run between two rounds."""

    parameters: Tensor
    velocity: Tensor
    momenta: Mapping[int, Tensor] = field(factory=dict)
    history: Mapping[int, Mapping[int, Tensor]] = field(factory=dict)
    aggregation: Mapping[str, Any] = field(factory=dict)  # what rules remember
    attack: Mapping[str, Any] = field(factory=dict)
    probation: Mapping[str, Any] = field(factory=dict)


@define(eq=False)
class Reference:
    """One run, round by round: `vector` of the present round, then `step` to the next.

    `go_back` to any round that it has been at.
    """

    _known: _Known
    points: list[Point] = field(init=False)
    probation: Probation = field(factory=Probation, init=False)
    _attack: Mapping[str, Any] = field(factory=dict, init=False)  # the memory of this round

    def __attrs_post_init__(self) -> None:
        first = self._known.first
        self.points = [Point(first, torch.zeros_like(first))]

    def go_back(self, round: int) -> None:
        """To the state before `round`."""
        del self.points[round + 1 :]
        self.probation = Probation.from_plain(self._now.probation)

    @property
    def _now(self) -> Point:
        return self.points[-1]

    @property
    def round(self) -> int:
        return len(self.points) - 1

    @property
    def parameters(self) -> Tensor:
        return self._now.parameters

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

    # -- what nodes send

    def row(self, node: int, sent: Tensor) -> Tensor:
        """What the trainer makes of what `node` sent, before it aggregates."""
        row, beta = sent.to(torch.float32), self.config.worker_momentum
        if node >= self.config.num_honest or not beta:
            return row
        old = self._now.momenta.get(node)
        return (torch.zeros_like(row) if old is None else old * beta).add_(row, alpha=1 - beta)

    def honest(self, node: int) -> Tensor:
        """What an honest node sends, in the wire's type."""
        return self._once(("honest", node), lambda: self._gradient(node))

    def byzantine(self, node: int, accepted: dict[int, Tensor], f: int) -> Tensor:
        """What a Byzantine one sends, given the rows of honest nodes and the rules' `f`."""
        shown, self._attack = self._once(
            ("shown", f, _key(accepted)), lambda: self._show(accepted, f)
        )
        own, past = None, self._past(node)
        if self._known.host.needs_own(node):
            own = self._once(("own", node), lambda: self._gradient(node))
        key = ("byzantine", node, f, _key(accepted), _key(past))
        return self._once(key, lambda: self._attacked(node, len(accepted), shown, own, past))

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        now, found = self._now, self._known.vectors
        memory = now.aggregation, now.attack
        key = self.round, key, _key(now.parameters), _key(memory)
        if key not in found:
            if len(found) > MOST_KEPT:
                found.clear()
            found[key] = make()
        return found[key]

    def _gradient(self, node: int) -> Tensor:
        host, answers = self._known.host, []  # type: ignore[var-annotated]
        host.parameters.copy_(narrowed(self.parameters, self.wire))
        host.gradients(_AtOnce(), [node], self.round, answers.extend)  # type: ignore
        return narrowed(answers[0].vector, self.wire)

    def _past(self, node: int) -> Tensor | None:
        age = getattr(self._known.rules.attack, "age", 0)
        return self._now.history.get(self.round - age, {}).get(node)

    def _show(
        self, accepted: dict[int, Tensor], f: int
    ) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
        """As the trainer does; and what the attack remembers then."""
        config, rules, memory = self.config, self._known.rules, dict(self._now.attack)
        context = Context(
            seed=config.seed, round=self.round, nodes=tuple(accepted), n=config.n, f=f,
            byzantine=config.num_byz, pipeline=rules.aggregation.chain(f),
        )  # fmt: skip
        known = Knowledge.for_attack(
            rules.attack_on(f), torch.stack(list(accepted.values())), context=context,
            state=memory, memory=dict(self._now.aggregation),
        )  # fmt: skip
        pieces = {p: getattr(known, p) for p in PIECES if getattr(known, p) is not None}
        return {p: widened(t) for p, t in narrow(pieces, self.wire).items()}, memory

    def _attacked(
        self, node: int, h: int, shown: Any, own: Tensor | None, past: Tensor | None
    ) -> Tensor:
        host = self._known.host
        past = None if past is None else widened(past)
        known = knowledge_of(shown, h=h, d=host.dimension, own=own, past=past)
        return narrowed(host.attack(node, self.round, known), self.wire)

    # -- the step

    def step(self, nodes: tuple[int, ...], f: int, matrix: Tensor) -> None:
        """To the next round, by the rows `nodes` of `matrix`."""
        now = self._now
        parameters, velocity, memory = self._once(
            ("step", nodes, f, _key(matrix[list(nodes)]), _key(now.velocity)),
            lambda: self._stepped(nodes, f, matrix),
        )
        momenta = dict(now.momenta)
        if self.config.worker_momentum:
            momenta |= {n: matrix[n] for n in nodes if n < self.config.num_honest}
        history = {**now.history, self.round: self._sent(nodes, matrix)}
        made = Point(
            parameters, velocity, momenta, history, memory, self._attack,
            self.probation.to_plain(),
        )  # fmt: skip
        self.points.append(made)

    def _sent(self, nodes: tuple[int, ...], matrix: Tensor) -> dict[int, Tensor]:
        attack = self._known.rules.attack
        if attack is None or PAST not in pieces_of(attack):
            return {}
        return {n: matrix[n].to(self.wire) for n in nodes if n >= self.config.num_honest}

    def _stepped(self, nodes: tuple[int, ...], f: int, matrix: Tensor) -> Any:
        aggregation, learner, now = self._known.rules.aggregation, self._known.learner, self._now
        aggregation.memory = dict(now.aggregation)
        aggregated = aggregation(matrix, nodes, f, self.round)
        learner.parameters.copy_(now.parameters)
        learner.velocity.copy_(now.velocity)
        learner.step(aggregated.vector, self.round)
        return learner.parameters.clone(), learner.velocity.clone(), dict(aggregation.memory)

    def undisturbed(self) -> str | None:
        """The digest of a run of which nothing is refused; None where it would diverge."""
        while self.round < self.config.rounds:
            rows = {n: self.row(n, self.honest(n)) for n in range(self.config.num_honest)}
            accepted = dict(rows)
            for node in range(self.config.num_honest, self.config.n):
                rows[node] = self.byzantine(node, accepted, self.config.f).to(torch.float32)
            try:
                self.step(tuple(rows), self.config.f, torch.stack(list(rows.values())))
            except ByzpyTwError:
                return None
        return self.digest


def _key(value: Any) -> Any:
    """Something to look `value` up by."""
    if isinstance(value, Tensor):
        return value.contiguous().view(torch.uint8).numpy().tobytes() if value.dim() else repr(value)
    if isinstance(value, Mapping):
        return tuple((k, _key(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_key, value))
    return value
