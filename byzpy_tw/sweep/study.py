"""Studies: the options of many runs, some of which have several values.

These are values only: `points` combines them, and `byzpy_tw.sweep.plan` makes runs of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, product
from math import prod
from typing import Any

from attrs import field, frozen

from byzpy_tw.config.merge import OPTIONS
from byzpy_tw.config.validators import toml_key
from byzpy_tw.errors import ConfigError
from byzpy_tw.sweep.arithmetic import Expression, parse_expression

# Of one run alone: two runs at a time could not listen on one port.
OPTIONS_OF_ONE_RUN = ("run_dir", "quiet", "json", "web", "save_model")

RULE_OPTIONS = ("pre_aggregator", "aggregator")  # of a whole pipeline, in its order


def may_vary(option: str) -> bool:
    """Return whether an option can be an axis: whether it decides the records of a run."""
    return bool(OPTIONS[option].metadata["bits"]) or option == "eval_interval"


@frozen
class Axis:
    """An option with its values, or several options that change together."""

    options: tuple[str, ...]  # names of `RunConfig`
    values: tuple[tuple[Any, ...], ...]  # each as long as `options`


@frozen
class Selection:
    """The choice of hyper-parameters by a metric of the validation data.

    A combination of values counts as its worst over the options `worst_over`.
    """

    over: tuple[str, ...]  # options that are chosen
    by: str  # the metric
    worst_over: tuple[str, ...] = ()


@frozen(kw_only=True)
class Study:
    """Options that all runs share, and the axes along which the runs differ.

    ``exclude`` has combinations of values that are left out, ``derive`` expressions for options
    that follow from others.  The seeds are ``seed``, ``seed + 1`` and so on, ``repetitions`` of
    them, unless an axis has seeds.  ``differences`` are those from another package's study that
    this one was made of: a key, its meaning there, and here.
    """

    options: Mapping[str, Any]
    axes: tuple[Axis, ...]
    exclude: tuple[Mapping[str, tuple[Any, ...]], ...] = ()
    derive: Mapping[str, str] = field(factory=dict)
    repetitions: int = 1
    selection: Selection | None = None
    differences: tuple[tuple[str, str, str], ...] = ()

    @property
    def seed_axis(self) -> Axis:
        """The axis of the seeds, which is always there; other options may change with them."""
        first = self.options.get("seed", OPTIONS["seed"].default)
        seeds = Axis(("seed",), tuple((first + i,) for i in range(self.repetitions)))
        return next((axis for axis in self.axes if "seed" in axis.options), seeds)

    @property
    def setting_axes(self) -> tuple[Axis, ...]:
        """The axes but for that of the seeds."""
        return tuple(axis for axis in self.axes if "seed" not in axis.options)

    @property
    def axes_in_order(self) -> tuple[Axis, ...]:
        """The axes with that of the seeds last: it is innermost."""
        return (*self.setting_axes, self.seed_axis)

    @property
    def combinations(self) -> int:
        """The number of combinations of all values, also of those that are excluded."""
        return prod(len(axis.values) for axis in self.axes_in_order)

    def values_of(self, option: str) -> tuple[Any, ...]:
        """Return the values of an option: its axis', the one that all runs have, or none."""
        for axis in self.axes:
            if option in axis.options:
                values = (value[axis.options.index(option)] for value in axis.values)
                return tuple(dict.fromkeys(values))
        return (self.options[option],) if option in self.options else ()

    def points(self) -> Iterator[dict[str, Any]]:
        """Yield the options of each run, in the order of the axes, seeds innermost.

        Raises `ConfigError` for an expression that has no value.
        """
        axes, derived = self.axes_in_order, derivation_order(self.derive)
        names = [name for axis in axes for name in axis.options]
        defaults = {
            name: OPTIONS[name].default for expression in derived.values()
            for name in expression.names
        }  # fmt: skip
        for values in product(*(axis.values for axis in axes)):
            point = {**self.options, **dict(zip(names, chain.from_iterable(values), strict=True))}
            for name, expression in derived.items():
                point[name] = expression.value({**defaults, **point})
            if not any(_matches(point, combination) for combination in self.exclude):
                yield point


def _matches(point: Mapping[str, Any], combination: Mapping[str, tuple[Any, ...]]) -> bool:
    return all(point.get(name) in values for name, values in combination.items())


def derivation_order(derive: Mapping[str, str]) -> dict[str, Expression]:
    """Parse the expressions `derive`, and order them so that each follows those that it needs.

    Raises `ConfigError` for one that is no arithmetic, or needs itself.
    """
    left: dict[str, Expression] = {}
    for name, text in derive.items():
        try:
            left[name] = parse_expression(text)
        except ConfigError as e:
            raise ConfigError(f"derive: {toml_key(name)}: {e}") from None
    found: dict[str, Expression] = {}
    while left:
        ready = [name for name in left if not any(n in left for n in left[name].names)]
        if not ready:
            told = ", ".join(f"{toml_key(name)} = {left[name].text!r}" for name in left)
            raise ConfigError(f"derive: {told}: each needs the other's value; give one of them")
        for name in ready:
            found[name] = left.pop(name)
    return found
