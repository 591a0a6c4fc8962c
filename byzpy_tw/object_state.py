"""The state of foreign objects: everything that a model, a rule or an attack keeps between calls.

Nodes are rebuilt anywhere, and threads share objects.  So an object that its calls change is
either copied for each call, or refused.  `snapshot` visits everything that is reachable from an
object: its attributes, containers, closures and bound methods, the attributes of its classes,
and the globals of the modules that define them.
"""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import random
import sys
import types
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from itertools import islice
from operator import length_hint
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor, nn

from byzpy_tw.text import clip

_MAX_OBJECTS = 50_000  # of one snapshot
_MAX_ENTRIES = 1000  # of one container
_MAX_DIGESTED = 1 << 20  # elements of a tensor that is read
_SCALARS = (bool, int, float, complex, str, bytes, type(None), Enum)
_CACHES = (type(functools.lru_cache(int)),)
_CONTAINERS = (list, tuple, set, frozenset, deque)
_LIBRARIES = frozenset(sys.stdlib_module_names) | {
    "byzpy_tw", "torch", "torchvision", "numpy", "scipy", "attr", "attrs", "pluggy", "twisted",
    "transformers", "peft",  # a walk through their globals would import hundreds of models
    "hypothesis", "pytest",  # the former counts the seconds of each collection of garbage
}  # fmt: skip
# Modules of the standard library whose objects hold others.
_HOLDERS = frozenset({"types", "argparse", "collections", "queue", "array", "string"})
# Modules whose objects stand for a resource of the process, which copies share.
_HANDLES = frozenset({"_thread", "threading", "_io", "io", "logging", "socket"})
# Attributes of a module that are torch's own, and that a forward pass does not use.
_TORCH_PARTS = frozenset({"_parameters", "_buffers", "_modules", "training"})
_MODULES = frozenset(vars(nn.Module()))  # all attributes that are torch's own
# Modules whose attributes are not Python's and cannot be read.
_COMPILED = ("RecursiveScriptModule", "ScriptModule", "TopLevelTracedModule", "OptimizedModule")


@frozen(eq=False)
class StateEntry:
    """One reachable object, which stays alive, and its content.

    ``content`` is comparable: a scalar's value, a digest of a tensor's numbers, a container's
    length, a generator's state.  ``shared``: it is below globals and classes, which copies share.
    """

    thing: Any
    content: Any
    shared: bool


Snapshot = Mapping[str, StateEntry]
Part = tuple[str, Any, bool]  # a path, the object there, and whether all copies share it


@frozen
class Changes:
    """Paths at which two snapshots of an object differ.

    ``memory``: numbers and contents that differ, such as a count or a running mean.
    ``grown``: containers of another length.  ``replaced``: other objects in the place of
    earlier ones, such as activations.  ``shared``: paths of any kind in globals and classes.
    """

    memory: tuple[str, ...] = ()
    grown: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()

    @property
    def own(self) -> tuple[str, ...]:
        """All but ``shared``."""
        return (*self.memory, *self.grown, *self.replaced)

    def __bool__(self) -> bool:
        return bool(self.own or self.shared)


def snapshot(root: Any) -> Snapshot:
    """Everything that calls of `root` may change, by path; not modules' parameters and buffers."""
    found: dict[str, StateEntry] = {}
    seen: set[int] = set()
    waiting: deque[Part] = deque([("", root, False)])
    while waiting and len(found) < _MAX_OBJECTS:
        path, thing, shared = waiting.popleft()
        mutable = not isinstance(thing, _SCALARS)
        if mutable and id(thing) in seen:
            continue
        seen.add(id(thing))
        if path:
            found[path] = StateEntry(thing, _content(thing), shared)
        if mutable:
            room = max(0, _MAX_OBJECTS - len(found) - len(waiting))
            for below, part, of_class in islice(_parts(path, thing), room):
                waiting.append((below, part, shared or of_class))
    return found


def compare_snapshots(before: Snapshot, after: Snapshot) -> Changes:
    """The differences between two snapshots of one object, each path once."""
    found: dict[str, list[str]] = defaultdict(list)  # by the field of `Changes`
    for path in dict.fromkeys([*before, *after]):
        old, new = before.get(path), after.get(path)
        kind = "replaced"
        if old is not None and new is not None:
            alike = old.content == new.content or old.content != old.content  # nan
            if alike and (old.thing is new.thing or isinstance(old.thing, _SCALARS)):
                continue
            if not alike:
                kind = "grown" if isinstance(new.thing, (*_CONTAINERS, dict)) else "memory"
        there = after[path] if old is None else old
        found["shared" if there.shared else kind].append(path)
    return Changes(**{kind: tuple(paths) for kind, paths in found.items()})


class Copier:
    """Copies an object.  Copies share its tensors and nothing else.

    Changes by a call are lost with its copy, and the object itself is never called.  Raises
    `TypeError` where the object cannot be copied.
    """

    def __init__(self, template: Any) -> None:
        self._template = template
        things = [template, *(entry.thing for entry in snapshot(template).values())]
        self._shared: dict[int, Any] = {}
        for thing in things:
            if isinstance(thing, nn.Module):
                self._shared |= {id(t): t for t in (*thing.parameters(), *thing.buffers())}
            elif isinstance(thing, Tensor) or type(thing).__module__ in _HANDLES:
                self._shared[id(thing)] = thing
        self()  # raises now, not in a round

    def __call__(self) -> Any:
        """One more copy; thread-safe."""
        return copy.deepcopy(self._template, dict(self._shared))


def holds_compiled(root: Any) -> bool:
    """Return whether `root` is or holds a compiled or scripted module, which is not copied."""
    modules = root.modules() if isinstance(root, nn.Module) else ()
    return any(type(module).__name__ in _COMPILED for module in modules)


def tensor_digest(tensor: Tensor) -> tuple[Any, ...]:
    """A cheap digest of a tensor's numbers, equal for equal bits."""
    plain = tensor.detach()
    odd = plain.layout is not torch.strided or plain.is_nested
    if odd or plain.is_meta or plain.is_quantized:
        return (str(plain.layout), str(plain.dtype))
    plain = plain.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    if not plain.numel():
        return (tuple(tensor.shape), str(tensor.dtype))
    if plain.storage_offset() * plain.element_size() % 8:
        plain = plain.clone()  # aligned to words of eight bytes
    raw = plain.as_strided((plain.numel(),), (1,)).view(torch.uint8)  # one number has any stride
    whole = len(raw) // 8 * 8
    words = raw[:whole].view(torch.int64)
    # Sums of parts, and of every few words, tell most permutations apart.
    sums = [int(part.sum()) for part in (*words.chunk(8), *(words[i::7] for i in range(2)))]
    return (tuple(tensor.shape), str(tensor.dtype), *sums, *raw[whole:].tolist())


def _parts(path: str, thing: Any) -> Iterator[Part]:
    """Yield everything directly below `thing`."""
    if isinstance(thing, (type, types.FunctionType)) and _is_library(thing.__module__):
        return
    if isinstance(thing, (Tensor, np.ndarray, types.ModuleType)):
        return
    dot = f"{path}." if path else ""
    if isinstance(thing, dict):
        for key, value in list(islice(thing.items(), _MAX_ENTRIES)):
            yield f"{path}[{_short_repr(key)}]", value, False
    elif isinstance(thing, _CONTAINERS):
        for i, value in enumerate(list(islice(thing, _MAX_ENTRIES))):
            yield f"{path}[{i}]", value, False
    elif isinstance(thing, _CACHES):  # their results
        for i, held in enumerate(gc.get_referents(thing)):
            yield f"{path} (cached {i})", held, False
    elif isinstance(thing, type):
        yield from _class_parts(thing)
    else:
        for name, value in _attributes(thing):
            yield f"{dot}{name}", value, False
        if isinstance(thing, types.FunctionType):
            yield from _globals_used(thing.__module__, _names_in(thing.__code__))
        for base in type(thing).__mro__:
            if not _is_library(base.__module__):
                yield f"{dot}__class__", base, True


def _class_parts(kind: type) -> Iterator[Part]:
    for name, value in list(vars(kind).items()):
        method = getattr(value, "__func__", value)  # of a class or a static method
        method = method.fget if isinstance(method, property) else method
        if isinstance(method, types.FunctionType):
            yield from _globals_used(method.__module__, _names_in(method.__code__))
        elif not name.startswith("__"):
            yield f"{kind.__qualname__}.{name}", value, True


def _globals_used(
    module: str | None, names: Collection[str], *, further: bool = True
) -> Iterator[Part]:
    """Yield the globals of a foreign module that its code uses."""
    there = vars(sys.modules[module]) if module in sys.modules else {}
    for name in names:
        value = there.get(name)
        if isinstance(value, types.ModuleType):
            if further and not _is_library(value.__name__):  # as in ``ops.CACHE``
                yield from _globals_used(value.__name__, names, further=False)
        elif name in there:
            yield f"{module}.{name}", value, True


def _names_in(code: types.CodeType) -> set[str]:
    """The global names that `code`, and functions within it, use."""
    inner = (_names_in(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*inner)


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield all that `thing` holds by a name, such as the variables of a closure."""
    if isinstance(thing, types.GeneratorType):
        yield from inspect.getgeneratorlocals(thing).items()
    elif isinstance(thing, functools.partial):
        yield from (("func", thing.func), ("args", thing.args), ("keywords", thing.keywords))
    elif isinstance(thing, types.MethodType):
        yield from (("__self__", thing.__self__), ("__func__", thing.__func__))
    elif isinstance(thing, types.FunctionType):
        for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or ()):
            with suppress(ValueError):  # not set yet
                yield name, cell.cell_contents
        yield from list(vars(thing).items())
    else:
        yield from _object_attributes(thing)


def _object_attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    kind, module = type(thing), isinstance(thing, nn.Module)
    # Of libraries' objects only torch's modules and their hooks: a logger reaches everything.
    opened = (
        module
        or not _is_library(kind.__module__)
        or kind.__module__ in _HOLDERS
        or kind.__module__.startswith("torch.nn.")
    )
    if opened and not (module and kind.__name__ in _COMPILED):
        for name, value in list(getattr(thing, "__dict__", {}).items()):
            # Torch's own entries only where they are not empty, such as hooks.
            if not (module and (name in _TORCH_PARTS or (name in _MODULES and not value))):
                yield name, value
        for base in kind.__mro__:
            slots = vars(base).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if name not in ("__dict__", "__weakref__") and hasattr(thing, name):
                    yield name, getattr(thing, name)
    if module:
        yield from thing.named_children()


def _is_library(module: str | None) -> bool:
    return str(module).partition(".")[0] in _LIBRARIES


def _content(thing: Any) -> Any:
    for kinds, read in _READERS:
        if isinstance(thing, kinds):
            return read(thing)
    if isinstance(thing, Iterator) and not hasattr(thing, "__dict__"):
        return _iterator_position(thing)
    return None


def _tensor_content(tensor: Tensor) -> Any:
    if tensor.numel() <= _MAX_DIGESTED:
        return tensor_digest(tensor)
    return (tuple(tensor.shape), None if tensor.is_inference() else tensor._version)


def _array_content(array: np.ndarray) -> Any:
    readable = array.nbytes <= 4 * _MAX_DIGESTED and array.dtype != object
    return array.tobytes() if readable else None


# Readers of an object's content, by its type: the first that fits.
_READERS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (_SCALARS, lambda scalar: scalar),
    ((dict, *_CONTAINERS), len),
    # The run itself changes trained ones.
    (nn.Parameter, lambda leaf: None if leaf.requires_grad else _tensor_content(leaf)),
    (Tensor, _tensor_content),
    (np.ndarray, _array_content),
    (np.random.Generator, lambda generator: repr(generator.bit_generator.state)),
    (np.random.RandomState, lambda state: repr(state.get_state(legacy=True))),
    (_CACHES, lambda cache: cache.cache_info().currsize),
    (types.GeneratorType, lambda g: None if g.gi_frame is None else g.gi_frame.f_lasti),
    (bytearray, lambda data: bytes(data[:_MAX_DIGESTED])),
    ((memoryview, array), lambda data: data.tobytes()),
    (random.Random, lambda generator: generator.getstate()),
    (torch.Generator, lambda generator: generator.get_state().numpy().tobytes()),
)


def _iterator_position(iterator: Any) -> str | None:
    """The position of a built-in iterator, where it can be read."""
    if type(iterator).__module__ not in ("builtins", "itertools"):
        return None
    with suppress(Exception):  # it cannot
        place = [part for part in iterator.__reduce__() if isinstance(part, int)]
        return f"{place} {length_hint(iterator, -1)} {'' if place else str(iterator)[:60]}"
    return None


def _short_repr(key: Any) -> str:
    return clip(repr(key) if isinstance(key, _SCALARS) else type(key).__name__, 40)
