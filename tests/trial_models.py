"""Models for tests of the trial: right ones, and each way to be wrong."""

from __future__ import annotations

import functools
import math
import random
import threading
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from byzpy_tw import Registration, hookimpl
from byzpy_tw.plugins import Registry, load
from byzpy_tw.workers.spec import RunSpec

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
    """Initial values from NumPy's global generator, which is seeded for the factory."""

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


class NormOfTheCopy(CachedNorm):
    """It derives that number when it is copied: right in copies made with these parameters."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.norm = self.a.weight.detach().norm()


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
COPIED = (
    CacheBySize, CachedNorm, NormOfTheCopy, KeepsOnItself, KeepsInAList, KeepsByAMethod,
    OldWeightNorm,
)  # fmt: skip
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
    CountsInABuffer: ("'steps'", "node would own"),
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
