"""A digest of code and of the values it uses, equal in every process that has the same code.

Of a function: its bytecode, defaults, closure, and the globals that it names; of a class: its
bases and everything in it; of another object: its class and its state.  What comes from a library
counts by its name alone.  Addresses, file names, line numbers and the order of a set do not matter;
another version of Python compiles to other bytecode.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from attrs import define, field
from torch import Tensor

from byzpy_tw.vectors import sha256_of

DIGITS = 12  # of a digest in an option's text
_MOST = 20_000  # objects that one digest looks at
_SCALARS = (bool, int, float, complex, str, bytes, type(None))
# Entries of a class that are Python's, or say where it stands.
_NO_CODE = frozenset(
    {"__module__", "__qualname__", "__dict__", "__weakref__", "__doc__", "__firstlineno__",
     "__static_attributes__", "__annotations__", "__annotate__", "__hash__", "_abc_impl",
     "__abstractmethods__"}
)  # fmt: skip
_BY_NAME = (
    types.ModuleType, types.BuiltinFunctionType, types.MethodDescriptorType,
    types.WrapperDescriptorType,
)  # fmt: skip
_BY_TEXT = (slice, range, bytearray, PurePath, torch.dtype, torch.device)
# Of a function's flags: its kinds of arguments, generator, coroutine; not how it was compiled.
_KINDS = 0x3FF & ~inspect.CO_NESTED & ~inspect.CO_NOFREE
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_LIBRARY_FOLDERS = ("site-packages", "dist-packages")
# Packages whose objects have a state that matters, such as the settings of a loss.
_STATEFUL = frozenset({"torch", "torchvision", "byzpy_tw", "attr", "attrs", "transformers", "peft"})


def code_digest(thing: Any) -> str:
    """The first hex digits of the digest of `thing` and of all that it uses."""
    return _Digest().of(thing).hex()[:DIGITS]


def _is_library(module: str | None) -> bool:
    """Return whether the module called `module` is of Python, of this package or installed."""
    package = (module or "").split(".")[0]
    if package in sys.stdlib_module_names and package != "__main__":
        return True
    path = getattr(sys.modules.get(package), "__file__", None) or ""
    return package == "byzpy_tw" or any(f"/{name}/" in path for name in _LIBRARY_FOLDERS)


@define(eq=False)
class _Digest:
    # By id: the number of an object that was begun before, which stays alive meanwhile.
    _seen: dict[int, tuple[int, Any]] = field(factory=dict)

    def of(self, thing: Any) -> bytes:
        found = hashlib.sha256()
        for part in self._parts(thing):
            piece = part if isinstance(part, bytes) else self.of(part)
            found.update(len(piece).to_bytes(8, "little") + piece)
        return found.digest()

    def _parts(self, thing: Any) -> Iterable[Any]:
        """The parts of `thing`: bytes, or objects of which each has a digest of its own."""
        kind = type(thing)
        if isinstance(thing, Enum):
            return (kind.__name__.encode(), thing.name.encode())
        if kind in _SCALARS:
            text = thing.hex() if kind is float else repr(thing)
            return (kind.__name__.encode(), text.encode("utf-8", "surrogatepass"))
        if isinstance(thing, tuple):
            return (b"tuple", *thing)
        if isinstance(thing, (set, frozenset)):
            return (b"set", *sorted(_Digest().of(item) for item in thing))
        if isinstance(thing, types.CodeType):
            return self._code(thing)
        if (before := self._seen.get(id(thing))) is not None:
            return (b"again", str(before[0]).encode())
        if len(self._seen) >= _MOST:
            return (b"more",)
        self._seen[id(thing)] = (len(self._seen), thing)
        return self._object(thing)

    def _code(self, code: types.CodeType) -> Iterable[Any]:
        names = (code.co_names, code.co_freevars, code.co_cellvars)
        counts = (
            code.co_argcount,
            code.co_posonlyargcount,
            code.co_kwonlyargcount,
            code.co_flags & _KINDS,
        )
        return (b"code", code.co_code, code.co_consts, *names, counts, code.co_exceptiontable)

    def _object(self, thing: Any) -> Iterable[Any]:
        if isinstance(thing, _BY_NAME):
            return (b"name", getattr(thing, "__qualname__", thing.__name__).encode())
        if isinstance(thing, _BY_TEXT):
            return (b"text", type(thing).__name__.encode(), str(thing).encode())
        if isinstance(thing, Tensor):
            readable = thing.layout is torch.strided and thing.device.type != "meta"
            content = sha256_of(thing.detach().reshape(-1)) if readable else str(thing.dtype)
            return (b"tensor", tuple(thing.shape), content)
        if isinstance(thing, np.generic):
            return (b"scalar", str(thing.dtype).encode(), thing.tobytes())
        if isinstance(thing, np.ndarray):
            if thing.dtype.hasobject:
                return (b"array", thing.shape, thing.tolist())
            flat = np.ascontiguousarray(thing).reshape(-1).view(np.uint8)
            return (
                b"array",
                str(thing.dtype).encode(),
                thing.shape,
                hashlib.sha256(flat.data).digest(),
            )
        if isinstance(thing, list):
            return (b"list", *thing)
        if isinstance(thing, Mapping):
            return (b"dict", *(part for _, pair in self._sort_by_key(thing) for part in pair))
        if isinstance(thing, functools.partial):
            return (b"partial", thing.func, thing.args, thing.keywords)
        if isinstance(thing, types.MethodType):
            return (b"method", thing.__func__, thing.__self__)
        if isinstance(thing, (staticmethod, classmethod)):
            return (b"function", thing.__func__)
        if isinstance(thing, property):
            return (b"property", thing.fget, thing.fset, thing.fdel)
        if isinstance(thing, functools._lru_cache_wrapper):
            return (b"function", thing.__wrapped__)
        if isinstance(thing, type):
            return self._class(thing)
        if isinstance(thing, types.FunctionType):
            return self._function(thing)
        return self._instance(thing)

    def _sort_by_key(self, mapping: Mapping[Any, Any]) -> list[tuple[bytes, tuple[Any, Any]]]:
        pairs = [(_Digest().of(key), (key, value)) for key, value in mapping.items()]
        return sorted(pairs, key=lambda pair: pair[0])

    def _class(self, kind: type) -> Iterable[Any]:
        if _is_library(kind.__module__):
            return (b"name", kind.__module__.encode(), kind.__qualname__.encode())
        own = {
            name: value for name, value in vars(kind).items()
            if name not in _NO_CODE and not isinstance(value, _SLOTS)
        }  # fmt: skip
        return (b"class", kind.__name__.encode(), kind.__bases__, own)

    def _function(self, function: types.FunctionType) -> Iterable[Any]:
        if _is_library(function.__module__):
            return (b"name", function.__module__.encode(), function.__qualname__.encode())
        cells = [_content(cell) for cell in function.__closure__ or ()]
        used = {
            name: function.__globals__[name]
            for name in _global_names(function.__code__) if name in function.__globals__
        }  # fmt: skip
        modules = _own_modules(function, [*cells, *used.values()])
        defaults = (function.__defaults__, function.__kwdefaults__)
        return (b"function", function.__code__, *defaults, cells, used, *modules)

    def _instance(self, thing: Any) -> Iterable[Any]:
        kind = type(thing)
        module = kind.__module__.split(".")[0]
        if _is_library(kind.__module__) and module not in _STATEFUL:
            return (b"instance", kind, str(getattr(thing, "__name__", "")))
        slots = (
            name for base in kind.__mro__ for name, value in vars(base).items()
            if isinstance(value, types.MemberDescriptorType)
        )  # fmt: skip
        state = {name: getattr(thing, name) for name in slots if hasattr(thing, name)}
        return (b"instance", kind, {**state, **getattr(thing, "__dict__", {})})


def _own_modules(function: types.FunctionType, used: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Yield what `function` may read of modules that are no library's: the names in its code."""
    names = _names(function.__code__)
    waiting = [thing for thing in used if isinstance(thing, types.ModuleType)]
    waiting += [sys.modules[name] for name in _imports(function.__code__) if name in sys.modules]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop(0)
        if module.__name__ in seen or _is_library(module.__name__):
            continue
        seen.add(module.__name__)
        found = {name: getattr(module, name) for name in names if hasattr(module, name)}
        waiting += [thing for thing in found.values() if isinstance(thing, types.ModuleType)]
        yield found


def _names(code: types.CodeType) -> list[str]:
    """The names of globals, attributes and modules in `code` and the functions within it."""
    inner = (_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return sorted(set(code.co_names).union(*inner))


def _imports(code: types.CodeType) -> list[str]:
    """The names of the modules that `code` and the functions within it import."""
    found = {str(s.argval) for s in dis.get_instructions(code) if s.opname == "IMPORT_NAME"}
    inner = (_imports(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return sorted(found.union(*inner))


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty yet
        return None


def _global_names(code: types.CodeType) -> list[str]:
    """The names of globals that `code` and the functions within it read, in order."""
    found = {
        str(step.argval) for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }  # fmt: skip
    inner = (_global_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return sorted(found.union(*inner))


def qualified_name(thing: Any) -> str:
    """The name of code, or of an object's class, as an option's value may have it."""
    thing = inspect.unwrap(thing) if isinstance(thing, types.FunctionType) else thing
    while isinstance(thing, functools.partial):
        thing = thing.func
    if getattr(thing, "__name__", "") == "<lambda>":  # which has the name of what it makes
        used = (thing.__globals__.get(name) for name in _global_names(thing.__code__))
        thing = next((kind for kind in used if isinstance(kind, type)), thing)
    named: Callable[..., Any] = thing if hasattr(thing, "__qualname__") else type(thing)
    words = "".join(c if c.isascii() and c.isalnum() else " " if c in "<>." else "_"
                    for c in named.__qualname__).split()  # fmt: skip
    return ".".join(word for word in words if word != "locals")[-60:].lstrip(".") or "code"
