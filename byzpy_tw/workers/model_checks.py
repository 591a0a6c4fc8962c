"""Checks of a model under trial.  Each returns the reason to refuse it, or an empty string."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from byzpy_tw import object_state
from byzpy_tw.models.trainable import trained_parameters
from byzpy_tw.workers.trial_digests import TOLERANCE, GradientDigests, nearly_equal


def quote_names(names: Sequence[str]) -> str:
    """Return the first three of `names`, quoted, and the number of the others."""
    shown = ", ".join(map(repr, names[:3]))
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def check_aliases(model: nn.Module) -> str:
    """Refuse views of parameters that were taken when the model was made."""
    named, trained = list(model.named_parameters()), dict(trained_parameters(model))
    owners = sorted((p.data_ptr(), p.data_ptr() + p.nbytes, name) for name, p in named)
    for (_, end, one), (begin, _, two) in pairwise(owners):
        if begin < end and (one in trained or two in trained):
            return (
                f"parameters {one!r} and {two!r} share memory without being one parameter; "
                "to tie them, assign the parameter itself (b.weight = a.weight)"
            )
    leaves = {id(leaf) for _, leaf in named}
    kept = {path: k.thing for path, k in object_state.snapshot(model).items()}
    kept |= dict(model.named_buffers())
    for path, thing in kept.items():
        address = None if id(thing) in leaves else _address(thing)
        for begin, end, name in owners:
            if name not in trained:
                continue  # it stays where it is
            if address is not None and begin <= address < end:
                if name == f"{path}_orig":
                    return "in the place of spectral_norm use weight_norm: it keeps nothing"
                return (
                    f"{path} is a view of parameter {name!r} that was taken when the model "
                    "was made: a run keeps parameters in memory of its own, and the view "
                    "would keep the initial values; take it in forward()"
                )
    return ""


def _address(thing: Any) -> int | None:
    if isinstance(thing, Tensor) and thing.layout is torch.strided and thing.numel():
        return None if thing.is_meta else thing.data_ptr()
    interface = getattr(thing, "__array_interface__", None)
    return interface["data"][0] if isinstance(interface, dict) and thing.size else None


def check_parameters(
    model: nn.Module, leaves: Sequence[Tensor], addresses: Sequence[int], before: Iterable[Any]
) -> str:
    """Refuse a model whose parameters are not `leaves` at their `addresses` with equal digests."""
    named = trained_parameters(model)
    found = list(zip(named, leaves, addresses, before))
    moved = [name for (name, _), leaf, at, _ in found if leaf.data_ptr() != at]
    if moved or [id(leaf) for _, leaf in named] != [id(leaf) for leaf in leaves]:
        return (
            f"its forward pass puts others in the place of its parameters {quote_names(moved)}: "
            "steps would not reach these; compute with a changed copy, such as "
            "self.w.renorm(2, 0, 1)"
        )
    changed = [n for (n, _), leaf, _, old in found if object_state.tensor_digest(leaf) != old]
    if changed:
        return (
            f"its forward pass changes its parameters {quote_names(changed)}: all nodes of a "
            "process share them; compute with a changed copy, such as self.w.clamp(-1, 1)"
        )
    return ""


def check_buffers(model: nn.Module, before: dict[str, Any], now: dict[str, Any]) -> str:
    """Refuse a model that changes its buffers."""
    changed = [name for name, digest in now.items() if before.get(name) != digest]
    if not changed:
        return ""
    single = {name for name, buffer in model.named_buffers() if buffer.numel() == 1}
    cure = "for statistics use torch's BatchNorm, or GroupNorm"
    if any("parametrizations" in name or name.endswith("_u") for name in changed):
        cure = "in the place of spectral_norm use weight_norm"
    elif all(name in single for name in changed):
        cure = "count nothing"
    return (
        f"its forward pass changes {quote_names(changed)}, outside its trained parameters: no "
        f"node would own that, and micro-batches would change it; {cure}, and leave buffers and "
        "frozen parameters as they are"
    )


def check_repeated(
    first: GradientDigests, again: GradientDigests, kept: object_state.Changes, exact: bool
) -> str:
    """Refuse a model whose gradient of the same examples differs between two calls."""
    if kept.memory:
        return (
            f"its forward pass changes {quote_names(kept.memory)} from call to call, and nodes are "
            "rebuilt anywhere, without it; a forward pass may depend on its inputs and "
            "parameters only"
        )
    alike = first.digests == again.digests if exact else nearly_equal(first, again, 1.0)
    if alike:
        return ""
    return (
        "its gradient of the same two examples differs when computed again: it draws from a "
        "generator of its own, or remembers something; for dropout use torch.nn.Dropout as a "
        "layer, and keep nothing between calls"
    )


def check_flattened(apart: Tensor, flat: Tensor) -> str:
    """Refuse a model whose scores change as its parameters move into one memory."""
    size = float(apart.abs().max())
    if math.isfinite(size) and float((apart - flat).abs().max()) > TOLERANCE * size:
        return (
            "it computes with an old copy of its parameters: a view or an array that was "
            "taken of one when the model was made; take it in forward()"
        )
    return ""
