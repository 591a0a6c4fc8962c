"""Arrays and torch datasets as a run's dataset."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
import torch
from attrs import evolve
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Dataset, Split
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BrokenPlugin, ByzpyTwError, ConfigError, UnsuitableData
from byzpy_tw.objects.data import to_dataset
from byzpy_tw.objects.run_objects import RunObjects
from byzpy_tw.plugins import load
from byzpy_tw.trainer.preparation import prepare_data

X, Y = np.arange(12, dtype="float32").reshape(6, 2), np.array([0, 1, 2, 0, 1, 2])
ARRAYS = (X[:4], Y[:4], X[4:], Y[4:])


def with_array(name: str, value: Any) -> tuple[Any, ...]:
    names = ("x_train", "y_train", "x_test", "y_test")
    return tuple(value if n == name else a for n, a in zip(names, ARRAYS))


class Pairs(TorchDataset[Any]):
    def __init__(self, *items: Any) -> None:
        self.items = items

    def __getitem__(self, i: int) -> Any:
        return self.items[i]

    def __len__(self) -> int:
        return len(self.items)


class ArrayTests(SynchronousTestCase):
    def test_arrays(self) -> None:
        """NumPy's and torch's are the same data; the classes are counted."""
        data = to_dataset(ARRAYS)
        self.assertEqual((data.name, data.classes, data.shape), ("arrays", 3, (2,)))
        self.assertEqual((len(data.train), len(data.test)), (4, 2))
        tensors = to_dataset([torch.from_numpy(array) for array in ARRAYS])
        self.assertEqual(data.digest(), tensors.digest())
        self.assertEqual(to_dataset(lambda: ARRAYS).digest(), data.digest())

    def test_kinds_of_numbers(self) -> None:
        """Bytes stay bytes; labels become int64, and other targets float32."""
        for kind in ("uint8", "int32", "uint16", ">i4", "int64"):
            y = Y.astype(kind)
            data = to_dataset((X[:4], y[:4], X[4:], y[4:]))
            self.assertEqual((data.train.y.dtype, data.classes), (torch.int64, 3), kind)
        pictures = np.arange(24, dtype="uint8").reshape(6, 1, 2, 2)
        made = to_dataset((pictures[:4], Y[:4], pictures[4:], Y[4:]))
        self.assertEqual(made.train.x.dtype, torch.uint8)
        real = to_dataset((X[:4], X[:4, 0].astype("float64"), X[4:], X[4:, 0].astype("float64")))
        self.assertEqual((real.train.y.dtype, real.classes), (torch.float32, None))

    def test_memory_is_shared(self) -> None:
        """A great array is not copied; one that is read-only, or cut across, is fine too."""
        data = to_dataset(ARRAYS)
        self.assertEqual(data.train.x.data_ptr(), X.ctypes.data)
        X.flags.writeable = False
        self.addCleanup(X.setflags, write=True)
        wide = np.arange(24, dtype="float32").reshape(2, 12)[:, ::2].T
        for x in (X, wide):
            made = to_dataset((x[:4], Y[:4], x[4:], Y[4:]))
            self.assertEqual(made.train.x.tolist(), x[:4].tolist())

    def test_several_inputs(self) -> None:
        """Arrays by their names, on either side; tokens stay whole numbers."""
        tokens = np.arange(12).reshape(6, 2)
        x = [{"tokens": tokens[part], "size": X[part]} for part in (slice(4), slice(4, 6))]
        data = to_dataset((x[0], Y[:4], x[1], Y[4:]))
        self.assertEqual(data.shape, {"size": (2,), "tokens": (2,)})
        self.assertEqual(data.train.x["tokens"].dtype, torch.int64)
        items = [({"tokens": t, "size": s}, int(y)) for t, s, y in zip(tokens, X, Y)]
        again = to_dataset((Pairs(*items[:4]), Pairs(*items[4:])))
        self.assertEqual(again.digest(), data.digest())
        y = {"label": Y, "mask": X[:, 0] > 3}
        parts = [
            {name: array[part] for name, array in y.items()} for part in (slice(4), slice(4, 6))
        ]
        several = to_dataset((X[:4], parts[0], X[4:], parts[1]))
        self.assertEqual((several.classes, several.target_shape), (None, {"label": (), "mask": ()}))

    def test_a_dataset(self) -> None:
        """It is taken as it is."""
        split = Split(torch.ones(2, 3), torch.tensor([0, 1]))
        data = Dataset("mine", split, split, classes=2)
        self.assertIs(to_dataset(data), data)
        self.assertIs(to_dataset(lambda: data), data)

    def refusal(self, given: Any, error: type[ByzpyTwError] = UnsuitableData) -> str:
        with self.assertRaises(error) as caught:
            to_dataset(given)
        text = str(caught.exception)
        self.assertNotIn("\n", text)
        return text

    def test_mistakes_with_arrays(self) -> None:
        """Each is one line with the array's name, and the cure."""
        for name, value, words in (
            ("y_test", np.array([0.5, np.inf]), "1 of 2 examples, first in example 1: leave"),
            ("x_train", X[:4].tolist(), "x_train is a list, expected an array: numpy.array(x_tr"),
            ("y_train", "abcd", "y_train is a str, expected a NumPy array or a torch tensor"),
            ("x_train", np.array(["a"] * 4), "x_train is an array of <U1, expected numbers"),
            ("x_train", np.array([[1], [1, 2]], dtype=object), "rows of different lengths?"),
            ("y_train", Y[:3], "x_train and y_train: 4 examples with 3 labels, expected as many"),
            ("x_test", X[4:, :1], "training and test examples differ in shape: (2,) and (1,)"),
            ("y_train", np.array([-1, 0, 1, 2]), "whole numbers from -1 to 2: classes run from 0"),
            ("y_train", np.array([0, 1, 2, 10**6]), "byzpy_tw.Dataset(..., classes=1000001) if"),
            ("x_train", X[:0], "x_train and y_train: 0 examples with 4 labels"),
            ("x_train", np.float32(1), "x_train is a float32, expected a NumPy array"),
        ):  # fmt: skip
            self.assertIn(words, self.refusal(with_array(name, value)))

    def test_no_arrays(self) -> None:
        """The message has the kind of what is given, and what is expected."""
        for given, words in (
            (ARRAYS[:3], "a tuple of 3, expected four arrays"),
            ({"x": X}, "a dict, expected four arrays"),
            (X, "a ndarray, expected four arrays"),
            (Pairs(), "is one torch dataset: give two of them"),
            (DataLoader(Pairs((1, 2))), "is a DataLoader: give its .dataset"),
            (lambda: 3, "a int, expected four arrays"),
        ):
            self.assertIn(words, self.refusal(given, ConfigError))
        self.assertIn("ZeroDivisionError", self.refusal(lambda: 1 // 0, BrokenPlugin))


class TorchDatasetTests(SynchronousTestCase):
    def test_read_once(self) -> None:
        """Items in order, of any kind that is a number or an array; tensors are taken whole."""
        items = [(torch.tensor(x), int(y)) for x, y in zip(X, Y)]
        data = to_dataset((Pairs(*items[:4]), Subset(Pairs(*items), [4, 5])))
        self.assertEqual((data.name, data.classes), ("torch-datasets", 3))
        self.assertEqual(data.digest(), to_dataset(ARRAYS).digest())
        whole = [TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
                 for x, y in (ARRAYS[:2], ARRAYS[2:])]  # fmt: skip
        self.assertEqual(to_dataset(whole).digest(), data.digest())
        self.assertEqual(to_dataset(whole).train.x.data_ptr(), X.ctypes.data)
        arrays = Pairs(*((x, np.int64(y)) for x, y in zip(X, Y)))
        self.assertEqual(to_dataset((arrays, arrays)).train.y.tolist(), Y.tolist())

    def test_transforms_that_draw(self) -> None:
        """They draw the same each time that the data are read, and move nobody's generator."""

        class Noisy(Pairs):
            def __getitem__(self, i: int) -> Any:
                return torch.rand(2), i % 2

        made, plain = Noisy(1, 2, 3), Pairs(*((torch.tensor([nan, 2.0]), i % 2) for i in range(3)))
        before = torch.get_rng_state()
        self.assertEqual(to_dataset((made, made)).digest(), to_dataset((made, made)).digest())
        self.assertTrue(torch.equal(before, torch.get_rng_state()))
        (warning,) = to_dataset((made, plain)).warnings
        self.assertIn("the train dataset gives other values when an item is read again", warning)
        self.assertIn("augment=", warning)
        self.assertNotIn("\n", warning)
        self.assertIn("the test dataset gives other", *to_dataset((plain, made)).warnings)
        self.assertEqual(to_dataset((plain, plain)).warnings, ())
        self.assert_told(warning, dataset=(made, plain))

    def test_examples_that_are_not_finite(self) -> None:
        """They are a warning, and an error with --strict, as those in files are."""
        bad = X[:4].copy()
        bad[2, 1] = nan
        self.assert_told(
            "training data of 'arrays' holds NaN or infinity in 1 of 4 examples, first in "
            "example 2",
            dataset=with_array("x_train", bad),
        )

    def assert_told(self, warning: str, *, dataset: Any) -> None:
        """Assert that a run has this warning of its data, and none with --strict."""
        options = {"model": "logreg", "dataset": dataset, "task": None, "batch_size": 1,
                   "num_honest": 2, "num_byz": 0, "f": 0, "aggregator": "mean"}  # fmt: skip
        given, named = RunObjects.split(options)
        registry = given.add_to(load(only=()))
        config = RunConfig(in_process=True, **named)
        found = prepare_data(config, registry, resolve_rules(config, registry), 1)
        self.assertIn(warning, " ".join(found.warnings))
        strict = evolve(config, strict=True)
        error = self.assertRaises(
            UnsuitableData, prepare_data, strict, registry, resolve_rules(strict, registry), 1
        )
        self.assertIn(warning, str(error))
        self.assertIn("(--strict)", str(error))

    def test_mistakes(self) -> None:
        """Each is one line with the dataset and the item."""

        class Endless(IterableDataset[Any]):
            def __iter__(self) -> Any:
                return iter(())

        class Broken(Pairs):
            def __getitem__(self, i: int) -> Any:
                raise OSError("the disk is gone")

        fine = Pairs((torch.ones(2), 1))
        for train, words, error in (
            (Endless(), "the train dataset is iterable", ConfigError),
            (DataLoader(fine), "the train dataset is a DataLoader", ConfigError),
            (3, "the train dataset is a int, expected", ConfigError),
            (Broken(1), "the train dataset raised OSError: the disk is gone", BrokenPlugin),
            (Pairs((1, 2, 3)), "item 0 is a tuple of 3, expected (input, target)", UnsuitableData),
            (Pairs(({}, 1)), "examples: a mapping of 0 tensors, expected 1 to 100", UnsuitableData),
            (Pairs(({"a": 1}, 1), (2, 1)), "x_train: item 0 is a dict, expected", UnsuitableData),
            (Pairs((torch.ones(2), 1), (torch.ones(3), 1)), "item 1 is (3,)", UnsuitableData),
            (Pairs((torch.ones(2), "cat")), "y_train: item 0 is a str", UnsuitableData),
        ):
            with self.assertRaises(error) as caught:
                to_dataset((train, fine))
            self.assertIn(words, str(caught.exception))
            self.assertNotIn("\n", str(caught.exception))
