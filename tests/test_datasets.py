"""Data: what it holds, how it is read, and what to do when it is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.datasets import (
    BUILTIN,
    Dataset,
    Split,
    download,
    fashion_mnist,
    mnist,
    mnist5k,
    synthetic,
    vision,
    write_idx,
)
from byzpy_tw.errors import BadParameter, DatasetUnavailable


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
        self.assertRaises(ValueError, Split, x, torch.zeros(3))
        self.assertRaises(ValueError, Split, x.to(torch.int32), torch.zeros(3).long())
        split = Split(x, torch.tensor([0, 1, 2]))
        self.assertRaises(ValueError, Dataset, "bad", split, split, 2)

    def test_importing_is_cheap(self) -> None:
        """Importing the datasets does not import torchvision."""
        code = "import sys, byzpy_tw.datasets; sys.exit('torchvision' in sys.modules)"
        found = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
        self.assertEqual(found.returncode, 0)


class ShippedTests(SynchronousTestCase):
    def test_the_split(self) -> None:
        """400 of each digit train and 100 test, as images of 28 x 28."""
        data = mnist5k()
        self.assertEqual(data.shape, (1, 28, 28))
        self.assertEqual(torch.bincount(data.train.y).tolist(), [400] * 10)
        self.assertEqual(torch.bincount(data.test.y).tolist(), [100] * 10)
        self.assertEqual(data.nbytes, 5000 * (784 + 8))
        self.assertTrue("LeCun" in (mnist5k.__doc__ or ""))

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
        self.assertEqual(
            written[0], self.root / "MNIST" / "raw" / "train-images-idx3-ubyte"
        )
        self.assertEqual(mnist(root=self.root).digest(), data.digest())

    def test_fashion(self) -> None:
        """The other dataset of this format has a folder of its own."""
        write_idx(tiny(), self.root, folder="FashionMNIST")
        self.assertEqual(fashion_mnist(root=self.root).digest(), tiny().digest())

    def test_only_grey_bytes(self) -> None:
        """What the format cannot hold is refused."""
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
        split = vision.colour_split(images, [3, 1])
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
        with download.only_one(self.root, "MNIST") as first:
            first.tell("no route")
        read = (self.root / ".MNIST.lock").read_text()
        self.assertEqual(read, "no route")
        with download.only_one(self.root, "MNIST") as second:
            self.assertEqual(second.failure, "")


class NamesTests(SynchronousTestCase):
    def test_names(self) -> None:
        """The catalogue's names, each once."""
        names = [name for name, _, _ in BUILTIN]
        self.assertEqual(
            names, ["mnist", "fashion-mnist", "cifar10", "mnist5k", "synthetic"]
        )
