"""The trial of a plugin's algorithm before round 0, on made-up vectors.

Its participants must be a function of the configuration and of the round alone: they are asked
again, in another order and from another state.  Its rounds must come to the same states when
they are computed again, and when memory is reused; they must leave all else as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from attrs import define
from torch import Tensor

from byzpy_tw import global_random, seeds
from byzpy_tw.algorithms.algorithm import Algorithm, Revealed
from byzpy_tw.algorithms.participation import Participants, bare_state, survey_rounds
from byzpy_tw.algorithms.rules import assemble_rules
from byzpy_tw.algorithms.state import State, map_leaves
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BadRuleOutput, BrokenPlugin
from byzpy_tw.plugins import Registry
from byzpy_tw.rounds.rules_trial import at_trial_size, check_draws
from byzpy_tw.vectors import sha256_of
from byzpy_tw.workers.root_set import RootSet

_ROUNDS = 3
_SAME = (
    "a run that is resumed or verified would go another way; keep what it remembers in the State, "
    "and draw from seeds.stream(config.seed, '...', state.round)"
)


def try_algorithm(config: RunConfig, registry: Registry, dimension: int) -> None:
    """Raise `BrokenPlugin` or `BadRuleOutput` where a plugin's algorithm is unfit.

    `dimension` is the model's.
    """
    if not registry.is_foreign("algorithm", config.algorithm):
        return
    trial = _Trial(config, registry.owner("algorithm", config.algorithm), partial(_make, registry))
    with global_random.hold_generators():
        trial.try_participants()
        at_trial_size(config, dimension, trial.try_rounds)


def _make(registry: Registry, config: RunConfig) -> Algorithm:
    rules = assemble_rules(config, registry)
    if rules.root_needs:
        rules.root_set = MadeUpRootSet()
    return rules.make_algorithm()


class MadeUpRootSet(RootSet):
    """A root set without data, for trials."""

    def __init__(self) -> None:
        pass

    def vector(self, round: int, parameters: Tensor) -> Tensor:
        return torch.ones(parameters.shape)

    def losses(self, round: int, scale: float, parameters: Tensor, vectors: Tensor) -> Tensor:
        return vectors.square().sum(dim=1)


@define(eq=False)
class _Trial:
    """The trial of the algorithm of `config`, which `who` names and each call of `make` makes."""

    config: RunConfig
    who: str
    make: Callable[[RunConfig], Algorithm]

    def make_new(self) -> Algorithm:
        return self.make(self.config)

    def try_participants(self) -> None:
        """Ask for the participants of rounds in order, and again in reverse."""
        rounds = survey_rounds(self.config)
        draw = f" when it names participants: {_SAME}"
        first = check_draws(
            partial(self._ask, rounds), self.make_new(), self.make_new, self.who, draw
        )  # fmt: skip
        used = self.make_new()
        self._ask(rounds, used)
        for again in (used, self.make_new()):
            answers = self._ask(reversed(rounds), again)
            for round, one, other in zip(rounds, first, reversed(answers), strict=True):
                self.compare(round, one, other)

    def _ask(self, rounds: Iterable[int], algorithm: Algorithm) -> list[Participants]:
        return [algorithm.participants(bare_state(round)) for round in rounds]

    def compare(self, round: int, one: Participants, other: Participants) -> None:
        """Raise `BrokenPlugin` where two answers for `round` differ."""
        if one != other:
            raise BrokenPlugin(
                f"{self.who} names other participants of round {round} when it is asked again "
                f"({_words(one)}; {_words(other)}): they are a function of the options and of "
                f"state.round alone, or {_SAME}"
            )

    def try_rounds(self, dimension: int) -> None:
        """Compute rounds, and compare their states with those that are computed otherwise."""
        plain = partial(self._play, dimension)
        first = check_draws(plain, self.make_new(), self.make_new, self.who, f": {_SAME}")
        if not _equal(first, self._play(dimension, self.make_new(), reuse=True)):
            raise BrokenPlugin(
                f"{self.who} comes to other states where advance is called with reuse=True, or "
                "keeps vectors whose memory the next round uses: keep copies, such as row.clone()"
            )
        used = self.make_new()
        plain(used)
        if not _equal(first, plain(used)):
            raise BrokenPlugin(
                f"{self.who} comes to other states when it is called again with equal "
                f"arguments: {_SAME}"
            )

    def _play(self, dimension: int, algorithm: Algorithm, *, reuse: bool = False) -> list[Any]:
        """Return copies of the states of some rounds; with `reuse` memory is used again."""
        stream = seeds.stream(self.config.seed, "trial of the algorithm")

        def draw(*shape: int) -> Tensor:
            return torch.from_numpy(stream.standard_normal(shape, dtype="float32"))

        state = algorithm.begin(draw(dimension))
        kept = [_copy(state)]
        for _ in range(min(_ROUNDS, self.config.rounds)):
            asked = algorithm.participants(state)
            rows = draw(len(asked.nodes), dimension)
            state = self._round(algorithm, state, asked, rows, reuse)
            rows.zero_()  # as the next round's vectors overwrite it
            kept.append(_copy(state))
        return kept

    def _round(
        self, algorithm: Algorithm, state: State, asked: Participants, rows: Tensor, reuse: bool
    ) -> State:
        nodes, before = asked.nodes, _copy(state)
        self.compare(state.round, asked, algorithm.participants(bare_state(state.round)))
        algorithm.request(state)
        sent = rows.clone()
        found = [algorithm.receive(state, node, row) for node, row in zip(nodes, rows)]
        self._check_unwritten("receive", rows, sent)
        for row, new in zip(rows, found):
            row.copy_(new)
        given = rows.clone()
        honest = [node for node in nodes if node < self.config.num_honest]
        shown = Revealed({}, state.attack)
        if len(honest) < len(nodes) and (honest or asked.rows is not None):
            shown = algorithm.reveal(state, honest, rows[: len(honest)], asked.f)
            algorithm.past_vectors(state)
        aggregated = algorithm.aggregate(state, nodes, asked.f, rows)
        self._check_unwritten("aggregate", (rows, _copy(state)), (given, before))
        after = algorithm.advance(state, nodes, rows, aggregated, shown.memory, reuse=reuse)
        self._check_unwritten("advance", rows, given)
        if not reuse:
            self._check_unwritten("advance without reuse", _copy(state), before)
        return after

    def _check_unwritten(self, method: str, now: Any, before: Any) -> None:
        """Raise `BadRuleOutput` for a write that torch does not count, such as NumPy's."""
        if not _equal(now, before):
            raise BadRuleOutput(
                f"{self.who}: {method} wrote to the vectors or to the state that it was given, "
                "which others use too: work on a copy, such as row.clone()"
            )


def _copy(state: State) -> Any:
    def copy(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return leaf.copy()
        return leaf.clone() if isinstance(leaf, Tensor) else leaf

    return map_leaves(state.fields, copy)


def _equal(one: Any, other: Any) -> bool:
    """Return whether both have equal leaves, tensors to the bit."""

    def digest(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return tuple(leaf.shape), sha256_of(leaf.reshape(-1))
        return (leaf.shape, leaf.tobytes()) if isinstance(leaf, np.ndarray) else leaf

    return bool(map_leaves(one, digest) == map_leaves(other, digest))


def _words(asked: Participants) -> str:
    more = f" and {len(asked.nodes) - 5} more" if len(asked.nodes) > 5 else ""
    return f"nodes {', '.join(map(str, asked.nodes[:5]))}{more} with f = {asked.f}"
