"""The tests of datasets and partitions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import seeds
from byzpy_tw.batches import cut as cut_batch
from byzpy_tw.batches import length, shape_of, tensors_of
from byzpy_tw.datasets import Dataset
from byzpy_tw.datasets.tensors import input_dtype, label_bounds
from byzpy_tw.errors import ShardTooSmall
from byzpy_tw.plugins.contracts import check_made
from byzpy_tw.testing.properties.bounds import (
    PATIENCE,
    assert_untouched,
    make_with,
    on_threads,
    run_within,
    test_class,
)

Factory = Callable[..., Any]

_labels = st.integers(0, 9)


def dataset_tests(
    make: Factory, *, elsewhere: bool = True, name: str = "", **parameters: Any
) -> Any:
    """Return the tests of the dataset of ``make(**parameters)``.

    Tested: it is a `Dataset` with training and test examples of one shape, with
    labels from 0 up to its number of classes, or finite targets where it has no
    classes; inputs to a model are finite float32, or whole numbers or booleans;
    made again, with any number of threads, it has the same digest, which trainer and
    servers compare; also in another process, unless `elsewhere` is False
    (the factory is imported there by its name, and called with the same numbers, words
    and paths); global streams are left alone.
    """

    def build() -> Dataset:
        found = run_within(PATIENCE, lambda: make_with(make, **parameters))
        return check_made("dataset", "this", "tested here", found)

    def splits(self: SynchronousTestCase) -> None:
        """Both splits hold examples of one shape, and labels that are classes, or targets."""
        data = build()
        self.assertEqual(shape_of(data.train.x), shape_of(data.test.x))
        types = [[x.dtype for x in tensors_of(split.x)] for split in (data.train, data.test)]
        self.assertEqual(*types)
        for split in (data.train, data.test):
            self.assertGreater(len(split), 0)
            self.assertEqual(length(split.x), length(split.y))
            for y in tensors_of(split.y):
                if y.is_floating_point():
                    self.assertTrue(bool(torch.isfinite(y).all()))
                elif data.classes is not None and y.dtype == torch.int64:
                    low, high = label_bounds(y)
                    self.assertLessEqual(0, low)
                    self.assertLess(high, data.classes)

    def inputs(self: SynchronousTestCase) -> None:
        """A model's inputs are finite, of the right type, and in memory of their own."""
        data = build()
        some = cut_batch(data.train.x, slice(100))
        with assert_untouched(self, *tensors_of(data.train.x)):
            for x, found in zip(tensors_of(some), tensors_of(data.inputs(some))):
                self.assertEqual(found.dtype, input_dtype(x))
                self.assertEqual(found.shape, x.shape)
                self.assertTrue(bool(torch.isfinite(found).all()))
                found.logical_not_()

    def again(self: SynchronousTestCase) -> None:
        """A second one is the same, to the bit."""
        with assert_untouched(self):
            digests = on_threads(lambda: build().digest())
        self.assertEqual(len(set(digests)), 1, "two of the same dataset differ")

    def another_process(self: SynchronousTestCase) -> None:
        """Another process, with other hashes, makes the same."""
        name, module = getattr(make, "__qualname__", "<"), getattr(make, "__module__", "")
        if "<" in name:
            self.fail(f"{make!r} has no name to import it by: say elsewhere=False")
        written = ", ".join(f"{key}={_written(value)}" for key, value in parameters.items())
        code = (
            f"import pathlib\nfrom {module} import {name.split('.')[0]}\n"
            f"print({name}({written}).digest())"
        )
        # sys.path as it is here: a test may run from a checkout.
        environment = {**os.environ, "PYTHONHASHSEED": "12345"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        self.assertEqual(found.stdout.strip(), build().digest(), found.stderr[-500:])

    tests = {"test_splits": splits, "test_inputs": inputs, "test_made_again": again}
    if elsewhere:
        tests["test_another_process"] = another_process
    return test_class("dataset", make, name, tests)


def _written(value: Any) -> str:
    return f"pathlib.Path({str(value)!r})" if isinstance(value, Path) else repr(value)


def partition_tests(
    make: Factory,
    *,
    covers: bool = True,
    disjoint: bool = True,
    per_shard: int = 1,
    name: str = "",
    **parameters: Any,
) -> Any:
    """Return the tests of the partition of ``make(**parameters)``.

    Tested, on labels that hypothesis draws, at least `per_shard` for each of up to 20
    shards: it cuts the wanted number of shards, none of them empty, each of existing
    examples, none twice; the labels and global streams are left alone; equal streams give
    equal shards.  With more shards than examples some are empty, or it raises
    `ShardTooSmall` with the numbers.  With `covers` every example
    is in some shard, with `disjoint` in no more than one; those for Byzantine nodes do not count.
    """
    partition = check_made("partition", "this", "tested here", make_with(make, **parameters))
    by_node = getattr(partition, "by_node", False)
    further = getattr(partition, "byzantine_shards", 0)

    def cut(labels: np.ndarray, shards: int, seed: int) -> list[np.ndarray]:
        stream = seeds.stream(seed, "partition")
        return run_within(PATIENCE, lambda: partition(labels, shards, stream))

    @st.composite
    def cases(draw: Any) -> tuple[np.ndarray, int]:
        shards = draw(st.integers(1, 20))
        least = per_shard * shards
        kinds = st.integers(0, shards - 1) if by_node else _labels
        labels = draw(arrays(np.int64, st.integers(least, least + 130), elements=kinds))
        if by_node:  # each node has an example
            labels[:shards] = np.arange(shards)
        return labels, shards

    quick = settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))

    @quick
    @given(cases(), st.integers(0, 2**63 - 1))
    def shards_test(self: SynchronousTestCase, case: Any, seed: int) -> None:
        """Shards are rows of existing examples."""
        labels, shards = case
        kept = labels.copy()
        with assert_untouched(self):
            found = cut(labels, shards, seed)
        self.assertTrue(np.array_equal(labels, kept), "changed the labels")
        self.assertEqual(len(found), shards + further)
        for shard in found:
            self.assertGreater(len(shard), 0, "an empty shard")
            self.assertEqual(len(np.unique(shard)), len(shard), "an example twice in a shard")
        everything = np.concatenate(found[:shards])
        if disjoint:
            self.assertEqual(len(np.unique(everything)), len(everything), "shards overlap")
        if covers:
            self.assertEqual(set(everything.tolist()), set(range(len(labels))))

    @quick
    @given(cases(), st.integers(0, 100))
    def repeats(self: SynchronousTestCase, case: Any, seed: int) -> None:
        """The same stream gives the same shards."""
        labels, shards = case
        for one, two in zip(cut(labels, shards, seed), cut(labels, shards, seed), strict=True):
            self.assertTrue(np.array_equal(one, two))

    def too_many(self: SynchronousTestCase) -> None:
        """More shards than examples are empty ones, or an error with the numbers."""
        try:
            self.assertEqual(len(cut(np.zeros(3, dtype=np.int64), 4, 0)), 4 + further)
        except ShardTooSmall as e:
            self.assertRegex(str(e), "3.*4|4.*3")

    tests: dict[str, Any] = {"test_shards": shards_test, "test_repeats": repeats}
    if disjoint and not by_node:
        tests["test_too_many_shards"] = too_many
    return test_class("partition", make, name, tests)
