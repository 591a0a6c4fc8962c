"""The description of a metric: a named number of an evaluation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from attrs import evolve, field, frozen

NAME = r"[a-z][a-z0-9]*(_[a-z0-9]+)*"
VALIDATION = "validation_"  # begins the name of a metric of the validation data
_RESERVED = ("loss", "test_loss")  # an evaluation has one besides
_LONGEST = 40  # characters of a name
_MOST = 20  # metrics of a task; each has a chart
_LEARNT = 0.1  # of the way from chance to a perfect value, or of chance itself
_FORMAT = r"\.\d{1,2}[efg%]"


def _check_name(_: object, __: object, name: Any) -> None:
    if not isinstance(name, str) or len(name) > _LONGEST or not re.fullmatch(NAME, name):
        raise ValueError(
            f"a metric's name is lower-case words joined by underscores, such as 'mean_error', "
            f"of at most {_LONGEST} characters, got {name!r:.80}"
        )
    if name in _RESERVED:
        raise ValueError(f"{name!r} is the task's loss: a metric needs another name")


def _check_unit(_: object, __: object, unit: Any) -> None:
    if not isinstance(unit, str) or len(unit) > _LONGEST or (unit and not unit.isprintable()):
        raise ValueError(f"a unit is at most {_LONGEST} printable characters, got {unit!r:.80}")


def _check_better(_: object, __: object, better: Any) -> None:
    if better not in ("higher", "lower"):
        raise ValueError(f"better is 'higher' or 'lower', got {better!r:.80}")


def _check_format(_: object, __: object, form: Any) -> None:
    if not isinstance(form, str) or not re.fullmatch(_FORMAT, form):
        raise ValueError(
            f"a format is digits after the point and a kind, such as '.4f', '.3g' or '.2%', "
            f"got {form!r:.80}"
        )


@frozen
class Metric:
    """A named number of an evaluation: its unit, its direction and its format.

    ``unit`` is for people, such as ``"m"``, and empty for a plain number.  ``better`` says which
    of two values is the better one.  ``format`` is a Python format of a number: ``.2%`` shows a
    share in percent.  Raises `ValueError` for anything else.
    """

    name: str = field(validator=_check_name)
    unit: str = field(default="", validator=_check_unit)
    better: Literal["higher", "lower"] = field(default="higher", validator=_check_better)
    format: str = field(default=".4f", validator=_check_format)

    def text(self, value: float | None) -> str:
        """Return `value` as people read it, with the unit; ``none`` where there is no value."""
        if value is None:
            return "none"
        return f"{value:{self.format}}" + (f" {self.unit}" if self.unit else "")

    @property
    def is_share(self) -> bool:
        """True for a number that is shown in percent."""
        return self.format.endswith("%")

    def is_near_chance(self, value: float, chance: float) -> bool:
        """Return whether `value` is not better than `chance` by a tenth of what can be learnt."""
        sign = 1.0 if self.better == "higher" else -1.0
        to_learn = abs(chance)
        if self.is_share:
            to_learn = 1 - chance if self.better == "higher" else chance
        return to_learn > 0 and sign * (value - chance) < _LEARNT * to_learn

    @property
    def of_validation(self) -> Metric:
        """The same number of the validation data; raises `ValueError` for too long a name."""
        return evolve(self, name=f"{VALIDATION}{self.name}")

    @property
    def is_of_validation(self) -> bool:
        """True for a number of the validation data."""
        return self.name.startswith(VALIDATION)

    @property
    def words(self) -> str:
        """The name as words, such as ``mean error``."""
        return self.name.replace("_", " ")

    @property
    def title(self) -> str:
        """The name as words that begin a line, such as ``Mean error``."""
        return self.words.capitalize()

    def best(self, values: list[float]) -> float | None:
        """Return the best of `values`, None where there are none."""
        return (max if self.better == "higher" else min)(values, default=None)

    def worst(self, values: list[float]) -> float | None:
        """Return the worst of `values`, None where there are none."""
        return (min if self.better == "higher" else max)(values, default=None)


def check_metrics(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """Return `metrics`; raise `ValueError` unless a task can have them.

    Those of the validation data, and the attack's, are not counted.
    """
    names = [metric.name for metric in metrics]
    own = [metric for metric in metrics if metric != ATTACK_SUCCESS]
    count = sum(not metric.is_of_validation for metric in own)
    if not 1 <= count <= _MOST or len(set(names)) < len(names):
        raise ValueError(
            f"a task has 1 to {_MOST} metrics with a name each, got {', '.join(names) or 'none'}"
        )
    return tuple(metrics)


ACCURACY = Metric("accuracy", format=".2%")
# Of an attack that poisons data: the accuracy, by its own targets, on what it makes of the test
# examples whose target it changes.
ATTACK_SUCCESS = Metric("attack_success_rate", better="lower", format=".2%")
VALIDATION_LOSS = Metric(f"{VALIDATION}loss", better="lower")


def with_validation(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """Return the `metrics` of a task, the same of the validation data, and its loss."""
    return (*metrics, *(metric.of_validation for metric in metrics), VALIDATION_LOSS)
