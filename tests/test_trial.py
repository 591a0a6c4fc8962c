"""The trial before round 0: models, attacks and rules that would fail, or differ, are found."""

from __future__ import annotations

import functools
import math
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from attrs import evolve
from torch import Tensor, nn
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl, object_state
from byzpy_tw.config.run import RunConfig
from byzpy_tw.config.server import ServerConfig
from byzpy_tw.errors import BadRuleOutput, BrokenPlugin, UnsuitableModel, WireError
from byzpy_tw.plugin_code import write_guard
from byzpy_tw.plugins import Registry, load
from byzpy_tw.plugins.shorthand import build_attack
from byzpy_tw.rounds.resolved_rules import resolve_rules
from byzpy_tw.rounds.rules_trial import try_rules
from byzpy_tw.server.service import ByzpyServer
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.workers.attack_trial import try_attack
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.spec import NodeSpec, RunSpec
from byzpy_tw.workers.trial_digests import TrialDigests

DATA = "synthetic:n=200,classes=4,features=9"
SPEC = RunSpec(
    dataset=DATA, model="x", partition="stride", shards=6, seed=42, batch_size=8,
    micro_batch_size=4, n=8, f=2,
)  # fmt: skip


class Plain(nn.Module):
    """Two layers; what follows differ from it in a habit each."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.d = math.prod(shape)
        self.a, self.b = nn.Linear(self.d, 16), nn.Linear(16, classes)

    def hidden(self, x: Tensor) -> Tensor:
        return F.relu(self.a(x.flatten(1)))

    def forward(self, x: Tensor) -> Any:
        return self.b(self.hidden(x))


# -- habits that are made safe


class KeepsOnItself(Plain):
    def forward(self, x: Tensor) -> Any:
        self.kept = self.hidden(x)
        return self.b(self.kept)


class KeepsInAList(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        self.kept.append(self.hidden(x))
        return self.b(self.kept[-1])


class KeepsByAMethod(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.act = self.keep

    def keep(self, x: Tensor) -> None:
        self.kept = F.relu(x)

    def forward(self, x: Tensor) -> Any:
        self.act(self.a(x.flatten(1)))
        return self.b(self.kept)


class OldWeightNorm(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        nn.utils.weight_norm(self.a)


# -- habits that are sound


class NewWeightNorm(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        nn.utils.parametrizations.weight_norm(self.a)


class Recurrent(nn.Module):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(shape[-1], 8, batch_first=True), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Any:
        return self.out(self.lstm(x[:, 0])[0][:, -1])


class Tied(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.c, self.e = nn.Linear(16, 16), nn.Linear(16, 16)
        self.e.weight = self.c.weight

    def forward(self, x: Tensor) -> Any:
        return self.b(self.e(self.c(self.hidden(x))))


class ConstantBuffer(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.register_buffer("table", torch.linspace(0, 1, self.d))

    def forward(self, x: Tensor) -> Any:
        return super().forward(x.flatten(1) + self.table)


class BatchStatistics(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.norm = nn.BatchNorm1d(16, track_running_stats=False)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.norm(self.hidden(x)))


class DrawsByNumPy(Plain):
    """First values from NumPy's global generator, which is seeded for the factory."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        values = np.random.randn(16, self.d).astype("f4")
        self.a.weight = nn.Parameter(torch.from_numpy(values))


TABLE: Any = None


class GlobalOnce(Plain):
    def forward(self, x: Tensor) -> Any:
        global TABLE
        if TABLE is None:
            TABLE = torch.linspace(0, 1, self.d)
        return super().forward(x.flatten(1) * TABLE)


def scripted(classes: int, shape: tuple[int, ...]) -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes)))


def compiled(classes: int, shape: tuple[int, ...]) -> nn.Module:
    return torch.compile(Plain(classes, shape), backend="eager")


# -- habits that are refused


class KeepsInAHook(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.kept: dict[str, Tensor] = {}
        self.a.register_forward_hook(lambda m, i, out: self.kept.__setitem__("a", out))

    def forward(self, x: Tensor) -> Any:
        self.a(x.flatten(1))
        return self.b(F.relu(self.kept["a"]))


class KeepsOnItsClass(Plain):
    last: Any = None

    def forward(self, x: Tensor) -> Any:
        type(self).last = self.hidden(x)
        return self.b(type(self).last)


CACHE: dict[str, Tensor] = {}


class KeepsInAGlobal(Plain):
    def forward(self, x: Tensor) -> Any:
        CACHE["h"] = self.hidden(x)
        return self.b(CACHE["h"])


class Counts(Plain):
    calls = 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return super().forward(x)


class RunningMean(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.mean = torch.zeros(16)

    def forward(self, x: Tensor) -> Any:
        h = self.hidden(x)
        self.mean.mul_(0.9).add_(h.detach().mean(0), alpha=0.1)
        return self.b(h - self.mean)


class FirstBatch(Plain):
    def forward(self, x: Tensor) -> Any:
        if not hasattr(self, "mean"):
            self.mean = float(x.mean())
        return super().forward(x - self.mean)


class CarriesItsState(nn.Module):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(shape[-1], 8, batch_first=True), nn.Linear(8, classes)
        self.state: Any = None

    def forward(self, x: Tensor) -> Any:
        out, self.state = self.lstm(x[:, 0], self.state)
        return self.out(out[:, -1])


class NumPyDropout(Plain):
    def forward(self, x: Tensor) -> Any:
        kept = torch.from_numpy((np.random.rand(16) > 0.3).astype("f4"))
        return self.b(self.hidden(x) * kept)


class DropPath(Plain):
    def forward(self, x: Tensor) -> Any:
        return self.b(self.hidden(x) * (1.0 if random.random() < 0.9 else 0.0))


class OwnGenerator(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.stream = np.random.default_rng(0)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.hidden(x) * float(self.stream.random()))


class Clock(Plain):
    def forward(self, x: Tensor) -> Any:
        return self.b(self.hidden(x) * (time.perf_counter() % 1))


class ClampsItsWeights(Plain):
    def forward(self, x: Tensor) -> Any:
        self.a.weight.data.clamp_(-0.01, 0.01)
        return super().forward(x)


class CountsInABuffer(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Any:
        self.steps += 1
        return super().forward(x)


class SpectralNorm(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        nn.utils.parametrizations.spectral_norm(self.a)


class ViewInAClosure(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        view = self.a.weight.t()
        self.first = lambda x: x @ view

    def forward(self, x: Tensor) -> Any:
        return self.b(F.relu(self.first(x.flatten(1))) + 0 * self.a.bias.sum())


class TiedByData(Tied):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.e.weight = nn.Parameter(self.c.weight.data)


class UnseededValues(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        values = np.random.default_rng().standard_normal((16, self.d)).astype("f4")
        self.a.weight = nn.Parameter(torch.from_numpy(values))


class Detaches(Plain):
    def forward(self, x: Tensor) -> Any:
        return self.b(self.hidden(x).detach())


class StaleBehindZeros(ViewInAClosure):
    """A view that shows in no score, for the head begins with zeros."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        copies = [self.first]
        self.first = lambda x: copies[0](x)
        nn.init.zeros_(self.b.weight)
        nn.init.zeros_(self.b.bias)


class GivesADict(Plain):
    def forward(self, x: Tensor) -> Any:
        return {"scores": super().forward(x)}


class TooNarrow(Plain):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)[:, :1]


class Exits(Plain):
    def forward(self, x: Tensor) -> Any:
        raise SystemExit(3)


class CacheBySize(Plain):
    """A table that grows with the batch, kept beside a lock."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.lock, self.table = threading.Lock(), torch.ones(0, 1)

    def forward(self, x: Tensor) -> Any:
        with self.lock:
            if len(self.table) < len(x):
                self.table = torch.ones(len(x), 1)
        return super().forward(x.flatten(1) * self.table[: len(x)])


class CachedNorm(Plain):
    """A number derived from the parameters, once for each copy: it is right in copies."""

    norm: Any = None

    def forward(self, x: Tensor) -> Any:
        if self.norm is None:
            self.norm = self.a.weight.detach().norm()
        return super().forward(x) / self.norm


class FilledOnce(Plain):
    """A constant buffer that is made in the first call."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.register_buffer("table", None)

    def forward(self, x: Tensor) -> Any:
        if self.table is None:
            self.table = torch.linspace(0, 1, self.d)
        return super().forward(x.flatten(1) * self.table)


class MaxNorm(Plain):
    def forward(self, x: Tensor) -> Any:
        self.a.weight.data = torch.renorm(self.a.weight.data, 2, 0, 10.0)
        return super().forward(x)


class ClipsFarOff(Plain):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            self.a.weight.clamp_(-2, 2)
        return super().forward(x)


def activation(x: Tensor) -> Tensor:
    activation.last = F.relu(x)  # type: ignore[attr-defined]
    return activation.last  # type: ignore[attr-defined,no-any-return]


class KeepsOnAFunction(Plain):
    def forward(self, x: Tensor) -> Any:
        return self.b(activation(self.a(x.flatten(1))))


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Square.saved = x
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * Square.saved * grad


class KeepsOnAnotherClass(Plain):
    def forward(self, x: Tensor) -> Any:
        return self.b(Square.apply(self.hidden(x)))


class StaleCache(Plain):
    @functools.lru_cache  # noqa: B019
    def norm(self) -> Tensor:
        return self.a.weight.detach().norm()

    def forward(self, x: Tensor) -> Any:
        return super().forward(x) / self.norm()


class NoiseInLargeBatches(Plain):
    def forward(self, x: Tensor) -> Any:
        noise = torch.rand(()) if len(x) > 3 else 0.0
        return super().forward(x) + noise


class OfTwoExamples(Plain):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) * torch.ones(2, 1)


class Lazy(nn.Module):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(classes)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x.flatten(1))


class NotANumber(Plain):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) * math.nan


class ConjugateBuffer(Plain):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.register_buffer("phase", torch.ones(self.d, dtype=torch.complex64).conj())

    def forward(self, x: Tensor) -> Any:
        return super().forward(x.flatten(1) * self.phase.real)


SHARED = (
    FilledOnce, NotANumber, ConjugateBuffer, NewWeightNorm, Recurrent, Tied, ConstantBuffer,
    BatchStatistics, DrawsByNumPy, GlobalOnce, scripted, compiled,
)  # fmt: skip
COPIED = (CacheBySize, CachedNorm, KeepsOnItself, KeepsInAList, KeepsByAMethod, OldWeightNorm)
REFUSED: dict[Any, tuple[str, ...]] = {
    KeepsInAHook: ("'kept'", "local variable"),
    KeepsOnItsClass: ("KeepsOnItsClass.last", "share"),
    KeepsInAGlobal: ("CACHE['h']", "local variable"),
    Counts: ("'calls'", "from call to call"),
    RunningMean: ("'mean'", "from call to call"),
    FirstBatch: ("'mean'", "first batch"),
    CarriesItsState: ("failed when called again",),
    NumPyDropout: ("NumPy's global generator", "torch.nn.Dropout"),
    DropPath: ("Python's global generator",),
    OwnGenerator: ("'stream'", "from call to call"),
    Clock: ("differs when computed again",),
    ClampsItsWeights: ("its parameters 'a.weight'", "copy"),
    CountsInABuffer: ("'steps'", "no node would own"),
    SpectralNorm: ("a.parametrizations.weight.0._u", "weight_norm"),
    ViewInAClosure: ("view of parameter 'a.weight'", "take it in forward()"),
    StaleBehindZeros: ("view of parameter 'a.weight'",),
    TiedByData: ("'c.weight' and 'e.weight'", "b.weight = a.weight"),
    UnseededValues: ("a generator that nobody seeds",),
    Detaches: ("'a.weight', 'a.bias'", "no gradient"),
    MaxNorm: ("'a.weight'", "steps would not reach"),
    ClipsFarOff: ("its parameters 'a.weight'", "copy"),
    KeepsOnAFunction: ("activation.last", "share"),
    KeepsOnAnotherClass: ("Square.saved", "share"),
    StaleCache: ("derived from its first parameters",),
    NoiseInLargeBatches: ("torch's global generator",),
    GivesADict: ("returned a dict", "(2, 4) scores"),
    TooNarrow: ("returned (2, 1)",),
}


def named(prefix: str, factory: Any) -> str:
    words = "".join(f"-{c.lower()}" if c.isupper() else c for c in factory.__name__)
    return f"{prefix}-{words.strip('-')}".replace("num-py", "numpy").replace("_", "-").rstrip("-")


class Models:
    @hookimpl
    def register_models(self) -> list[Registration]:
        models = [Plain, *SHARED, *COPIED, *REFUSED, Exits, OfTwoExamples, Lazy]
        return [Registration(named("m", model), model) for model in models]


def names(**plugins: object) -> Registry:
    return load(only=(), extra=plugins)


class ModelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.names = names(habits=Models())

    def host(self, model: Any, **changed: Any) -> Any:
        spec = evolve(SPEC, model=named("m", model), **changed)
        return build_host(spec, self.names, data_root=None)

    def test_sound_models(self) -> None:
        """They are shared between threads as they are."""
        for model in (Plain, *SHARED):
            self.assertFalse(self.host(model).trial_outcome.copied, model)

    def test_not_a_number(self) -> None:
        """It is told as that, and not as randomness."""
        (warning,) = self.host(NotANumber).trial_outcome.warnings
        self.assertIn("not finite", warning)

    def test_models_that_keep_things(self) -> None:
        """They are copied for each call, and give the gradients that they should."""
        for model in COPIED:
            here = self.host(model)
            self.assertTrue(here.trial_outcome.copied, model)
            here.spawn(NodeSpec(node=0, shard=0))
            pool, found = HandCrankedPool(), []
            here.gradients(pool, [0], 0, found.extend)
            here.gradients(pool, [0], 0, found.extend)
            pool.drain()
            self.assertTrue(torch.equal(found[0].vector, found[1].vector))
            self.assertFalse(getattr(here.model, "kept", None))

    def test_the_same_arithmetic(self) -> None:
        """Keeping activations changes no bit, with calls that overlap in every way."""
        expected = self.gradients(Plain)
        self.assertEqual(self.gradients(KeepsOnItself), expected)

    def gradients(self, model: Any) -> list[bytes]:
        here = self.host(model)
        for node in range(6):
            here.spawn(NodeSpec(node=node, shard=node))
        found: dict[int, bytes] = {}
        ready = threading.Barrier(6)

        def compute(node: int) -> None:
            ready.wait(30)
            for _ in range(20):
                here.gradients(
                    HandCrankedPool(eager=True), [node], 0,
                    lambda answers: found.__setitem__(node, answers[0].vector.numpy().tobytes()),
                )  # fmt: skip

        threads = [threading.Thread(target=compute, args=(node,)) for node in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return [found[node] for node in range(6)]

    def test_refused_models(self) -> None:
        """Each is one line with the model's name, its distribution, the reason and the cure."""
        for model, words in REFUSED.items():
            error = self.assertRaises(UnsuitableModel, self.host, model)
            for word in (repr(named("m", model)), "habits 0", *words):
                self.assertIn(word, str(error), model)

    def test_what_it_raises(self) -> None:
        """SystemExit in a forward pass is the plugin's error, with the line it came from."""
        error = self.assertRaises(BrokenPlugin, self.host, Exits)
        self.assertRegex(str(error), r"raised SystemExit: 3 \(test_trial.py, line \d+\)")

    def test_a_batch_of_a_run(self) -> None:
        """A model that takes batches of two alone fails now, and not in round 0."""
        error = self.assertRaises(BrokenPlugin, self.host, OfTwoExamples)
        self.assertIn("The size of tensor a (4) must match", str(error))

    def test_lazy_layers(self) -> None:
        """They are told apart from what cannot be trained for other reasons."""
        error = self.assertRaises(UnsuitableModel, self.host, Lazy)
        self.assertIn("has no size yet", str(error))

    def test_global_generators_are_left_alone(self) -> None:
        """The caller's generators are where they were."""
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)
        expected = (random.random(), np.random.rand(), float(torch.rand(())))
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)
        self.host(DrawsByNumPy)
        self.assertEqual((random.random(), np.random.rand(), float(torch.rand(()))), expected)

    def test_numpy_values_follow_the_seed(self) -> None:
        """First values from NumPy's global generator are those of the run's seed."""
        first, again, other = (
            self.host(DrawsByNumPy, seed=seed).parameters.clone() for seed in (1, 1, 2)
        )
        self.assertTrue(torch.equal(first, again))
        self.assertFalse(torch.equal(first, other))


class ComparedTests(SynchronousTestCase):
    """The digests that trainer and servers compare."""

    def setUp(self) -> None:
        self.names = names(habits=Models())

    def trial(self, model: Any = Plain, **changed: Any) -> TrialDigests:
        spec = evolve(SPEC, model=named("m", model), **changed)
        return build_host(spec, self.names, data_root=None).trial_outcome.trial

    def test_equal(self) -> None:
        """Two processes of one code agree, and the answer survives its way."""
        mine = self.trial()
        theirs = TrialDigests.from_json(self.trial().to_json())
        self.assertEqual(mine.differences(theirs, exact=True, local=False), [])

    def test_names_what_differs(self) -> None:
        """Shards, normalisation, classes and the model's own code, each by its name."""
        mine = self.trial()
        for theirs, word in (
            (self.trial(partition="iid"), "the partition's shards"),
            (evolve(mine, normalisation="0" * 64), "normalisation"),
            (evolve(mine, classes="0" * 64), "number of classes"),
            (self.trial(KeepsOnItself, seed=42), None),
            (self.trial(ConstantBuffer), "a gradient of the model"),
        ):
            found = mine.differences(theirs, exact=True, local=False)
            self.assertEqual(len(found), int(word is not None), found)
            self.assertIn(word or "", "".join(found))

    def test_other_machines(self) -> None:
        """Where bits may differ a thousandth is allowed, and no more."""
        mine = self.trial()

        def scaled(by: float) -> TrialDigests:
            norms = tuple(by * norm for norm in mine.norms)
            return evolve(mine, gradient="0" * 64, norms=norms, loss=by * mine.loss)

        for by, count in ((1.0, 0), (1.0005, 0), (1.01, 1), (math.nan, 1)):
            found = mine.differences(scaled(by), exact=False, local=False)
            self.assertEqual(len(found), count, by)
        self.assertEqual(len(mine.differences(scaled(1.0), exact=True, local=False)), 1)

    def test_local_data(self) -> None:
        """Only what does not depend on the data is compared."""
        mine = self.trial()
        theirs = evolve(mine, shards="0" * 64, gradient="0" * 64, normalisation="0" * 64)
        self.assertEqual(mine.differences(theirs, exact=True, local=True), [])
        other = evolve(theirs, classes="0" * 64)
        self.assertEqual(len(mine.differences(other, exact=True, local=True)), 1)

    def test_nonsense(self) -> None:
        """A server that answers with something else is told so."""
        good = self.trial().to_json()
        for text in ("", "[]", "{}", "null", good.replace("norms", "forms"), "[" * 5000,
                     good.replace('"loss": ', '"loss": "a", "x": ')):  # fmt: skip
            self.assertRaises(WireError, TrialDigests.from_json, text)


# -- attacks


def attack(knowledge: str = "moments", pieces: tuple[str, ...] = ("mean",)) -> Any:
    """Make a class of attack of a function."""

    def made(function: Callable[..., Any]) -> Any:
        return type(function.__name__, (), {
            "knowledge": knowledge, "pieces": pieces, "__call__": function,
        })  # fmt: skip

    return made


@attack()
def sound(self: Any, known: Any) -> Any:
    return -known.mean


@attack()
def flips_in_place(self: Any, known: Any) -> Any:
    return known.mean.mul_(-1)


@attack("all", ("vectors",))
def writes_rows(self: Any, known: Any) -> Any:
    known.vectors.zero_()
    return known.vectors[0]


@attack("all", ("vectors",))
def writes_rows_by_numpy(self: Any, known: Any) -> Any:
    known.vectors.numpy()[:] = 0
    return known.vectors[0]


@attack()
def nothing(self: Any, known: Any) -> Any:
    return None


@attack()
def too_short(self: Any, known: Any) -> Any:
    return known.mean[:3]


@attack()
def numpy_answer(self: Any, known: Any) -> Any:
    return -known.mean.numpy().astype("f8")


@attack()
def leaves(self: Any, known: Any) -> Any:
    raise SystemExit


@attack()
def draws(self: Any, known: Any) -> Any:
    return known.mean + torch.randn_like(known.mean)


@attack()
def counts(self: Any, known: Any) -> Any:
    self.calls = getattr(self, "calls", 0) + 1
    return known.mean


@attack()
def uses_a_buffer(self: Any, known: Any) -> Any:
    self.buffer = -known.mean
    return self.buffer


@attack()
def draws_once(self: Any, known: Any) -> Any:
    if not hasattr(self, "direction"):
        self.direction = torch.randn_like(known.mean)
    return self.direction


@attack()
def of_one_size(self: Any, known: Any) -> Any:
    assert len(known.mean) == 5000
    return -known.mean


@attack()
def by_a_stream(self: Any, known: Any, context: Any = None) -> Any:
    stream = context.stream("noise")
    return torch.from_numpy(stream.standard_normal(len(known.mean)).astype("f4"))


ATTACKS: dict[Any, Any] = {
    sound: None, flips_in_place: None, numpy_answer: None, of_one_size: None, by_a_stream: None,
    uses_a_buffer: None,
    writes_rows: (BadRuleOutput, "work on a copy"),
    writes_rows_by_numpy: (BadRuleOutput, "work on a copy"),
    nothing: (BadRuleOutput, "NoneType"),
    too_short: (BadRuleOutput, "returned (3,)"),
    leaves: (BrokenPlugin, "SystemExit"),
    draws: (BrokenPlugin, "context.stream"),
    draws_once: (BrokenPlugin, "context.stream"),
    counts: (BrokenPlugin, "calls"),
}  # fmt: skip


class Attacks:
    @hookimpl
    def register_attacks(self) -> list[Registration]:
        return [Registration(named("a", kind), kind) for kind in ATTACKS]


class AttackTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.names = names(habits=Attacks())

    def trial_outcome(self, kind: Any) -> Any:
        make = partial(build_attack, self.names, named("a", kind), n=8, b=2, f=2)
        return try_attack(make, SPEC, 5000)

    def test_each(self) -> None:
        """Sound ones pass; others are told with their name, the reason and the cure."""
        for kind, wrong in ATTACKS.items():
            if wrong is None:
                self.trial_outcome(kind)
                continue
            error = self.assertRaises(wrong[0], self.trial_outcome, kind)
            self.assertIn(repr(named("a", kind)), str(error))
            self.assertIn(wrong[1], str(error))

    def test_memory_of_its_own(self) -> None:
        """An attack that uses a buffer on itself is copied, and its answer is nobody else's."""
        found = self.trial_outcome(uses_a_buffer)
        self.assertIsNotNone(found.copies)
        rows = torch.randn(6, 50)
        first = found(rows)
        kept = first.clone()
        found(2 * rows)
        self.assertTrue(torch.equal(first, kept))
        self.assertFalse(hasattr(found.made, "buffer"))

    def test_rows_of_a_round(self) -> None:
        """Rows that are written to in a round, and not in the trial, are told as well."""
        late = build_attack(self.names, "a-writes-rows", n=8, b=2, f=2)
        error = self.assertRaises(BadRuleOutput, late, torch.randn(6, 50))
        self.assertIn("wrote to the vectors", str(error))


# -- rules


def random_row() -> Any:
    return lambda vectors: vectors[torch.randint(len(vectors), (1,)).item()].clone()


class Remembers:
    mean: Any = None

    def __call__(self, vectors: Tensor) -> Tensor:
        now = vectors.mean(0)
        self.mean = now if self.mean is None else 0.9 * self.mean + 0.1 * now
        return self.mean


class CountsRounds:
    rounds = 0

    def __call__(self, vectors: Tensor) -> Tensor:
        self.rounds += 1
        return vectors.mean(0)


class RemembersInState:
    def __call__(self, vectors: Tensor, *, state: dict[str, Any]) -> Tensor:
        state["last"] = vectors[0]  # a view of a row that the next round fills
        state["some"] = [vectors[1]]
        state.setdefault("mean", torch.zeros_like(vectors[0])).mul_(0.5).add_(vectors.mean(0))
        return state["mean"]


def sorts_by_numpy() -> Any:
    def rule(vectors: Tensor) -> Tensor:
        rows = vectors.numpy()
        rows.sort(0)
        return torch.from_numpy(rows[len(rows) // 2].copy())

    return rule


class DrawsWhenCalled:
    direction: Any = None

    def __call__(self, vectors: Tensor) -> Tensor:
        if self.direction is None:
            self.direction = torch.rand(vectors.shape[1])
        return self.direction * vectors.mean(0)


class OfOneSize:
    """Works layer by layer, so on vectors of the model's own size alone."""

    def __call__(self, vectors: Tensor) -> Tensor:
        return torch.cat([part.mean(0) for part in vectors.split([36, 4], dim=1)])


class WarmsUp:
    """Keeps vectors for later rounds."""

    def __init__(self) -> None:
        self.past: list[Tensor] = []

    def __call__(self, vectors: Tensor) -> Tensor:
        self.past.append(vectors.mean(0))
        return self.past[-1] if len(self.past) < 5 else torch.stack(self.past).mean(0)


class DrawsLater:
    def __call__(self, vectors: Tensor, *, context: Any) -> Tensor:
        return vectors.mean(0) + (torch.rand(()) if context.round > 5 else 0.0)


class DrawsWeights:
    def weights(self, gram: Any, *, context: Any, state: Any) -> Tensor:
        weights = torch.rand(gram.size, dtype=torch.float64)
        return weights / weights.sum()

    def __call__(self, vectors: Tensor) -> Tensor:
        return vectors.mean(0)


def interrupts() -> Any:
    def rule(vectors: Tensor) -> Tensor:
        raise KeyboardInterrupt

    return rule


def keyed() -> Any:
    def rule(vectors: Tensor, *, context: Any) -> Tensor:
        return vectors[int(context.stream("row").integers(len(vectors)))]

    return rule


class DrawsWhenMade:
    """A direction that is drawn once; the generators are seeded for the factory."""

    def __init__(self) -> None:
        self.share = float(torch.rand(())) + float(np.random.rand()) + random.random()

    def __call__(self, vectors: Tensor) -> Tensor:
        return self.share * vectors.mean(0)


RULES: dict[Any, Any] = {
    keyed: None, RemembersInState: None, DrawsWhenMade: None, OfOneSize: None,
    DrawsWhenCalled: (BrokenPlugin, "context.stream"),
    random_row: (BrokenPlugin, "context.stream"),
    DrawsWeights: (BrokenPlugin, "context.stream"),
    Remembers: (BrokenPlugin, "keyword state"),
    WarmsUp: (BrokenPlugin, "past"),
    DrawsLater: (BrokenPlugin, "context.stream"),
    CountsRounds: (BrokenPlugin, "rounds"),
    sorts_by_numpy: (BadRuleOutput, "vectors.clone()"),
    interrupts: (BadRuleOutput, "KeyboardInterrupt"),
}  # fmt: skip


class Chooses:
    knowledge, pieces = "one", ("one",)

    def __call__(self, known: Any) -> Any:
        return -known.one

    def choose(self, honest: Tensor) -> Any:
        return 1


class ChoosesByChance(Chooses):
    def choose(self, honest: Tensor) -> Any:
        return random.randrange(len(honest))


class ChoosesBeyond(Chooses):
    def choose(self, honest: Tensor) -> Any:
        return 99


class CountsChoices(Chooses):
    count = 0

    def choose(self, honest: Tensor) -> Any:
        self.count += 1
        return 0


class WritesWhenChoosing(Chooses):
    def choose(self, honest: Tensor, *, context: Any) -> Any:
        if context.round:
            honest.numpy()[:] = 0
        return 0


CHOOSING: dict[Any, Any] = {
    Chooses: None,
    ChoosesByChance: (BrokenPlugin, "context.stream"),
    ChoosesBeyond: (BadRuleOutput, "returned 99, expected a row from 0 to 5"),
    CountsChoices: (BrokenPlugin, "keyword state"),
    WritesWhenChoosing: (BadRuleOutput, "work on a copy"),
}


class Rules:
    @hookimpl
    def register_attacks(self) -> list[Registration]:
        return [Registration(named("c", kind), kind) for kind in CHOOSING]

    @hookimpl
    def register_aggregators(self) -> list[Registration]:
        return [Registration(named("r", kind), kind) for kind in RULES]


class RuleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.names = names(habits=Rules())

    def config(self, kind: Any) -> RunConfig:
        return RunConfig(
            in_process=True, num_honest=6, num_byz=2, f=2, aggregator=named("r", kind),
            attack="none", dataset=DATA, model="logreg",
        )  # fmt: skip

    def test_each(self) -> None:
        """Sound ones pass; others are told with their name, the reason and the cure."""
        for kind, wrong in RULES.items():
            config = self.config(kind)
            if wrong is None:
                try_rules(config, self.names, resolve_rules(config, self.names), 40)
                continue
            rules = resolve_rules(config, self.names)
            error = self.assertRaises(wrong[0], try_rules, config, self.names, rules, 40)
            self.assertIn(repr(named("r", kind)), str(error))
            self.assertIn(wrong[1], str(error))

    def test_methods_of_attacks(self) -> None:
        """Methods that the trainer calls each round are held to the same."""
        for kind, wrong in CHOOSING.items():
            config = evolve(self.config(keyed), aggregator="median", attack=named("c", kind))
            rules = resolve_rules(config, self.names)
            if wrong is None:
                try_rules(config, self.names, rules, 40)
                continue
            error = self.assertRaises(wrong[0], try_rules, config, self.names, rules, 40)
            self.assertIn(wrong[1], str(error))

    def test_state_of_its_own(self) -> None:
        """The state that is kept lies in no row, and a call changes none of an earlier one."""
        aggregation = resolve_rules(self.config(RemembersInState), self.names).aggregation
        rows, nodes = torch.randn(8, 30), tuple(range(8))
        aggregation(rows, nodes, 2, 0)
        held = dict(aggregation.memory["aggregator"])
        last, other, mean = rows[0].clone(), rows[1].clone(), held["mean"].clone()
        rows.normal_()
        aggregation(rows, nodes, 2, 1)
        self.assertTrue(torch.equal(held["last"], last))
        self.assertTrue(torch.equal(held["some"][0], other))
        self.assertTrue(torch.equal(held["mean"], mean))

    def test_rows_that_come_in(self) -> None:
        """A vector that arrives while a plugin looks at the others is no writing of its own."""
        matrix = torch.zeros(3, 5)
        collector = Collector(matrix, ClockReactor(), HandCrankedPool())
        with write_guard("a plugin", matrix[:2]):
            collector._rows[2].copy_(torch.ones(5))
        self.assertTrue(torch.equal(matrix[2], torch.ones(5)))

    def test_made_alike_everywhere(self) -> None:
        """Numbers that a factory draws from a global generator are the same in each process."""
        rules = [resolve_rules(self.config(DrawsWhenMade), self.names) for _ in range(2)]
        rows = torch.randn(8, 30)
        one, two = (r.aggregation(rows, tuple(range(8)), 2, 0).vector for r in rules)
        self.assertTrue(torch.equal(one, two))


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
