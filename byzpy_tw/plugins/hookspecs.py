"""The points at which other distributions may join in.

A plugin is any importable object with ``@hookimpl`` functions, named by an
entry point in the group ``byzpy_tw``.  Hooks that register things are called
once per process, when the first name is looked up, and must do no I/O.
Observers are called during a run, in a thread of their own, and cannot stop
it: what they raise is logged once and forgotten.

``docs/hooks.md`` documents each hook, with an example.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from attrs import field, frozen
from pluggy import HookimplMarker, HookspecMarker

GROUP = "byzpy_tw"

hookspec = HookspecMarker(GROUP)
hookimpl = HookimplMarker(GROUP)

NAME = r"[a-z0-9]+(-[a-z0-9]+)*"
_LONGEST = 64  # characters of a name that a user can write


def _names(given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):  # it would be taken for a row of one-letter names
        raise TypeError(f"aliases must be a list of names, got {given!r}")
    try:
        return tuple(given)
    except TypeError:
        raise TypeError(f"aliases must be a list of names, got {given!r:.80}") from None


def _check_name(name: Any, what: str = "a name") -> None:
    if not isinstance(name, str):
        raise TypeError(f"{what} is text, such as 'my-rule', got {type(name).__name__}")
    if re.fullmatch(NAME, name) and len(name) <= _LONGEST:
        return
    if len(name) > _LONGEST:
        raise ValueError(f"{what} has at most {_LONGEST} characters, got {len(name)}")
    spelt = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
    better = re.sub(r"[^a-z0-9]+", "-", spelt).strip("-") or "my-rule"
    raise ValueError(
        f"{what} is lower-case words and digits joined by hyphens, such as {better!r}, got {name!r}"
    )


def _name(_: Any, attribute: attrs.Attribute[str], value: Any) -> None:
    _check_name(value)


def _aliases(_: Any, attribute: attrs.Attribute[tuple[str, ...]], value: Any) -> None:
    for name in value:
        _check_name(name, "an alias")


def _factory(owner: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not callable(value):
        raise TypeError(
            f"the factory of {owner.name!r} must be a class or a function, got "
            f"{type(value).__name__}"
        )


@frozen
class Registration:
    """One thing that a plugin offers: a name, and what makes the thing.

    ``factory`` is a class or function.  Its keyword parameters, with their
    annotations (``int``, ``float``, ``bool``, ``str``, ``Literal[...]``, or
    one of these ``| None``) and defaults, are what a user may write after the name:
    ``name:key=value,key=value``.  It raises `ValueError` (or one of this
    package's errors) for a value out of range.
    """

    name: str = field(validator=_name)
    factory: Callable[..., Any] = field(validator=_factory)
    aliases: tuple[str, ...] = field(default=(), converter=_names, validator=_aliases)


@hookspec
def register_aggregators() -> Iterable[Registration]:
    """Offer aggregation rules.

    The factory returns a callable that maps an ``(n, d)`` floating tensor, one
    row per node, all rows finite, to a ``(d,)`` tensor of the same dtype and
    device.  Parameters called ``f``, ``q`` and ``chunk_size`` are filled from
    the run's options of these names unless the user gave them.

    The callable may take two optional keywords: ``context``, a `Context` (the
    round, the nodes behind the rows, random streams), and ``state``, a dict of
    tensors, numbers and strings that is the rule's memory: empty at first,
    set by the rule, which gets a copy of its tensors, kept and checkpointed by the
    trainer.  It may
    have methods ``computable(n)`` and ``guarantee(n)`` that return None, or
    why it cannot be computed (gives no guarantee) for n rows, with numbers; and an
    attribute ``trusts_a_row = True`` where it trusts the row of one node.
    """


@hookspec
def register_preaggregators() -> Iterable[Registration]:
    """Offer pre-aggregators.

    As for aggregators, but the callable maps ``(n, d)`` to ``(m, d)``.  Unless it has an
    attribute ``keeps_rows = True`` (row i of the result is made of row i alone, as by
    clipping), it counts as mixing rows: an aggregator that trusts one node's row, such as
    ``monna``, gives no guarantee behind it.
    """


@hookspec
def register_attacks() -> Iterable[Registration]:
    """Offer attacks.

    The factory returns a callable that maps a `Knowledge` to the ``(d,)``
    vector that a Byzantine node sends.  Its attribute ``knowledge`` says what
    it must be shown: ``nothing``, ``own``, ``one``, ``moments``, ``gram`` or
    ``all``; an optional attribute ``pieces`` which of that it uses (`LEVELS` in
    `byzpy_tw.attacks` lists them), so that no more than that travels.  It may
    take the keyword ``context``, as an aggregator may.  It has no memory: it is
    made anew wherever its node goes, and a vector depends on the node, the
    round and what was shown.  The vector may hold anything.
    """


@hookspec
def register_datasets() -> Iterable[Registration]:
    """Offer datasets.

    The factory returns a `Dataset` held in memory.  A parameter called
    ``root`` (a `pathlib.Path`) is filled with the data root of the process
    that calls it and cannot be set from elsewhere.  It raises
    `DatasetUnavailable` when files are missing.
    """


@hookspec
def register_models() -> Iterable[Registration]:
    """Offer models.

    The factory returns a `torch.nn.Module` that maps a batch of inputs to
    logits.  Parameters called ``classes`` (int) and ``shape`` (a tuple, one
    example's shape) are filled from the dataset.  It draws initial values from
    torch's default generator, which is seeded for it.
    """


@hookspec
def register_partitions() -> Iterable[Registration]:
    """Offer partitions.

    The factory returns a callable ``(labels, shards, stream)`` that maps the
    ``(N,)`` int64 labels of the training data, the number of shards and a
    `numpy.random.Generator` to a list of ``shards`` int64 index arrays.  The labels
    are a copy, which it may write to.
    """


@hookspec
def run_started(config: Mapping[str, Any]) -> None:
    """A run is about to begin.  ``config`` is what config.json holds."""


@hookspec
def round_completed(record: Mapping[str, Any]) -> None:
    """A round is done.  ``record`` is its line of rounds.jsonl."""


@hookspec
def run_finished(result: Mapping[str, Any]) -> None:
    """The run has ended.  ``result`` is what result.json holds."""
