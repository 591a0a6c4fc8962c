"""Checks of what other distributions' factories make; errors name the distribution."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw import global_random
from byzpy_tw.aggregators.callables import supported_arguments
from byzpy_tw.attacks import LEVELS, Knowledge, pieces_of
from byzpy_tw.attacks.adapter import call_attack
from byzpy_tw.attacks.behaviour import behaviour_of
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import BadRuleOutput, BrokenPlugin
from byzpy_tw.plugin_code import describe_exception, plugin_call, write_guard
from byzpy_tw.plugins.plugin_task import PluginTask
from byzpy_tw.seeds import Context

_METHODS = {
    "algorithm": (
        "begin", "resume", "participants", "request", "receive", "reveal", "past_vectors",
        "computable", "guarantee", "aggregate", "advance",
    ),
    "optimizer": ("begin", "step"),
    "task": ("check_data", "check_outputs", "weight", "loss", "sums", "measure", "flip"),
    "schedule": ("factor",),
    "transport": ("parse", "check_free", "server_options", "dial", "listen"),
}  # fmt: skip


def check_made(kind: str, name: str, distribution: str, made: Any) -> Any:
    """`made`, fit for use as a `kind`; raises `BrokenPlugin`."""
    who = f"{distribution}: {kind} {name!r}"
    if kind == "model" or (kind == "dataset" and isinstance(made, Dataset)):
        return made  # `models.building.check` looks at models
    if kind == "dataset":
        raise BrokenPlugin(f"{who} is {type(made).__name__}, expected a Dataset")
    if methods := _METHODS.get(kind):
        missing = [name for name in methods if not callable(getattr(made, name, None))]
        if missing:
            raise BrokenPlugin(
                f"{who} is {type(made).__name__}, which has no method {', '.join(missing)}"
            )
        return PluginTask(made, who) if kind == "task" else made
    if not callable(made):
        raise BrokenPlugin(f"{who} is {type(made).__name__}, which cannot be called")
    if kind == "attack":
        level = getattr(made, "knowledge", None)
        if not isinstance(level, str) or level not in LEVELS:
            raise BrokenPlugin(
                f"{who} declares knowledge {level!r}, which is none of {', '.join(LEVELS)}"
            )
        if not set(pieces_of(made)) <= LEVELS[level]:
            raise BrokenPlugin(
                f"{who} wants to be shown {', '.join(pieces_of(made))}, knowledge {level!r} "
                f"is {', '.join(sorted(LEVELS[level])) or 'nothing'}"
            )
        return PluginAttack(made, who)
    if kind == "partition":
        return PluginPartition(made, who)
    if kind == "aggregator":
        _check_weights_are_taken(made, who)
    return made


def _check_weights_are_taken(made: Any, who: str) -> None:
    """Raise `BrokenPlugin` where a rule says that it takes weights, and gets none."""
    taken = getattr(made, "takes_weights", False)
    if taken not in (True, False):
        raise BrokenPlugin(f"{who} has takes_weights = {taken!r:.80}, expected True or False")
    called = hasattr(made, "weights") or hasattr(made, "outcome")
    if taken and not called and not supported_arguments(made, {"context": None}):
        raise BrokenPlugin(
            f"{who} has takes_weights = True, and takes no keyword context, where the weights are"
        )


@frozen(eq=False)
class PluginAttack:
    """A plugin's attack behind the interface of the built-in ones.

    It takes honest vectors or a `Knowledge`.  ``pieces``, ``behaviour`` and the keyword ``context``
    have defaults.  The plugin gets memory of its own; its answer is copied, as it may reuse memory.
    """

    made: Callable[..., Any]
    who: str = "the attack"
    # Makes a copy for each call, where calls leave something on the attack.
    copies: Callable[[], Any] | None = None
    digest: str = ""  # of its vector in the trial, by which servers are compared

    __call__ = call_attack

    @property
    def pieces(self) -> tuple[str, ...]:
        return pieces_of(self.made)

    @property
    def behaviour(self) -> str:
        return behaviour_of(self.made)

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        """The ``(d,)`` vector; raises `BrokenPlugin` and `BadRuleOutput`."""
        rows = [known.vectors] if known.has("vectors") else []
        with plugin_call(self.who), write_guard(self.who, *rows):
            made = self.made if self.copies is None else self.copies()
            view = known.private_copy()
            try:
                answer = made(view, **supported_arguments(self.made, {"context": context}))
            except (AttributeError, TypeError) as e:  # such as None + tensor
                if not view.absent:
                    raise
                raise BrokenPlugin(
                    f"{self.who} raised {describe_exception(e)}; it read "
                    f"{', '.join(sorted(view.absent))}, which it is not shown: name what it "
                    "reads in its attribute pieces, and a level of knowledge that allows it"
                ) from e
            return _vector(answer, known, self.who)

    def _guarded(self, method: Callable[..., Any], name: str, first: Any, **offered: Any) -> Any:
        """Call `choose` or `strength` with the honest rows themselves, and check the answer."""
        rows = first if isinstance(first, Tensor) else first.vectors
        if offered.get("memory") is not None:
            offered["memory"] = copy.deepcopy(offered["memory"])
        with plugin_call(self.who), write_guard(self.who, rows):
            found = method(first, **supported_arguments(method, offered))
            size = found.numel() if isinstance(found, Tensor) else np.size(found)
            number = isinstance(found, (int, float, np.generic, np.ndarray, Tensor)) and size == 1
            if not number or (name == "choose" and not 0 <= int(found) < len(rows)):
                wanted = f"a row from 0 to {len(rows) - 1}" if name == "choose" else "a number"
                raise BadRuleOutput(f"{self.who}: {name} returned {found!r}, expected {wanted}")
        state: dict[str, Any] = offered.get("state") or {}
        for key, value in state.items():
            if isinstance(value, Tensor):  # it may lie in the rows, which change
                state[key] = value.clone()
        return found

    def __getattr__(self, name: str) -> Any:
        # knowledge, choose, check, target, parameters: the plugin's own.
        if name.startswith("_") or name in ("made", "who", "copies", "digest"):
            raise AttributeError(name)
        found = getattr(self.made, name)
        if name == "aimed_at":
            return lambda pipeline: PluginAttack(found(pipeline), self.who)
        if name in ("choose", "strength") and callable(found):
            return partial(self._guarded, found, name)
        return found


def _vector(answer: Any, known: Knowledge, who: str) -> Tensor:
    """The answer of an attack as a vector in memory of its own; it may hold anything."""
    kinds = (Tensor, np.ndarray, list, tuple, int, float)
    if not isinstance(answer, kinds):
        raise BadRuleOutput(
            f"{who} returned a {type(answer).__name__}, expected a tensor of ({known.dimension},)"
        )
    vector = torch.as_tensor(answer)
    if vector.layout is not torch.strided or vector.is_meta or vector.is_quantized:
        raise BadRuleOutput(f"{who} returned a tensor that is sparse or holds no values")
    if vector.numel() != known.dimension or vector.is_complex():
        raise BadRuleOutput(
            f"{who} returned {tuple(vector.shape)} of {vector.dtype}, expected "
            f"({known.dimension},) of {known.dtype}"
        )
    return vector.detach().to(known.dtype, copy=True).reshape(-1)


@frozen(eq=False)
class PluginPartition:
    """A plugin's partition whose shards are checked."""

    made: Callable[..., Sequence[Any]]
    who: str

    @property
    def local(self) -> bool:
        return getattr(self.made, "local", False)

    @property
    def by_node(self) -> bool:
        return getattr(self.made, "by_node", False)

    @property
    def byzantine_shards(self) -> int:
        return int(getattr(self.made, "byzantine_shards", 0))

    def __call__(self, labels: Any, shards: int, stream: np.random.Generator) -> list[np.ndarray]:
        # A copy: writes to it must reach no other shard, node or run.
        own = labels.clone() if isinstance(labels, Tensor) else np.array(labels)
        # Code that draws from a global generator gets the same numbers in each process.
        seed = int(copy.deepcopy(stream).integers(2**62))
        with plugin_call(self.who), global_random.temporary_seed(seed):
            found = [np.asarray(shard) for shard in self.made(own, shards, stream)]
        wanted = shards + self.byzantine_shards
        if len(found) != wanted:
            raise BadRuleOutput(f"{self.who} cut {len(found)} shards, {wanted} were asked for")
        for i, shard in enumerate(found):
            if shard.ndim != 1 or (len(shard) and shard.dtype.kind not in "iu"):
                raise BadRuleOutput(
                    f"{self.who}: shard {i} is {shard.shape} of {shard.dtype}, "
                    "expected a row of whole numbers"
                )
            if len(shard) and not 0 <= shard.min() <= shard.max() < len(labels):
                raise BadRuleOutput(
                    f"{self.who}: shard {i} names examples {shard.min()} to {shard.max()} "
                    f"of {len(labels)}"
                )
        return [shard.astype(np.int64) for shard in found]
