"""Installed distributions that offer plugins, by their metadata: nothing is imported."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Collection, Iterator
from typing import Any

from byzpy_tw.errors import UnknownName
from byzpy_tw.plugins.hookspecs import GROUP
from byzpy_tw.plugins.naming import suggest_nearest
from byzpy_tw.text import clip

Point = tuple[str, str, importlib.metadata.EntryPoint]  # its distribution and version, too


def installed_points(only: Collection[str] | None = None) -> Iterator[Point]:
    """Entry points of the group, each with its distribution and version, in a fixed order.

    `only` restricts them to these distributions.  A distribution that is found twice, such as an
    editable install seen from its own folder, counts once; one that is damaged has no name.
    """
    wanted = None if only is None else {canonical_name(name) for name in only}
    found: dict[tuple[str, str], Point] = {}
    first: dict[str, tuple[str, str]] = {}  # of two versions, the one on the path that imports
    for distribution in importlib.metadata.distributions():
        points = distribution.entry_points.select(group=GROUP)
        metadata: Any = distribution.metadata if points else None
        name = metadata and metadata["Name"]
        if name and (wanted is None or canonical_name(name) in wanted):
            key, version = canonical_name(name), metadata["Version"] or "unknown"
            source = first.setdefault(key, (name, version))
            for point in points:
                found.setdefault((key, point.name), (*source, point))
    return iter(found[key] for key in sorted(found))


def check_disabled(names: Collection[str]) -> tuple[str, ...]:
    """The installed distributions called `names`; raises `UnknownName` for any other."""
    installed = {canonical_name(name): name for name, _, _ in installed_points()} if names else {}
    for name in names:
        if canonical_name(name) not in installed:
            known = ", ".join(sorted(installed.values())) or "none"
            raise UnknownName(
                f"--disable-plugin {clip(name)!r}: no distribution with plugins is called "
                f"so{suggest_nearest(canonical_name(name), installed)} (installed: {known})"
            )
    return tuple(dict.fromkeys(installed[canonical_name(name)] for name in names))


def filter_installed(names: Collection[str]) -> tuple[str, ...]:
    """The distributions among `names` that are installed and offer plugins."""
    installed = {canonical_name(name) for name, _, _ in installed_points()} if names else set()
    return tuple(name for name in names if canonical_name(name) in installed)


def canonical_name(name: str) -> str:
    """The one spelling of a distribution's name, as packaging tools have it."""
    return re.sub(r"[-_.]+", "-", name).lower()
