"""Augmentation: examples that a training changes at random, the same on any machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Dataset, Registration, Split, hookimpl
from byzpy_tw.datasets.augmentation import CropFlip
from byzpy_tw.errors import BrokenPlugin, LimitExceeded, UnsuitableData
from byzpy_tw.kernels.parallel import pool as make_pool
from byzpy_tw.plugins import Registry, load
from byzpy_tw.rounds.evaluator import Evaluator
from byzpy_tw.workers.augmenting import try_augmentation
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.gradients import Gradient
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.out_of_memory import explain_out_of_memory
from byzpy_tw.workers.spec import NodeSpec, RunSpec

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "training-options.md"
SPEC = RunSpec(
    dataset="mnist5k:augment=crop-flip", model="mlp:hidden=8", partition="stride", shards=20,
    seed=3, batch_size=24, micro_batch_size=5, n=20, f=1,
)  # fmt: skip


def host_of(names: Registry | None = None, **changed: Any) -> NodeHost:
    host = build_host(evolve(SPEC, **changed), names or load(only=()), data_root=None)
    for node in range(3):
        host.spawn(NodeSpec(node=node, shard=node))
    return host


def gradients(host: NodeHost, round: int = 0, threads: int = 1) -> list[Gradient]:
    answers: dict[int, Any] = {}
    with make_pool(threads) as pool:
        for node in range(3):
            host.gradients(pool, [node], round, lambda found, n=node: answers.update({n: found[0]}))
    assert all(isinstance(answer, Gradient) for answer in answers.values()), answers
    return [answers[node] for node in range(3)]


class CropFlipTests(SynchronousTestCase):
    @given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.data())
    def test_each_image(self, k: int, c: int, h: int, w: int, data: Any) -> None:
        """A window of the padded image, from the left or from the right."""
        draw = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
        images = torch.randint(0, 256, (k, c, h, w), dtype=torch.uint8, generator=draw)
        numbers = torch.rand(k, 3, dtype=torch.float64, generator=draw)
        before = images.clone()
        found = CropFlip()(images, numbers)
        self.assertEqual((found.shape, found.dtype), (images.shape, images.dtype))
        self.assertTrue(torch.equal(images, before))
        for image, (down, right, flip), one in zip(images, numbers, found, strict=True):
            padded = torch.zeros(c, h + 8, w + 8, dtype=torch.uint8)
            padded[:, 4 : 4 + h, 4 : 4 + w] = image
            top, left = int(down * 9), int(right * 9)
            window = padded[:, top : top + h, left : left + w]
            self.assertTrue(torch.equal(one, window.flip(2) if flip < 0.5 else window))

    def test_moves_are_even(self) -> None:
        """Each of the 9 x 9 windows, either way round, is as likely."""
        image = torch.zeros(1, 1, 9, 9)
        image[0, 0, 4, 4] = 1.0
        numbers = torch.cartesian_prod(*[(torch.arange(9) + 0.5) / 9] * 2, torch.tensor([0.2, 0.7]))
        found = CropFlip()(image.expand(len(numbers), -1, -1, -1), numbers)
        self.assertEqual(found.sum(dim=0)[0].tolist(), [[2.0] * 9] * 9)


class NodeTests(SynchronousTestCase):
    def test_same_bits(self) -> None:
        """On any threads, and on a host that never computed another round."""
        host = host_of()
        gradients(host, 4)
        for here, there in zip(gradients(host, 5), gradients(host_of(), 5, 3), strict=True):
            self.assertTrue(torch.equal(here.vector, there.vector))

    def test_by_round_node_and_place(self) -> None:
        """The numbers of an example follow from the seed, the node, the round and its place."""
        host = host_of()
        shard = host.nodes[0].shard
        batches = [host._batches(shard, node, round, False) for node in (0, 1) for round in (0, 1)]
        batches.append(host_of(seed=4)._batches(shard, 0, 0, False))
        batches.append(host_of(micro_batch_size=24)._batches(shard, 0, 0, False))
        found = [tuple(map(tuple, batch.numbers.tolist())) for batch in batches]
        self.assertEqual([len(numbers) for numbers in found], [24] * 6)
        self.assertEqual((len(set(found)), found[0] == found[-1]), (5, True))

    def test_training_only(self) -> None:
        """Gradients are of changed examples, evaluations of the examples as they are."""
        plain, changed = (host_of(dataset=name) for name in ("mnist5k", SPEC.dataset))
        self.assertEqual(plain.dataset.digest(), changed.dataset.digest())
        self.assertNotEqual(plain.trial_outcome.trial, changed.trial_outcome.trial)
        for one, other in zip(gradients(plain), gradients(changed), strict=True):
            self.assertFalse(torch.equal(one.vector, other.vector))
        shares = [
            Evaluator(host.model, host.dataset, host.trial_outcome.task).evaluate(0)
            for host in (plain, changed)
        ]
        self.assertEqual(*shares)

    def test_not_of_images(self) -> None:
        """It is refused where it fits no example, and so is a name that there is not."""
        x = Split(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))
        for augment, words in (
            ("crop-flip", "crop-flip changes images (channels, height, width)"),
            ("crop", "augment is 'crop', expected none, crop-flip or an object"),
            (3, "a callable of examples and numbers with an attribute random_numbers"),
            (lambda x, numbers: x, "with an attribute random_numbers, from 0 to 1000"),
        ):
            error = self.assertRaises(UnsuitableData, Dataset, "d", x, x, 1, augment=augment)
            self.assertIn("data 'd': ", str(error))
            self.assertIn(words, str(error))


class Noise:
    """Adds noise; the others are wrong in a way each."""

    random_numbers = 3

    def __call__(self, x: Tensor, numbers: Tensor) -> Any:
        return x + numbers.float().mean(dim=1, keepdim=True)


class OfAll(Noise):
    def __call__(self, x: Tensor, numbers: Tensor) -> Any:
        return x - x.mean(dim=0)


class Draws(Noise):
    def __call__(self, x: Tensor, numbers: Tensor) -> Any:
        return x + torch.randn(x.shape)


class InPlace(Noise):
    def __call__(self, x: Tensor, numbers: Tensor) -> Any:
        return x.add_(1)


class Narrow(Noise):
    def __call__(self, x: Tensor, numbers: Tensor) -> Any:
        return x.double()


class Raises(Noise):
    def __call__(self, x: Tensor, numbers: Tensor) -> Any:
        raise ValueError("no")


class Infinite(Noise):
    def __call__(self, x: Tensor, numbers: Tensor) -> Any:
        return x / 0


class Remembers(Noise):
    calls = 0

    def __call__(self, x: Tensor, numbers: Tensor) -> Any:
        self.calls += 1
        return x + self.calls


class PluginTests(SynchronousTestCase):
    """An augmentation of a plugin's dataset, tried before round 0."""

    def host(self, augment: Any) -> NodeHost:
        class Plugin:
            @hookimpl
            def register_datasets(self) -> list[Registration]:
                draw = torch.Generator().manual_seed(0)
                x, y = torch.randn(60, 5, generator=draw), torch.arange(60) % 2
                split = Split(x, y)

                def made() -> Dataset:
                    return Dataset("noisy", split, split, 2, augment=augment)

                return [Registration("noisy", made)]

        names = load(only=(), extra={"noisy": Plugin()})
        return host_of(names, dataset="noisy", shards=4, n=5, batch_size=6)

    def test_one_that_is_right(self) -> None:
        self.assertEqual(len(gradients(self.host(Noise()))), 3)

    def test_mistakes(self) -> None:
        """Each is one line before round 0, with the data's name and the cure."""
        for augment, error, words in (
            (OfAll(), UnsuitableData, "something else of an example beside other ones"),
            (Draws(), UnsuitableData, "draws from torch's global generator"),
            (InPlace(), UnsuitableData, "writes to the examples that it is given"),
            (Narrow(), UnsuitableData, "returned float64 (8, 5) for float32 (8, 5)"),
            (Raises(), BrokenPlugin, "raised ValueError: no"),
            (Infinite(), UnsuitableData, "makes inputs that are not finite"),
            (Remembers(), UnsuitableData, "another result when it is called again"),
        ):
            told = str(self.assertRaises(error, self.host, augment))
            self.assertIn("data 'noisy': augment", told)
            self.assertIn(words, told)
            self.assertNotIn("\n", told)


class PageTests(SynchronousTestCase):
    """docs/how-to/training-options.md."""

    def test_its_example(self) -> None:
        """The augmentation that it shows is one, and passes the trial."""
        [block] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
        found: dict[str, Any] = {}
        exec(block, found)
        try_augmentation(found["data"], 0)
        self.assertEqual(found["data"].augment.random_numbers, 1)

    def test_its_line_of_memory(self) -> None:
        """The error is as it is raised."""

        def fail() -> None:
            with explain_out_of_memory(32):
                raise MemoryError("...")

        self.assertIn(str(self.assertRaises(LimitExceeded, fail)), PAGE.read_text())
