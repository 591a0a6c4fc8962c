"""Parameters of names: their types, the ones that are missing, and the nearest right spelling."""

from __future__ import annotations

from typing import Any, Literal

from attrs import field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import byzpy_tw
from byzpy_tw.errors import (
    BadParameter,
)
from byzpy_tw.plugins import parse
from byzpy_tw.plugins.signatures import parameters_of, read_arguments
from tests.plugin_harness import VALUE


def every_kind(
    *,
    whole: int = 1,
    real: float = 0.5,
    truth: bool = False,
    text: str = "x",
    word: Literal["mean", "own"] = "mean",
    maybe: int | None = None,
    either: Literal["auto"] | float = "auto",
    bare=2.5,
    needed: int,
) -> dict[str, Any]:
    return dict(locals())


class ParameterTests(SynchronousTestCase):
    def read(self, text: str, **fill: Any) -> dict[str, Any]:
        return read_arguments(parse(text), parameters_of("aggregator", every_kind), fill)

    def test_none_where_there_is_no_automatic_value(self) -> None:
        """The error says what the value must be."""
        with self.assertRaisesRegex(
            BadParameter, "tau must be a number above 0, got 'none'; there is no automatic tau"
        ):
            byzpy_tw.aggregator("centered-clipping:tau=none")

    def test_values_by_annotation(self) -> None:
        """Each text becomes what the parameter's annotation says."""
        for text, value in {
            "whole=3": 3,
            "whole=-1": -1,
            "whole=1e3": 1000,
            "real=3": 3.0,
            "real=1e-6": 1e-6,
            "real=.5": 0.5,
            "truth=yes": True,
            "truth=False": False,
            "truth=0": False,
            "text=1e3": "1e3",
            "word=own": "own",
            "maybe=none": None,
            "maybe=7": 7,
            "either=auto": "auto",
            "either=2": 2.0,
            "bare=1": 1.0,
        }.items():
            key = text.partition("=")[0]
            got = self.read(f"x:{text}", needed=0)[key]
            self.assertEqual((got, type(got)), (value, type(value)), text)

    def test_values_that_do_not_read(self) -> None:
        """The message says which parameter, what was given, and what would do."""
        for text, wanted in {
            "whole=2.5": "int",
            "whole=inf": "int",
            "whole=many": "int",
            "real=fast": "float",
            "truth=2": "bool",
            "word=all": "mean or own",
            "maybe=x": "none or int",
            "either=x": "float or auto",
        }.items():
            with self.assertRaisesRegex(BadParameter, f"x: .*is not {wanted}"):
                self.read(f"x:{text}", needed=0)

    @given(st.sampled_from(["whole", "real", "truth", "word", "maybe", "either"]), VALUE)
    @settings(deadline=None)
    def test_any_value_reads_or_is_refused(self, key: str, value: str) -> None:
        """No text, however odd, gets through as something of another type."""
        try:
            got = self.read(f"x:{key}={value}", needed=0)[key]
        except BadParameter:
            return
        kinds = {
            "whole": int, "real": float, "truth": bool, "word": str,
            "maybe": (int, type(None)), "either": (float, str),
        }  # fmt: skip
        self.assertIsInstance(got, kinds[key])

    def test_what_is_filled_in(self) -> None:
        """The user's word counts over what is offered; what is not taken is ignored."""
        got = self.read("x:whole=5", whole=9, needed=2, chunk_size=32)
        self.assertEqual(got, {"whole": 5, "needed": 2})

    def test_what_is_missing(self) -> None:
        """A parameter without a default must come from somewhere."""
        with self.assertRaisesRegex(BadParameter, "'x' needs needed: write x:needed=VALUE"):
            self.read("x")

    def test_attrs_classes(self) -> None:
        """Private fields go by their public names, annotations of strings resolve."""

        @frozen
        class Rule:
            _depth: int = 1
            names: tuple[str, ...] = ()
            done: bool = field(default=False, init=False)

        found = parameters_of("aggregator", Rule)
        self.assertEqual(list(found), ["depth", "names"])
        self.assertEqual(found["depth"].type_text, "int")

    def test_reserved_by_kind(self) -> None:
        """A data root or a model's shape is nobody's to give; elsewhere the words are free."""

        def factory(*, root: str = "", classes: int = 2, shape: int = 1) -> None: ...

        for kind, taken in {
            "dataset": ["classes", "shape"],
            "model": [],
            "attack": ["root", "classes", "shape"],
        }.items():
            self.assertEqual(list(parameters_of(kind, factory)), taken)
