"""A digest of code and of the values it uses, equal in every process that has the same code.

Of a function: its bytecode, defaults, closure, and the globals that it names; of a class: its
bases and everything in it; of another object: its class and its state.  What comes from a library
counts by its name alone.  Addresses, file names, line numbers and the order of a set do not matter;
another version of Python compiles to other bytecode.
"""

from __future__ import annotations

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

from byzpy_tw.code_names import globals_in, imports_in, names_in
from byzpy_tw.text import DIGITS
from byzpy_tw.vectors import sha256_of

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
# Modules of this package, as they were called when the first digests were recorded.
_RECORDED_NAMES = {
    "byzpy_tw.models.weight_files": "byzpy_tw.models.value_files",
    "byzpy_tw.tasks.function_task": "byzpy_tw.given.function_task",
}
_LIBRARY_FOLDERS = ("site-packages", "dist-packages")
# Packages whose objects have a state that matters, such as the settings of a loss.
_STATEFUL = frozenset({"torch", "torchvision", "byzpy_tw", "attr", "attrs", "transformers", "peft"})


def code_digest(thing: Any) -> str:
    """The first hex digits of the digest of `thing` and of all that it uses."""
    return _Digest().of(thing).hex()[:DIGITS]


def _recorded_name(name: str) -> bytes:
    """Return the name of code of a library as digests have it."""
    return _RECORDED_NAMES.get(name, name).encode()


def _is_library(module: str | None) -> bool:
    """Return whether the module called `module` is of Python, of this package or installed."""
    package = (module or "").split(".")[0]
    if package in sys.stdlib_module_names and package != "__main__":
        return True
    path = getattr(sys.modules.get(package), "__file__", None) or ""
    return package == "byzpy_tw" or any(f"/{name}/" in path for name in _LIBRARY_FOLDERS)


@define(eq=False)
class _Digest:
    """The digest of one object, and of those that it is made of, each begun once."""

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
        for kinds, read in _READERS:
            if isinstance(thing, kinds):
                return read(self, thing)
        return self._instance(thing)

    def _name(self, thing: Any) -> Iterable[Any]:
        return (b"name", _recorded_name(getattr(thing, "__qualname__", thing.__name__)))

    def _tensor(self, tensor: Tensor) -> Iterable[Any]:
        readable = tensor.layout is torch.strided and tensor.device.type != "meta"
        content = sha256_of(tensor.detach().reshape(-1)) if readable else str(tensor.dtype)
        return (b"tensor", tuple(tensor.shape), content)

    def _array(self, array: np.ndarray) -> Iterable[Any]:
        if array.dtype.hasobject:
            return (b"array", array.shape, array.tolist())
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        content = hashlib.sha256(flat.data).digest()
        return (b"array", str(array.dtype).encode(), array.shape, content)

    def _dict(self, mapping: Mapping[Any, Any]) -> Iterable[Any]:
        return (b"dict", *(part for _, pair in self._sort_by_key(mapping) for part in pair))

    def _sort_by_key(self, mapping: Mapping[Any, Any]) -> list[tuple[bytes, tuple[Any, Any]]]:
        pairs = [(_Digest().of(key), (key, value)) for key, value in mapping.items()]
        return sorted(pairs, key=lambda pair: pair[0])

    def _class(self, kind: type) -> Iterable[Any]:
        if _is_library(kind.__module__):
            return (b"name", _recorded_name(kind.__module__), kind.__qualname__.encode())
        own = {
            name: value for name, value in vars(kind).items()
            if name not in _NO_CODE and not isinstance(value, _SLOTS)
        }  # fmt: skip
        return (b"class", kind.__name__.encode(), kind.__bases__, own)

    def _function(self, function: types.FunctionType) -> Iterable[Any]:
        if _is_library(function.__module__):
            return (b"name", _recorded_name(function.__module__), function.__qualname__.encode())
        cells = [_content(cell) for cell in function.__closure__ or ()]
        used = {
            name: function.__globals__[name]
            for name in globals_in(function.__code__) if name in function.__globals__
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


_READERS: tuple[tuple[Any, Callable[[_Digest, Any], Iterable[Any]]], ...] = (
    (_BY_NAME, _Digest._name),
    (_BY_TEXT, lambda _, thing: (b"text", type(thing).__name__.encode(), str(thing).encode())),
    (Tensor, _Digest._tensor),
    (np.generic, lambda _, scalar: (b"scalar", str(scalar.dtype).encode(), scalar.tobytes())),
    (np.ndarray, _Digest._array),
    (list, lambda _, things: (b"list", *things)),
    (Mapping, _Digest._dict),
    (functools.partial, lambda _, thing: (b"partial", thing.func, thing.args, thing.keywords)),
    (types.MethodType, lambda _, method: (b"method", method.__func__, method.__self__)),
    ((staticmethod, classmethod), lambda _, thing: (b"function", thing.__func__)),
    (property, lambda _, thing: (b"property", thing.fget, thing.fset, thing.fdel)),
    (functools._lru_cache_wrapper, lambda _, cached: (b"function", cached.__wrapped__)),
    (type, _Digest._class),
    (types.FunctionType, _Digest._function),
)  # fmt: skip


def _own_modules(function: types.FunctionType, used: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Yield what `function` may read of modules that are no library's: the names in its code."""
    names = names_in(function.__code__)
    waiting = [thing for thing in used if isinstance(thing, types.ModuleType)]
    waiting += [sys.modules[name] for name in imports_in(function.__code__) if name in sys.modules]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop(0)
        if module.__name__ in seen or _is_library(module.__name__):
            continue
        seen.add(module.__name__)
        found = {name: getattr(module, name) for name in names if hasattr(module, name)}
        waiting += [thing for thing in found.values() if isinstance(thing, types.ModuleType)]
        yield found


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty yet
        return None
