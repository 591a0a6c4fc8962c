"""The Trim attack: where its values lie, whose they are, and its name."""

from __future__ import annotations

import byzpy_tw_fang as plugin
import torch
from byzpy_tw_fang import TrimAttack
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Context, Knowledge
from byzpy_tw.errors import BadParameter
from byzpy_tw.plugins import load
from byzpy_tw.testing.laws import attack_tests


def shown(h: int = 6, d: int = 500) -> Knowledge:
    """The moments of random honest vectors."""
    honest = torch.randn(h, d, generator=torch.Generator().manual_seed(3)).double()
    return Knowledge.of(honest, "moments")


# Declared knowledge, any threads, any finite vectors: what every attack is tested for.
TrimAttackLaws = attack_tests(TrimAttack)


class TrimAttackTests(SynchronousTestCase):
    def test_lies_between_three_and_four_deviations(self) -> None:
        """Every coordinate is that far from the mean, on zero's side of it."""
        known = shown()
        off = (TrimAttack()(known) - known.mean) / known.std
        self.assertTrue(bool((off.abs() >= 3 - 1e-9).all() and (off.abs() <= 4).all()))
        self.assertTrue(bool((off.sign() == -known.mean.sign()).all()))

    def test_by_hand(self) -> None:
        """With near = far nothing is left to chance."""
        known = Knowledge(
            h=3,
            dimension=3,
            mean=torch.tensor([1.0, -1.0, 0.0]),
            std=torch.tensor([2.0, 1.0, 5.0]),
        )
        sent = TrimAttack(near=3.0, far=3.0)(known)
        self.assertEqual(sent.tolist(), [-5.0, 2.0, 0.0])

    def test_is_shown_the_moments_only(self) -> None:
        """It works from a mean and a standard deviation, without any vector."""
        self.assertIsNone(shown().vectors)
        self.assertEqual(TrimAttack.knowledge, "moments")

    def test_same_node_and_round_same_vector(self) -> None:
        """A run can be repeated; two nodes, and two rounds, differ."""
        here = Context(seed=1, round=2, node=4)
        sent = TrimAttack()(shown(), context=here)
        self.assertTrue(torch.equal(sent, TrimAttack()(shown(), context=here)))
        for other in (Context(seed=1, round=3, node=4), Context(seed=1, round=2, node=5)):
            self.assertFalse(torch.equal(sent, TrimAttack()(shown(), context=other)))

    def test_by_name(self) -> None:
        """The name makes the attack; distances out of order are refused."""
        names = load(only=(), extra={"byzpy-tw-fang": plugin})
        attack = names.make("attack", "fang-trim:near=1,far=1.5")
        self.assertEqual(attack.knowledge, "moments")
        off = (attack(shown()) - shown().mean) / shown().std
        self.assertTrue(bool((off.abs() <= 1.5 + 1e-9).all()))
        with self.assertRaisesRegex(BadParameter, "near=5.0, far=4.0"):
            names.make("attack", "fang-trim:near=5")
