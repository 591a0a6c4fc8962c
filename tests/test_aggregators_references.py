"""Rules against slow and obvious versions of their definitions, on whole vectors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import aggregators as rules
from byzpy_tw.aggregators import geometric_median
from byzpy_tw.aggregators.geometric_median import FEW, PLAIN_STEPS, _Space
from byzpy_tw.seeds import Context


def apart(x: np.ndarray) -> np.ndarray:
    return ((x[:, None] - x[None]) ** 2).sum(axis=2)


def median(values: list[float]) -> float:
    ranked = sorted(values)
    return (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2


def nearest_to(centre: float, column: np.ndarray, keep: int) -> float:
    order = sorted(range(len(column)), key=lambda i: (abs(column[i] - centre), i))
    return float(np.mean([column[i] for i in order[:keep]]))


def meamed(x: np.ndarray, f: int) -> np.ndarray:
    return np.array([nearest_to(median(list(c)), c, len(x) - f) for c in x.T])


def phocas(x: np.ndarray, f: int) -> np.ndarray:
    n = len(x)
    trimmed = np.sort(x, axis=0)[f : n - f].mean(axis=0)
    return np.array([nearest_to(t, c, n - f) for t, c in zip(trimmed, x.T)])


def krum_choice(x: np.ndarray, left: list[int], neighbours: int) -> int:
    def score(i: int) -> float:
        return sum(sorted(((x[i] - x[j]) ** 2).sum() for j in left if j != i)[:neighbours])

    return min(left, key=score)


def bulyan(x: np.ndarray, f: int) -> np.ndarray:
    n = len(x)
    left, chosen = list(range(n)), []
    for _ in range(n - 2 * f):
        best = krum_choice(x, left, max(1, len(left) - f - 2))
        left.remove(best)
        chosen.append(best)
    few = x[sorted(chosen)]
    return np.array([nearest_to(median(list(c)), c, n - 4 * f) for c in few.T])


def caf(x: np.ndarray, f: int) -> np.ndarray:
    n = len(x)
    mass, least, centre = np.ones(n), np.inf, x.mean(axis=0)
    while mass.sum() > n - 2 * f:
        at = (mass[:, None] * x).sum(axis=0) / mass.sum()
        off = x - at
        covariance = (mass[:, None, None] * off[:, :, None] * off[:, None, :]).sum(axis=0)
        values, vectors = np.linalg.eigh(covariance / mass.sum())
        if values[-1] < least:
            least, centre = values[-1], at
        out = (off @ vectors[:, -1]) ** 2
        mass = mass * (1 - out / out.max())
    return centre


def dnc(x: np.ndarray, f: int, c: float) -> np.ndarray:
    """With every coordinate in the sample."""
    off = x - x.mean(axis=0)
    out = (off @ np.linalg.svd(off)[2][0]) ** 2
    order = sorted(range(len(x)), key=lambda i: (out[i], i))
    return x[sorted(order[: len(x) - int(np.ceil(c * f))])].mean(axis=0)


def sign_guard(x: np.ndarray, low: float, high: float) -> np.ndarray:
    n = len(x)
    norms = np.sqrt((x**2).sum(axis=1))
    middle = median(list(norms))
    shares = np.array([[(r > 0).mean(), (r == 0).mean(), (r < 0).mean()] for r in x])
    away = np.sqrt(apart(shares))
    width = np.mean([sorted(row)[max(1, n // 2) - 1] for row in away]) + 1e-12
    peaks = []
    for peak in shares:
        for _ in range(30):
            inside = [s for s in shares if np.sqrt(((s - peak) ** 2).sum()) <= width]
            peak = np.mean(inside, axis=0)
        peaks.append(peak)
    around = [sum(np.sqrt(((s - p) ** 2).sum()) <= width for s in shares) for p in peaks]
    kept: list[int] = []
    for i in sorted(range(n), key=lambda i: (-around[i], i)):
        if all(np.sqrt(((peaks[i] - peaks[j]) ** 2).sum()) > width for j in kept):
            kept.append(i)
    home = [min(kept, key=lambda k: ((s - peaks[k]) ** 2).sum()) for s in shares]
    most = max((home.count(k), -home.index(k)) for k in kept if k in home)
    chosen = [
        i
        for i in range(n)
        if home.count(home[i]) == most[0]
        and home.index(home[i]) == -most[1]
        and low * middle <= norms[i] <= high * middle
    ]
    return np.mean([x[i] * min(1, middle / norms[i]) for i in chosen], axis=0)


def clipped_clustering(x: np.ndarray, tau: float) -> np.ndarray:
    norms = np.sqrt((x**2).sum(axis=1))
    x = x * np.minimum(1, tau / norms)[:, None]
    unit = x / np.sqrt((x**2).sum(axis=1))[:, None]
    away = 1 - unit @ unit.T
    clusters = [[i] for i in range(len(x))]
    while len(clusters) > 2:
        a, b = min(
            combinations(range(len(clusters)), 2),
            key=lambda p: away[np.ix_(clusters[p[0]], clusters[p[1]])].mean(),
        )
        clusters[a] = sorted(clusters[a] + clusters[b])
        del clusters[b]
    larger = max(clusters, key=lambda c: (len(c), -min(c)))
    return x[larger].mean(axis=0)


def sign_majority(x: np.ndarray) -> np.ndarray:
    return np.array([np.sign((c > 0).sum() - (c < 0).sum()) for c in x.T], dtype=float)


def smea(x: np.ndarray, f: int) -> np.ndarray:
    def spread(kept: tuple[int, ...]) -> float:
        off = x[list(kept)] - x[list(kept)].mean(axis=0)
        return float(np.linalg.eigvalsh(off @ off.T)[-1])

    return x[list(min(combinations(range(len(x)), len(x) - f), key=spread))].mean(axis=0)


def mda(x: np.ndarray, f: int) -> np.ndarray:
    away = apart(x)
    kept = min(combinations(range(len(x)), len(x) - f), key=lambda s: away[np.ix_(s, s)].max())
    return x[list(kept)].mean(axis=0)


class ReferenceTests(SynchronousTestCase):
    def agree(
        self,
        make: Callable[[int], Any],
        reference: Callable[[np.ndarray, int], np.ndarray],
        shapes: tuple[tuple[int, int, int], ...] = ((5, 3, 1), (11, 7, 2), (13, 4, 3)),
        out: float = 12.0,
    ) -> None:
        """Equal on clouds, on clouds with outliers, and far from the origin."""
        random = np.random.default_rng(5)
        for n, d, f in shapes:
            for trial in range(12):
                x = random.normal(size=(n, d))
                if trial % 3 == 1:
                    x[random.permutation(n)[:f]] *= out
                if trial % 3 == 2:
                    x += 1000 * random.normal(size=d)
                np.testing.assert_allclose(
                    make(f)(x), reference(x, f), rtol=1e-6, atol=1e-9, err_msg=f"{n} {f} {trial}"
                )

    def test_meamed(self) -> None:
        """Mean around the median, coordinate by coordinate."""
        self.agree(lambda f: rules.MeanAroundMedian(f=f), meamed)
        self.agree(lambda f: rules.MeanAroundMedian(f=f), meamed, ((5, 9, 3), (6, 9, 5)))

    def test_phocas(self) -> None:
        """Mean around the trimmed mean, coordinate by coordinate."""
        self.agree(lambda f: rules.Phocas(f=f), phocas)

    def test_bulyan(self) -> None:
        """Repeated Krum, then a mean around the median."""
        self.agree(
            lambda f: rules.Bulyan(f=f), bulyan, ((5, 3, 1), (7, 3, 1), (12, 9, 2), (20, 5, 4))
        )

    def test_caf(self) -> None:
        """The filter over whole covariance matrices."""
        self.agree(lambda f: rules.CAF(f=f), caf, out=4.0)
        stretched = np.random.default_rng(1).normal(size=(11, 5)) * [20, 1, 1, 1, 1]
        np.testing.assert_allclose(
            rules.CAF(f=1, power_iterations=60)(stretched), caf(stretched, 1), rtol=1e-6
        )

    def test_dnc(self) -> None:
        """One singular value decomposition of all coordinates."""
        self.agree(lambda f: rules.DnC(f=f), lambda x, f: dnc(x, f, 1.0))
        self.agree(lambda f: rules.DnC(f=f, c=1.5), lambda x, f: dnc(x, f, 1.5))

    def test_sign_guard(self) -> None:
        """Norms, shares of signs and mean shift, one row at a time."""
        self.agree(
            lambda f: rules.SignGuard(),
            lambda x, f: sign_guard(x, 0.1, 3.0),
            ((6, 40, 1), (11, 30, 2)),
        )

    def test_clipped_clustering(self) -> None:
        """Average linkage from whole lists of members."""
        self.agree(
            lambda f: rules.ClippedClustering(tau=2.0), lambda x, f: clipped_clustering(x, 2.0)
        )

    def test_sign_majority(self) -> None:
        """Votes for plus and for minus, counted."""
        self.agree(lambda f: rules.SignMajority(), lambda x, f: sign_majority(x))

    def test_smea(self) -> None:
        """Every subset's covariance."""
        self.agree(lambda f: rules.SMEA(f=f), smea, ((5, 3, 1), (9, 6, 3)))

    def test_mda(self) -> None:
        """Every subset's diameter."""
        self.agree(lambda f: rules.MDA(f=f), mda, ((5, 3, 1), (9, 6, 4)))

    def test_ties_go_to_the_lowest_row(self) -> None:
        """Values on a grid tie all the time, and each rule takes the first."""
        random = np.random.default_rng(1)
        for n, f in ((5, 1), (9, 2), (10, 4), (6, 4)):
            x = random.integers(-3, 4, size=(n, 60)).astype(float)
            np.testing.assert_allclose(rules.MeanAroundMedian(f=f)(x), meamed(x, f))
            x = random.integers(0, 2, size=(n, 3)).astype(float)
            np.testing.assert_allclose(rules.MDA(f=f)(x), mda(x, f))
            if n >= f + 3:
                best = krum_choice(x, list(range(n)), n - f - 2)
                np.testing.assert_array_equal(rules.Krum(f=f)(x), x[best])


class GeometricMedianTests(SynchronousTestCase):
    def test_never_sticks_at_a_row(self) -> None:
        """Where the mean, or a row near the middle, is a row, the minimum is still found."""
        random = np.random.default_rng(3)
        for trial in range(80):
            n, d = int(random.integers(2, 12)), int(random.integers(1, 6))
            x = random.normal(size=(n, d))
            if trial % 4 == 1:
                x = x.round()
            if trial % 4 == 2:
                x[-1] = x[:-1].mean(axis=0)
            if trial % 4 == 3:
                x = x[:, :1] * random.normal(size=d)
            cost = np.sqrt(((x - rules.GeometricMedian()(x)) ** 2).sum(axis=1)).sum()
            lowest = min(
                self.descended(x), *(np.sqrt(((x - row) ** 2).sum(axis=1)).sum() for row in x)
            )
            self.assertLess(cost - lowest, 1e-7 * lowest + 1e-12, (trial, x))

    def descended(self, x: np.ndarray) -> float:
        at = x.mean(axis=0) + 1e-9
        for _ in range(1000):
            pull = 1 / np.maximum(np.sqrt(((x - at) ** 2).sum(axis=1)), 1e-12)
            at = (pull[:, None] * x).sum(axis=0) / pull.sum()
        return float(np.sqrt(((x - at) ** 2).sum(axis=1)).sum())

    def test_rounding_refuses_no_step(self) -> None:
        """Newton's last steps change the cost by less than it rounds off: they count."""
        steps: list[int] = []
        plain = _Space.weiszfeld

        def counted(space: _Space, place: Any) -> np.ndarray:
            steps[-1] += 1
            return plain(space, place)

        self.patch(_Space, "weiszfeld", counted)
        random = np.random.default_rng(5)
        for trial in range(60):
            steps.append(0)
            rules.GeometricMedian()(random.normal(size=(10, 20 if trial % 2 else 200)) + 1)
        self.assertEqual(set(steps), {PLAIN_STEPS})

    def test_a_row_that_is_the_minimum_takes_no_steps(self) -> None:
        """Also where float32 rounds the place of that row a little."""
        places: list[int] = []
        place = _Space.point

        def counted(space: _Space, at: np.ndarray) -> Any:
            places[-1] += 1
            return place(space, at)

        self.patch(_Space, "point", counted)
        for seed in (158, 186, 572, 904, 1118):
            x = np.random.default_rng(seed).normal(size=(18, 10))
            x[-1] = x[:-1].mean(axis=0)
            places.append(0)
            got = rules.GeometricMedian()(x.astype(np.float32))
            np.testing.assert_array_equal(got, x[-1].astype(np.float32))
        self.assertLess(max(places), 20)

    def test_far_from_the_origin(self) -> None:
        """Short steps are not lost in the rounding of long inner products."""
        random = np.random.default_rng(339)
        x = random.normal(size=(21, 1)) + 10 ** random.uniform(3, 7)
        np.testing.assert_allclose(rules.GeometricMedian()(x), np.median(x, axis=0), rtol=1e-12)

    def test_tiny_rows_warn_of_nothing(self) -> None:
        """Newton's system overflows for them; that is no step, and nobody's concern."""
        x = np.random.default_rng(0).normal(size=(20, 3)) * 1e-140
        with np.errstate(all="raise"):
            got = rules.GeometricMedian()(x)
        self.assertLess(np.abs(got).max(), 1e-139)

    def test_few_rows_and_many_are_solved_alike(self) -> None:
        """Newton's system goes to NumPy up to `FEW` rows, and to torch above."""
        x = np.random.default_rng(6).normal(size=(FEW, 50)) + 1
        few = rules.GeometricMedian()(x)
        self.patch(geometric_median, "FEW", 1)
        np.testing.assert_allclose(rules.GeometricMedian()(x), few, rtol=1e-8)

    def test_what_cannot_be_solved(self) -> None:
        """A singular system has no answer, and raises nothing."""
        for n in (3, FEW + 1):
            self.assertIsNone(geometric_median._solve(np.zeros((n, n)), np.ones(n)))

    def test_few_steps_are_weiszfelds(self) -> None:
        """``max_iter`` steps from zero are plain smoothed steps."""
        x = np.random.default_rng(0).normal(size=(9, 4))
        at = np.zeros(4)
        for _ in range(3):
            pull = 1 / np.maximum(np.sqrt(((x - at) ** 2).sum(axis=1)), 0.1)
            at = (pull[:, None] * x).sum(axis=0) / pull.sum()
        got = rules.GeometricMedian(nu=0.1, max_iter=3, init="zero")(x)
        np.testing.assert_allclose(got, at, rtol=1e-12)


class MemoryTests(SynchronousTestCase):
    def test_centered_clipping_goes_on_from_the_last_round(self) -> None:
        """The state keeps the centre; each round starts where the last one ended."""
        random = np.random.default_rng(2)
        rule, state, centre = rules.CenteredClipping(tau=1.0, iterations=2), {}, np.zeros(6)
        for _ in range(4):
            x = random.normal(size=(7, 6)) + 3
            for _ in range(2):
                off = x - centre
                share = np.minimum(1, 1.0 / np.sqrt((off**2).sum(axis=1)))
                centre = centre + (off * share[:, None]).mean(axis=0)
            np.testing.assert_allclose(rule(x, state=state), centre, rtol=1e-9)

    def test_centered_clipping_from_the_median(self) -> None:
        """With ``init="median"`` it starts from the median of each coordinate."""
        x = np.random.default_rng(2).normal(size=(7, 6)) + 3
        off = x - np.median(x, axis=0)
        share = np.minimum(1, 1.0 / np.sqrt((off**2).sum(axis=1)))
        wanted = np.median(x, axis=0) + (off * share[:, None]).mean(axis=0)
        rule = rules.CenteredClipping(tau=1.0, iterations=1, init="median")
        np.testing.assert_allclose(rule(x), wanted, rtol=1e-9)

    def test_clipped_clustering_remembers_norms(self) -> None:
        """The clipping radius is the median of every norm so far."""
        random = np.random.default_rng(4)
        rule, state, norms = rules.ClippedClustering(), {}, []
        for scale in (1.0, 5.0, 0.2):
            x = random.normal(size=(7, 6)) * scale + scale
            norms += list(np.sqrt((x**2).sum(axis=1)))
            np.testing.assert_allclose(
                rule(x, state=state), clipped_clustering(x, median(norms)), rtol=1e-9
            )

    def test_dnc_draws_by_the_round_and_the_seed(self) -> None:
        """The same round draws the same coordinates, another may draw others."""
        x = np.random.default_rng(0).normal(size=(9, 400))
        rule = rules.DnC(f=2, subsample=20, iterations=2)
        rounds = [rule(x, context=Context(seed=1, round=r)).tolist() for r in (0, 0, 1, 2, 3)]
        self.assertEqual(rounds[0], rounds[1])
        self.assertGreater(len(set(map(tuple, rounds))), 1)
        seeded = rules.DnC(f=2, subsample=20, seed=7)
        np.testing.assert_array_equal(
            seeded(x, context=Context(round=1)), seeded(x, context=Context(round=2))
        )
