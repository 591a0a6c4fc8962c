"""The hooks by which other distributions add names and observe runs.

A plugin is any importable object with ``@hookimpl`` functions, named by an entry point in the group
``byzpy_tw``.  Hooks that register things are called once per process, when the first name is looked
up, and must do no I/O.  Observers are called during a run, in a thread of their own, and cannot
stop it: their errors are logged once.

``docs/hooks.md`` documents each hook, with an example.
"""

# Specifications have no body.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import field, frozen
from pluggy import HookimplMarker, HookspecMarker

from byzpy_tw.events import Event

GROUP = "byzpy_tw"

hookspec = HookspecMarker(GROUP)
hookimpl = HookimplMarker(GROUP)

NAME = r"[a-z0-9]+(-[a-z0-9]+)*"
_LONGEST = 64  # characters of a name that a user can write


def _names(given: Iterable[str]) -> tuple[str, ...]:
    # A text would be taken for a list of one-letter names.
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"aliases must be a list of names, got {given!r:.80}")
    return tuple(given)


def _check_name(name: Any, what: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{what} is text, such as 'my-rule', got {type(name).__name__}")
    if len(name) > _LONGEST:
        raise ValueError(f"{what} has at most {_LONGEST} characters, got {len(name)}")
    if not re.fullmatch(NAME, name):
        spelt = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
        better = re.sub(r"[^a-z0-9]+", "-", spelt).strip("-") or "my-rule"
        raise ValueError(
            f"{what} is lower-case words and digits joined by hyphens, such as {better!r}, got "
            f"{name!r}"
        )


@frozen
class Registration:
    """One thing that a plugin offers: its name and its factory.

    ``factory`` is a class or function.  A user may write its keyword parameters after the name:
    ``name:key=value,key=value``.  Their annotations (``int``, ``float``, ``bool``, ``str``,
    ``Literal[...]``, or one of these ``| None``) and defaults say how these are read.  Values out
    of range raise `ValueError` or an error of this package, as in fields of `byzpy_tw.parameters`.
    """

    name: str
    factory: Callable[..., Any]
    aliases: tuple[str, ...] = field(default=(), converter=_names)

    def __attrs_post_init__(self) -> None:
        _check_name(self.name, "a name")
        for alias in self.aliases:
            _check_name(alias, "an alias")
        if not callable(self.factory):
            raise TypeError(
                f"the factory of {self.name!r} must be a class or a function, got "
                f"{type(self.factory).__name__}"
            )


@hookspec
def register_aggregators() -> Iterable[Registration]:
    """Offer aggregation rules.

    The factory returns a callable from an ``(n, d)`` floating tensor, one row per node, all rows
    finite, to a ``(d,)`` tensor of the same dtype and device.  Parameters called ``f``, ``q`` and
    ``chunk_size`` are filled from the run's options of these names unless the user gave them.

    The callable may take two optional keywords.  ``context`` is a `Context`: the round, the
    nodes behind the rows, random streams.  ``state`` is the rule's memory: a dict of tensors,
    numbers and strings, empty at first, which the trainer keeps and checkpoints.  The rule
    sets its entries and gets copies of its tensors.

    It may have methods ``computable(n)`` and ``guarantee(n)``, which return None, or the
    reason with its numbers why the rule cannot be computed (gives no guarantee) for n rows.
    Without ``guarantee`` it counts as giving none where ``f`` is above 0.
    ``trusts_a_row = True`` marks a rule that trusts the row of one node, ``takes_weights = True``
    one that uses ``context.weights``, the rows' shares of the weight, where they are not None.
    With ``needs_root = True`` (``needs_score = True``) the context has ``root`` (``score``), which
    the trainer computes from ``--root-examples``.
    """


@hookspec
def register_preaggregators() -> Iterable[Registration]:
    """Offer pre-aggregators.

    As for aggregators, but the callable maps ``(n, d)`` to ``(m, d)``.  Its attribute
    ``keeps_rows = True`` says that row i of the result is made of row i alone, as by clipping.
    Otherwise it mixes rows: an aggregator that trusts one node's row (``monna``) has no guarantee,
    and nodes cannot have weights.
    """


@hookspec
def register_attacks() -> Iterable[Registration]:
    """Offer attacks.

    The factory returns a callable from a `Knowledge` to the ``(d,)`` vector that a Byzantine node
    sends, which may hold anything.  Its attribute ``knowledge`` says how much it must be shown:
    ``nothing``, ``own``, ``one``, ``moments``, ``gram`` or ``all``.  An optional attribute
    ``pieces`` names the pieces of that which it uses (`LEVELS` in `byzpy_tw.attacks` lists them):
    no others travel.  It may take the keyword ``context``, as an aggregator may.

    An optional method ``poison(x, y)`` makes the examples and targets that its node trains on.

    It has no memory.  It is made anew on each server that its node moves to, and a vector
    depends on the node, the round and the knowledge alone.
    """


@hookspec
def register_datasets() -> Iterable[Registration]:
    """Offer datasets.

    The factory returns a `Dataset`, in memory or mapped into it, which may name its task.  Several
    inputs or targets are mappings from names to tensors.  A parameter called
    ``root`` (a `pathlib.Path`) is filled with the data root of the process that calls it and
    cannot be set from elsewhere.  It raises `DatasetUnavailable` when files are missing.
    """


@hookspec
def register_models() -> Iterable[Registration]:
    """Offer models.

    The factory returns a `torch.nn.Module` that maps a batch of inputs to what the task asks
    for, such as logits.  Parameters called ``classes`` (int, the number of outputs: of classes,
    or else of numbers in one target) and ``shape`` (a tuple, one example's shape) are filled
    from the dataset, and ``root`` (a `pathlib.Path`) with the data root of the process that calls
    it, for `byzpy_tw.models.load_values`.  It draws initial values from torch's default
    generator, which is seeded for it.  An attribute ``task`` of the factory names the task where
    the data names none.
    """


@hookspec
def register_partitions() -> Iterable[Registration]:
    """Offer partitions.

    The factory returns a callable ``(targets, shards, stream)``.  It maps the ``(N, *shape)``
    targets of the training data (of classes ``(N,)`` int64 labels; without what is kept aside by
    ``--validation``), the number of shards and a `numpy.random.Generator` to a list of ``shards``
    int64 index arrays.  Of several targets it gets the one called ``label``, else the first by
    name.  They are a copy, which it may write to.
    Its attribute ``by_node = True`` asks for the node of each example, ``Dataset.nodes``, in
    the place of targets.
    """


@hookspec
def register_tasks() -> Iterable[Registration]:
    """Offer tasks: the loss of a batch, and the metrics of an evaluation.

    The factory returns an object with ``metrics`` and the methods of `byzpy_tw.tasks.Task`.
    Parameters called ``classes`` (int, or None where the data has none) and ``target_shape`` (a
    tuple, one target's shape; of several a dict of them by name) are filled from the dataset.  It
    keeps nothing between calls, and writes to nothing that it is given.
    """


@hookspec
def register_algorithms() -> Iterable[Registration]:
    """Offer algorithms: who takes part in a round, and what becomes of their vectors.

    The factory returns an object with the methods of `byzpy_tw.algorithms.Algorithm`; the
    shortest way is a subclass of `byzpy_tw.algorithms.Dsgd`.  Parameters called ``config`` (the
    `RunConfig`) and ``rules`` (the run's `ResolvedRules`) are filled in and cannot be set from
    elsewhere.  It does no I/O and reads no clock; all that it remembers is in the `State`.  Its
    answers are checked, and it is tried before round 0.
    """


@hookspec
def register_optimizers() -> Iterable[Registration]:
    """Offer optimizers.

    The factory returns an object with two methods.  ``begin(parameters)`` returns its state
    before round 0 for ``(d,)`` float32 `parameters`: a dict of tensors, numbers and strings.
    ``step(parameters, vector, state, lr, round)`` changes `parameters` and the entries of
    `state` in place; it keeps nothing else.  Parameters called ``momentum`` and
    ``weight_decay`` are filled from the run's options of these names where they are given.  A
    text's ``lr``, which a factory need not take, is the learning rate in the place of ``--lr``.
    """


@hookspec
def register_schedules() -> Iterable[Registration]:
    """Offer schedules of the learning rate.

    The factory returns an object with a method ``factor(round, rounds)``: the learning rate of
    a round, numbered from 0, as a multiple of ``--lr``, in a run of `rounds`.
    """


@hookspec
def register_transports() -> Iterable[Registration]:
    """Offer transports: ways to reach a server.  The name is the scheme of its addresses.

    The factory returns an object with the methods of `byzpy_tw.transports.Transport`; the
    shortest way is a subclass of `byzpy_tw.transports.StreamTransport`.  It decides in the process
    whose operator installed it: no address comes from a peer.
    """


@hookspec
def run_started(config: Mapping[str, Any]) -> None:
    """Observe that a run begins.  ``config`` is the content of config.json."""


@hookspec
def round_completed(record: Mapping[str, Any]) -> None:
    """Observe a round that is done.  ``record`` is its line of rounds.jsonl."""


@hookspec
def run_event(event: Event) -> None:
    """Observe anything that happens in a run.  ``event`` is a value of `byzpy_tw.events`."""


@hookspec
def run_finished(result: Mapping[str, Any]) -> None:
    """Observe the end of a run.  ``result`` is the content of result.json."""
