"""The options of a run whose value may be an object: no import of torch tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from byzpy_tw.plugins.recorded_object import recorded_object

_RULES = ("f", "q", "chunk_size")
# By option: the kind of thing, and the values of the run that a class of such may take.
KINDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "aggregator": ("aggregator", _RULES),
    "pre_aggregator": ("pre-aggregator", _RULES),
    "attack": ("attack", ("f",)),
    "dataset": ("dataset", ()),
    "model": ("model", ("classes", "shape", "root")),
    "task": ("task", ("classes", "target_shape")),
    "partition": ("partition", ()),
    "optimizer": ("optimizer", ("momentum", "weight_decay")),
    "lr_schedule": ("schedule", ()),
    "algorithm": ("algorithm", ("config", "rules")),
}


def is_object(option: str, value: Any) -> bool:
    """Return whether `value` of `option` is an object, or a list that has one, and no name."""
    if option not in KINDS or value is None or isinstance(value, (str, bytes, int, float)):
        return False
    if isinstance(value, (list, tuple)) and option != "dataset":
        return option == "pre_aggregator" and any(is_object(option, item) for item in value)
    return True


def recorded_texts(config: Any, option: str) -> list[str]:
    """Return the texts of `option` in the configuration of a run that stand for objects."""
    value = getattr(config, option)
    texts = value if isinstance(value, tuple) else (value,)
    return [text for text in texts if text is not None and recorded_object(text) is not None]


def given_options(config: Any) -> list[str]:
    """Return the options of a run's configuration that were given objects."""
    return [option for option in KINDS if recorded_texts(config, option)]


def has_objects(config: Any) -> bool:
    """Return whether the run of this configuration was given objects."""
    return bool(given_options(config))
