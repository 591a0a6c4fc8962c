"""Factories for the registry from what a user gave: a model, a task, a rule or the like.

A class is made anew each time, with the values of the run that it takes; a function that makes a
model is called; any other object is copied, so that what it keeps reaches no other use of it.
"""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from attrs import define, field, frozen
from torch import nn

from byzpy_tw.code_names import qualified_name
from byzpy_tw.errors import ConfigError, UnsuitableModel
from byzpy_tw.objects.code_digest import code_digest
from byzpy_tw.objects.data import to_dataset
from byzpy_tw.objects.options import KINDS
from byzpy_tw.plugins.recorded_object import FIRST_WORD, object_text
from byzpy_tw.tasks.function_task import FunctionTask, check_loss_function
from byzpy_tw.text import DIGITS, clip

# Of a dataset, beside its tensors: what decides a run's bits.
_DECIDING = ("classes", "mean", "std", "task", "augment")
_METHODS = ("loss", "measure")  # which tell a task from a loss function


@frozen(eq=False)
class RunObject:
    """An object in the place of an option's name, and how the run makes what it needs of it."""

    option: str
    name: str
    digest: str
    make: Callable[..., Any]
    # The values of the run that `make` is called with; whether it must be.
    takes: Mapping[str, bool] = field(factory=dict)
    first_digest: str = ""  # as the first records have it, where it differs

    @property
    def text(self) -> str:
        """Its value as the option of a run: a name in the records, for no code."""
        return object_text(self.name, self.digest)

    @property
    def first_text(self) -> str:
        """Its value as the first records have it."""
        return object_text(self.name, self.first_digest or self.digest, FIRST_WORD)


def to_run_object(option: str, thing: Any) -> RunObject:
    """Return `thing` as an object for `option`; raises `ConfigError` for the wrong kind."""
    if option == "dataset":
        data = to_dataset(thing)
        name = _word(qualified_name(thing) if inspect.isroutine(thing) else data.name)
        digest = _digest(
            option, name, (type(data), data.digest(), *(getattr(data, what) for what in _DECIDING))
        )
        return RunObject(option, name, digest, lambda: data, first_digest=data.digest()[:DIGITS])
    make, takes = _MAKERS.get(option, _of_rule)(option, thing)
    name = qualified_name(thing)
    return RunObject(option, name, _digest(option, name, thing), make, takes)


def _digest(option: str, name: str, thing: Any) -> str:
    """Return the digest of `thing`, the object called `name` of `option`."""
    try:
        return code_digest(thing)
    except RecursionError:
        raise ConfigError(
            f"{option}={name} uses objects that hold one another too deeply for a digest: give a "
            "class or a function that stands by itself"
        ) from None


def _word(name: str) -> str:
    """The name of a dataset as an option's value may have it."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in name)
    return kept[:60] or "data"


# What the run calls, and the values of the run that it takes: whether it must be given each.
Maker = tuple[Callable[..., Any], Mapping[str, bool]]


def _of_class(option: str, factory: Callable[..., Any]) -> Maker:
    """Return a class, or a function, that is called for each use, with what it takes of the run."""
    name, offered = qualified_name(factory), KINDS[option][1]
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return factory, {}
    known = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    takes = {
        p.name: p.default is p.empty for p in parameters if p.kind in known and p.name in offered
    }
    missing = [
        p.name for p in parameters
        if p.default is p.empty and p.name not in takes
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]  # fmt: skip
    if missing:
        filled = f" (of a run it gets {', '.join(offered)})" if offered else ""
        raise ConfigError(
            f"{option}={name} needs {', '.join(missing)}{filled}: give a function without "
            f"arguments, {option}=lambda: {name}({missing[0]}=...)"
            + (f", or {name}({missing[0]}=...) itself" if option != "model" else "")
        )
    return factory, takes


def _class_of(thing: Any) -> type:
    """Return `thing`, a class, or the class of another object."""
    return thing if isinstance(thing, type) else type(thing)


def _of_model(option: str, thing: Any) -> Maker:
    """Return a class of models, or a function that makes one."""
    if isinstance(thing, nn.Module):
        name = type(thing).__name__
        raise ConfigError(
            f"model= is an instance of {name}: give what makes it, model={name} or "
            f"model=lambda: {name}(...), for its initial values come from the run's seed"
        )
    if not callable(thing):
        raise ConfigError(
            f"model= is a {type(thing).__name__}, expected a class of torch.nn.Module, a function "
            "that makes one, or a name"
        )
    factory, takes = _of_class(option, thing)
    return _NewModel(qualified_name(thing), factory), takes


@define(eq=False)
class _NewModel:
    """Makes a model, and refuses a factory whose models share memory: each is trained alone."""

    name: str
    factory: Callable[..., Any]
    # By id: the parameters and buffers of the last one, for as long as they are alive.
    _before: dict[int, Callable[[], Any]] = field(factory=dict, init=False)

    def __call__(self, **filled: Any) -> Any:
        made = self.factory(**filled)
        if not isinstance(made, nn.Module):
            return made  # `models.building.check` refuses it
        tensors = [*made.named_parameters(), *made.named_buffers()]
        for name, tensor in tensors:
            if self._before.get(id(tensor), lambda: None)() is tensor:
                raise UnsuitableModel(
                    f"{self.name} returned a module whose {name} is that of one before: make all "
                    "of it anew in each call, as in model=lambda: Net(), and of a pretrained part "
                    "a copy.deepcopy"
                )
        self._before = {id(tensor): weakref.ref(tensor) for _, tensor in tensors}
        return made


def _of_task(option: str, thing: Any) -> Maker:
    """Return a task of a user's, or the task of a loss function."""
    if isinstance(thing, type) and issubclass(thing, nn.Module):
        thing = thing()  # such as torch.nn.MSELoss
    if all(callable(getattr(thing, method, None)) for method in _METHODS):
        return _of_class(option, thing) if isinstance(thing, type) else _copied(option, thing)
    if isinstance(thing, type) or not callable(thing):
        kind = thing.__name__ if isinstance(thing, type) else f"a {type(thing).__name__}"
        raise ConfigError(
            f"task= is {kind}, expected a loss function (outputs, targets), an object with the "
            "methods of byzpy_tw.tasks.Task, or a name"
        )
    check_loss_function(thing)
    loss = thing

    def make(classes: int | None = None, target_shape: tuple[int, ...] = ()) -> FunctionTask:
        return FunctionTask(loss, classes, target_shape)

    return make, {"classes": False, "target_shape": False}


def _of_rule(option: str, thing: Any) -> Maker:
    """Return a function or an object that is called, such as an aggregator, or its class."""
    if isinstance(thing, type):
        return _of_class(option, thing)
    if inspect.isroutine(thing):
        return (lambda: thing), {}
    if option in ("aggregator", "pre_aggregator", "attack", "partition") and not callable(thing):
        raise ConfigError(
            f"{option}= is a {type(thing).__name__}, expected a function, an object that can be "
            "called, a class of such, or a name"
        )
    return _copied(option, thing)


def _of_optimizer(option: str, thing: Any) -> Maker:
    """Return an optimizer of vectors, and no optimizer of torch's."""
    kind = _class_of(thing)
    if issubclass(kind, torch.optim.Optimizer):
        raise ConfigError(
            f"optimizer= is torch's {kind.__name__}, which holds one process's parameters: give a "
            "name, such as 'sgd', 'adam' or 'adamw', or an object with the methods begin and step"
        )
    if inspect.isroutine(thing):
        raise ConfigError("optimizer= is a function, expected an object with begin and step")
    return _of_rule(option, thing)


def _of_schedule(option: str, thing: Any) -> Maker:
    """Return a schedule of learning rates, and none of torch's."""
    kind = _class_of(thing)
    cure = (
        "give a name, such as 'cosine', 'linear' or 'milestones', or an object with the method "
        "factor(round, rounds)"
    )
    if issubclass(kind, torch.optim.lr_scheduler.LRScheduler):
        raise ConfigError(
            f"lr_schedule= is torch's {kind.__name__}, which steps one process's optimizer: {cure}"
        )
    if inspect.isroutine(thing):
        raise ConfigError(f"lr_schedule= is a function: {cure}")
    return _of_rule(option, thing)


def _of_algorithm(option: str, thing: Any) -> Maker:
    """Return a class of algorithms, which is made of the run's configuration and rules."""
    if not callable(thing):
        raise ConfigError(
            f"algorithm= is a {type(thing).__name__}, expected a class, such as a subclass of "
            "byzpy_tw.algorithms.Dsgd, or a name"
        )
    return _of_class(option, thing)


_MAKERS: Mapping[str, Callable[[str, Any], Maker]] = {
    "model": _of_model,
    "task": _of_task,
    "optimizer": _of_optimizer,
    "lr_schedule": _of_schedule,
    "algorithm": _of_algorithm,
}


def _copied(option: str, thing: Any) -> Maker:
    """Return copies of `thing`, one for each use."""
    try:
        template = copy.deepcopy(thing)
    except Exception as e:
        why = clip(f"{type(e).__name__}: {e}", 200)
        raise ConfigError(
            f"{option}={qualified_name(thing)} cannot be copied, as each use of it is: {why}; give "
            "its class, or a function of the mathematics alone"
        ) from e
    return (lambda: copy.deepcopy(template)), {}
