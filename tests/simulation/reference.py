"""The right result of a run, computed here from the nodes that took part in each round.

Results are cached for all histories of one configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from attrs import define, evolve, field
from torch import Tensor

from byzpy_tw.algorithms.algorithm import Algorithm, Revealed
from byzpy_tw.algorithms.participation import Participants
from byzpy_tw.algorithms.state import State
from byzpy_tw.audit.replay import ImmediateExecutor, RoundReplay, prepare_replay
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ByzpyTwError
from byzpy_tw.plugins import Registry
from byzpy_tw.rounds.probation import Probation
from byzpy_tw.vectors import round_to_dtype, sha256_of

MOST_KEPT = 1_000  # vectors and steps of a configuration


@define(eq=False)
class _Cache:
    """The cached results of one configuration."""

    replay: RoundReplay
    vectors: dict[Any, Any] = field(factory=dict, init=False)  # and steps


@define(eq=False)
class References:
    """Makes the `Reference` of a run."""

    registry: Registry
    _cache: dict[str, _Cache] = field(factory=dict, init=False)

    def for_config(self, config: RunConfig) -> Reference:
        # Where the nodes live is no part of it.
        config = evolve(
            config, in_process=True, remote_hosts=(), min_servers=None, heartbeat_timeout=None
        )
        if config.bits not in self._cache:
            root: Any = None  # its data is in no folder
            self._cache[config.bits] = _Cache(
                prepare_replay(config, self.registry, root, ImmediateExecutor())
            )
        return Reference(self._cache[config.bits])


@define(eq=False)
class Reference:
    """One run, round by round: `vector` of the present round, then `step` to the next.

    `rewind` to any round that it has been at.
    """

    _cache: _Cache
    states: list[State] = field(init=False)
    probation: Probation = field(factory=Probation, init=False)
    _attack: Mapping[str, Any] | None = field(default=None, init=False)  # its memory, if shown

    def __attrs_post_init__(self) -> None:
        self.states = [self._replay.first]

    def rewind(self, round: int) -> None:
        """To the state before `round`."""
        del self.states[round + 1 :]
        self._attack = None
        self.probation = Probation.from_plain(self._state.probation)

    @property
    def _replay(self) -> RoundReplay:
        return self._cache.replay

    @property
    def _algorithm(self) -> Algorithm:
        return self._cache.replay.algorithm

    @property
    def _state(self) -> State:
        return self.states[-1]

    @property
    def round(self) -> int:
        return self._state.round

    @property
    def parameters(self) -> Tensor:
        return self._state.parameters

    @property
    def config(self) -> RunConfig:
        return self._replay.config

    @property
    def wire(self) -> torch.dtype:
        return self._algorithm.wire

    @property
    def digest(self) -> str:
        """The digest of the present parameters."""
        return sha256_of(self.parameters)

    @property
    def asked(self) -> Participants:
        """The participants of the present round."""
        return self._algorithm.participants(self._state)

    def everyone(self, record: Mapping[str, Any] | None) -> list[int]:
        """Return the nodes asked in the present round, which has `record`: replacements as well."""
        replaced = [] if record is None else record.get("replaced", [])
        return sorted([*self.asked.nodes, *(pair["by"] for pair in replaced)])

    # -- what nodes send

    def row(self, node: int, sent: Tensor) -> Tensor:
        """Return the row that the trainer makes of the vector that `node` sent."""
        return self._algorithm.receive(self._state, node, sent.to(torch.float32))

    def honest(self, node: int) -> Tensor:
        """Return the vector that an honest node sends, in the wire's type."""
        replay, now = self._replay, self._state
        return self._cached(
            ("honest", node), lambda: round_to_dtype(replay.gradient(now, node), self.wire)
        )

    def byzantine(self, node: int, accepted: dict[int, Tensor], f: int) -> Tensor:
        """Return the vector of a Byzantine node, given the rows of honest nodes and the rules'
        `f`."""
        replay, now = self._replay, self._state
        shown = self._shown(accepted, f)
        self._attack = shown.memory
        own = self._cached(("own", node), lambda: replay.own_gradient(now, node))
        past = self._algorithm.past_vectors(now).get(node)
        key = ("byzantine", node, f, _cache_key(accepted), _cache_key(past))
        h = len(accepted)
        return self._cached(key, lambda: replay.attack_vector(now, node, h, shown, own))

    def _shown(self, accepted: dict[int, Tensor], f: int) -> Revealed:
        rows = list(accepted.values())
        return self._cached(
            ("shown", f, _cache_key(accepted)),
            lambda: self._algorithm.reveal(self._state, tuple(accepted), torch.stack(rows), f),
        )

    def _cached(self, key: Any, make: Callable[[], Any]) -> Any:
        now, found = self._state, self._cache.vectors
        memory = now.aggregation, now.attack
        key = self.round, key, _cache_key(now.parameters), _cache_key(memory)
        if key not in found:
            if len(found) > MOST_KEPT:
                found.clear()
            found[key] = make()
        return found[key]

    # -- the step

    def step(
        self, nodes: tuple[int, ...], f: int, rows: Tensor,
        record: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """To the next round, by the `rows` of `nodes`, in order; the present one has `record`."""
        now, config = self._state, self.config
        attack, self._attack = self._attack, None
        unseen = (record or {}).get("unseen", ())
        known = zip(nodes, rows, strict=True)
        honest = {n: row for n, row in known if n < config.num_honest and n not in unseen}
        if attack is None:  # it sees them even if nothing comes of it
            attacked = self.everyone(record)[-1] >= config.num_honest
            attack = self._shown(honest, f).memory if attacked and honest else now.attack
        made = self._cached(
            ("step", nodes, f, _cache_key(rows), _cache_key(now.optimizer),
             _cache_key(now.momenta), _cache_key(now.history), _cache_key(attack)),
            lambda: self._step(now, nodes, f, rows, attack),
        )  # fmt: skip
        self.states.append(evolve(made, probation=self.probation.to_plain()))

    def _step(self, now: State, nodes: tuple[int, ...], f: int, rows: Tensor, attack: Any) -> State:
        algorithm = self._algorithm
        aggregated = algorithm.aggregate(now, nodes, f, rows)
        return algorithm.advance(now, nodes, rows, aggregated, attack)

    def undisturbed_digest(self) -> str | None:
        """The digest of a run of which nothing is refused; None where it would diverge."""
        while self.round < self.config.rounds:
            asked, num_honest = self.asked, self.config.num_honest
            rows = {n: self.row(n, self.honest(n)) for n in asked.nodes if n < num_honest}
            accepted = dict(rows)
            for node in asked.nodes[len(rows) :]:
                rows[node] = self.row(node, self.byzantine(node, accepted, asked.f))
            try:
                self.step(asked.nodes, asked.f, torch.stack(list(rows.values())))
            except ByzpyTwError:
                return None
        return self.digest


def _cache_key(value: Any) -> Any:
    """Something to look `value` up by."""
    if isinstance(value, Tensor):
        return (
            value.contiguous().view(torch.uint8).numpy().tobytes() if value.dim() else repr(value)
        )
    if isinstance(value, Mapping):
        return tuple((k, _cache_key(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_cache_key, value))
    return value
