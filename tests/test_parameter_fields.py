"""Fields for parameters: bounds, conversion, and errors that name the parameter."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from attrs import evolve, fields, frozen
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl, parameters
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BadParameter, BadRequest
from byzpy_tw.parameters import boolean, choice, integer, real
from byzpy_tw.plugins import load
from byzpy_tw.protocol.commands import PROTOCOL
from byzpy_tw.workers.spec import RunSpec


class Color(str, Enum):
    RED = "red"


@frozen(kw_only=True)
class Rule:
    """A rule with one parameter of each kind."""

    f: int = integer(0)
    cut: int | None = integer(None, least=1, most=9)
    tau: float = real(0.5, above=0, most=1)
    free: float = real(0.0)
    color: Literal["red", "green"] = choice("red", "green")
    slow: bool = boolean(False)
    needed: int = integer(least=-5)

    def __call__(self, vectors: Any) -> Any:
        return vectors.mean(dim=0)


class Plugin:
    @hookimpl
    def register_aggregators(self) -> list[Registration]:
        return [Registration("a-rule", Rule)]


class FieldTests(SynchronousTestCase):
    def refused(self, values: dict[str, Any]) -> str:
        return str(self.assertRaises(BadParameter, lambda: Rule(**{"needed": 1, **values})))

    def test_public_names(self) -> None:
        """The fields, and nothing else, are for plugins."""
        self.assertEqual(set(parameters.__all__), {"integer", "real", "choice", "boolean"})

    def test_kinds_of_numbers(self) -> None:
        """Numbers of other libraries, and floats without a fraction, become plain ones."""
        for two in (2, 2.0, np.int64(2), np.float32(2), torch.tensor(2), Fraction(2), Decimal(2)):
            rule = Rule(needed=two, free=two)  # type: ignore[arg-type]
            self.assertEqual((rule.needed, rule.free), (2, 2.0))
            self.assertEqual((type(rule.needed), type(rule.free)), (int, float))
        rule = Rule(needed=1, slow=np.bool_(True), color=Color.RED)  # type: ignore[arg-type]
        self.assertEqual((rule.slow, type(rule.color)), (True, str))

    def test_bounds(self) -> None:
        """Name, bounds and value; None only where it is the default."""
        for values, text in (
            ({"f": -1}, "f must be a whole number of at least 0, got -1"),
            ({"cut": 10}, "cut must be a whole number of at least 1 and at most 9, got 10"),
            ({"f": 2**31}, "at most 2147483647, got 2147483648"),
            ({"f": 2.5}, "got 2.5"),
            ({"f": True}, "got True"),
            ({"f": "3"}, "got '3'"),
            ({"f": None}, "got None"),
            ({"f": 10**5000}, "got a number of thousands of digits"),
            ({"tau": 0}, "tau must be above 0 and at most 1, got 0.0"),
            ({"tau": math.nan}, "tau must be above 0 and at most 1, got nan"),
            ({"tau": "x"}, "tau must be a number above 0 and at most 1, got 'x'"),
            ({"free": math.inf}, "free must be a finite number, got inf"),
            ({"free": 10**400}, "free must be a finite number, got 1000"),
            ({"color": "blue"}, "color must be one of red, green, got 'blue'"),
            ({"slow": 1}, "slow must be true or false, got 1"),
            ({"needed": -6}, "needed must be a whole number of at least -5, got -6"),
        ):
            self.assertIn(text, self.refused(values))
        self.assertIsNone(Rule(needed=1).cut)
        self.assertRaises(TypeError, Rule)

    @given(st.integers(1, 9))
    def test_a_value_within_bounds(self, cut: int) -> None:
        """It is kept, also by a copy that changes another."""
        self.assertEqual(evolve(Rule(needed=1, cut=cut), f=2).cut, cut)

    def test_by_name(self) -> None:
        """The registry reads them from text, and says which rule it was."""
        names = load(only=(), extra={"a": Plugin()})
        rule = names.make("aggregator", "a-rule:needed=1,color=green,slow=yes,cut=none", f=3)
        self.assertEqual(rule, Rule(needed=1, color="green", slow=True, f=3))
        with self.assertRaisesRegex(BadParameter, "'a-rule:needed=1,tau=2': tau must be .* got 2"):
            names.make("aggregator", "a-rule:needed=1,tau=2")


class NodeFieldTests(SynchronousTestCase):
    def test_spec_of_a_run(self) -> None:
        """Every field of it but n is that of an option which is marked for nodes."""
        marked = {f.metadata["node_field"]: f.name for f in fields(RunConfig)}
        self.assertEqual(set(marked) - {None}, {f.name for f in fields(RunSpec)} - {"n"})
        config = RunConfig(in_process=True, num_honest=5, num_byz=2, seed=9, round_timeout=7)
        spec = config.spec()
        self.assertEqual((spec.n, spec.shards, spec.seed, spec.patience), (7, 5, 9, 7.0))
        self.assertEqual(RunSpec.from_json(spec.to_json()), spec)

    def test_fields_on_the_wire(self) -> None:
        """A server refuses a spec with others: a new name needs a new `PROTOCOL`."""
        wire = (
            "batch_size dataset f micro_batch_size model n partition patience replacement seed "
            "shards wire_dtype"
        )
        found = json.loads(RunConfig(in_process=True, batches="draws").spec().to_json())
        self.assertEqual((PROTOCOL, sorted(found)), (2, wire.split()))

    def test_fields_added_later(self) -> None:
        """Each travels only where it is not at its default, and is not needed by a reader."""
        plain = RunConfig(in_process=True, batches="draws").spec()
        for f in fields(RunSpec):
            if not f.metadata["added"]:
                short = {k: v for k, v in json.loads(plain.to_json()).items() if k != f.name}
                with self.assertRaisesRegex(BadRequest, "expected the fields"):
                    RunSpec.from_json(json.dumps(short).encode())
        later: dict[str, Any] = {
            "task": "mse", "batches": "epochs", "clip_norm": 2.5, "precision": "bfloat16",
            "data_seed": 0, "validation": 0.25, "local_steps": "lr=0.1,steps=2",
            "root_examples": 100,
        }  # fmt: skip
        self.assertEqual(set(later), {f.name for f in fields(RunSpec) if f.metadata["added"]})
        for name, value in later.items():
            spec = evolve(plain, **{name: value})
            told = json.loads(spec.to_json())
            self.assertEqual(told, {**json.loads(plain.to_json()), name: value})
            self.assertEqual(
                (RunSpec.from_json(spec.to_json()), spec.newer_fields()), (spec, {name})
            )
        error = self.assertRaises(
            BadRequest, RunSpec.from_json, json.dumps({**told, "batches": "all"}).encode()
        )
        self.assertIn("batches must be one of draws, epochs, epochs:keep, got 'all'", str(error))
