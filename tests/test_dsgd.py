"""The arithmetic of a round, from state to state."""

from __future__ import annotations

from typing import Any

import torch
from attrs import define, evolve
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.algorithms.dsgd import Dsgd
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.algorithms.state import State
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BrokenPlugin, Diverged
from byzpy_tw.plugins import load

D, HONEST, BYZANTINE = 7, 5, 2
N = HONEST + BYZANTINE
ATTACKS = ("sign-flip", "mimic", "alie", "replay:age=2")


def algorithm(**options: Any) -> Dsgd:
    config = RunConfig(
        in_process=True, num_honest=HONEST, num_byz=BYZANTINE, f=BYZANTINE, **options
    )
    return Dsgd(config, resolve_rules(config, load()))


@st.composite
def algorithms(draw: st.DrawFn) -> Dsgd:
    return algorithm(
        attack=draw(st.sampled_from(ATTACKS)),
        aggregator=draw(st.sampled_from(("trimmed-mean", "multi-krum", "centered-clipping"))),
        momentum=draw(st.sampled_from((0.0, 0.9))),
        worker_momentum=draw(st.sampled_from((0.0, 0.5))),
        weight_decay=draw(st.sampled_from((0.0, 0.01))),
        lr_milestones=draw(st.sampled_from(((), (1, 3)))),
        optimizer=draw(st.sampled_from(("sgd", "adam", "adamw"))),
        wire_dtype=draw(st.sampled_from(("float32", "bfloat16"))),
    )


@define(eq=False)
class Rows:
    """The vectors that the nodes send, drawn from a seed."""

    generator: torch.Generator

    def sent(self) -> Tensor:
        return torch.randn(N, D, generator=self.generator)


def play(
    algorithm: Dsgd, seed: int, rounds: list[set[int]], *, reuse: bool, lent: bool
) -> list[State]:
    """Return copies of the states of a run with the nodes of ``rounds[round]`` in a round.

    The rows of all rounds are in one memory.
    """
    vectors = Rows(torch.Generator().manual_seed(seed))
    state = algorithm.begin(torch.linspace(-1, 1, D))
    kept = [state.snapshot()]
    matrix = torch.zeros(N, D)
    for asked in rounds:
        sent, nodes = vectors.sent(), tuple(sorted(asked))
        rows = matrix[: len(nodes)]
        for node, row in zip(nodes, rows, strict=True):
            row.copy_(algorithm.receive(state, node, sent[node]))
        honest = [n for n in nodes if n < HONEST]
        shown = algorithm.reveal(state, honest, rows[: len(honest)], 1)
        aggregated = algorithm.aggregate(state, nodes, 1, rows)
        before = state.parameters
        values = before.clone()
        state = algorithm.advance(
            state, nodes, rows, aggregated, shown.memory, reuse=reuse, lent=lent
        )
        if lent or not reuse:
            assert torch.equal(before, values), "parameters that a reader has were changed"
        kept.append(state.snapshot())
    return kept


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


# Enough of them for each rule with f = 1.
participants = st.sets(st.integers(0, N - 1), min_size=4).filter(lambda s: min(s) < HONEST)


class DsgdTests(SynchronousTestCase):
    @given(
        algorithms(), st.integers(0, 2**31), st.lists(participants, min_size=1, max_size=5),
        st.booleans(),
    )  # fmt: skip
    def test_in_place(self, algorithm: Dsgd, seed: int, rounds: list[set[int]], lent: bool) -> None:
        """A run that reuses its memory has the same states as one that does not, to the bit.

        Any part of the nodes takes part in a round, with any optimizer and worker momentum.
        """
        pure = play(algorithm, seed, rounds, reuse=False, lent=False)
        in_place = play(algorithm, seed, rounds, reuse=True, lent=lent)
        for one, other in zip(pure, in_place, strict=True):
            self.assertTrue(same(one.fields, other.fields), (one, other))

    def test_reused_memory(self) -> None:
        """With `reuse` no tensor of the model's size is made anew."""
        made = algorithm(attack="sign-flip", aggregator="mean", worker_momentum=0.5)
        state, matrix = made.begin(torch.zeros(D)), torch.ones(N, D)
        seen = set()
        for _ in range(3):
            aggregated = made.aggregate(state, tuple(range(N)), 0, matrix)
            state = made.advance(state, range(N), matrix, aggregated, {}, reuse=True)
            tensors = (state.parameters, *state.optimizer.values(), *state.momenta.values())
            seen.add(tuple(tensor.data_ptr() for tensor in tensors))
        self.assertEqual(len(seen), 1)

    def test_agrees_with_torch(self) -> None:
        """The steps are those of torch.optim.SGD, to the bit, with milestones."""
        made = algorithm(
            attack="sign-flip", aggregator="mean", lr=0.3, momentum=0.9, weight_decay=0.01,
            lr_milestones=(2,),
        )  # fmt: skip
        state = made.begin(torch.linspace(-1, 1, D))
        leaf = torch.nn.Parameter(state.parameters.clone())
        theirs = torch.optim.SGD([leaf], 0.3, momentum=0.9, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.MultiStepLR(theirs, [2])
        for seed in range(5):
            matrix = torch.randn(N, D, generator=torch.Generator().manual_seed(seed))
            aggregated = made.aggregate(state, tuple(range(N)), 0, matrix)
            leaf.grad = aggregated.vector.clone()
            theirs.step()
            schedule.step()
            state = made.advance(state, range(N), matrix, aggregated, {})
            self.assertTrue(torch.equal(state.parameters, leaf.detach()))

    def test_not_finite(self) -> None:
        """A step that leads to infinity or NaN, anywhere, is an error."""
        made = algorithm(attack="sign-flip", aggregator="mean", lr=10.0)
        state, matrix = made.begin(torch.zeros(D)), torch.ones(N, D)
        aggregated = made.aggregate(state, tuple(range(N)), 0, matrix)
        for bad in (float("inf"), float("-inf"), float("nan"), 3e38):
            vector = torch.zeros(D)
            vector[3] = bad
            wrong = evolve(aggregated, vector=vector)
            self.assertRaises(Diverged, made.advance, state, range(N), matrix, wrong, {})

    def test_blame(self) -> None:
        """An error of the schedule is the schedule's, and one of the optimizer the optimizer's."""
        for kind, name, method in (
            ("schedule", "milestones", "factor"), ("optimizer", "sgd", "step")
        ):  # fmt: skip
            made = algorithm(attack="sign-flip", aggregator="mean")
            state, matrix = made.begin(torch.zeros(D)), torch.ones(N, D)
            aggregated = made.aggregate(state, tuple(range(N)), 0, matrix)
            patcher = self.patch(type(getattr(made.rules, kind)), method, lambda *a: 1 / 0)
            with self.assertRaisesRegex(BrokenPlugin, f"{kind} '{name}'.*division by zero"):
                made.advance(state, range(N), matrix, aggregated, {})
            patcher.restore()
