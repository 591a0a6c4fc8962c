"""Models: their sizes, what is refused, and their parameters in one tensor."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve
from torch import Tensor, nn
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import models, seeds
from byzpy_tw.errors import BadParameter, NeedsContext, UnsuitableModel
from byzpy_tw.models import BUILTIN, build
from byzpy_tw.models.building import count, flat_parameters
from byzpy_tw.models.dropout import StreamDropout, randomness
from byzpy_tw.models.statistics import needs_statistics
from byzpy_tw.models.trainable import frozen_values, trained_parameters
from byzpy_tw.plugins import load
from byzpy_tw.workers.building import build_host
from tests.trial_models import SPEC

COUNTS = {
    "small-cnn": 421_642,
    "cnn-mnist": 431_080,
    "logreg": 7_850,
    "mlp": 101_770,
    "cnn-cifar": 712_854,
    "resnet18": 11_173_962,
    "resnet20": 269_722,
    "vit": 810_890,
    "gpt-nano": 834_304,
    "torchvision": 23_528_522,
}
COLOUR = {"classes": 10, "shape": (3, 32, 32)}
NEEDED = {"torchvision": {"arch": "resnet50", "shape": (3, 32, 32)}}  # parameters without a default
IMAGES = [(name, factory) for name, factory, _ in BUILTIN if name != "gpt-nano"]


class OneThreadCase(SynchronousTestCase):
    """Threads of torch that wait for each other cost seconds where other tests run."""

    def setUp(self) -> None:
        self.addCleanup(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)


class CatalogueTests(OneThreadCase):
    def test_counts(self) -> None:
        """Each model has exactly as many parameters as the catalogue says."""
        counts = {name: count(factory, NEEDED.get(name, {})) for name, factory, _ in BUILTIN}
        self.assertEqual(counts, COUNTS)

    def test_classes_and_shape(self) -> None:
        """Each model fits the data it is given."""
        for name, factory in IMAGES:
            with self.subTest(name), torch.device("meta"):
                given = {**NEEDED.get(name, {}), "classes": 7, "shape": (3, 32, 32)}
                self.assertEqual(factory(**given)(torch.zeros(2, 3, 32, 32)).shape, (2, 7))

    def test_norms(self) -> None:
        """Residual networks with either norm have as many parameters, and train."""
        for factory in (models.resnet18, models.resnet20):
            counts = {norm: count(factory, {"norm": norm}) for norm in ("group", "batch")}
            self.assertEqual(counts["group"], counts["batch"])
            model = build(factory, {"norm": "batch", "shape": (1, 8, 8)}, seed=1)
            self.assertTrue(needs_statistics(model))
            loss = model(torch.randn(4, 1, 8, 8)).square().mean()
            leaves = [leaf for _, leaf in trained_parameters(model)]
            self.assertTrue(all(g.any() for g in torch.autograd.grad(loss, leaves)))
            with torch.device("meta"):
                self.assertFalse(needs_statistics(factory()))

    def test_convolutions_see_channels_last(self) -> None:
        """Images of one channel or three reach the first convolution so laid out."""
        for shape in ((1, 28, 28), (3, 32, 32)):
            for name in ("small-cnn", "cnn-mnist", "cnn-cifar"):
                model = build(dict(f[:2] for f in BUILTIN)[name], {"shape": shape}, seed=1)
                seen = model[1](model[0](torch.randn(4, *shape)))
                layout = seen.is_contiguous(memory_format=torch.channels_last)
                self.assertTrue(layout, (name, shape))
                x = torch.randn(4, *shape)
                self.assertTrue(torch.equal(model[0](x), x))

    def test_pooling_before_the_rectifier(self) -> None:
        """Gradients have the bits that the usual order gives."""
        for name, shape in (("small-cnn", (1, 28, 28)), ("cnn-mnist", (1, 28, 28)),
                            ("cnn-cifar", (3, 32, 32))):  # fmt: skip
            model = build(dict(f[:2] for f in BUILTIN)[name], {"shape": shape}, seed=1)
            layers = list(model)
            for i in (2, 5):
                self.assertIsInstance(layers[i], nn.MaxPool2d)
                layers[i : i + 2] = reversed(layers[i : i + 2])
            usual = nn.Sequential(*layers)
            x, leaves = torch.randn(8, *shape), list(model.parameters())
            ours, theirs = (
                torch.autograd.grad(m(x).square().sum(), leaves) for m in (model, usual)
            )
            self.assertTrue(all(map(torch.equal, ours, theirs)), name)

    def test_data_that_does_not_fit(self) -> None:
        """A model for images says what it needs."""
        for name, factory in IMAGES:
            if name in ("logreg", "mlp"):
                continue
            for shape in ((10,), (1, 2, 2)):
                given = {**NEEDED.get(name, {}), "shape": shape}
                error = self.assertRaises(UnsuitableModel, factory, **given)
                self.assertIn(str(shape), str(error))

    def test_hidden(self) -> None:
        """The hidden layer's width is a parameter, and checked."""
        self.assertEqual(count(models.mlp, {"hidden": 1}), 785 + 20)
        self.assertRaises(BadParameter, models.mlp, hidden=0)
        self.assertRaises(BadParameter, models.mlp, hidden=2.5)

    def test_sequences(self) -> None:
        """A causal transformer sees tokens up to each place, and no further."""
        model = build(models.gpt_nano, {"classes": 11, "shape": (6,), "dropout": 0.1}, seed=1)
        tokens = torch.arange(12).reshape(2, 6) % 11
        with randomness(1):
            first = model(tokens)
        self.assertEqual((first.shape, first.dtype), ((2, 6, 11), torch.float32))
        model.eval()
        changed = tokens.clone()
        changed[:, 4] = 10
        one, other = model(tokens), model(changed)
        self.assertTrue(torch.equal(one[:, :4], other[:, :4]))
        self.assertFalse(torch.equal(one[:, 4:], other[:, 4:]))
        self.assertTrue(model(tokens[:, :3]).isfinite().all())
        self.assertIs(model.head.weight, model.tokens.weight)
        for factory in (models.gpt_nano, models.vit):
            self.assertRaises(BadParameter, factory, width=10, heads=3)
            for wrong in ({"depth": 0}, {"depth": 65}, {"width": 2**20}, {"heads": 0}):
                self.assertRaises(BadParameter, factory, **wrong)
        error = self.assertRaises(UnsuitableModel, models.gpt_nano, shape=(3, 32, 32))
        self.assertIn("sequences of tokens", str(error))
        for shape, words in (((32, 32, 3), "x.transpose(0, 3, 1, 2)"), ((28, 28), "x[:, None]")):
            error = self.assertRaises(UnsuitableModel, models.vit, shape=shape)
            self.assertIn(words, str(error))
        error = self.assertRaises(UnsuitableModel, models.vit, patch=5)
        self.assertIn("no whole number of patches of 5 x 5", str(error))

    def test_a_vision_transformer(self) -> None:
        """It passes the trial before round 0, with dropout, and all of it has a gradient."""
        model = "vit:patch=1,width=8,depth=1,heads=2,dropout=0.1"
        host = build_host(evolve(SPEC, model=model), load(only=()), data_root=None)
        self.assertFalse(host.trial_outcome.needs_copies)
        self.assertEqual(host.dimension, sum(leaf.numel() for leaf in host.model.parameters()))

    def test_attention(self) -> None:
        """It is torch's, but for rounding."""
        model = build(models.gpt_nano, {"shape": (6,)}, seed=1)
        layer, x = model.blocks[0].attention, torch.randn(2, 6, 128)
        q, k, v = layer.qkv(x).view(2, 6, 3, 4, 32).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        expected = layer.out(mixed.transpose(1, 2).reshape(2, 6, 128))
        torch.testing.assert_close(layer(x), expected)

    def test_counting_takes_no_memory(self) -> None:
        """A model far larger than memory can be counted."""
        self.assertEqual(count(lambda: nn.Linear(2**20, 2**20, bias=False), {}), 2**40)


class BuildTests(SynchronousTestCase):
    def test_a_function_of_the_seed(self) -> None:
        """The same seed gives the same values, another seed others."""
        values = [
            flat_parameters(build(models.small_cnn, {}, seed=seed)).clone() for seed in (3, 3, 4)
        ]
        self.assertTrue(torch.equal(values[0], values[1]))
        self.assertFalse(torch.equal(values[0], values[2]))

    def test_the_global_generator_is_left_alone(self) -> None:
        """Building a model changes nobody's random numbers."""
        before = torch.random.get_rng_state()
        build(models.mlp, {}, seed=5)
        self.assertTrue(torch.equal(before, torch.random.get_rng_state()))

    def test_two_at_once(self) -> None:
        """Models built in two threads at once get the values they should."""
        expected = flat_parameters(build(models.mlp, {}, seed=9)).clone()
        found: list[Tensor] = []

        def work() -> None:
            for _ in range(5):
                found.append(flat_parameters(build(models.mlp, {}, seed=9)))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(found), 20)
        self.assertTrue(all(torch.equal(values, expected) for values in found))

    def refused(self, make: object, word: str) -> None:
        error = self.assertRaises(UnsuitableModel, build, make, {}, seed=0)
        self.assertIn(word, str(error))

    def test_refuses_other_dtypes(self) -> None:
        """Parameters must be float32."""
        self.refused(lambda: nn.Linear(2, 2).double(), "float64")
        self.refused(lambda: nn.Linear(2, 2).half(), "float16")

    def test_refuses_models_without_parameters(self) -> None:
        """There must be something to train."""
        self.refused(nn.ReLU, "no parameters")
        self.refused(lambda: "a model", "str")

    def test_refuses_models_that_are_frozen(self) -> None:
        """A parameter without a gradient is no part of the vector, which must have some."""
        self.refused(lambda: nn.Linear(2, 2).requires_grad_(False), "all 2 are frozen")

    def test_refuses_lazy_buffers(self) -> None:
        """Statistics without a size are no better than such parameters."""

        def lazy() -> nn.Module:
            return nn.Sequential(nn.Linear(2, 2), nn.LazyBatchNorm1d(affine=False))

        self.refused(lazy, "buffer 1.running_mean has no size yet")

    def test_refuses_models_that_read_values(self) -> None:
        """A model whose making depends on values has no size before it is made."""

        def peeking() -> nn.Module:
            return nn.Linear(2, int(torch.ones(1).item()))

        self.refused(peeking, "meta device")

    def test_refuses_hidden_randomness(self) -> None:
        """Layers that draw from the global generator are refused."""
        self.refused(lambda: nn.Sequential(nn.Linear(2, 2), nn.AlphaDropout()), "AlphaDropout")
        self.refused(lambda: nn.LSTM(2, 2, num_layers=2, dropout=0.5), "LSTM")


class TorchvisionTests(OneThreadCase):
    """Architectures of torchvision by name."""

    def make(self, arch: str, size: int = 32, **more: Any) -> nn.Module:
        given = {"arch": arch, "shape": (3, size, size), "classes": 5, **more}
        return build(models.torchvision_model, given, seed=1)

    def test_they_train(self) -> None:
        """Also with stochastic depth, dropout and BatchNorm: the same gradient each time."""
        model = self.make("efficientnet_b0")
        leaves = [leaf for _, leaf in trained_parameters(model)]
        before, gradients = torch.random.get_rng_state(), []
        for _ in range(2):
            with randomness(3):
                out = model(torch.ones(2, 3, 32, 32))
            self.assertEqual(out.shape, (2, 5))
            gradients.append(torch.autograd.grad(out.square().sum(), leaves))
        self.assertTrue(torch.equal(before, torch.random.get_rng_state()))
        self.assertTrue(all(map(torch.equal, *gradients)))

    def test_sizes(self) -> None:
        """An architecture of one size is made for the data's; second outputs are left out."""
        for arch, size, d in (
            ("vit-b-32", 64, 87_424_517), ("googlenet", 32, 5_605_029),
            ("regnet_x_400mf", 32, 5_096_981),
        ):  # fmt: skip
            given = {"arch": arch, "shape": (3, size, size), "classes": 5}
            self.assertEqual(count(models.torchvision_model, given), d)

    @pytest.mark.slow
    def test_large_architectures(self) -> None:
        """The same of those whose making takes seconds."""
        given = {"arch": "Inception_v3", "shape": (3, 96, 96), "classes": 5}
        self.assertEqual(count(models.torchvision_model, given), 21_795_813)
        error = self.assertRaises(UnsuitableModel, self.make, "maxvit_t", 32)
        self.assertIn("images of 224 x 224 would do", str(error))

    def test_stochastic_depth(self) -> None:
        """It drops whole examples, from the run's streams."""
        from torchvision.ops import StochasticDepth

        model = build(
            lambda: nn.Sequential(nn.Linear(3, 3), StochasticDepth(0.5, "row")), {}, seed=1
        )
        self.assertIsInstance(model[1], StreamDropout)
        with randomness(1):
            y = model[1](torch.ones(64, 3, 2))
        self.assertEqual(sorted(y.flatten(1).sum(1).unique().tolist()), [0.0, 12.0])

    def test_a_head(self) -> None:
        """Only its last layer is trained; statistics of the others are constants."""
        model = self.make("resnet18", trained="head")
        trained = [name for name, _ in trained_parameters(model)]
        self.assertEqual(trained, ["fc.weight", "fc.bias"])
        self.assertFalse(needs_statistics(model))
        self.assertIn("bn1.running_var", frozen_values(model))
        error = self.assertRaises(BadParameter, self.make, "squeezenet1_1", trained="head")
        self.assertIn("does not end in a linear layer", str(error))

    def test_mistakes(self) -> None:
        """A misspelling, and images that are too small: with the nearest name or size."""
        for arch, size, words in (
            ("resnet5o", 32, "did you mean 'resnet50'?"), ("cat", 32, "known: alexnet"),
            ("inception_v3", 32, "with images of 32 x 32; images of 96 x 96 would do"),
        ):  # fmt: skip
            error = self.assertRaises((BadParameter, UnsuitableModel), self.make, arch, size)
            self.assertIn(words, str(error))
            self.assertNotIn("\n", str(error))


class FlatParametersTests(SynchronousTestCase):
    def test_values_and_order(self) -> None:
        """The tensor holds the parameters one after the other, unchanged."""
        model = build(models.small_cnn, {}, seed=1)
        expected = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        self.assertTrue(torch.equal(flat_parameters(model), expected))

    def test_is_the_models_memory(self) -> None:
        """Writing to the tensor changes the model's output."""
        model = build(models.mlp, {}, seed=1)
        flat = flat_parameters(model)
        flat.zero_()
        self.assertEqual(float(model(torch.ones(1, 1, 28, 28)).abs().sum().detach()), 0.0)
        flat.fill_(1.0)
        self.assertTrue(all(bool((p == 1).all()) for p in model.parameters()))

    def test_memory_of_the_callers(self) -> None:
        """The caller's buffer is used, and checked."""
        model = build(models.logreg, {}, seed=1)
        buffer = torch.empty(7_850)
        self.assertIs(flat_parameters(model, buffer), buffer)
        for bad in (
            torch.empty(7_851),
            torch.empty(7_850).double(),
            torch.empty(15_700)[::2],
        ):
            self.assertRaises(ValueError, flat_parameters, model, bad)

    def test_gradients_still_flow(self) -> None:
        """The parameters are still leaves that gradients can be taken of."""
        model = build(models.mlp, {}, seed=1)
        flat = flat_parameters(model)
        loss = model(torch.ones(2, 1, 28, 28)).square().sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        self.assertEqual(sum(g.numel() for g in gradients), flat.numel())

    def test_tied_parameters(self) -> None:
        """A parameter that two layers share appears once, and stays shared."""

        def tied() -> nn.Module:
            model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
            model[1].weight = model[0].weight
            return model

        model = build(tied, {}, seed=1)
        flat = flat_parameters(model)
        self.assertEqual(flat.numel(), 9 + 3 + 3)
        flat.fill_(2.0)
        self.assertIs(model[0].weight, model[1].weight)


class DropoutTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.model = build(
            lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(100, 50)),
            {},
            seed=1,
        )
        self.x = torch.ones(4, 1, 10, 10)

    def thinned(self, *name: int) -> Tensor:
        with randomness(seeds.torch_seed(1, "dropout", *name)):
            return self.model(self.x)

    def test_draws_from_a_named_stream(self) -> None:
        """The same name drops the same, another name other units."""
        self.assertTrue(torch.equal(self.thinned(2, 3), self.thinned(2, 3)))
        self.assertFalse(torch.equal(self.thinned(2, 3), self.thinned(2, 4)))

    def test_does_not_use_the_global_generator(self) -> None:
        """Nobody else's random numbers change."""
        before = torch.random.get_rng_state()
        self.thinned(0)
        self.assertTrue(torch.equal(before, torch.random.get_rng_state()))

    def test_needs_a_stream_to_train(self) -> None:
        """Training outside of a stream is an error, evaluation is not."""
        self.assertRaises(NeedsContext, self.model, self.x)
        self.model.eval()
        self.assertEqual(self.model(self.x).shape, (4, 50))

    def test_keeps_the_mean(self) -> None:
        """The kept values are scaled up by the dropped share; channels drop whole."""
        layer = StreamDropout(0.25, axes=2)
        with randomness(1):
            y = layer(torch.ones(200, 50, 4))
        self.assertTrue(torch.equal(y, y[:, :, :1].expand_as(y)))
        self.assertLess(abs(float(y.mean()) - 1.0), 0.02)
        self.assertEqual(len(y.unique()), 2)

    def test_nested_layers(self) -> None:
        """Dropout is found wherever it is in the model."""
        model = build(
            lambda: nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout2d(0.1))),
            {},
            seed=0,
        )
        self.assertIsInstance(model[1][0], StreamDropout)
        self.assertEqual(model[1][0].axes, 2)
