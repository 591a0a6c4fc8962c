"""Studies: axes, combinations that are left out, and values that follow from others."""

from __future__ import annotations

from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import ConfigError
from byzpy_tw.sweep.arithmetic import parse_expression
from byzpy_tw.sweep.study import Axis, Study


def axis(option: str, *values: Any) -> Axis:
    return Axis((option,), tuple((value,) for value in values))


class PointTests(SynchronousTestCase):
    """The combinations of a study."""

    def test_order(self) -> None:
        """The last axis changes first, but for the seeds, which are innermost wherever they are."""
        study = Study(
            options={"rounds": 5},
            axes=(axis("seed", 1, 2), axis("f", 1, 2), axis("attack", "none", "ipm")),
        )
        found = [(p["f"], p["attack"], p["seed"], p["rounds"]) for p in study.points()]
        self.assertEqual(found, [(*p, 5) for p in product((1, 2), ("none", "ipm"), (1, 2))])
        self.assertEqual(study.combinations, 8)

    def test_together(self) -> None:
        """Options of one axis advance together."""
        pair = Axis(("f", "num_byz"), ((1, 2), (3, 4)))
        found = Study(options={}, axes=(pair, axis("lr", 0.1, 0.2))).points()
        self.assertEqual(
            [(p["f"], p["num_byz"], p["lr"]) for p in found],
            [(1, 2, 0.1), (1, 2, 0.2), (3, 4, 0.1), (3, 4, 0.2)],
        )

    def test_repetitions(self) -> None:
        """They count the seed up from the first one."""
        for options, seeds in (({}, [42, 43, 44]), ({"seed": 7}, [7, 8, 9])):
            found = Study(options=options, axes=(), repetitions=3).points()
            self.assertEqual([point["seed"] for point in found], seeds)

    @given(st.sets(st.integers(0, 4)), st.sets(st.integers(0, 4)))
    def test_exclude(self, few: set[int], many: set[int]) -> None:
        """A combination is left out where each of its options has one of the values."""
        study = Study(
            options={},
            axes=(axis("f", *range(4)), axis("num_byz", *range(4))),
            exclude=({"f": tuple(few), "num_byz": tuple(many)},),
        )
        self.assertEqual(
            [(p["f"], p["num_byz"]) for p in study.points()],
            [(a, b) for a in range(4) for b in range(4) if not (a in few and b in many)],
        )

    def test_derive(self) -> None:
        """A value follows from axes, options, defaults and other values that follow."""
        study = Study(
            options={"batch_size": 8},
            axes=(axis("num_byz", 1, 2),),
            derive={
                "num_honest": "f * 10 - num-byz",
                "f": "num_byz + 1",
                "rounds": "batch-size // 2",
            },
        )
        self.assertEqual(
            [(p["f"], p["num_honest"], p["rounds"]) for p in study.points()],
            [(2, 19, 4), (3, 28, 4)],
        )

    def test_derived_from_each_other(self) -> None:
        """It is said which need which."""
        study = Study(options={}, axes=(), derive={"f": "num-byz", "num_byz": "f"})
        with self.assertRaisesRegex(ConfigError, "f = 'num-byz', num-byz = 'f': each needs"):
            list(study.points())

    def test_values_of(self) -> None:
        """An option has those of its axis, each once, or the one of all runs."""
        study = Study(options={"rounds": 5}, axes=(Axis(("f", "num_byz"), ((1, 2), (1, 3))),))
        self.assertEqual(study.values_of("f"), (1,))
        self.assertEqual(study.values_of("num_byz"), (2, 3))
        self.assertEqual((study.values_of("rounds"), study.values_of("lr")), ((5,), ()))


class ArithmeticTests(SynchronousTestCase):
    """Texts that are computed with options."""

    def value(self, text: str, **options: Any) -> Any:
        return parse_expression(text).value(options)

    def test_values(self) -> None:
        """Names stand with hyphens or underscores; a hyphen between names is a minus."""
        for text, value in (
            ("20 - num-byz", 17), ("20-num_byz", 17), ("f-1", 1), ("num-honest-num-byz", 5),
            ("-(f + 1) * 2", -6), ("num-honest // f", 4), ("lr * 2", 0.5), ("+f", 2),
            ("lr-decay - lr", 0.25),
        ):  # fmt: skip
            found = self.value(text, num_byz=3, f=2, num_honest=8, lr=0.25, lr_decay=0.5)
            self.assertEqual((found, type(found)), (value, type(value)), text)

    @given(st.integers(-99, 99), st.integers(-99, 99), st.sampled_from(["+", "-", "*", "//"]))
    def test_as_python(self, f: int, rounds: int, sign: str) -> None:
        """The signs mean what they do in Python."""
        if sign == "//" and rounds == 0:
            self.assertRaises(ConfigError, self.value, f"f {sign} rounds", f=f, rounds=rounds)
        else:
            expected = {"+": f + rounds, "-": f - rounds, "*": f * rounds}
            value = expected[sign] if sign in expected else f // rounds
            self.assertEqual(self.value(f"f {sign} rounds", f=f, rounds=rounds), value)

    def test_nothing_else(self) -> None:
        """No call, no power, no text, no attribute: one line says what can be."""
        for text in (
            "__import__('os')", "f ** 9", "f / 2", "f % 2", "f.real", "[1]", "f if f else 1",
            "1 < 2", "'a' * 9", "True", "1j", "f and 1", "lambda: 1", "~f", "f[0]", "9" * 30,
            "1if 1else 2",
        ):  # fmt: skip
            with self.assertRaisesRegex(ConfigError, "more than arithmetic"):
                parse_expression(text)
        self.assertEqual(self.flushWarnings(), [])  # of Python, about 1if
        for text, words in (
            ("", "must be arithmetic"), (5, "must be arithmetic"), ("20 -", "is no arithmetic"),
            ("1 " * 150, "at most 200"), ("(" * 150, "is no arithmetic"), ("\0", "no arithmetic"),
            ("20 - num-bzy", "did you mean"), ("x", "there is no option 'x'"),
        ):  # fmt: skip
            with self.assertRaisesRegex(ConfigError, words):
                parse_expression(text)

    def test_no_value(self) -> None:
        """An error has the numbers."""
        for text, words in (
            ("8 // f", "'8 // f' divides by zero where f = 0"),
            ("model + 1", "model is no number but 'mlp'"),
            ("rounds * rounds * rounds * rounds", "too large a number where rounds = 2000000000"),
            ("*".join(["seed"] * 39) + "*1.0", "too large a number where seed = 9"),
            ("1.5//(" + "*".join(["seed"] * 38) + ")", "too large a number where seed = 9"),
        ):
            with self.assertRaisesRegex(ConfigError, words):
                self.value(text, f=0, model="mlp", rounds=2_000_000_000, seed=2**63 - 1)
