"""Arithmetic of options: ``20 - num-byz``, for values that follow from others.

Whole numbers, decimal numbers, names of options, ``+ - * //`` and brackets.  A text is parsed by
`ast`, and nothing else than that is computed.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from byzpy_tw.config.merge import OPTIONS, find_option
from byzpy_tw.config.validators import toml_key
from byzpy_tw.errors import ConfigError
from byzpy_tw.parameters import quote
from byzpy_tw.text import clip

_MOST = 200  # characters
_LARGEST = 2**63  # beyond it no option has a value
_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
# The longest name first: lr-decay is no difference of two options.
_KEYS = sorted((toml_key(name) for name in OPTIONS if "_" in name), key=len, reverse=True)
_HYPHENATED = re.compile(rf"(?<!\w)({'|'.join(_KEYS)})(?!\w)")
_WORD = re.compile(r"[A-Za-z_][\w-]*")


@frozen
class Expression:
    """A parsed text, with the options that it names."""

    text: str
    names: tuple[str, ...]
    _tree: ast.expr

    def value(self, options: Mapping[str, Any]) -> int | float:
        """Return the value where options are as in `options`; raises `ConfigError`."""
        try:
            found = _compute(self._tree, options)
        except ZeroDivisionError:
            raise ConfigError(f"{self.text!r} divides by zero{self._where(options)}") from None
        except OverflowError:  # of a float and an integer that none can hold
            found = _LARGEST
        except _NotANumber as e:
            raise ConfigError(
                f"{self.text!r}: {toml_key(str(e))} is no number but "
                f"{quote(options[str(e)])}; only numbers can be computed with"
            ) from None
        if not -_LARGEST < found < _LARGEST:
            raise ConfigError(f"{self.text!r} is too large a number{self._where(options)}")
        return found

    def _where(self, options: Mapping[str, Any]) -> str:
        told = ", ".join(f"{toml_key(name)} = {options[name]}" for name in self.names)
        return f" where {told}" if told else ""


def parse_expression(text: Any) -> Expression:
    """Parse `text`; raises `ConfigError` for anything but the arithmetic above."""
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"must be arithmetic in quotes, as '20 - num-byz', got {quote(text)}")
    if len(text) > _MOST:
        raise ConfigError(f"{clip(text)!r} has {len(text)} characters, and at most {_MOST} can be")
    plain = _HYPHENATED.sub(lambda found: found[0].replace("-", "_"), text.strip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 1if and the like, which is refused below
            tree = ast.parse(plain, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ConfigError(f"{text!r} is no arithmetic; write it as '20 - num-byz'") from None
    names: dict[str, None] = {}
    for node in ast.walk(tree):
        _check_node(node, text)
        if isinstance(node, ast.Name):
            names[_option(node.id, text)] = None
    return Expression(text, tuple(names), tree)


def _option(name: str, text: str) -> str:
    """Return the option called `name` in `text`; raises `ConfigError` with the nearest one."""
    if name in OPTIONS:
        return name
    written = (word for word in _WORD.findall(text) if name in word.split("-"))
    try:
        return find_option(next(written, name)).name
    except ConfigError as e:
        raise ConfigError(f"{text!r}: {e}") from None


class _NotANumber(Exception):
    """An option whose value is no number."""


def _check_node(node: ast.AST, text: str) -> None:
    """Raise `ConfigError` for a part of an expression that is not computed."""
    if isinstance(node, ast.Constant):
        value: Any = node.value
        known = type(value) in (int, float) and abs(value) < _LARGEST
    elif isinstance(node, ast.BinOp):
        known = type(node.op) in _OPERATORS
    elif isinstance(node, ast.UnaryOp):
        known = isinstance(node.op, ast.USub | ast.UAdd)
    else:
        known = isinstance(node, ast.Name | ast.operator | ast.unaryop | ast.expr_context)
    if not known:
        raise ConfigError(
            f"{text!r} is more than arithmetic: numbers, options' names, + - * // and brackets"
        )


def _compute(node: ast.expr, options: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.BinOp):
        left, right = _compute(node.left, options), _compute(node.right, options)
        return _OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp):
        value = _compute(node.operand, options)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Constant):
        return node.value
    assert isinstance(node, ast.Name)
    value = options[node.id]
    if type(value) not in (int, float):
        raise _NotANumber(node.id)
    return value
