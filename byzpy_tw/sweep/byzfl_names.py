"""The rules and attacks of ByzFL 0.0.11, with those here that compute the same.

`translate` makes our text of their name and parameters, `find_original` theirs of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from byzpy_tw.errors import ByzpyTwError, ConfigError
from byzpy_tw.parameters import quote
from byzpy_tw.plugins.naming import parse, suggest_nearest
from byzpy_tw.text import clip


@frozen
class Argument:
    """A parameter of theirs: our name for it, their default, and ours."""

    ours: str
    theirs: Any
    default: Any


@frozen
class Twin:
    """Our name for a class of theirs, its parameters by their names, and ours that are fixed."""

    ours: str
    arguments: Mapping[str, Argument] = field(factory=dict)
    fixed: Mapping[str, str] = field(factory=dict)


_SEARCH = {
    "evals": Argument("evals", 20, 20),
    "start": Argument("start", 0.0, 0.0),
    "delta": Argument("delta", 10.0, 10.0),
    "ratio": Argument("ratio", 0.8, 0.8),
}
AGGREGATORS: Mapping[str, Twin] = {
    "Average": Twin("mean"),
    "Median": Twin("median"),
    "TrMean": Twin("trimmed-mean"),
    "GeometricMedian": Twin(
        "geometric-median",
        {"nu": Argument("nu", 0.1, None), "T": Argument("max_iter", 3, 1000)},
        {"init": "zero"},
    ),
    "Krum": Twin("krum", fixed={"closest": "n-f-1"}),
    "MultiKrum": Twin("multi-krum", fixed={"closest": "n-f-1", "q": "n-f"}),
    "CenteredClipping": Twin(
        "centered-clipping",
        {"L": Argument("iterations", 1, 3), "tau": Argument("tau", 100.0, 10.0)},
    ),
    "MDA": Twin("mda"),
    "MoNNA": Twin("monna", {"idx": Argument("reference", 0, 0)}),
    "Meamed": Twin("meamed"),
    "CAF": Twin("caf"),
    "SMEA": Twin("smea"),
}
PREAGGREGATORS: Mapping[str, Twin] = {
    "Clipping": Twin("clipping", {"c": Argument("c", 2.0, 2.0)}),
    "NNM": Twin("nnm"),
    "Bucketing": Twin("bucketing", {"s": Argument("s", 1, 2)}),
    "ARC": Twin("arc"),
}
ATTACKS: Mapping[str, Twin] = {
    "NoAttack": Twin("none"),
    "SignFlipping": Twin("sign-flip"),
    "InnerProductManipulation": Twin("ipm", {"tau": Argument("tau", 2.0, 2.0)}),
    "Optimal_InnerProductManipulation": Twin("opt-ipm", _SEARCH),
    "ALittleIsEnough": Twin("alie", {"tau": Argument("tau", 1.5, None)}, {"ddof": "1"}),
    "Optimal_ALittleIsEnough": Twin("opt-alie", _SEARCH, {"ddof": "1"}),
    "Mimic": Twin("mimic", {"epsilon": Argument("epsilon", 0, 0)}),
    "Inf": Twin("inf"),
    "Gaussian": Twin(
        "gaussian", {"mu": Argument("mu", 0.0, 0.0), "sigma": Argument("sigma", 1.0, 1.0)}
    ),
    "LabelFlipping": Twin("label-flip"),
}
# ByzFL sets these parameters itself, whatever is given.
_SET_BY_THEM = ("f",)


def translate(given: Any, twins: Mapping[str, Twin], place: str) -> str:
    """Return our text of `given`, their ``{"name": ..., "parameters": {...}}`` at `place`.

    Raises `ConfigError` for what has no counterpart.
    """
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ConfigError(
            f'{place} must be {{"name": ..., "parameters": {{...}}}}, got {quote(given)}'
        )
    name, parameters = given["name"], given.get("parameters") or {}
    check_keys(given, ("name", "parameters"), place)
    if name not in twins:
        raise ConfigError(
            f"{place}.name: ByzFL has no {clip(name)!r}{suggest_nearest(name, twins)} "
            f"(known: {', '.join(twins)})"
        )
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"{place}.parameters must be {{...}}, got {quote(parameters)}")
    twin = twins[name]
    check_keys(parameters, (*twin.arguments, *_SET_BY_THEM), f"{place}.parameters of {name}")
    words = {}
    for key, argument in twin.arguments.items():
        value = parameters.get(key, argument.theirs)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(
                f"{place}.parameters.{key} of {name} must be a number, got {quote(value)}"
            )
        if value != argument.default:
            words[argument.ours] = number_text(value)
    pairs = ",".join(f"{key}={value}" for key, value in {**words, **twin.fixed}.items())
    return f"{twin.ours}:{pairs}" if pairs else twin.ours


def find_original(text: str, twins: Mapping[str, Twin]) -> tuple[str, dict[str, Any]] | None:
    """Return ByzFL's name and parameters for our `text`: the reverse of `translate`.

    None where ByzFL has no counterpart, or has it with other fixed parameters.
    """
    try:
        named = parse(text)
    except ByzpyTwError:
        return None
    for name, twin in twins.items():
        left = dict(named.parameters)
        if twin.ours != named.name or any(left.pop(k, None) != v for k, v in twin.fixed.items()):
            continue
        found = {}
        for key, argument in twin.arguments.items():
            text_or_default = left.pop(argument.ours, argument.default)
            found[key] = _number(text_or_default)
        if not left and None not in found.values():
            return name, found
    return None


_DEEPEST, _MOST_KEYS = 12, 20  # beyond it no file of another package has anything


def check_size(value: Any, place: str, depth: int = 0) -> None:
    """Raise `ConfigError` where `value` is nested, or has tables, as no file is that can be read.

    Each combination of the values of a file's lists has a copy of its tables.
    """
    if isinstance(value, Mapping):
        if len(value) > _MOST_KEYS:
            raise ConfigError(
                f"{place} has a table of {len(value)} keys, the first {quote(next(iter(value)))}: "
                f"at most {_MOST_KEYS} can be"
            )
        inner = list(value.values())
    elif isinstance(value, list):
        inner = value
    else:
        return
    if depth == _DEEPEST:
        raise ConfigError(f"{place} is nested more than {_DEEPEST} deep: {quote(value)}")
    for one in inner:
        check_size(one, place, depth + 1)


def check_keys(table: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    """Raise `ConfigError` for a key of `table`, which stands at `place`, that is not `known`."""
    for key in table:
        if key not in known:
            told = f"known: {', '.join(known)}" if known else "it has none"
            word = key if isinstance(key, str) else quote(key)
            raise ConfigError(
                f"{place}: there is no {clip(word)!r}{suggest_nearest(word, known)} ({told})"
            )


def number_text(value: float) -> str:
    """Return a number as it is written after a name: 2 for 2.0."""
    return str(int(value)) if value == value // 1 and abs(value) < 1e15 else repr(value)


def _number(value: Any) -> Any:
    """Return the number that a text stands for, None for another text; others as they are."""
    if not isinstance(value, str):
        return value
    try:
        return int(value) if value.isdecimal() else float(value)
    except ValueError:
        return None
