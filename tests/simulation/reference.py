"""What a run must come to, computed here, from who took part in each round.

What was computed once is remembered, for all histories of one configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from attrs import define, evolve, field
from torch import Tensor

from byzpy_tw.audit.replay import ImmediateExecutor, RevealedKnowledge, RoundReplay, prepare_replay
from byzpy_tw.config.run import RunConfig
from byzpy_tw.errors import ByzpyTwError
from byzpy_tw.plugins import Registry
from byzpy_tw.records.checkpoint import State
from byzpy_tw.rounds.probation import Probation
from byzpy_tw.vectors import round_to_dtype, sha256_of

MOST_KEPT = 1_000  # vectors and steps of a configuration


@define(eq=False)
class _Known:
    """What is remembered of one configuration."""

    replay: RoundReplay
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
            root: Any = None  # its data is in no folder
            self._known[config.bits] = _Known(
                prepare_replay(config, self.registry, root, ImmediateExecutor())
            )
        return Reference(self._known[config.bits])


@define(eq=False)
class Reference:
    """One run, round by round: `vector` of the present round, then `step` to the next.

    `go_back` to any round that it has been at.
    """

    _known: _Known
    points: list[State] = field(init=False)
    probation: Probation = field(factory=Probation, init=False)
    _attack: Mapping[str, Any] | None = field(default=None, init=False)  # its memory, if shown

    def __attrs_post_init__(self) -> None:
        self.points = [self._replay.first]

    def go_back(self, round: int) -> None:
        """To the state before `round`."""
        del self.points[round + 1 :]
        self._attack = None
        self.probation = Probation.from_plain(self._now.probation)

    @property
    def _replay(self) -> RoundReplay:
        return self._known.replay

    @property
    def _now(self) -> State:
        return self.points[-1]

    @property
    def round(self) -> int:
        return self._now.round

    @property
    def parameters(self) -> Tensor:
        return self._now.parameters

    @property
    def config(self) -> RunConfig:
        return self._replay.config

    @property
    def wire(self) -> torch.dtype:
        return self._replay.wire

    @property
    def digest(self) -> str:
        """Of the present parameters."""
        return sha256_of(self.parameters)

    # -- what nodes send

    def row(self, node: int, sent: Tensor) -> Tensor:
        """What the trainer makes of what `node` sent, before it aggregates."""
        return self._replay.row(self._now, node, sent)

    def honest(self, node: int) -> Tensor:
        """What an honest node sends, in the wire's type."""
        replay, now = self._replay, self._now
        return self._once(
            ("honest", node), lambda: round_to_dtype(replay.gradient(now, node), self.wire)
        )

    def byzantine(self, node: int, accepted: dict[int, Tensor], f: int) -> Tensor:
        """What a Byzantine one sends, given the rows of honest nodes and the rules' `f`."""
        replay, now = self._replay, self._now
        shown = self._shown(accepted, f)
        self._attack = shown.memory
        own = self._once(("own", node), lambda: replay.own_gradient(now, node))
        past = replay.past_vector(now, node)
        key = ("byzantine", node, f, _key(accepted), _key(past))
        return self._once(key, lambda: replay.attack_vector(now, node, shown, own, past))

    def _shown(self, accepted: dict[int, Tensor], f: int) -> RevealedKnowledge:
        rows = list(accepted.values())
        return self._once(
            ("shown", f, _key(accepted)),
            lambda: self._replay.reveal(self._now, tuple(accepted), torch.stack(rows), f),
        )

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        now, found = self._now, self._known.vectors
        memory = now.aggregation, now.attack
        key = self.round, key, _key(now.parameters), _key(memory)
        if key not in found:
            if len(found) > MOST_KEPT:
                found.clear()
            found[key] = make()
        return found[key]

    # -- the step

    def step(self, nodes: tuple[int, ...], f: int, matrix: Tensor) -> None:
        """To the next round, by the rows `nodes` of `matrix`."""
        now, config = self._now, self.config
        attack, self._attack = self._attack, None
        honest = {n: matrix[n] for n in nodes if n < config.num_honest}
        if attack is None:  # it is shown them whether anything comes of it or not
            attack = self._shown(honest, f).memory if config.num_byz and honest else now.attack
        made = self._once(
            ("step", nodes, f, _key(matrix[list(nodes)]), _key(now.velocity),
             _key(now.momenta), _key(now.history), _key(attack)),
            lambda: self._replay.step(now, nodes, f, matrix, attack)[0],
        )  # fmt: skip
        self.points.append(evolve(made, probation=self.probation.to_plain()))

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
        return (
            value.contiguous().view(torch.uint8).numpy().tobytes() if value.dim() else repr(value)
        )
    if isinstance(value, Mapping):
        return tuple((k, _key(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_key, value))
    return value
