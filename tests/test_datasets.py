"""Data: what it holds, how it is read, and what to do when it is missing."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.masked import masked_tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.datasets import (
    BUILTIN,
    Dataset,
    Split,
    download,
    fashion_mnist,
    mnist,
    mnist5k,
    shipped,
    synthetic,
    write_idx,
)
from byzpy_tw.datasets.cifar_files import color_split
from byzpy_tw.errors import BadParameter, DatasetUnavailable, UnsuitableData


def tiny(n: int = 20, *, seed: int = 0) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, 1, 28, 28), generator=generator, dtype=torch.uint8)
    split = Split(x, torch.arange(n) % 10)
    return Dataset("tiny", split, split, 10, mean=(0.1307,), std=(0.3081,))


def folder(case: SynchronousTestCase) -> Path:
    """An empty folder that is gone after the test."""
    made = tempfile.mkdtemp()
    case.addCleanup(shutil.rmtree, made, True)
    return Path(made)


class DatasetTests(SynchronousTestCase):
    def test_printed(self) -> None:
        """It shows the number of examples and their shape, not the examples."""
        shown = "Split(x=uint8 (20, 1, 28, 28), y=int64 (20,))"
        self.assertIn(f"train={shown}, test={shown}, classes=10", repr(tiny()))

    def test_inputs(self) -> None:
        """uint8 images are scaled to 0..1 and normalised, and left as they were."""
        data = tiny()
        before = data.train.x.clone()
        inputs = data.inputs(data.train.x[:5])
        expected = (before[:5].float() / 255 - 0.1307) / 0.3081
        self.assertEqual((inputs.shape, inputs.dtype), ((5, 1, 28, 28), torch.float32))
        self.assertTrue(torch.equal(inputs, expected))
        self.assertTrue(torch.equal(data.train.x, before))

    def test_channels(self) -> None:
        """Each channel has its own mean and deviation; floats are not scaled."""
        x = torch.ones(4, 3, 2, 2)
        split = Split(x, torch.zeros(4, dtype=torch.int64))
        data = Dataset("three", split, split, 1, mean=(0.0, 0.5, 1.0), std=(1.0, 2.0, 4.0))
        self.assertEqual(data.inputs(x)[0, :, 0, 0].tolist(), [1.0, 0.25, 0.0])
        self.assertTrue(torch.equal(x, torch.ones(4, 3, 2, 2)))

    def test_digest(self) -> None:
        """Equal data has an equal digest; one pixel more and it is another."""
        self.assertEqual(tiny().digest(), tiny().digest())
        changed = tiny()
        changed.test.x[3, 0, 5, 5] ^= 1
        self.assertNotEqual(tiny().digest(), changed.digest())

    def test_refuses_nonsense(self) -> None:
        """Labels out of range, or as many as there are examples not, are errors."""
        x = torch.zeros(3, 2)
        self.assertRaises(ValueError, Split, x, torch.zeros(2, dtype=torch.int64))
        self.assertRaises(ValueError, Split, x, torch.zeros(3, dtype=torch.complex64))
        self.assertRaises(ValueError, Split, x, torch.tensor(3))
        self.assertRaises(ValueError, Split, x.to(torch.complex64), torch.zeros(3).long())
        split = Split(x, torch.tensor([0, 1, 2]))
        self.assertRaises(ValueError, Dataset, "bad", split, split, 2)

    def test_narrow_floats(self) -> None:
        """Data of each floating type has a digest of its bytes, and float32 inputs."""
        digests = set()
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            x = torch.arange(8.0).reshape(4, 2).to(dtype)
            data = blobs(x)
            digests.add(data.digest())
            self.assertEqual(data.digest(), blobs(x.t().contiguous().t()).digest())
            self.assertEqual(data.inputs(x).tolist(), [[0, 1], [2, 3], [4, 5], [6, 7]])
            self.assertEqual((data.inputs(x).dtype, data.non_finite()), (torch.float32, []))
        self.assertEqual(len(digests), 4)

    def test_detached(self) -> None:
        """Tensors that require a gradient are detached, and subclasses are plain."""
        x = nn.Parameter(torch.ones(4, 2))
        data = blobs(x)
        self.assertIs(type(data.train.x), torch.Tensor)
        self.assertFalse(data.train.x.requires_grad)
        self.assertEqual(data.train.x.data_ptr(), x.data_ptr())
        flipped = torch.complex(x.detach(), x.detach()).conj().imag  # a lazy negation
        self.assertEqual(blobs(flipped).digest(), blobs(-x).digest())

    @pytest.mark.slow
    def test_importing_is_cheap(self) -> None:
        """Importing the datasets does not import torchvision."""
        code = "import sys, byzpy_tw.datasets; sys.exit('torchvision' in sys.modules)"
        found = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
        self.assertEqual(found.returncode, 0)


def blobs(x: Any, y: Any = None, **options: Any) -> Dataset:
    split = Split(x, torch.arange(len(x)) % 2 if y is None else y)
    return Dataset("blobs", **{"train": split, "test": split, "classes": 2, **options})


class UnsuitableTests(SynchronousTestCase):
    """Data that cannot be trained on is refused when it is made, in one line."""

    def refused(self, *words: str, x: Any = None, y: Any = None, **options: Any) -> None:
        x = torch.ones(4, 3, 2) if x is None else x
        error = self.assertRaises(UnsuitableData, blobs, x, y, **options)
        self.assertIsInstance(error, ValueError)
        self.assertNotIn("\n", str(error))
        for word in words:
            self.assertIn(word, str(error))

    def test_no_plain_tensors(self) -> None:
        """Arrays, lists, and tensors that are sparse, quantized, nested, masked or meta."""
        caught = warnings.catch_warnings()
        caught.__enter__()
        self.addCleanup(caught.__exit__, None, None, None)
        warnings.simplefilter("ignore")  # some are prototypes of torch's
        x = torch.ones(4, 3)
        self.refused("got ndarray: torch.from_numpy(x)", x=np.ones((4, 3)))
        self.refused("got list: torch.tensor(x)", x=[[1.0]] * 4)
        self.refused("labels", "got ndarray: torch.from_numpy(y)", y=np.arange(4))
        self.refused("layout sparse_coo: x.to_dense()", x=x.to_sparse())
        self.refused("layout sparse_csr: x.to_dense()", x=x.to_sparse_csr())
        self.refused("labels", "sparse_coo", y=torch.arange(4).to_sparse())
        self.refused("meta device", x=x.to("meta"))
        quantized = torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)
        self.refused("quantized: x.dequantize()", x=quantized)
        nested = [torch.ones(2), torch.ones(3)]
        self.refused("nested", x=torch.nested.nested_tensor(nested), y=torch.arange(2))
        ragged = torch.nested.nested_tensor(nested, layout=torch.jagged)
        self.refused("a NestedTensor", x=ragged, y=torch.arange(2))
        self.refused("a MaskedTensor", x=masked_tensor(x, x > 0))

    def test_types(self) -> None:
        """Examples of types that no model takes, and labels that are not int64."""
        x = torch.ones(4, 3)
        for dtype in (torch.float8_e4m3fn, torch.complex64, torch.uint16):
            name = str(dtype).removeprefix("torch.")
            self.refused(f"examples are {name}, expected uint8", x=x.to(dtype))
        self.refused("labels are int32, expected int64: y.long()", y=torch.arange(4).int())
        self.refused("labels are float32", y=torch.zeros(4))

    def test_shapes(self) -> None:
        """Axes that are missing or empty, and lengths that differ."""
        self.refused("of shape (4,), expected (N, *shape): x.reshape(-1, 1)", x=torch.ones(4))
        self.refused("of shape (3, 0) hold no numbers", x=torch.ones(4, 3, 0))
        self.refused("4 examples with 3 labels", y=torch.zeros(3).long())
        other = Split(torch.ones(4, 3, 1), torch.zeros(4).long())
        self.refused("differ in shape: (3, 2) and (3, 1)", test=other)

    def test_labels(self) -> None:
        """Labels outside of the classes, and numbers of classes that make no sense."""
        run = "labels of the training data run from 0 to 1, expected 0 to 0 (classes=1)"
        self.refused("'blobs'", run, classes=1)
        self.refused("from -1 to 2", y=torch.tensor([-1, 0, 1, 2]), classes=3)
        low = Split(torch.ones(1, 3, 2), torch.tensor([7]))
        self.refused("labels of the test data run from 7 to 7", test=low)
        for classes, words in ((0, "is 0, expected at least 1"), (2.5, "2.5"), ("2", "'2'")):
            self.refused("classes", words, classes=classes)
        self.assertEqual(blobs(torch.ones(4, 2), classes=np.int64(3)).classes, 3)

    def test_no_training_data(self) -> None:
        """Training data must hold an example; it must be a split."""
        x = torch.ones(4, 3, 2)
        self.refused("no training examples", train=Split(x[:0], torch.zeros(0).long()))
        self.refused("test data is tuple, expected Split(x, y)", test=(x, torch.zeros(4)))

    def test_normalisation(self) -> None:
        """Means and deviations that fit the channels, finite and above 0 as float32."""
        self.refused("mean has 2 numbers", "each of 3 channels", mean=(0.0, 1.0))
        self.refused("std has 0 numbers", std=())
        self.refused("mean is 'x'", mean="x")
        self.refused("std is", std=np.ones((1, 3)))
        for mean in (float("nan"), float("inf"), 1e39):
            self.refused("mean is", "expected finite", mean=(mean,))
        for std in (0.0, -1.0, float("nan"), float("inf"), 1e-50):
            self.refused("std is", "above 0", std=(1.0, std, 1.0))
        small = torch.zeros(4, 1, 2, dtype=torch.uint8)
        self.refused("inputs are not finite", x=small, mean=(1.0,), std=(1e-40,))

    def test_numbers_of_any_kind(self) -> None:
        """One number will do, as will an array or a tensor of them."""
        x = torch.ones(4, 3, 2)
        self.assertEqual(blobs(x, mean=0.5).mean, (0.5,))
        self.assertEqual(blobs(x, std=np.float32(0.5)).std, (0.5,))
        for three in ([1, 2, 3], np.array([1, 2, 3]), torch.tensor([1.0, 2.0, 3.0])):
            self.assertEqual(blobs(x, std=three).std, (1.0, 2.0, 3.0))


class FaultTests(SynchronousTestCase):
    """Data that is allowed, and data that a user is told of before a run."""

    def test_not_finite(self) -> None:
        """Examples with NaN or infinity are counted in each split, and the first is named."""
        x = torch.zeros(80, 1, 3, 3)
        for example, value in ((7, "nan"), (8, "inf"), (79, "-inf")):
            x[example, 0, 1, 2] = float(value)
        good = Split(torch.zeros(9, 1, 3, 3), torch.zeros(9).long())
        line = "data of 'blobs' holds NaN or infinity in 3 of 80 examples, first in example 7"
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            data = blobs(x.to(dtype), train=good)
            self.assertEqual(data.non_finite(), [f"test {line}"])
            self.assertEqual(data.empty(), [])
        self.assertEqual(blobs(x).non_finite(), [f"training {line}", f"test {line}"])
        self.assertEqual(blobs(x, train=good, test=good).non_finite(), [])

    def test_in_pieces(self) -> None:
        """An example far behind is found as well."""
        x = torch.zeros(5, 2**20)
        x[4, -1] = float("nan")
        good = Split(x[:1], torch.zeros(1).long())
        [line] = blobs(x, test=good).non_finite()
        self.assertIn("in 1 of 5 examples, first in example 4", line)

    def test_too_large_for_inputs(self) -> None:
        """float64 values that are no float32, and small deviations, make infinite inputs."""
        x = torch.zeros(4, 2, dtype=torch.float64)
        x[2, 1] = 1e300
        line = "training data of 'blobs' overflows float32 in 1 of 4 examples, first in example 2"
        self.assertEqual(blobs(x).non_finite()[0], line)
        x[2, 1] = 1.0
        self.assertEqual(blobs(x).non_finite(), [])
        self.assertEqual(blobs(x, std=1e-39).non_finite()[0], line)
        self.assertEqual(blobs(x.to(torch.uint8)).non_finite(), [])

    def test_no_test_data(self) -> None:
        """Data without test examples can be trained on, and says so."""
        x = torch.ones(4, 3)
        data = blobs(x, test=Split(x[4:], torch.zeros(0).long()))
        line = "'blobs' has no test data: nothing will be evaluated"
        self.assertEqual((data.empty(), data.non_finite()), ([line], []))
        self.assertEqual((blobs(x).empty(), len(data.digest())), ([], 64))


class ShippedTests(SynchronousTestCase):
    def test_the_split(self) -> None:
        """400 of each digit train and 100 test, as images of 28 x 28."""
        data = mnist5k()
        self.assertEqual(data.shape, (1, 28, 28))
        self.assertEqual(torch.bincount(data.train.y).tolist(), [400] * 10)
        self.assertEqual(torch.bincount(data.test.y).tolist(), [100] * 10)
        self.assertEqual(data.nbytes, 5000 * (784 + 8))
        self.assertTrue("LeCun" in (mnist5k.__doc__ or ""))

    def test_damaged(self) -> None:
        """A file that was cut short, or is another, is named, with the cure."""
        whole = Path(shipped.__file__).with_name("mnist5k.npz").read_bytes()
        other = io.BytesIO()
        np.savez(other, x=np.zeros((50, 28, 28), np.uint8), y=np.arange(50) % 10)
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        file = folder(self) / "mnist5k.npz"
        for content in (None, b"", b"<html>", whole[:-1000], flipped, other.getvalue()):
            if content is not None:
                file.write_bytes(content)
            error = self.assertRaises(DatasetUnavailable, shipped.read_shipped, file)
            self.assertIn(str(file), str(error))
            self.assertIn("pip install --force-reinstall", str(error))
        file.write_bytes(whole)
        self.assertEqual(shipped.read_shipped(file)[0].shape, (5000, 28, 28))

    def test_normalised(self) -> None:
        """Inputs have about mean 0 and deviation 1."""
        data = mnist5k()
        inputs = data.inputs(data.train.x)
        self.assertLess(abs(float(inputs.mean())), 0.02)
        self.assertLess(abs(float(inputs.std()) - 1), 0.02)


class SyntheticTests(SynchronousTestCase):
    def test_defaults(self) -> None:
        """2,000 points in ten classes, a fifth of each held out, as 1 x 8 x 8."""
        data = synthetic()
        self.assertEqual(data.shape, (1, 8, 8))
        self.assertEqual(torch.bincount(data.train.y).tolist(), [160] * 10)
        self.assertEqual(torch.bincount(data.test.y).tolist(), [40] * 10)
        self.assertEqual(data.digest(), synthetic().digest())
        self.assertNotEqual(data.digest(), synthetic(seed=1).digest())

    def test_can_be_told_apart(self) -> None:
        """The nearest class mean finds the class of nearly all held-out points."""
        data = synthetic()
        train, test = (data.inputs(s.x).flatten(1) for s in (data.train, data.test))
        means = torch.stack([train[data.train.y == c].mean(0) for c in range(10)])
        right = torch.cdist(test, means).argmin(1) == data.test.y
        self.assertGreater(float(right.float().mean()), 0.98)

    def test_other_shapes(self) -> None:
        """Features that make no square lie in a row."""
        self.assertEqual(synthetic(n=50, classes=2, features=10).shape, (1, 1, 10))

    def test_bounds(self) -> None:
        """Sizes that make no sense, or would fill the memory, are refused."""
        for parameters in (
            {"n": 10},
            {"features": 0},
            {"spread": -1.0},
            {"classes": 2.5},
            {"n": 10**9, "features": 10**6},
        ):
            with self.subTest(**parameters):
                self.assertRaises(BadParameter, synthetic, **parameters)


class IdxTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = folder(self) / "data"

    def test_round_trip(self) -> None:
        """torchvision reads what `write_idx` wrote, to the byte."""
        data = mnist5k()
        written = write_idx(data, self.root)
        self.assertEqual(written[0], self.root / "MNIST" / "raw" / "train-images-idx3-ubyte")
        self.assertEqual(mnist(root=self.root).digest(), data.digest())

    def test_fashion(self) -> None:
        """The other dataset of this format has a folder of its own."""
        write_idx(tiny(), self.root, folder="FashionMNIST")
        self.assertEqual(fashion_mnist(root=self.root).digest(), tiny().digest())

    def test_only_grey_bytes(self) -> None:
        """A value that the format cannot hold is refused."""
        self.assertRaises(ValueError, write_idx, synthetic(), self.root)

    def test_reads_where_it_may_not_write(self) -> None:
        """Files in a folder that is read-only are enough."""
        write_idx(tiny(), self.root)
        before = sorted(self.root.rglob("*"))
        self.root.chmod(0o555)
        self.addCleanup(self.root.chmod, 0o755)
        mnist(root=self.root)
        self.assertEqual(sorted(self.root.rglob("*")), before)


class ColourTests(SynchronousTestCase):
    def test_channels_first(self) -> None:
        """CIFAR's pixels keep their places, with the channel as the first axis."""
        images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
        split = color_split(images, [3, 1])
        self.assertEqual(split.x.shape, (2, 3, 4, 4))
        self.assertEqual(int(split.x[1, 2, 3, 0]), int(images[1, 3, 0, 2]))
        self.assertEqual(split.y.tolist(), [3, 1])


class MissingTests(SynchronousTestCase):
    """Proxies that refuse stand for a machine without a network."""

    def setUp(self) -> None:
        self.root = folder(self) / "data"
        for name in ("http_proxy", "https_proxy"):
            if name in os.environ:
                self.addCleanup(os.environ.__setitem__, name, os.environ[name])
            else:
                self.addCleanup(os.environ.pop, name, None)
            os.environ[name] = "http://127.0.0.1:9"

    def assertHelps(self, error: DatasetUnavailable) -> None:
        self.assertIn("--dataset mnist5k", str(error))
        self.assertIn("--data-root", str(error))
        self.assertIn(f"{self.root}/MNIST/raw/", str(error))
        self.assertIn("train-images-idx3-ubyte", str(error))

    @pytest.mark.slow
    def test_no_network(self) -> None:
        """The error says which files go where, and which dataset needs none."""
        error = self.assertRaises(DatasetUnavailable, mnist, root=self.root)
        self.assertHelps(error)
        self.assertIn("download failed", str(error))

    def test_no_folder(self) -> None:
        """A root that cannot be made is an error with the same advice."""
        self.root.write_text("a file")
        self.assertHelps(self.assertRaises(DatasetUnavailable, mnist, root=self.root))

    def test_broken_files(self) -> None:
        """Files cut short are an error with the same advice."""
        for path in write_idx(tiny(), self.root):
            path.write_bytes(path.read_bytes()[:100])
        self.assertHelps(self.assertRaises(DatasetUnavailable, mnist, root=self.root))

    def test_lengths_that_differ(self) -> None:
        """As many labels as images, or an error with the same advice."""
        paths = write_idx(tiny(), self.root)
        other = write_idx(tiny(30), folder(self))
        paths[1].write_bytes(other[1].read_bytes())
        self.assertHelps(self.assertRaises(DatasetUnavailable, mnist, root=self.root))

    def test_one_failure_is_enough(self) -> None:
        """A process that waited for another's download hears why that failed."""
        with download.download_lock(self.root, "MNIST") as first:
            first.record_failure("no route")
        read = (self.root / ".MNIST.lock").read_text()
        self.assertEqual(read, "no route")
        with download.download_lock(self.root, "MNIST") as second:
            self.assertEqual(second.failure, "")


class NamesTests(SynchronousTestCase):
    def test_names(self) -> None:
        """The catalogue's names, each once."""
        names = [name for name, _, _ in BUILTIN]
        self.assertEqual(
            names,
            [
                "mnist",
                "fashion-mnist",
                "cifar10",
                "mnist5k",
                "synthetic",
                "text",
                "arrays",
                "images",
            ],  # fmt: skip
        )
