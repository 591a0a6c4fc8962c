"""The parameters that a factory takes, read from its signature."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import attrs
from attrs import field, frozen

from byzpy_tw.errors import BadParameter
from byzpy_tw.parameters import EXPECTED, MEANINGS, NONE, quote, to_plain
from byzpy_tw.plugins.naming import ParsedName, suggest_nearest

# By kind: filled by the process that calls the factory, and never written in a name.
RESERVED: Mapping[str, frozenset[str]] = {
    "dataset": frozenset({"root"}),
    "model": frozenset({"classes", "shape", "root"}),
    "task": frozenset({"classes", "target_shape"}),
    "algorithm": frozenset({"config", "rules"}),
    "schedule": frozenset({"lr_milestones", "lr_decay"}),
}
RATE = "lr"  # of an optimizer: what the run reads itself, unless the factory takes it

_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@frozen
class Parameter:
    """One keyword of a factory: its name, annotation and default."""

    name: str
    annotation: Any
    default: Any  # inspect.Parameter.empty where there is none
    untyped: bool = False  # neither its annotation nor its default says what it must be
    none: str = ""  # what None stands for, in words
    meanings: Mapping[str, str] = field(factory=dict)  # what its words stand for
    expected: str = ""  # what it must be, as "a number above 0"

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def alternatives(self) -> list[Any]:
        """The types of its values, in the order in which a text is tried as each of them."""
        if typing.get_origin(self.annotation) in (typing.Union, types.UnionType):
            # int before float, so that 3 stays an int where both are allowed; str last.
            order = {type(None): 0, bool: 1, int: 2, float: 3}
            return sorted(typing.get_args(self.annotation), key=lambda k: order.get(k, 4))
        return [self.annotation]

    @property
    def type_text(self) -> str:
        """The annotation, for a person."""
        return " or ".join(map(_type_text, self.alternatives))

    @property
    def words(self) -> list[str]:
        """The words among its values, the default first."""
        words = [str(word) for kind in self.alternatives for word in _words(kind)]
        return sorted(words, key=lambda word: word != str(self.default))

    @property
    def text(self) -> str:
        """``name=default`` with the other words that it takes: ``init=mean|zero``."""
        if self.required:
            return self.name
        default = "none" if self.default in (None, ()) else str(self.default)
        words = self.words if default in self.words else [default, *self.words]
        return f"{self.name}={'|'.join(words)}"

    @property
    def nullable(self) -> bool:
        """Return whether None is one of its values."""
        return type(None) in self.alternatives

    @property
    def writable(self) -> bool:
        """Return whether all its values are numbers and words, which can be written down."""
        return not self.untyped and all(
            kind in (type(None), bool, int, float, str) or _words(kind)
            for kind in self.alternatives
        )

    def read(self, owner: str, text: str) -> Any:
        """The value that `text` stands for; raises `BadParameter`."""
        for kind in self.alternatives:
            with suppress(ValueError):
                return _read(kind, text)
        if text.lower() == "none":
            raise BadParameter(
                f"{owner}: {self.name} must be {self.expected or self.type_text}, got {text!r}; "
                f"there is no automatic {self.name}"
            )
        raise BadParameter(f"{owner}: {self.name}={text!r} is not {self.type_text}")

    def convert(self, owner: str, value: Any) -> Any:
        """`value` as this parameter's type, as it is if that is not `writable`; `BadParameter`."""
        if not self.writable:
            return value
        found = to_plain(value)
        if isinstance(found, str):
            return self.read(owner, found)
        number = isinstance(found, (int, float)) and not isinstance(found, bool)
        for kind in self.alternatives:
            if (number and kind is float) or (number and kind is int and found == found // 1):
                return kind(found)
            if kind in (bool, type(None)) and type(found) is kind:
                return found
            if any(type(found) is type(word) and found == word for word in _words(kind)):
                return found
        shown = quote(found) if isinstance(found, (int, float)) else ""
        got = f"{type(value).__name__} {shown}".rstrip()
        raise BadParameter(f"{owner}: {self.name} must be {self.type_text}, got {got}")


def parameters_of(kind: str, factory: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword parameters of `factory`, by name, reserved ones left out."""
    reserved = RESERVED.get(kind, frozenset())
    hints = _hints(factory)
    bound = attrs.fields(factory) if isinstance(factory, type) and attrs.has(factory) else ()
    fields = {own.alias or own.name: own for own in bound}
    noted = {} if isinstance(factory, type) else _find_meanings(factory)
    found = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        if name in reserved or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = parameter.default
        typed = isinstance(default, (bool, int, float, str))
        hint = hints.get(name, type(default) if typed else str)
        told: Mapping[str, Any] = {MEANINGS: noted.get(name, {})}
        told = fields[name].metadata if name in fields else told
        found[name] = Parameter(
            name, hint, default, name not in hints and not typed,
            told.get(NONE, ""), told.get(MEANINGS, {}), told.get(EXPECTED, ""),
        )  # fmt: skip
    if kind == "optimizer" and RATE not in found:
        found[RATE] = Parameter(
            RATE, float | None, None, none="`--lr`, or its default with `fedavg`"
        )
    return found


def read_arguments(
    named: ParsedName, known: Mapping[str, Parameter], fill: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments for a factory that takes `known`: those of `named` over those of `fill`.

    `fill` may offer more; a parameter of `named` that does not exist is a `BadParameter`.
    """
    chosen = {key: value for key, value in fill.items() if key in known}
    for key, text in named.parameters.items():
        check_known(named.name, key, known)
        chosen[key] = known[key].read(named.name, text)
    missing = [p.name for p in known.values() if p.required and p.name not in chosen]
    if missing:
        raise BadParameter(
            f"{named.name!r} needs {', '.join(missing)}: write {named.name}:{missing[0]}=VALUE"
        )
    return chosen


def check_known(owner: str, key: str, known: Mapping[str, Parameter]) -> None:
    """Raise `BadParameter` with the nearest one where `owner` has no parameter `key`."""
    if key not in known:
        raise BadParameter(
            f"{owner!r} has no parameter {key!r}{suggest_nearest(key, known)} "
            f"(it takes: {', '.join(known) or 'none'})"
        )


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    # A plugin's annotation may not resolve: its defaults still tell.
    with suppress(Exception):
        hints = typing.get_type_hints(factory)
        if not isinstance(factory, type):
            return hints
        if attrs.has(factory):
            fields = [f for f in attrs.fields(factory) if f.name in hints]
            return {f.alias or f.name: hints[f.name] for f in fields}
        return {**hints, **typing.get_type_hints(factory.__init__)}  # type: ignore[misc]  # of a class
    return {}


def _find_meanings(function: Callable[..., Any]) -> dict[str, Mapping[str, str]]:
    """Return what words stand for, of parameters that are ``Annotated[Literal[...], {...}]``."""
    with suppress(Exception):
        hints = typing.get_type_hints(function, include_extras=True)
        return {
            name: hint.__metadata__[0]
            for name, hint in hints.items()
            if typing.get_origin(hint) is typing.Annotated
        }
    return {}


def _type_text(kind: Any) -> str:
    if kind is type(None):
        return "none"
    return " or ".join(map(str, _words(kind))) or getattr(kind, "__name__", str(kind))


def _words(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()


def _read(kind: Any, text: str) -> Any:
    """`text` as a `kind`; `ValueError` where it is none."""
    if kind is type(None) and text.lower() == "none":
        return None
    if kind is bool and text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    if words := [word for word in _words(kind) if str(word) == text]:
        return words[0]
    if kind in (type(None), bool) or _words(kind):
        raise ValueError(text)
    if kind is int:
        with suppress(ValueError):
            return int(text)
        if not float(text).is_integer():
            raise ValueError(text)
        return int(float(text))
    return float(text) if kind is float else text
