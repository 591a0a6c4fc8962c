"""Runs on one server take turns in its pool, and a closed one is out of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.server.run_executor import RunExecutor
from byzpy_tw.testing.doubles import HandCrankedPool


class LaneTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pool, self.done = HandCrankedPool(), []

    def job(self, name: str) -> Callable[[], None]:
        return lambda: self.done.append(name)

    def test_a_run_with_many_jobs_does_not_keep_others_waiting(self) -> None:
        """Another's first job is done after a few, not after all."""
        greedy, modest = RunExecutor(self.pool, 2), RunExecutor(self.pool, 2)
        for _ in range(1000):
            greedy.submit(self.job("greedy"))
        for _ in range(3):
            modest.submit(self.job("modest"))
        self.pool.turn(8)
        self.assertEqual(self.done.count("modest"), 3)
        self.pool.drain()
        self.assertEqual(self.done.count("greedy"), 1000)

    def test_order_within_a_run(self) -> None:
        """A run's jobs are begun as they were handed in."""
        executor = RunExecutor(self.pool, 1)
        for i in range(5):
            executor.submit(self.done.append, i)
        self.pool.drain()
        self.assertEqual(self.done, [0, 1, 2, 3, 4])

    def test_outcomes(self) -> None:
        """Results and errors come back as from any executor."""
        executor = RunExecutor(self.pool, 2)
        good, bad = executor.submit(divmod, 7, 2), executor.submit(divmod, 7, 0)
        self.pool.drain()
        self.assertEqual(good.result(0), (3, 1))
        self.assertRaises(ZeroDivisionError, bad.result, 0)

    def test_closing(self) -> None:
        """A job that had not begun is not done; its future says so, and no more jobs are taken."""
        executor = RunExecutor(self.pool, 2)
        futures = [executor.submit(self.job(str(i))) for i in range(5)]
        executor.close()
        self.pool.drain()
        self.assertEqual(self.done, ["0", "1"])  # the pool had those already
        self.assertEqual([f.cancelled() for f in futures], [False, False, True, True, True])
        self.assertRaises(RuntimeError, executor.submit, self.job("more"))

    def test_a_pool_that_was_shut_down(self) -> None:
        """Jobs that it does not take are cancelled."""
        executor = RunExecutor(self.pool, 2)
        self.pool.shutdown()
        self.assertTrue(executor.submit(self.job("x")).cancelled())

    def test_in_threads(self) -> None:
        """Every job is done once, and no more at a time than the lane is wide."""
        with ThreadPoolExecutor(4) as pool:
            executor, gate = RunExecutor(pool, 2), Event()
            held = [executor.submit(gate.wait, 10) for _ in range(2)]
            rest = [executor.submit(int, str(i)) for i in range(200)]
            other = RunExecutor(pool, 1).submit(int, "7")
            self.assertEqual(other.result(10), 7)
            self.assertFalse(any(f.done() for f in rest))
            gate.set()
            self.assertEqual([f.result(10) for f in rest], list(range(200)))
            self.assertTrue(all(f.result(10) for f in held))
