"""The golden cases of the rules: made by ByzFL, ByzPy, or straight from the definition."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import aggregators, preaggregators
from byzpy_tw.aggregators import Pipeline

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden" / "golden.json.gz"
BY_NAME = {name: factory for name, factory, _ in (*aggregators.BUILTIN, *preaggregators.BUILTIN)}


def cases(kind: str) -> Iterator[dict[str, Any]]:
    with gzip.open(GOLDEN) as file:
        for case in json.load(file)["cases"]:
            if case["kind"] == kind:
                yield case


def made(text: str) -> Any:
    """The rule that ``name:key=value,...`` stands for."""
    name, _, given = text.strip().partition(":")
    parameters: dict[str, Any] = {}
    for pair in filter(None, given.split(",")):
        key, value = pair.split("=")
        parameters[key] = value if value.isalpha() else float(value)
    return BY_NAME[name](**parameters)


def chain(text: str) -> Pipeline:
    *before, last = text.split("|")
    return Pipeline(pre=tuple(map(made, before)), aggregator=made(last))


class GoldenTests(SynchronousTestCase):
    def agree(self, rule: Any, case: dict[str, Any]) -> None:
        """The rule gives the case's answer for every kind of input, in both precisions."""
        exact = "minimiser" in case["source"]
        for precision, slack in ((np.float64, 1e-4 if exact else 1e-6), (np.float32, 2e-6)):
            array = np.array(case["x"], dtype=precision)
            wanted = np.array(case["y"])
            for given in (
                array,
                torch.from_numpy(array),
                list(array),
                list(torch.from_numpy(array)),
            ):
                before = array.copy()
                got = rule(given)
                rows = got if isinstance(got, list) else [got]
                for one in rows:
                    self.assertIs(type(one), type(given[0]))
                    self.assertEqual(str(one.dtype).split(".")[-1], precision.__name__)
                numbers = np.stack([np.asarray(one) for one in rows]).reshape(wanted.shape)
                off = np.linalg.norm(numbers - wanted) / np.linalg.norm(wanted)
                self.assertLess(off, slack, (case["name"], case["params"], case["source"]))
                np.testing.assert_array_equal(array, before)

    def test_aggregators(self) -> None:
        """Every aggregator gives what its source gives."""
        for case in cases("aggregator"):
            self.agree(BY_NAME[case["name"]](**case["params"]), case)

    def test_preaggregators(self) -> None:
        """Every pre-aggregator gives what its source gives."""
        for case in cases("pre-aggregator"):
            self.agree(BY_NAME[case["name"]](**case["params"]), case)

    def test_chains(self) -> None:
        """A chain composed in the small space gives what its rules give one by one."""
        for case in cases("chain"):
            self.agree(chain(case["name"]), case)
