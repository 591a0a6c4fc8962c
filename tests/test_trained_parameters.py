"""Frozen parameters and constant buffers: no part of the vector, and equal on every machine."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve
from torch import Tensor, nn
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl, models
from byzpy_tw.errors import LimitExceeded, ServerDiffers, UnsuitableModel, WireError
from byzpy_tw.models.trainable import (
    constant_buffers,
    constant_bytes,
    digest_of_values,
    frozen_values,
)
from byzpy_tw.rounds.evaluator import Evaluator
from byzpy_tw.testing.doubles import HandCrankedPool
from byzpy_tw.trainer.handshake import Handshake
from byzpy_tw.trainer.server_interface import RunFingerprint
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.gradients import Gradient
from byzpy_tw.workers.spec import NodeSpec
from byzpy_tw.workers.tasks import make_task
from byzpy_tw.workers.trial_digests import TrialDigests
from tests.trial_models import SPEC, Plain, named, names


class FrozenBody(Plain):
    """A head is trained on a frozen layer."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.a.requires_grad_(False)


class FrozenHalf(Plain):
    """The frozen layer comes last, in half precision, with a table of whole numbers."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.b.half().requires_grad_(False)
        order = torch.arange(16).flip(0)
        self.register_buffer("order", order)
        self.places = nn.Parameter(torch.arange(classes).flip(0), requires_grad=False)

    def forward(self, x: Tensor) -> Any:
        hidden = self.hidden(x)[:, self.order]
        return F.linear(hidden, self.b.weight.float(), self.b.bias.float())[:, self.places]


class TiedFrozen(Plain):
    """Two frozen layers are one, and two trained ones, too."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.c, self.e, self.g, self.h = (nn.Linear(16, 16, bias=False) for _ in range(4))
        self.e.weight, self.h.weight = self.c.weight, self.g.weight
        self.c.requires_grad_(False)

    def forward(self, x: Tensor) -> Any:
        hidden = self.e(self.c(self.hidden(x)))
        return self.b(self.h(torch.tanh(self.g(hidden))))


class TiedToFrozen(Plain):
    """A trained parameter and a frozen one share memory, and would part in a run."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.c, self.e = nn.Linear(16, 16), nn.Linear(16, 16)
        self.e.weight = nn.Parameter(self.c.weight.data, requires_grad=False)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.e(self.c(self.hidden(x))))


class FrozenTogether(TiedToFrozen):
    """As before, with both frozen: neither moves."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.c.requires_grad_(False)
        self.e.bias.requires_grad_(False)


class ViewOfFrozen(FrozenBody):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.turned = self.a.weight.t()

    def forward(self, x: Tensor) -> Any:
        return self.b(F.relu(x.flatten(1) @ self.turned + self.a.bias))


class WritesToFrozen(FrozenBody):
    def forward(self, x: Tensor) -> Any:
        self.a.weight.mul_(0.5)
        return super().forward(x)


class WritesToUnregistered(Plain):
    """A frozen parameter in a list, which torch does not know of."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.kept = [nn.Parameter(torch.ones(16), requires_grad=False)]

    def forward(self, x: Tensor) -> Any:
        self.kept[0].mul_(0.9)
        return self.b(self.hidden(x) * self.kept[0])


class AllFrozen(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.requires_grad_(False)


class Complex(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.phase = nn.Parameter(torch.ones(16, dtype=torch.complex64))


class Double(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.a.double()


class Sparse(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.table = nn.Embedding(4, 4, sparse=True)


class IgnoresAll(Plain):
    """No parameter has a part in what it returns."""

    def forward(self, x: Tensor) -> Any:
        return x.flatten(1)[:, :4]


class OtherFrozen(FrozenBody):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        with torch.no_grad():
            self.a.weight[0, 0] += 1e-6


class Buffered(Plain):
    step = 0.0

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.register_buffer("unused", torch.arange(3) + self.step)


class OtherBuffered(Buffered):
    step = 1.0


SOUND = (FrozenBody, FrozenHalf, TiedFrozen, FrozenTogether, ViewOfFrozen)
REFUSED: dict[Any, tuple[str, ...]] = {
    TiedToFrozen: ("'c.weight' and 'e.weight' share memory",),
    WritesToFrozen: ("'a.weight', outside its trained parameters", "frozen parameters as they are"),
    WritesToUnregistered: ("'kept[0]'", "from call to call"),
    AllFrozen: ("no parameters to train: all 4 are frozen",),
    Complex: ("parameter phase is torch.complex64", "view_as_real"),
    Double: ("parameter a.weight is torch.float64", "freeze it"),
    Sparse: ("layer table (Embedding) has sparse gradients", "leave out sparse=True"),
    IgnoresAll: ("'a.weight', 'a.bias', 'b.weight' and 1 more get no gradient",),
}


class Plugin:
    @hookimpl
    def register_models(self) -> list[Registration]:
        models = (Plain, *SOUND, *REFUSED, OtherFrozen, Buffered, OtherBuffered)
        return [Registration(named("m", model), model) for model in models]


class FrozenCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.names = names(frozen=Plugin())

    def host(self, model: Any, **limits: Any) -> Any:
        spec = evolve(SPEC, model=named("m", model))
        host = build_host(spec, self.names, data_root=None, **limits)
        host.spawn(NodeSpec(node=0, shard=0))
        return host

    def gradient(self, host: Any) -> Gradient:
        found: list[Any] = []
        host.gradients(HandCrankedPool(eager=True), [0], 0, found.extend)
        self.assertIsInstance(found[0], Gradient, found)
        return found[0]


class FrozenTests(FrozenCase):
    def test_the_vector_has_trained_parameters_alone(self) -> None:
        """Its parts are the gradients that torch finds for these, in their order."""
        for model, d in ((FrozenBody, 16 * 4 + 4), (FrozenHalf, 9 * 16 + 16),
                         (TiedFrozen, 9 * 16 + 16 + 16 * 4 + 4 + 16 * 16)):  # fmt: skip
            host = self.host(model)
            self.assertEqual(host.dimension, d)
            found = self.gradient(host)
            leaves = [leaf for leaf in host.model.parameters() if leaf.requires_grad]
            self.assertEqual([len(p) for p in found.pieces], [leaf.numel() for leaf in leaves])
            self.assertTrue(all(bool(piece.any()) for piece in found.pieces))

    def test_a_step_leaves_frozen_ones_alone(self) -> None:
        """New parameters reach the trained ones, of nodes and of the evaluation."""
        for model in SOUND:
            host = self.host(model)
            constants = digest_of_values(frozen_values(host.model))
            before, vector = self.gradient(host), torch.linspace(-1, 1, host.dimension)
            host.load(vector)
            after = self.gradient(host)
            self.assertNotEqual(before.loss, after.loss, model)
            self.assertEqual(digest_of_values(frozen_values(host.model)), constants)
            task = make_task(host.spec, self.names, host.dataset)
            evaluator = Evaluator(host.model, host.dataset, task)
            evaluator.load(2 * vector)
            self.assertEqual(digest_of_values(constant_buffers(host.model)),
                             digest_of_values(dict(host.model.named_buffers())))  # fmt: skip
            flat = torch.cat([leaf.reshape(-1) for leaf in evaluator._leaves])
            self.assertTrue(torch.equal(flat, 2 * vector))

    def test_it_learns(self) -> None:
        """Steps along the gradient of the head make the loss smaller."""
        host = self.host(FrozenBody)
        first = self.gradient(host).loss
        for _ in range(30):
            host.load(host.parameters - 0.1 * self.gradient(host).vector)
        self.assertLess(self.gradient(host).loss, first / 2)

    def test_refused(self) -> None:
        """Each in one line, with the model's name, what is wrong, and the way out."""
        for model, words in REFUSED.items():
            error = self.assertRaises(UnsuitableModel, self.host, model)
            for word in (f"model {named('m', model)!r}", *words):
                self.assertIn(word, str(error), model)
            self.assertNotIn("\n", str(error))

    def test_limit(self) -> None:
        """Frozen parameters do not count as the vector, which alone travels, but as memory."""
        d = self.host(FrozenBody, most_elements=100, most_working=2**20).dimension
        self.host(FrozenBody, most_elements=d)
        error = self.assertRaises(LimitExceeded, self.host, FrozenBody, most_elements=d - 1)
        self.assertIn(f"{d} parameters", str(error))
        error = self.assertRaises(LimitExceeded, self.host, FrozenBody, most_working=100)
        self.assertIn("MiB of frozen parameters", str(error))

    def test_limit_of_all_runs(self) -> None:
        """Frozen parameters and buffers of runs that are open together share one limit."""
        hosts = [self.host(model) for model in (FrozenBody, Buffered)]
        taken = [constant_bytes(host.model) for host in hosts]
        self.assertEqual(taken[0], sum(p.nbytes for p in hosts[0].model.a.parameters()))
        self.assertEqual(taken[1], sum(b.nbytes for b in hosts[1].model.buffers()))
        self.assertGreater(min(taken), 0)
        self.host(FrozenBody, most_working=2**20, held=sum(taken))
        for model in (FrozenBody, Buffered):
            error = self.assertRaises(
                LimitExceeded, self.host, model, most_working=sum(taken), held=sum(taken)
            )
            self.assertIn("and buffers beside 0 MiB of other runs, over", str(error))
        self.host(Plain, most_working=2**20, held=2**20)  # which has none

    def test_bytes_of_sparse_buffers(self) -> None:
        """They count with their indices."""
        model = nn.Linear(2, 2)
        model.register_buffer("links", torch.eye(50).to_sparse())
        self.assertEqual(constant_bytes(model), 50 * (4 + 16))

    def test_a_plain_model_has_the_same_values(self) -> None:
        """Outside of a run a model has its factory's own layers."""

        def factory() -> nn.Module:
            return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))

        ours: Any
        plain: Any
        ours, plain = (models.build(factory, {}, seed=3, plain=plain) for plain in (False, True))
        self.assertEqual([type(layer) for layer in plain], [nn.Linear, nn.Dropout, nn.BatchNorm1d])
        self.assertEqual(list(ours.state_dict()), list(plain.state_dict()))
        self.assertTrue(torch.equal(ours[0].weight, plain[0].weight))


class ComparedTests(FrozenCase):
    """Trainer and servers compare what no step changes."""

    def trial(self, model: Any) -> TrialDigests:
        return self.host(model).trial_outcome.trial

    def test_digests(self) -> None:
        """They are on record where a model has such values, and nowhere else."""
        for model, present in (
            (Plain, set()), (FrozenBody, {"frozen"}), (FrozenHalf, {"frozen", "buffers"}),
            (Buffered, {"buffers"}),
        ):  # fmt: skip
            found = self.trial(model)
            self.assertEqual({"frozen", "buffers"} & found.to_dict().keys(), present, model)
            without = evolve(found, frozen=None, buffers=None)
            self.assertEqual(TrialDigests.from_json(found.to_json()), without)

    def test_differences(self) -> None:
        """A frozen value that differs by a last bit is told, and so is a buffer."""
        for one, other, words in (
            (FrozenBody, OtherFrozen, "frozen parameters"),
            (Buffered, OtherBuffered, "buffers"),
        ):
            mine, theirs = self.trial(one), self.trial(other)
            for local in (False, True):
                found = " ".join(mine.differences(theirs, exact=True, local=local))
                self.assertIn(words, found)
            self.assertEqual(mine.differences(self.trial(one), exact=True, local=False), [])
            before = evolve(theirs, frozen=None, buffers=None)  # of byzpy_tw 0.1
            self.assertEqual(mine.differences(before, exact=True, local=True), [])

    def test_a_server_with_other_values(self) -> None:
        """It is refused, with digests and the way out, with --strict and without."""
        mine, theirs = self.trial(FrozenBody), self.trial(OtherFrozen)
        config: Any = type("Config", (), {"strict": False, "model": "m", "dataset": "d"})
        handshake = Handshake(config, self.names, lambda line: None)
        for exact in (True, False):
            error = self.assertRaises(
                ServerDiffers, handshake.check_opened, "tcp://b:1",
                RunFingerprint(68, "x", theirs), RunFingerprint(68, "x", mine), exact=exact,
            )  # fmt: skip
            self.assertIn("other values in its frozen parameters", str(error))

    def test_nonsense(self) -> None:
        """A server that answers with another kind of digest is told so."""
        good = self.trial(FrozenHalf).to_json()
        for kind in ("frozen", "buffers"):
            for value in (5, "0" * 63, "x" * 64, [1]):
                text = json.dumps({**json.loads(good), kind: value})
                self.assertRaises(WireError, TrialDigests.from_json, text)

    def test_values_of_any_kind(self) -> None:
        """Tensors of each layout have a digest of their numbers."""
        plain = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
        other = plain.clone()
        other[0, 1] = 3
        for kind in (
            lambda t: t.to_sparse(), lambda t: t.half(),
            lambda t: (t * 1j).conj(), lambda t: t.bool() if t[0, 1] == 2 else t.long(),
            lambda t: t[0, 1], lambda t: t[:0],
        ):  # fmt: skip
            digests = [digest_of_values({"a": kind(t)}) for t in (plain, plain.clone())]
            self.assertEqual(*digests)
            if kind(plain).numel():
                self.assertNotEqual(digests[0], digest_of_values({"a": kind(other)}))
            self.assertNotEqual(digests[0], digest_of_values({"b": kind(plain)}))
