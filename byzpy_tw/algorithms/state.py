"""The state of a run between two rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from byzpy_tw.errors import DamagedCheckpoint

_STORABLE = (Tensor, np.ndarray, np.generic, int, float, str, type(None))
LARGE = 1 << 27  # bytes of a state that is not copied to be written


@frozen(eq=False)
class State:
    """The state of a run after `round` rounds.

    ``parameters`` are ``(d,)``; ``optimizer`` is the optimizer's state.  ``momenta`` maps honest
    nodes to theirs, ``history`` a round to the vectors of its Byzantine nodes.  ``aggregation``
    and ``attack`` are the memory of the rules and of the attack.  ``rows`` are the ``(n, d)`` last
    vectors of all nodes, where the algorithm aggregates these.  ``step`` is the last round's change
    of the parameters, ``(d,)``, where the attack is shown it.  No algorithm reads ``probation``,
    the nodes' conduct, and ``elapsed``, in seconds: the trainer keeps them here.
    """

    round: int
    parameters: Tensor
    optimizer: Mapping[str, Any] = field(factory=dict)
    momenta: Mapping[int, Tensor] = field(factory=dict)
    history: Mapping[int, Mapping[int, Tensor]] = field(factory=dict)
    aggregation: Mapping[str, Any] = field(factory=dict)
    attack: Mapping[str, Any] = field(factory=dict)
    probation: Mapping[str, Any] = field(factory=dict)
    elapsed: float = 0.0
    rows: Tensor | None = None
    step: Tensor | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """The fields by their names; values are not copied."""
        return attrs.asdict(self, recurse=False)

    @property
    def large(self) -> bool:
        """True if a copy would be a good part of a small machine's memory."""
        return _nbytes(self.fields) >= LARGE

    def snapshot(self) -> State:
        """Return a copy of this state, to be written while the run goes on.

        Tensors and arrays of a `large` state are not copied: the run must not change them
        until they are written.
        """
        large = self.large

        def copy(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value if large and not _is_view(value) else value.clone()
            return value.copy() if isinstance(value, np.ndarray) and not large else value

        return State(**map_leaves(self.fields, copy))


def map_leaves(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """Return `value` in new containers, with `leaf` of everything else in it."""
    if isinstance(value, Mapping):
        return {key: map_leaves(item, leaf) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [map_leaves(item, leaf) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return leaf(value)


def check_shapes(found: State, first: State) -> None:
    """Raise `DamagedCheckpoint` where `found` is not of the run that begins with `first`."""
    for name in ("parameters", *["rows"] * (first.rows is not None)):
        there, here = (_describe_kind(getattr(state, name)) for state in (found, first))
        if there != here:
            raise DamagedCheckpoint(
                f"the checkpoint after {found.round} rounds is of another run: its {name} are "
                f"{there}, expected {here}; delete it to go on from an older one, or from round 0"
            )


def _describe_kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return "none" if value is None else f"a {type(value).__name__}"
    return f"{tuple(value.shape)} of {value.dtype}"


def check_storable(value: Any) -> None:
    """Raise `TypeError`, in words, for a part of a state that no checkpoint can hold."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if type(key) not in (int, str):
                raise TypeError(f"the key {key!r:.80}, expected whole numbers or words as keys")
            check_storable(item)
    elif type(value) in (list, tuple):
        for item in value:
            check_storable(item)
    elif not isinstance(value, _STORABLE):
        raise TypeError(
            f"a {type(value).__name__}, expected tensors, arrays and numbers, in dicts and lists"
        )


def _nbytes(value: Any) -> int:
    if isinstance(value, Tensor):  # one without strides knows no `nbytes`
        return value.numel() * value.element_size()
    if isinstance(value, (Mapping, list, tuple)):
        return sum(map(_nbytes, value.values() if isinstance(value, Mapping) else value))
    return value.nbytes if isinstance(value, np.ndarray) else 0


def _is_view(tensor: Tensor) -> bool:
    """Return whether it is a view of a larger tensor, all of which would be written."""
    strided = tensor.layout is torch.strided
    return strided and tensor.untyped_storage().nbytes() > _nbytes(tensor)
