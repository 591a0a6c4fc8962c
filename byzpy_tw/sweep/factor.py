"""Axes from points: what varies independently in given combinations of options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import prod
from typing import Any

from byzpy_tw.config.validators import toml_key
from byzpy_tw.errors import ConfigError
from byzpy_tw.sweep.study import Axis


def factor(points: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[Axis]]:
    """Return the options that all `points` share, and axes whose combinations are the points.

    Options are on one axis where not all combinations of their values are points; the axes are in
    the options' order, their values in that of the points.  Raises `ConfigError` for an option that
    only some points have.
    """
    for point in points:
        for name in point.keys() ^ points[0].keys():
            raise ConfigError(f"only some combinations have {toml_key(name)}: give it in all")
    points = [dict(p) for p in dict.fromkeys(tuple(point.items()) for point in points)]
    shared = {
        name: value
        for name, value in points[0].items()
        if all(point[name] == value for point in points)
    }
    groups: list[tuple[str, ...]] = [(name,) for name in points[0] if name not in shared]
    while found := _find_dependent(groups, points):
        groups = [group for group in groups if group not in found] + [_join(found, points[0])]
    axes = [Axis(group, tuple(_values(group, points))) for group in _ordered(groups, points[0])]
    if prod(len(axis.values) for axis in axes) != len(points):
        whole = _join(groups, points[0])
        axes = [Axis(whole, tuple(_values(whole, points)))]
    return shared, axes


def _values(names: Sequence[str], points: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    return list(dict.fromkeys(tuple(point[name] for name in names) for point in points))


def _find_dependent(
    groups: Sequence[tuple[str, ...]], points: Sequence[Mapping[str, Any]]
) -> tuple[tuple[str, ...], ...]:
    """Return two groups of options of whose values not all combinations exist, if there are any."""
    counts = {group: len(_values(group, points)) for group in groups}
    for one, other in combinations(groups, 2):
        if len(_values(one + other, points)) < counts[one] * counts[other]:
            return (one, other)
    return ()


def _join(groups: Iterable[tuple[str, ...]], order: Mapping[str, Any]) -> tuple[str, ...]:
    chosen = {name for group in groups for name in group}
    return tuple(name for name in order if name in chosen)


def _ordered(groups: Iterable[tuple[str, ...]], order: Mapping[str, Any]) -> list[tuple[str, ...]]:
    places = {name: place for place, name in enumerate(order)}
    return sorted(groups, key=lambda group: places[group[0]])
