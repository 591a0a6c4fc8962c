"""Delayed momentum aggregation: the last momenta of all nodes, also of those not asked.

The trainer keeps one row for each of the n nodes, and aggregates all of them in every round.  An
honest node that is asked sends a gradient g, and its row becomes m = beta m + (1 - beta) g, from
zero; a Byzantine node's row is what it last sent.  The rows of all others stay as they were.  So
the rules meet n rows of which at most ``--f`` are faulty, however few are asked.

Otsuka, Yamada and Takezawa, "Delayed Momentum Aggregation", ICML 2026, arXiv:2509.02970, write
m = (1 - alpha) m + alpha g; beta is 1 - alpha.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from attrs import define, evolve
from torch import Tensor

from byzpy_tw.algorithms.aggregation import Aggregated
from byzpy_tw.algorithms.algorithm import Revealed
from byzpy_tw.algorithms.dsgd import Dsgd
from byzpy_tw.algorithms.participation import Participants
from byzpy_tw.algorithms.state import State
from byzpy_tw.errors import ConfigError
from byzpy_tw.parameters import real


@define(eq=False)
class DelayedMomentum(Dsgd):
    """Distributed SGD along the aggregate of all nodes' last momenta, with `momentum` beta.

    A node that was never asked has a row of zeros.  An attack is shown the rows of all honest
    nodes.
    """

    momentum: float = real(0.9, least=0, below=1)

    def __attrs_post_init__(self) -> None:
        config = self.config
        for option, given in (
            ("--worker-momentum", config.worker_momentum),
            ("--over-sample", config.over_sample),
        ):
            if given:
                raise ConfigError(
                    f"{option} has no use with --algorithm {config.algorithm}, which keeps a "
                    "momentum of each node, also of absent ones: leave it out"
                )

    def begin(self, parameters: Tensor) -> State:
        rows = torch.zeros(self.config.n, parameters.numel())
        return evolve(super().begin(parameters), rows=rows)

    def keeps_vector(self, node: int) -> bool:
        return node >= self.config.num_honest

    def _asking(self, nodes: Iterable[int], spare: Iterable[int] = (), *, f: int) -> Participants:
        return Participants(nodes, self.config.f, rows=self.config.n)

    def receive(self, state: State, node: int, sent: Tensor) -> Tensor:
        """Return the row of `node` after the vector that it `sent`."""
        if self.keeps_vector(node):
            return sent
        row = _rows(state)[node] * self.momentum
        return row.add_(sent, alpha=1 - self.momentum)

    def _attackers(self, state: State) -> int:
        return self.config.num_byz

    def reveal(self, state: State, nodes: Sequence[int], rows: Tensor, f: int) -> Revealed:
        """Return what the attack is shown of all honest rows, those of `nodes` being new."""
        honest = self.config.num_honest
        known = _rows(state)[:honest].clone()
        known[list(nodes)] = rows
        return evolve(super().reveal(state, range(honest), known, f), honest=honest)

    def aggregate(self, state: State, nodes: tuple[int, ...], f: int, rows: Tensor) -> Aggregated:
        """Aggregate the last rows of all nodes, of which `rows` are those of `nodes`, with `f`.

        The nodes selected are those of this round.  Raises the rules' errors.
        """
        # In their own memory, which has its old rows again afterwards: a copy would double it.
        # `data` has a version of its own, for `write_guard`.
        kept, everyone = _rows(state).data, tuple(range(self.config.n))
        before = kept[list(nodes)]
        try:
            _replace(kept, nodes, rows)
            found = self.rules.aggregation(
                kept, everyone, f, state.round, state.aggregation, **self.root_context(state)
            )
            vector = found.vector.clone()  # it may be one of the rows
        finally:
            kept[list(nodes)] = before
        if found.selected is None:
            return evolve(found, vector=vector)
        selected = set(found.selected)
        return evolve(found, vector=vector, selected=tuple(n for n in nodes if n in selected))

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
        kept = _rows(state) if reuse else _rows(state).clone()
        after = super().advance(state, nodes, rows, aggregated, attack, reuse=reuse, lent=lent)
        _replace(kept, nodes, rows)
        return evolve(after, rows=kept)


def _rows(state: State) -> Tensor:
    assert state.rows is not None
    return state.rows


def _replace(kept: Tensor, nodes: Sequence[int], rows: Tensor) -> None:
    for node, row in zip(nodes, rows, strict=True):
        kept[node] = row
