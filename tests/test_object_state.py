"""The memory of a plugin's object is found, copied and compared."""

from __future__ import annotations

import math
import random
import threading
from typing import Any

import numpy as np
import torch
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import object_state
from byzpy_tw.config.server import ServerConfig
from byzpy_tw.server.service import ByzpyServer
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from tests.trial_models import KeepsInAList


class ServerTests(SynchronousTestCase):
    def test_leaves_threads_for_rounds(self) -> None:
        """Runs are built one after another: what waits for foreign code takes no thread."""
        server = ByzpyServer(ClockReactor(), ServerConfig(port=0))
        server.pool = pool = HandCrankedPool()
        done: list[int] = []
        for number in range(3):
            server._run_serially(int, str(number)).addCallback(done.append)
        for count in range(3):
            self.assertEqual(len(pool.waiting), 1)
            pool.turn()
            self.assertEqual(done, list(range(count + 1)))


class ObjectStateTests(SynchronousTestCase):
    """The look at all that an object may keep."""

    def test_finds_changes(self) -> None:
        """In attributes, containers, closures, generators and slots, by their paths."""
        count = 0

        def counting() -> None:
            nonlocal count
            count += 1

        class Slotted:
            __slots__ = ("value",)

        class Thing:
            pass

        thing: Any = Thing()
        thing.number, thing.items, thing.table = 1, [1], {"a": 1}
        thing.counting, thing.slotted = counting, Slotted()
        thing.slotted.value = 0
        thing.stream, thing.random = np.random.default_rng(0), random.Random(0)
        thing.generator, thing.tensor = torch.Generator(), torch.zeros(3)
        thing.array = np.zeros(3)

        def append() -> None:
            thing.items.append(2)

        def table() -> None:
            thing.table["a"] = 2

        def number() -> None:
            thing.number = 2

        def slot() -> None:
            thing.slotted.value = 1

        for change, path, kind in (
            (number, "number", "memory"),
            (append, "items", "grown"),
            (table, "table['a']", "memory"),
            (counting, "counting.count", "memory"),
            (slot, "slotted.value", "memory"),
            (lambda: thing.stream.random(), "stream", "memory"),
            (lambda: thing.random.random(), "random", "memory"),
            (lambda: torch.rand(1, generator=thing.generator), "generator", "memory"),
            (lambda: thing.tensor.add_(1), "tensor", "memory"),
            (lambda: thing.array.__iadd__(1), "array", "memory"),
        ):
            before = object_state.snapshot(thing)
            self.assertFalse(object_state.compare_snapshots(before, object_state.snapshot(thing)))
            change()
            found = object_state.compare_snapshots(before, object_state.snapshot(thing))
            self.assertIn(path, getattr(found, kind), (path, found))

    def test_a_digest_of_bits(self) -> None:
        """Equal for equal bits, another for a permutation, a sign, a shape or a dtype."""
        tensor = torch.arange(1000, dtype=torch.float32)
        same = object_state.tensor_digest(tensor.clone())
        self.assertEqual(object_state.tensor_digest(tensor), same)
        for other in (tensor.flip(0), -tensor, tensor.view(10, 100), tensor.double(), tensor[:9]):
            self.assertNotEqual(object_state.tensor_digest(other), same)
        nan = torch.full((3,), math.nan)
        self.assertEqual(object_state.tensor_digest(nan), object_state.tensor_digest(nan.clone()))

    def test_copies(self) -> None:
        """Copies share tensors and nothing else."""
        model = KeepsInAList(4, (9,))
        copies = object_state.Copier(model)
        one, two = copies(), copies()
        self.assertIs(one.a.weight, model.a.weight)
        one.kept.append(1)
        self.assertEqual((two.kept, model.kept), ([], []))
        model.lock = threading.Lock()
        self.assertIs(object_state.Copier(model)().lock, model.lock)
        model.later = (number for number in range(3))
        self.assertRaises(TypeError, object_state.Copier, model)
