"""Names in the code of functions, and the names of such code for messages and records."""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any


def qualified_name(thing: Any) -> str:
    """The name of code, or of an object's class, as an option's value may have it."""
    thing = inspect.unwrap(thing) if isinstance(thing, types.FunctionType) else thing
    while isinstance(thing, functools.partial):
        thing = thing.func
    if getattr(thing, "__name__", "") == "<lambda>":  # which has the name of what it makes
        used = (thing.__globals__.get(name) for name in globals_in(thing.__code__))
        thing = next((kind for kind in used if isinstance(kind, type)), thing)
    named: Callable[..., Any] = thing if hasattr(thing, "__qualname__") else type(thing)
    words = "".join(c if c.isascii() and c.isalnum() else " " if c in "<>." else "_"
                    for c in named.__qualname__).split()  # fmt: skip
    return ".".join(word for word in words if word != "locals")[-60:].lstrip(".") or "code"


def names_in(code: types.CodeType) -> list[str]:
    """The names of globals, attributes and modules in `code` and the functions within it."""
    inner = (names_in(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return sorted(set(code.co_names).union(*inner))


def imports_in(code: types.CodeType) -> list[str]:
    """The names of the modules that `code` and the functions within it import."""
    found = {str(s.argval) for s in dis.get_instructions(code) if s.opname == "IMPORT_NAME"}
    inner = (imports_in(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return sorted(found.union(*inner))


def globals_in(code: types.CodeType) -> list[str]:
    """The names of globals that `code` and the functions within it read, in order."""
    found = {
        str(step.argval) for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }  # fmt: skip
    inner = (globals_in(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return sorted(found.union(*inner))
