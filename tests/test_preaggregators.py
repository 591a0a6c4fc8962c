"""Pre-aggregators by hand, and their place in the small space."""

from __future__ import annotations

import numpy as np
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.preaggregators import ARC, NNM, Bucketing, Clipping
from byzpy_tw.seeds import Context


class PreaggregatorTests(SynchronousTestCase):
    def test_clipping(self) -> None:
        """Long rows are cut to length c, short ones and zeros stay."""
        rows = np.array([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])
        np.testing.assert_allclose(Clipping(c=2.5)(rows), [[1.5, 2.0], [0, 1], [0, 0]])

    def test_arc(self) -> None:
        """With n = 4 and f = 1, one row is cut to the length of the next."""
        rows = np.array([[1.0], [-2.0], [8.0], [3.0]])
        np.testing.assert_allclose(ARC(f=1)(rows), [[1], [-2], [3], [3]])
        np.testing.assert_allclose(ARC(f=0)(rows), rows)

    def test_nnm(self) -> None:
        """Each row becomes the mean of its n - f nearest; ties go to the lower row."""
        rows = np.array([[0.0], [1.0], [2.0], [9.0]])
        np.testing.assert_allclose(NNM(f=2)(rows), [[0.5], [0.5], [1.5], [5.5]])

    def test_bucketing(self) -> None:
        """Groups of s in the order of a shuffle that the round and the seed decide."""
        rows = np.arange(7.0)[:, None]
        plain = Bucketing(s=3, permutation="identity")
        np.testing.assert_allclose(plain(rows), [[1], [4], [6]])
        rule = Bucketing(s=3)
        by_round = [rule(rows, context=Context(seed=4, round=r)).tolist() for r in (0, 0, 1, 2)]
        self.assertEqual(by_round[0], by_round[1])
        self.assertNotEqual(by_round[1:3], by_round[2:])
        self.assertEqual(rule.rows(7), 3)
        order = Context(seed=4).stream("bucketing").permutation(7)
        self.assertEqual(by_round[0][2], [float(order[6])])

    def test_lists_come_back_as_lists(self) -> None:
        """Vectors of any shape keep it."""
        rows = [np.ones((2, 3)) * i for i in range(5)]
        got = NNM(f=1)(rows)
        self.assertIsInstance(got, list)
        self.assertEqual(got[0].shape, (2, 3))

    def test_refused_rows_are_left_out(self) -> None:
        """The answer has the rows that are left."""
        rows = np.array([[0.0], [1.0], [np.nan], [9.0]])
        np.testing.assert_allclose(NNM(f=2)(rows), [[1 / 2], [1 / 2], [5.0]])
        np.testing.assert_allclose(Clipping(f=1)(rows), [[0], [1], [2]])
