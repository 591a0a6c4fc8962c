"""Inner products, weighted sums and selection, against slow ones; the same bits always."""

from __future__ import annotations

import threading
from itertools import combinations
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.aggregators import Krum, Mean, MeanAroundMedian, Median, Pipeline, TrimmedMean
from byzpy_tw.errors import SearchTooLarge, TooManyRefused
from byzpy_tw.kernels import Gram, Points, combination, norms_of, parallel, products, workspace
from byzpy_tw.kernels import combinations as sums
from byzpy_tw.kernels.combine import mean_of_moderate_rows
from byzpy_tw.kernels.distances import squared_distances
from byzpy_tw.kernels.gram import RUN_LENGTH, SAMPLE, norms_from, surely_below
from byzpy_tw.kernels.memory import trim_heap
from byzpy_tw.kernels.multiply import inner_products
from byzpy_tw.kernels.networks import sorting_network
from byzpy_tw.kernels.parallel import (
    ReactorThread,
    map_in_order,
    pool,
    prestarted_pool,
    run_single_threaded,
    thread_limit,
    threads,
)
from byzpy_tw.kernels.search import MOST_STEPS, VertexCover, minimum_diameter_subset
from byzpy_tw.preaggregators import NNM
from byzpy_tw.vectors import NORM_LIMIT


def distances(matrix: torch.Tensor) -> torch.Tensor:
    wide = matrix.double()
    return torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist").square()


def near(seed: int, n: int = 11, d: int = 1000) -> torch.Tensor:
    """Rows of norm 1e3 that differ by 1e-3."""
    draw = torch.Generator().manual_seed(seed)
    base = torch.randn(d, generator=draw)
    return base * (1e3 / base.norm()) + torch.randn(n, d, generator=draw) * (1e-3 / d**0.5)


class GramTests(SynchronousTestCase):
    def setUp(self) -> None:
        torch.manual_seed(7)

    def off(self, matrix: torch.Tensor, rows: slice = slice(None)) -> float:
        n = len(matrix)
        got = squared_distances(products(matrix).inner[:n, :n])[rows, rows]
        wanted = distances(matrix)[rows, rows]
        return float((got - wanted).abs().max() / wanted.max())

    def test_distances(self) -> None:
        """Squared distances are right to the vectors' own precision."""
        for n, d in ((1, 5), (2, 1), (7, 1023), (5, 40_000), (40, 3000)):
            matrix = torch.randn(n, d) + 3 * torch.randn(d)
            self.assertLess(self.off(matrix) if n > 1 else 0, 5e-6)
            self.assertLess(self.off(matrix.double()) if n > 1 else 0, 1e-13)

    def test_near_rows_of_large_norm(self) -> None:
        """Near rows keep their distances, whatever one or two others hold."""
        for seed, (huge, where) in enumerate(
            ((0.0, ()), (1e8, (0,)), (1e12, (5,)), (-1e15, (10,)), (1e15, (0, 1)))
        ):
            matrix = near(seed)
            matrix[list(where)] = huge
            honest = [i for i in range(11) if i not in where]
            got = squared_distances(products(matrix).inner[:11, :11])
            wanted = distances(matrix)
            worst = (got - wanted)[honest][:, honest].abs().max()
            self.assertLess(worst / wanted[honest][:, honest].max(), 1e-6)

    def test_a_row_that_hides_from_the_sample(self) -> None:
        """Rows that look central where the first view is chosen cost passes, not digits."""
        matrix = near(7, d=50_000)
        shown = torch.arange(50_000) % (50_000 // (SAMPLE // RUN_LENGTH)) < RUN_LENGTH
        for row, huge in enumerate((1e15, 1e8, 1e3)):
            matrix[row] = torch.where(shown, matrix[5:].mean(dim=0), huge)
        found = products(matrix)
        self.assertGreater(found.passes, 1)
        self.assertLess(self.off(matrix, slice(3, None)), 1e-6)

    def test_one_pass_is_the_rule(self) -> None:
        """Ordinary rows are read once, near ones of large norm and equal ones twice."""
        for matrix in (torch.randn(20, 5000) + torch.randn(5000), torch.zeros(5, 10)):
            self.assertEqual(products(matrix).passes, 1)
        for matrix in (near(1), torch.ones(3, 1), torch.randn(6, 2000) + 100):
            self.assertEqual(products(matrix).passes, 2)

    def test_equal_rows_are_at_no_distance(self) -> None:
        """Also where a few others differ."""
        matrix = torch.randn(2000).expand(9, 2000).clone()
        matrix[7:] = torch.randn(2, 2000)
        apart = squared_distances(products(matrix).inner[:9, :9])
        self.assertEqual(float(apart[:7, :7].abs().sum()), 0.0)

    def test_norms(self) -> None:
        """Norms come out of the inner products, also of rows that are much shorter."""
        matrix = torch.randn(9, 2000) + 100
        matrix[3] = 0
        matrix[4] *= 1e-7
        wanted = matrix.double().norm(dim=1)
        for got in (norms_of(matrix), norms_from(matrix, products(matrix).inner)):
            torch.testing.assert_close(got, wanted, rtol=3e-6, atol=0)

    def test_refused_rows(self) -> None:
        """Rows with NaN, infinity or too large a norm are named, whichever they are."""
        for bad in (float("nan"), float("inf"), 1e30, 3.4e38, 1.1e18):
            for rows in ((0,), (4, 8), (0, 1, 2, 3)):
                matrix = torch.randn(9, 30) * 0.1
                matrix[list(rows), 7] = bad
                found = products(matrix)
                self.assertEqual(found.refused, rows)
                kept = [i for i in range(9) if i not in rows]
                inner = found.inner[kept][:, kept]
                torch.testing.assert_close(
                    squared_distances(inner), distances(matrix[kept]), rtol=1e-5, atol=1e-5
                )

    def test_the_origin_and_an_anchor(self) -> None:
        """Both are points among the others."""
        matrix, anchor = torch.randn(6, 70, dtype=torch.float64), torch.randn(70).double()
        whole = products(matrix, anchor).inner
        everything = torch.cat([matrix, anchor[None], torch.zeros(1, 70).double()])
        torch.testing.assert_close(squared_distances(whole), distances(everything))
        without = products(matrix).inner
        torch.testing.assert_close(without[6], without[7])

    def test_mapped(self) -> None:
        """Combined points have the inner products of the combined vectors."""
        matrix = torch.randn(6, 70, dtype=torch.float64) + 5
        mix = torch.rand(4, 6, dtype=torch.float64) / 6  # the origin has a share
        got = Points(matrix).gram.mapped(mix)
        torch.testing.assert_close(got.squared, distances(mix @ matrix))
        torch.testing.assert_close(got.norms, (mix @ matrix).norm(dim=1))
        again = Gram.from_products(Points(matrix).gram.extended).mapped(mix)
        torch.testing.assert_close(got.squared, again.squared)

    def test_blocks_change_no_bit(self) -> None:
        """Distances are the same, bit for bit, however many rows are taken at a time."""
        inner = products(torch.randn(9, 300)).inner
        for rows in (1, 2, 4, 9, 32):
            self.assertTrue(torch.equal(squared_distances(inner), squared_distances(inner, rows)))


class EqualRowsTests(SynchronousTestCase):
    """Attackers who all send one vector are one point, whatever the library rounds."""

    def test_equal_rows_are_one_point(self) -> None:
        """No distance between them, and the same one to everybody else."""
        for n in (6, 10, 13, 17, 20, 33, 65, 130):
            for d in (3_000, 7_850):
                matrix = torch.randn(n, d)
                same = [0, *range(n - n // 4, n)]
                matrix[same] = matrix[1] + 1
                apart = squared_distances(products(matrix).inner[:n, :n])
                self.assertEqual(float(apart[same][:, same].max()), 0, n)
                self.assertTrue((apart[same] == apart[0]).all(), n)
                self.assertTrue((apart[:, same] == apart[:, :1]).all(), n)

    def test_among_rows_of_one_length(self) -> None:
        """Also where everybody is as long, some are refused and some are zero."""
        matrix = torch.nn.functional.normalize(torch.randn(40, 5_000), dim=1)
        matrix[[7, 21, 39]] = matrix[2].neg()
        matrix[[5, 30]] = matrix[8].clone()
        matrix[[11, 12]] = float("inf")
        matrix[[13, 36]] = 0
        found = products(matrix)
        self.assertEqual(found.refused, (11, 12))
        kept = found.inner[:, [j for j in range(42) if j not in found.refused]]
        for first, *others in ([7, 21, 39], [5, 8, 30], [13, 36]):
            for other in others:
                self.assertTrue(torch.equal(kept[other], kept[first]), (first, other))

    def test_near_rows_are_not(self) -> None:
        """One bit's difference keeps two rows apart."""
        matrix = torch.randn(20, 5_000)
        matrix[19] = matrix[3]
        matrix[18] = matrix[3]
        matrix[18, 77] = torch.nextafter(matrix[18, 77], torch.tensor(9.0))
        inner = products(matrix).inner
        self.assertTrue(torch.equal(inner[19], inner[3]))
        self.assertFalse(torch.equal(inner[18], inner[3]))

    def test_rows_that_differ_at_their_end_take_no_time(self) -> None:
        """Attackers who differ in a bit are compared as often as there are rows, no more."""
        matrix = torch.randn(60, 3_000)
        matrix[40:] = matrix[40].clone()
        matrix[40:, -1] = torch.linspace(1, 1 + 1e-5, 20)  # 190 pairs
        equal, compared = torch.equal, []

        def counted(*rows: torch.Tensor) -> bool:
            compared.append(rows)
            return equal(*rows)

        self.patch(torch, "equal", counted)
        products(matrix)
        self.assertEqual(len(compared), 60)

    def test_ties_go_to_the_lowest_row(self) -> None:
        """Also of float32 rows that the library multiplies in different ways."""
        for seed in range(10):
            matrix = torch.randn(12, 7_850, generator=torch.Generator().manual_seed(seed))
            matrix[9:] = matrix[4]
            weights = Krum(f=3).weights(Points(matrix).gram)
            self.assertEqual(weights.nonzero().tolist(), [[4]])


class CombinationTests(SynchronousTestCase):
    def setUp(self) -> None:
        torch.manual_seed(7)

    def test_weighted_sums(self) -> None:
        """One pass gives the weighted sums, over one tile or many."""
        for dtype, slack in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
            for d in (1, 100, 150_000):
                matrix = torch.randn(5, d, dtype=dtype)
                weights = torch.randn(3, 5, dtype=torch.float64)
                weights[:, 2] = 0
                torch.testing.assert_close(
                    sums(matrix, weights), weights.to(dtype) @ matrix, rtol=slack, atol=slack
                )

    def test_rows_without_weight_may_hold_anything(self) -> None:
        """A row of weight zero is not read."""
        matrix = torch.randn(4, 10)
        matrix[1] = float("nan")
        weights = torch.tensor([0.5, 0.0, 0.5, 0.0], dtype=torch.float64)
        torch.testing.assert_close(combination(matrix, weights), (matrix[0] + matrix[2]) / 2)
        self.assertEqual(float(combination(matrix, 0 * weights).abs().sum()), 0.0)

    def test_one_row_comes_out_as_it_is(self) -> None:
        """A weight of one and zeros elsewhere is a copy."""
        matrix = torch.randn(4, 10) * 1e17
        got = combination(matrix, torch.tensor([0, 0, 1, 0], dtype=torch.float64))
        self.assertTrue(torch.equal(got, matrix[2]))
        got.zero_()
        self.assertFalse(torch.equal(got, matrix[2]))


class ModerateRowsTests(SynchronousTestCase):
    """Rows that are surely accepted, without their norms."""

    def setUp(self) -> None:
        torch.manual_seed(7)

    def matrix(self, n: int, d: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        made = (torch.randn(n, d) * 10.0 ** torch.randint(-6, 6, (1, d))).to(dtype)
        made[:, ::7] = 0.0
        made[:, ::11] *= -1.0  # zeros of both signs
        return made

    def test_the_mean_has_the_same_bits(self) -> None:
        """The mean in one reading is the weighted sum to the bit, for any shape and threads."""
        for n, d in (
            (2, 1),
            (3, 1023),
            (10, 16_385),
            (20, 150_001),
            (33, 421_642 // 4),
            (64, 9000),
        ):
            for dtype in (torch.float32, torch.float64):
                matrix = self.matrix(n, d, dtype)
                for rows in (matrix, torch.cat([matrix] * 4, dim=1)[:, 3 : d + 3]):
                    wanted = combination(rows, torch.full((n,), 1 / n, dtype=torch.float64))
                    for count in (1, 2):
                        with thread_limit(count):
                            found = mean_of_moderate_rows(rows, NORM_LIMIT)
                        assert found is not None
                        bits = torch.int64 if dtype == torch.float64 else torch.int32
                        self.assertTrue(torch.equal(found.view(bits), wanted.view(bits)), (n, d))
        for odd in (matrix[:1], matrix.T, matrix.to(torch.float16)):
            self.assertIsNone(mean_of_moderate_rows(odd, NORM_LIMIT))

    def test_rows_that_may_be_refused(self) -> None:
        """NaN, infinities and large numbers show, wherever they are and whatever cancels them."""
        for value in (float("nan"), float("inf"), -float("inf"), 1.1e18, -1.1e18, 3e38):
            for row, column in ((0, 0), (4, 29_999), (2, 17_000)):
                matrix = torch.randn(5, 30_000)
                matrix[row, column] = value
                if abs(value) < 1e38:  # the mean of that coordinate is zero
                    matrix[(row + 1) % 5, column] = -value
                self.assertIsNone(mean_of_moderate_rows(matrix, NORM_LIMIT), (value, row, column))
                self.assertFalse(surely_below(matrix, NORM_LIMIT), (value, row, column))
        many = torch.full((4, 40_000), 0.9e16)  # a norm of 1.8e18
        many[1] = many[3] = -0.9e16
        self.assertIsNone(mean_of_moderate_rows(many, NORM_LIMIT))
        self.assertFalse(surely_below(many, NORM_LIMIT))

    def test_usual_rows(self) -> None:
        """Rows as training has them are found to be moderate."""
        for size in (1e-30, 1.0, 1e9):
            matrix = size * torch.randn(20, 150_000)
            self.assertTrue(surely_below(matrix, NORM_LIMIT))
            self.assertIsNotNone(mean_of_moderate_rows(matrix, NORM_LIMIT))
        self.assertFalse(surely_below(matrix[:, :9], NORM_LIMIT))  # strided: it does not know

    def test_rules_refuse_what_they_did(self) -> None:
        """Rules that need no norms refuse and leave out the same rows as others."""
        huge = torch.randn(7, 300)
        huge[2, 5], huge[3, 5] = 2e18, -2e18
        rules: tuple[Any, ...] = (Mean, Median, TrimmedMean)
        for rule in rules:
            self.assertRaises(TooManyRefused, rule(f=1), huge)
            left = huge[[0, 1, 4, 5, 6]]
            self.assertTrue(torch.equal(rule(f=2)(huge), rule(f=0)(left)), rule)


class WorkspaceTests(SynchronousTestCase):
    """Buffers that are kept between calls."""

    def setUp(self) -> None:
        torch.manual_seed(7)
        workspace.release_buffers()
        self.addCleanup(workspace.release_buffers)

    def test_lent_again(self) -> None:
        """A buffer is lent again once it is given back, also after an error, and not before."""
        like = torch.empty(0)
        with workspace.borrowed_buffers() as borrow:
            first, second = borrow(3, 1000, like), borrow(3, 1000, like)
            self.assertEqual((first.shape, first.dtype), ((3, 1000), torch.float32))
            self.assertNotEqual(first.data_ptr(), second.data_ptr())
        with self.assertRaises(ZeroDivisionError), workspace.borrowed_buffers() as borrow:
            again = borrow(3, 800, like)
            self.assertIn(again.data_ptr(), (first.data_ptr(), second.data_ptr()))
            self.assertEqual(borrow(2, 500, like.double()).dtype, torch.float64)
            _ = 1 / 0
        self.assertEqual(len(workspace._free), 2)
        trim_heap()
        self.assertEqual(workspace._free, [])

    def test_bounded(self) -> None:
        """No more is kept than the bound, and no buffer is used for something much smaller."""
        like = torch.empty(0)
        with workspace.borrowed_buffers() as borrow:
            for _ in range(5):
                borrow(9, 1 << 18, like)
        self.assertLessEqual(sum(map(len, workspace._free)), workspace.MOST)
        kept = len(workspace._free)
        self.assertEqual(kept, 3)
        with workspace.borrowed_buffers() as borrow:
            borrow(1, 1000, like)
            self.assertEqual(len(workspace._free), kept)

    def test_what_they_hold(self) -> None:
        """Numbers that an earlier call left, here NaN, are in no result."""
        matrix = torch.randn(20, 60_000)
        rules: list[Any] = [Median(), TrimmedMean(f=3), MeanAroundMedian(f=3)]
        mixing: Any = NNM(f=3)
        rules.append(Pipeline(pre=(mixing,), aggregator=TrimmedMean(f=3)))
        for call in rules:
            wanted = call(matrix)
            self.assertGreater(len(workspace._free), 0)
            for buffer in workspace._free:
                buffer.fill_(255)
            self.assertTrue(torch.equal(call(matrix), wanted))


class NetworkTests(SynchronousTestCase):
    def setUp(self) -> None:
        torch.manual_seed(7)

    @given(st.lists(st.sampled_from([None, "a", "b", 0]), min_size=1, max_size=24))
    @settings(deadline=None, max_examples=150)
    def test_what_is_asked_for_is_sorted(self, asked: list) -> None:
        """Whatever places of the sorted order are asked for, singly or as lots, are right."""
        wanted = tuple(i if place == 0 else place for i, place in enumerate(asked))
        n, steps = len(wanted), sorting_network(wanted)
        rows = torch.randint(0, 9, (n, 40)).float()
        buffers = [*rows.clone(), *torch.empty(steps.scratch, 40)]
        for step in steps.steps:
            low = torch.minimum(buffers[step.a], buffers[step.b])
            high = torch.maximum(buffers[step.a], buffers[step.b])
            for value, where in ((low, step.low), (high, step.high)):
                if where is not None:
                    self.assertGreaterEqual(where, n)  # rows are the caller's
                    buffers[where] = value
        ranked = rows.sort(dim=0).values
        for lot in set(wanted) - {None}:
            places = [i for i in range(n) if wanted[i] == lot]
            got = torch.stack([buffers[steps.places[i]] for i in places])
            self.assertTrue(torch.equal(got.sort(dim=0).values, ranked[places]))

    def test_the_median_takes_fewer_steps(self) -> None:
        """Cutting pays: the median of 20 takes a quarter fewer steps than sorting does."""

        def operations(wanted: tuple) -> int:
            return sum(
                (s.low is not None) + (s.high is not None) for s in sorting_network(wanted).steps
            )

        middle = tuple("middle" if i in (9, 10) else None for i in range(20))
        self.assertLessEqual(operations(middle), 0.75 * operations(tuple(range(20))))


class ManyRowsTests(SynchronousTestCase):
    """Matrices of many rows, of which the lower half is multiplied, by blocks."""

    def test_inner_products(self) -> None:
        """Seen from the origin, from a row, and with an anchor."""
        for n in (128, 129, 300):
            rows = torch.randn(n, 1500) + 3
            anchor = torch.randn(1500)
            wide = torch.cat([rows, anchor[None], torch.zeros(1, 1500)]).to(torch.float64)
            for view in (None, 0, n - 1):
                inner = inner_products(rows, view, anchor)
                seen = wide if view is None else wide - wide[view]
                error = (inner - seen @ seen.T).abs().max()
                self.assertLess(float(error), 0.05)
                self.assertTrue(torch.equal(inner, inner.T))

    def test_wherever_they_lie(self) -> None:
        """Rows that must be copied, also in parts of a tile, have the same products."""
        for n, d in ((20, 300_001), (33, 150_001), (7, 700)):
            home = torch.randn(n, d)
            away = torch.empty(n * d + 3)[3:].view(n, d).copy_(home)
            self.assertTrue(
                torch.equal(inner_products(away, None, None), inner_products(home, None, None))
            )

    def test_whatever_a_single_row_calls_its_stride(self) -> None:
        """One row may have any; its product is that of the same numbers."""
        for d in (700, 1024, 16_385):
            home = torch.randn(1, d) * 5
            for other in (home.clone().reshape(d, 1).T, home[0].clone().expand(1, d)):
                self.assertTrue(
                    torch.equal(inner_products(other, None, None), inner_products(home, None, None))
                )

    def test_norms(self) -> None:
        """The norm of equal numbers is exact, although their sum of squares in float32 would
        drift."""
        for d in (100, 1024, 1 << 17, 200_001):
            for value in (0.1, 0.7, 1.1):
                norms = norms_of(torch.full((2, d), value))
                exact = value * d**0.5
                self.assertLess(float((norms / exact - 1).abs().max()), 1e-5)


class TileTests(SynchronousTestCase):
    @given(st.integers(1, 10**8), st.integers(1, 2**11).map(lambda k: 1024 * k))
    def test_widths(self, d: int, most: int) -> None:
        """No tile is too wide, and large work comes in shares for two threads or four."""
        width = parallel.even_tile_width(d, most)
        self.assertLessEqual(width, min(d, most))
        tiles = -(-d // width)
        shares = -(-tiles // 4) * width  # the columns of the busiest of four threads
        if d >= 2**18 and width > 2**14:
            self.assertLess(shares, 1.1 * d / 4 + 1024 * -(-tiles // 4))

    def test_both_threads_end_together(self) -> None:
        """The model of the examples: seven tiles of 65,536 columns would be four and three."""
        width = parallel.even_tile_width(421_642, 1 << 16)
        self.assertEqual(-(-421_642 // width), 8)


class ParallelTests(SynchronousTestCase):
    def test_answers_are_in_order(self) -> None:
        """Whatever thread takes a piece, its answer stands in its place."""
        for count in (0, 1, 2, 50):
            for wanted in (1, 2, 5):
                with thread_limit(wanted):
                    got = map_in_order(lambda: lambda i: (i, torch.get_num_threads()), count)
                self.assertEqual(got, [(i, 1) for i in range(count)])

    def test_the_reactors_thread(self) -> None:
        """It has one torch thread while anyone holds it, and its own number after."""
        before = torch.get_num_threads()
        self.addCleanup(torch.set_num_threads, before)
        torch.set_num_threads(3)
        thread = ReactorThread()
        for step, threads_ in (
            (thread.hold, 1), (thread.hold, 1), (thread.release, 1), (thread.release, 3),
        ):  # fmt: skip
            step()
            self.assertEqual(torch.get_num_threads(), threads_)

    def test_the_callers_threads_are_left_alone(self) -> None:
        """Torch computes on as many threads as before, here and in threads yet to come."""
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            map_in_order(lambda: lambda i: i, 8)
            self.assertEqual(run_single_threaded(torch.get_num_threads), 1)
            with pool(2) as workers:
                self.assertEqual(workers.submit(torch.get_num_threads).result(), 1)
            self.assertEqual(torch.get_num_threads(), 3)
            seen: list[int] = []
            thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            # A helper that was not needed may still be starting: not at this moment.
            with parallel._thread_setting_lock:
                thread.start()
                thread.join()
            self.assertEqual(seen, [3])
        finally:
            torch.set_num_threads(before)

    def test_errors_come_out(self) -> None:
        """An exception in a piece is raised to the caller, in both kinds of thread."""

        def start():
            return lambda i: 1 // (3 - i)

        for call in (
            lambda: map_in_order(start, 9),
            lambda: run_single_threaded(map_in_order, start, 9),
        ):
            with thread_limit(2), self.assertRaises(ZeroDivisionError):
                call()

    def test_alone_knows_how_many_threads_were_wanted(self) -> None:
        """`thread_limit` reaches into the thread that `run_single_threaded` works in."""
        with thread_limit(5):
            self.assertEqual(run_single_threaded(threads), 5)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            self.assertEqual(run_single_threaded(threads), 2)
        finally:
            torch.set_num_threads(before)

    def test_a_whole_pool_has_its_threads_from_the_beginning(self) -> None:
        """As many as it is for, before any has work; and it may be shut down at once."""
        for count in (1, 4):
            with prestarted_pool(count, f"whole-{count}") as workers:
                names = [t.name for t in threading.enumerate() if "whole-" in t.name]
                self.assertEqual(len(names), count, names)
                self.assertEqual(workers.submit(torch.get_num_threads).result(), 1)
            for _ in range(20):
                prestarted_pool(count, "whole-").shutdown(wait=True, cancel_futures=True)
        self.assertFalse([t for t in threading.enumerate() if "whole-" in t.name])

    def test_many_callers_at_once(self) -> None:
        """Callers that all want threads do not wait for each other for ever."""
        with pool(30) as callers, thread_limit(4):
            waiting = [callers.submit(map_in_order, lambda: lambda i: i, 20) for _ in range(100)]
            self.assertTrue(all(one.result(60) == list(range(20)) for one in waiting))


class SearchTests(SynchronousTestCase):
    @given(st.integers(1, 9), st.data())
    @settings(deadline=None, max_examples=150)
    def test_covers(self, n: int, data: st.DataObject) -> None:
        """There is a cover of k vertices if and only if trying all finds one."""
        pairs = data.draw(st.sets(st.sampled_from(list(combinations(range(n), 2)) or [(0, 0)])))
        graph = np.zeros((n, n), dtype=bool)
        for i, j in pairs:
            graph[i, j] = graph[j, i] = i != j
        for k in range(n):
            found = any(
                not np.delete(np.delete(graph, some, 0), some, 1).any()
                for some in combinations(range(n), k)
            )
            self.assertEqual(VertexCover(graph).exists((1 << n) - 1, k), found)

    def test_large_n_is_no_trouble(self) -> None:
        """64 points with 12 to drop are searched exactly, and at once."""
        draw = torch.Generator().manual_seed(0)
        squared = distances(torch.randn(64, 30, generator=draw))
        kept = minimum_diameter_subset(squared, 52)
        self.assertEqual(len(set(kept)), 52)

    def test_hopeless_searches_end(self) -> None:
        """A search that would not end says so."""
        random = np.random.default_rng(0)
        graph = random.random((160, 160)) < 0.06
        graph = (graph | graph.T) & ~np.eye(160, dtype=bool)
        search = VertexCover(graph, steps=MOST_STEPS - 1000)
        with self.assertRaisesRegex(SearchTooLarge, "100000 steps .* n=160"):
            search.exists((1 << 160) - 1, 110)
