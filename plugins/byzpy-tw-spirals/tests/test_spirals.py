"""The spirals: their drawings, the same in each process, and their name."""

from __future__ import annotations

import byzpy_tw_spirals as plugin
import numpy as np
import torch
from byzpy_tw_spirals import spirals
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import BadParameter
from byzpy_tw.plugins import load
from byzpy_tw.testing.properties import dataset_tests


def arms_of(image: np.ndarray) -> int:
    """The number of arms of a spiral, counted on a circle around the middle."""
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    strength = np.zeros(9)
    for radius in (6, 8, 10, 12):
        rows = np.rint(13.5 + radius * np.sin(angle)).astype(int)
        columns = np.rint(13.5 + radius * np.cos(angle)).astype(int)
        strength += np.abs(np.fft.rfft(image[rows, columns]))[1:10]
    return int(strength.argmax()) + 1


# The same data everywhere, finite inputs: what every dataset is tested for.
SpiralsLaws = dataset_tests(spirals, n=200)


class SpiralsTests(SynchronousTestCase):
    def test_shapes_and_balance(self) -> None:
        """A fifth is held out, and every class is as large as the others."""
        data = spirals(n=1000, classes=4)
        self.assertEqual(data.train.x.shape, (800, 1, 28, 28))
        self.assertEqual(data.train.x.dtype, torch.uint8)
        self.assertEqual(data.train.y.bincount().tolist(), [200] * 4)
        self.assertEqual(data.test.y.bincount().tolist(), [50] * 4)

    def test_the_label_is_in_the_picture(self) -> None:
        """Counting arms finds the class of nearly every image."""
        data = spirals(n=500)
        counted = [arms_of(image.squeeze().numpy()) - 1 for image in data.train.x]
        right = np.mean(np.array(counted) == data.train.y.numpy())
        self.assertGreater(right, 0.85)

    def test_inputs_are_normalised(self) -> None:
        """A model's inputs have mean 0 and standard deviation 1, roughly."""
        data = spirals(n=500)
        inputs = data.inputs(data.train.x)
        self.assertLess(abs(float(inputs.mean())), 0.2)
        self.assertLess(abs(float(inputs.std()) - 1), 0.2)

    def test_same_arguments_same_data(self) -> None:
        """Trainer and servers draw the same images; another seed, others."""
        self.assertEqual(spirals(n=600).digest(), spirals(n=600).digest())
        self.assertNotEqual(spirals(n=600).digest(), spirals(n=600, seed=1).digest())

    def test_by_name(self) -> None:
        """The name and its parameters make the data; values out of range are refused."""
        names = load(only=(), extra={"byzpy-tw-spirals": plugin})
        data = names.make("dataset", "spirals:n=50,classes=3,noise=0")
        self.assertEqual((len(data.train), data.classes), (41, 3))
        for text in ("n=1e9", "n=9", "classes=1", "noise=2"):
            with self.assertRaises(BadParameter):
                names.make("dataset", f"spirals:{text}")
