"""The settings in a ``config.json`` of ByzFL 0.0.11: one for each combination of its lists.

Each list in it is an axis, also inside ``parameters``, and the tables of a list are alternatives,
as in ByzFL.  ``pre_aggregators`` and ``milestones`` are one value unless they are lists of lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, product
from math import prod
from typing import Any

from byzpy_tw.errors import ConfigError
from byzpy_tw.parameters import quote
from byzpy_tw.sweep.byzfl_names import check_keys, check_size
from byzpy_tw.sweep.plan import MOST_RUNS

Settings = Mapping[str, Any]

_WHOLE = ("pre_aggregators", "milestones")
# None: any value, which is looked at where it is translated.
_KEYS: Mapping[str, Any] = {
    "benchmark_config": {
        "training_algorithm": {
            "name": None,
            "parameters": {"proportion_selected_clients": None, "local_steps_per_client": None},
        },
        "nb_steps": None,
        "device": None,
        "training_seed": None,
        "nb_training_seeds": None,
        "nb_workers": None,  # in the files that ByzFL writes
        "nb_honest_clients": None,
        "f": None,
        "tolerated_f": None,
        "set_honest_clients_as_clients": None,
        "size_train_set": None,
        "data_distribution_seed": None,
        "nb_data_distribution_seeds": None,
        "data_distribution": {"name": None, "distribution_parameter": None},
    },
    "model": dict.fromkeys(
        (
            "name", "dataset_name", "nb_labels", "loss", "optimizer_name", "learning_rate",
            "learning_rate_decay", "milestones",
        )
    ),
    "aggregator": None,
    "pre_aggregators": None,
    "honest_clients": dict.fromkeys(("momentum", "weight_decay", "batch_size")),
    "attack": None,
    "evaluation_and_results": dict.fromkeys(
        (
            "evaluation_delta", "batch_size_evaluation", "evaluate_on_test",
            "store_per_client_metrics", "store_models", "data_folder", "results_directory",
        )
    ),
}  # fmt: skip
# Lists of these would overwrite one another's results in ByzFL, or make it fail.
_ONE_VALUE = {
    "benchmark_config": ("nb_training_seeds", "nb_data_distribution_seeds"),
    "evaluation_and_results": tuple(_KEYS["evaluation_and_results"]),
}


def expand(table: Any) -> Iterator[Settings]:
    """Yield each setting of the content of a ``config.json``, in ByzFL's order.

    Raises `ConfigError` for a key that ByzFL does not have: it would ignore it.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"ByzFL's file is a table {{...}} of sections, got {quote(table)}")
    check_size(table, "the file")
    _check(table, _KEYS, "")
    for section, keys in _ONE_VALUE.items():
        found = table.get(section)
        if isinstance(found, list):
            raise ConfigError(f"{section} is one table, not a list")
        for key in keys:
            if isinstance((found or {}).get(key), list):
                raise ConfigError(f"{section}.{key} is one value, not a list")
    if (count := count_combinations("", table)) > MOST_RUNS:
        raise ConfigError(
            f"its lists make {quote(count)} combinations; a sweep has at most {MOST_RUNS}: "
            "shorten one"
        )
    return combine(table)


def _check(value: Any, known: Mapping[str, Any], place: str) -> None:
    """Raise `ConfigError` for an unknown key in a table, or in the tables of a list."""
    if value == []:
        raise ConfigError(f"{place} is an empty list: give it a table")
    for table in value if isinstance(value, list) else [value]:
        if table is None and place:
            continue
        if not isinstance(table, Mapping):
            raise ConfigError(f"{place} must be a table {{...}}, got {quote(table)}")
        check_keys(table, tuple(known), place or "the file")
        for key, inner in known.items():
            if inner is not None and key in table:
                _check(table[key], inner, f"{place}.{key}" if place else key)


def _is_whole(key: str, value: Any) -> bool:
    """Return whether a list is one value: it is empty, or of a key whose values are lists."""
    return not value or (key in _WHOLE and not isinstance(value[0], list))


def count_combinations(key: str, value: Any) -> int:
    """Return the number of values that `_alternatives` yields."""
    if isinstance(value, list) and not _is_whole(key, value):
        return sum(count_combinations("", v) if isinstance(v, Mapping) else 1 for v in value)
    if isinstance(value, Mapping):
        return prod(count_combinations(inner, v) for inner, v in value.items())
    return 1


def _alternatives(key: str, value: Any) -> Iterator[Any]:
    """Yield the values that `value`, under `key`, stands for."""
    if isinstance(value, list) and not _is_whole(key, value):
        return chain.from_iterable(
            combine(one) if isinstance(one, Mapping) else iter([one]) for one in value
        )
    return combine(value) if isinstance(value, Mapping) else iter([value])


def combine(table: Mapping[str, Any]) -> Iterator[Settings]:
    """Yield a table for each combination of the values of its keys."""
    for values in product(*(list(_alternatives(key, value)) for key, value in table.items())):
        yield dict(zip(table, values, strict=True))
