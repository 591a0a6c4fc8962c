"""Digests of code and values: the same in every process, another for other code."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.code_names import qualified_name
from byzpy_tw.objects.code_digest import code_digest
from tests.support import environment, folder

SOURCE = """
import functools
from enum import Enum

import attrs
import numpy as np
import torch
from dataclasses import dataclass, field
from torch import nn
from byzpy_tw.parameters import integer

SCALES = {{"one": 1.0, "two": {two}}}
WORDS = frozenset({{"a", "b", "c", "d", "e"}})


class Colour(Enum):
    RED = 1


def scaled(x):
    return x * SCALES["two"] if str(x) in WORDS or x in {{"p", "q", "r"}} else x


class Net(nn.Module):
    '''Documentation is not code.'''

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(2, width)

    def forward(self, x):
        return scaled(self.layer(x)).relu()


@attrs.frozen
class Rule:
    f: int = integer({f})
    colour: Colour = Colour.RED

    def __call__(self, vectors):
        return vectors.sort(dim=0).values[self.f]


@dataclass
class Plain:
    weights: list = field(default_factory=lambda: [1, 2])


def outer(width):
    return lambda: Net(width)


THINGS = {{
    "class": Net, "lambda": lambda: Net(8), "closure": outer(3), "rule": Rule, "made rule": Rule(2),
    "dataclass": Plain(), "partial": functools.partial(Net, 5),
    "cached": functools.lru_cache(scaled), "loss": nn.CrossEntropyLoss(label_smoothing={smooth}),
    "builtin": torch.relu, "number": np.float32(1.5), "tensor": torch.tensor([1.0]),
    "array": np.arange(3), "method": Rule(1).__call__,
}}
"""
PRINT = (
    "\nfrom byzpy_tw.objects.code_digest import code_digest"
    "\nprint(*map(code_digest, THINGS.values()))\n"
)


def things(**changes: Any) -> dict[str, Any]:
    """The objects of `SOURCE` by name, in a module of their own, compiled now."""
    values = {"two": 2.0, "f": 0, "smooth": 0.1, **changes}
    module: dict[str, Any] = {"__name__": "a_notebook"}
    exec(compile(SOURCE.format(**values), "somewhere.py", "exec", dont_inherit=True), module)
    found: dict[str, Any] = module["THINGS"]
    return found


def digests(**changes: Any) -> dict[str, str]:
    return {name: code_digest(thing) for name, thing in things(**changes).items()}


class CodeDigestTests(SynchronousTestCase):
    def test_the_same_code(self) -> None:
        """Compiled again it has the same digest, and each thing has one of its own."""
        first, again = digests(), digests()
        self.assertEqual(first, again)
        self.assertEqual(len(set(first.values())), len(first))

    @pytest.mark.slow
    def test_other_processes(self) -> None:
        """Hashes of texts, addresses and caches of bytecode differ there."""
        path = folder(self) / "notebook.py"
        path.write_text(SOURCE.format(two=2.0, f=0, smooth=0.1) + PRINT)
        found = set()
        for seed in ("1", "2"):
            more = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
            done = subprocess.run(
                [sys.executable, str(path)], capture_output=True, text=True, timeout=120,
                env={**environment(), **more}, cwd=path.parent,
            )  # fmt: skip
            self.assertEqual(done.returncode, 0, done.stderr)
            found.add(done.stdout)
        self.assertEqual(found, {" ".join(digests().values()) + "\n"})

    def test_what_it_uses(self) -> None:
        """A global number that a function of a layer reads; a default; a setting of a loss."""
        before = digests()
        for changes, expected in (
            ({"two": 3.0}, {"class", "lambda", "closure", "partial", "cached"}),
            ({"f": 1}, {"rule", "made rule", "method"}),
            ({"smooth": 0.2}, {"loss"}),
        ):
            after = digests(**changes)
            self.assertEqual({name for name in before if before[name] != after[name]}, expected)

    def test_modules_of_ones_own(self) -> None:
        """Values that a function reads of a module count, also of one that it imports itself."""
        helpers, inner = ModuleType("own_helpers"), ModuleType("own_helpers.inner")
        helpers.__dict__.update(inner=inner, unused=1)
        sys.modules["own_helpers"] = helpers
        self.addCleanup(sys.modules.pop, "own_helpers")

        def given() -> Any:
            return helpers.rule()

        def imports() -> Any:
            import own_helpers  # type: ignore[import-not-found]

            return own_helpers.inner.width

        found = []
        for value in (1, 2):
            exec(f"def rule(): return {value}", vars(helpers))
            inner.__dict__["width"] = value
            found.append((code_digest(given), code_digest(imports)))
        self.assertEqual(len({*found[0], *found[1]}), 4)
        helpers.__dict__["unused"] = 2
        self.assertEqual((code_digest(given), code_digest(imports)), found[1])

    def test_closures_and_state(self) -> None:
        """A width in a closure, and what an object holds."""

        def make(width: Any) -> Callable[[], Any]:
            return lambda: width

        self.assertNotEqual(code_digest(make(1)), code_digest(make(2)))
        self.assertEqual(code_digest(make([1, {2}])), code_digest(make([1, {2}])))
        loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))
        other = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))
        self.assertNotEqual(code_digest(loss), code_digest(other))

    def test_tensors(self) -> None:
        """A module with buffers of every kind, as a pretrained part in a closure is."""

        def pretrained(seed: int) -> Callable[[], Any]:
            torch.manual_seed(seed)
            part = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
            part.register_buffer("sparse", torch.eye(2).to_sparse())
            part.register_buffer("empty", torch.empty(0, device="meta"))
            return lambda: part

        with torch.random.fork_rng(devices=[]):
            first, again, other = (code_digest(pretrained(seed)) for seed in (1, 1, 2))
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)

    def test_cycles(self) -> None:
        """Functions that call one another, and an object that holds itself."""

        class Knot:
            def __init__(self) -> None:
                self.me = [self]

        self.assertEqual(code_digest(Knot()), code_digest(Knot()))

    @given(st.lists(st.one_of(st.integers(), st.floats(allow_nan=False), st.text()), max_size=4))
    def test_values(self, values: list[Any]) -> None:
        """Equal values of equal types have equal digests, and others others."""
        copied = [type(value)(value) for value in values]
        self.assertEqual(code_digest(values), code_digest(copied))
        self.assertNotEqual(code_digest(values), code_digest([*values, 0]))
        self.assertNotEqual(code_digest(values), code_digest(tuple(values)))
        self.assertNotEqual(code_digest(1), code_digest(True))

    def test_names(self) -> None:
        """They can stand in an option; a lambda has that of the class that it makes."""

        class Net:
            class Inner:
                pass

        self.assertEqual(qualified_name(Net.Inner), "CodeDigestTests.test_names.Net.Inner")
        self.assertEqual(qualified_name(things()["lambda"]), "Net")
        self.assertEqual(qualified_name(functools.partial(things()["class"], 3)), "Net")
        self.assertEqual(qualified_name(lambda: 1), "CodeDigestTests.test_names.lambda")
        self.assertEqual(qualified_name(np.mean), "mean")
        self.assertEqual(qualified_name(attrs.make_class("É", ())()), "_")
