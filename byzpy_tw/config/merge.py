"""Options one by one: found by name, checked, and laid over one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from byzpy_tw.config.run import LOCATIONS, RunConfig
from byzpy_tw.config.validators import word
from byzpy_tw.errors import ConfigError
from byzpy_tw.plugins.naming import suggest_nearest
from byzpy_tw.text import clip

OPTIONS: Mapping[str, attrs.Attribute] = {f.name: f for f in attrs.fields(RunConfig)}


# What has no use where the nodes live in that place.
UNUSED_AT_LOCATION: Mapping[str, tuple[str, ...]] = {
    "in_process": (
        "keys", "min_servers", "max_nodes_per_server", "heartbeat_timeout", "failover",
    ),
    "local": ("keys",),
}  # fmt: skip


def convert_option(name: str, value: Any) -> Any:
    """`value` as a `RunConfig` holds it under `name`; `ConfigError` where it cannot."""
    option = OPTIONS[name]
    if option.converter is not None:
        value = option.converter(value)
    if option.validator is not None:
        option.validator(None, option, value)
    return value


def find_option(key: str) -> attrs.Attribute:
    """The option that a user calls `key`; `ConfigError` with the nearest one otherwise."""
    name = key.replace("-", "_")
    if name not in OPTIONS:
        near = suggest_nearest(word(name), list(map(word, OPTIONS)))
        raise ConfigError(f"there is no option {clip(key)!r}{near}")
    return OPTIONS[name]


def merge_options(given: Mapping[str, Any], beneath: Mapping[str, Any]) -> dict[str, Any]:
    """The options `given`, and those of `beneath` that they leave.

    A place that is given takes the place of any other: there is but one.  What of `beneath`
    has no use there goes with it.
    """
    placed = [name for name in LOCATIONS if given.get(name)]
    gone = {name for place in placed for name in (*LOCATIONS, *UNUSED_AT_LOCATION.get(place, ()))}
    return {**{k: v for k, v in beneath.items() if k not in gone}, **given}
