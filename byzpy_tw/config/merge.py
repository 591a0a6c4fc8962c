"""Options one by one: found by name, converted, and merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from byzpy_tw.config.run import LOCATIONS, RunConfig
from byzpy_tw.config.validators import flag, toml_key
from byzpy_tw.errors import ConfigError
from byzpy_tw.parameters import check_value
from byzpy_tw.plugins.naming import suggest_nearest
from byzpy_tw.text import clip

OPTIONS: Mapping[str, attrs.Attribute[Any]] = {f.name: f for f in attrs.fields(RunConfig)}


# Options without effect where the nodes live at that location.
UNUSED_AT_LOCATION: Mapping[str, tuple[str, ...]] = {
    "in_process": (
        "keys", "min_servers", "max_nodes_per_server", "heartbeat_timeout", "failover",
    ),
    "local": ("keys",),
}  # fmt: skip


def convert_option(name: str, value: Any, spelling: str | None = None) -> Any:
    """`value` as `RunConfig` has it; a `ConfigError` calls it `spelling`, by default its flag."""
    option: Any = OPTIONS[name]
    value = option.converter(value)
    check_value(option.metadata["constraint"], spelling or flag(name), value, ConfigError)
    return value


def find_option(key: str) -> attrs.Attribute[Any]:
    """The option that a user calls `key`; raises `ConfigError` with the nearest one."""
    name = key.replace("-", "_")
    if name not in OPTIONS:
        near = suggest_nearest(toml_key(name), list(map(toml_key, OPTIONS)))
        raise ConfigError(f"there is no option {clip(key)!r}{near}")
    return OPTIONS[name]


def merge_options(given: Mapping[str, Any], beneath: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `given` over `beneath`, without those of `beneath` that a given location rules out."""
    located = [name for name in LOCATIONS if given.get(name)]
    dropped = {n for at in located for n in (*LOCATIONS, *UNUSED_AT_LOCATION.get(at, ()))}
    return {**{k: v for k, v in beneath.items() if k not in dropped}, **given}
