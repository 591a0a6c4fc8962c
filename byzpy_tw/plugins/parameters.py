"""The parameters that a factory takes, read from its signature."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from attrs import frozen

from byzpy_tw.errors import BadParameter
from byzpy_tw.plugins.naming import ParsedName, suggest_nearest
from byzpy_tw.plugins.plain import plain
from byzpy_tw.text import clip

# By kind: filled by the process that calls the factory, never by whoever named it.
RESERVED: Mapping[str, frozenset[str]] = {
    "dataset": frozenset({"root"}),
    "model": frozenset({"classes", "shape"}),
}

_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@frozen
class Parameter:
    """One keyword of a factory: its name, annotation and default."""

    name: str
    kind: Any
    default: Any  # inspect.Parameter.empty where there is none
    free: bool = False  # neither its annotation nor its default says what it must be

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def kind_text(self) -> str:
        """The annotation, for a person."""
        return " or ".join(map(_called, _alternatives(self.kind)))

    def read(self, owner: str, text: str) -> Any:
        """The value that `text` stands for; `BadParameter` where it cannot."""
        for kind in _alternatives(self.kind):
            try:
                return _read(kind, text)
            except ValueError:
                continue
        raise BadParameter(f"{owner}: {self.name}={text!r} is not {self.kind_text}")

    @property
    def nullable(self) -> bool:
        """Return whether None is one of its values."""
        return type(None) in _alternatives(self.kind)

    @property
    def writable(self) -> bool:
        """Return whether all its values are numbers and words, which can be written down."""
        return not self.free and all(
            kind in (type(None), bool, int, float, str) or _words(kind)
            for kind in _alternatives(self.kind)
        )

    def fitting(self, owner: str, value: Any) -> Any:
        """`value`, given as an object, as this parameter's kind; `BadParameter` if it is none.

        Objects for a parameter that is not `writable` stay as they are.
        """
        if not self.writable:
            return value
        found = plain(value)
        if isinstance(found, str):
            return self.read(owner, found)
        for kind in _alternatives(self.kind):
            number = isinstance(found, (int, float)) and not isinstance(found, bool)
            if (
                (kind in (bool, type(None)) and type(found) is kind)
                or (kind is int and number and found == found // 1)
                or (kind is float and number)
                or any(type(found) is type(word) and found == word for word in _words(kind))
            ):
                return kind(found) if kind in (int, float) else found
        shown = clip(repr(found)) if isinstance(found, (int, float)) else ""
        got = f"{type(value).__name__} {shown}".rstrip()
        raise BadParameter(f"{owner}: {self.name} must be {self.kind_text}, got {got}")


def parameters_of(kind: str, factory: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword parameters of `factory`, by name, reserved ones left out."""
    reserved = RESERVED.get(kind, frozenset())
    hints = _hints(factory)
    found = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        if name in reserved or parameter.kind in (
            inspect.Parameter.VAR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        ):
            continue
        hint = hints.get(name, _kind_of_default(parameter.default))
        free = name not in hints and not isinstance(parameter.default, (bool, int, float, str))
        found[name] = Parameter(name, hint, parameter.default, free)
    return found


def takes(factory: Callable[..., Any], name: str) -> bool:
    """Whether `factory` has a parameter called `name`."""
    return name in inspect.signature(factory).parameters


def read_arguments(
    named: ParsedName, known: Mapping[str, Parameter], fill: Mapping[str, Any]
) -> dict[str, Any]:
    """Keyword arguments for a factory: what `named` says over what `fill` offers.

    `known` is what the factory takes.  `fill` may offer more than that; what
    `named` says must exist.
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
    """`BadParameter` with the nearest one where `owner` has no parameter `key`."""
    if key not in known:
        raise BadParameter(
            f"{owner!r} has no parameter {key!r}{suggest_nearest(key, known)} "
            f"(it takes: {', '.join(known) or 'none'})"
        )


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    try:
        if isinstance(factory, type):
            hints = typing.get_type_hints(factory)
            if attrs.has(factory):
                return {
                    f.alias or f.name: hints.get(f.name, str)
                    for f in attrs.fields(factory)
                    if f.name in hints
                }
            return {**hints, **typing.get_type_hints(factory.__init__)}
        return typing.get_type_hints(factory)
    except Exception:
        # A plugin's annotation that does not resolve: its defaults still tell.
        return {}


def _kind_of_default(default: Any) -> Any:
    if isinstance(default, (bool, int, float, str)):
        return type(default)
    return str


def _alternatives(kind: Any) -> list[Any]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        # int before float, so that 3 stays an int where both are allowed; str last.
        order = {type(None): 0, bool: 1, int: 2, float: 3}
        return sorted(typing.get_args(kind), key=lambda k: order.get(k, 4))
    return [kind]


def _called(kind: Any) -> str:
    if kind is type(None):
        return "none"
    return " or ".join(map(str, _words(kind))) or getattr(kind, "__name__", str(kind))


def _words(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()


def _read(kind: Any, text: str) -> Any:
    if kind is type(None):
        if text.lower() != "none":
            raise ValueError(text)
        return None
    if words := _words(kind):
        for word in words:
            if str(word) == text:
                return word
        raise ValueError(text)
    if kind is bool:
        if text.lower() not in _WORDS:
            raise ValueError(text)
        return _WORDS[text.lower()]
    if kind is int:
        try:
            return int(text)
        except ValueError:
            number = float(text)
            if not number.is_integer():
                raise
            return int(number)
    if kind is float:
        return float(text)
    return text
