"""A plugin's algorithm for simulated runs: a part of the nodes takes part in each round."""

from __future__ import annotations

from attrs import define

from byzpy_tw import seeds
from byzpy_tw.algorithms import Dsgd, Participants, State


@define(eq=False)
class Sampled(Dsgd):
    """Distributed SGD with a drawn half of the nodes, or more, in each round."""

    def participants(self, state: State) -> Participants:
        n, f = self.config.n, self.config.f
        stream = seeds.stream(self.config.seed, "participants", state.round)
        count = int(stream.integers((n + 1) // 2, n + 1))
        drawn = {int(node) for node in stream.choice(n, count, replace=False)}
        drawn.add(min(min(drawn), self.config.num_honest - 1))  # an honest one
        return Participants(sorted(drawn), min(f, len(drawn) - 1))
