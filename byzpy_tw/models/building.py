"""A model from its factory: counted, checked, and initialised from a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from byzpy_tw import global_random, seeds
from byzpy_tw.errors import ByzpyTwError, UnsuitableModel
from byzpy_tw.models.dropout import check_dropout, replace_dropout
from byzpy_tw.models.statistics import check_forward_passes, use_batch_statistics
from byzpy_tw.models.trainable import trained_parameters
from byzpy_tw.plugin_code import describe_exception

Factory = Callable[..., nn.Module]


def count(factory: Factory, params: Mapping[str, Any]) -> int:
    """Return the number of the model's trained parameters, without taking their memory.

    Raises `UnsuitableModel` for one that cannot be trained here.
    """
    return sum(leaf.numel() for _, leaf in trained_parameters(make_on_meta(factory, params)))


def make_on_meta(factory: Factory, params: Mapping[str, Any]) -> nn.Module:
    """Return the model without memory, on torch's meta device, checked as by `check`."""
    try:
        with torch.device("meta"), global_random.temporary_seed(0):
            model = factory(**params)
    except (ByzpyTwError, RuntimeError) as e:
        wrapped = isinstance(e, ByzpyTwError)
        cause = e.__cause__ if wrapped else e
        values = isinstance(cause, RuntimeError) and not isinstance(cause, RecursionError)
        if cause is None or not (values or (wrapped and "meta" in describe_exception(cause))):
            raise
        raise UnsuitableModel(
            "the model cannot be made on torch's meta device, where its size is found before "
            "memory is taken (values are not to be read while it is made): "
            f"{describe_exception(cause)}"
        ) from e
    check(model)
    return model


def build(
    factory: Factory,
    params: Mapping[str, Any],
    *,
    seed: int,
    counted: bool = False,
    plain: bool = False,
) -> nn.Module:
    """Return the model, its initial values a function of `seed`.

    The global generators, torch's (which modules draw initial values from), NumPy's and
    Python's, are seeded for the duration and restored.  A caller that has `counted` the
    parameters saves another count.  A `plain` one keeps the factory's own layers, for use outside
    of a run.  Raises `UnsuitableModel`.
    """
    if not counted:
        count(factory, params)
    with global_random.temporary_seed(seeds.torch_seed(seed, "model")):
        model = factory(**params)
    check(model)
    if not plain:
        replace_dropout(model)
        use_batch_statistics(model)
    return model


def check(model: nn.Module) -> int:
    """Return the number of trained parameters; `UnsuitableModel` unless gradients can train it."""
    if not isinstance(model, nn.Module):
        raise UnsuitableModel(f"the factory returned {type(model).__name__}, not a torch.nn.Module")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, (UninitializedBuffer, UninitializedParameter)):
            kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
            raise UnsuitableModel(
                f"{kind} {name} has no size yet: in the place of lazy layers use those that are "
                "told their sizes, such as Linear for LazyLinear"
            )
    trained = trained_parameters(model)
    for name, parameter in trained:
        if parameter.dtype != torch.float32:
            raise UnsuitableModel(f"parameter {name} is {parameter.dtype}, {_cure(parameter)}")
    total = sum(parameter.numel() for _, parameter in trained)
    if total == 0:
        frozen = sum(1 for _ in model.parameters())
        why = f": all {frozen} are frozen (requires_grad is False)" if frozen else ""
        raise UnsuitableModel(f"the model has no parameters to train{why}")
    check_dropout(model)
    check_forward_passes(model)
    _check_dense(model)
    return total


def _check_dense(model: nn.Module) -> None:
    """Raise `UnsuitableModel` for a layer whose gradient is a sparse tensor."""
    for name, layer in model.named_modules():
        tables = isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) and layer.sparse
        if tables and layer.weight.requires_grad:
            raise UnsuitableModel(
                f"layer {name} ({type(layer).__name__}) has sparse gradients, and nodes send dense "
                "vectors: leave out sparse=True"
            )


def _cure(parameter: Tensor) -> str:
    if parameter.is_complex():
        return (
            "not float32: rules compare and average real numbers; keep its torch.view_as_real as "
            "the parameter, and take torch.view_as_complex of that in forward()"
        )
    return (
        "not float32, in which vectors are aggregated: use model.float(), or freeze it "
        "(requires_grad_(False))"
    )


def flat_parameters(model: nn.Module, buffer: Tensor | None = None) -> Tensor:
    """Return a flat ``(d,)`` float32 tensor that is the memory of the trained parameters.

    Writing to it changes the model.  They lie in the order of `trained_parameters`, and keep
    their values.  `buffer`, if given, is the memory to use: contiguous, of the right
    length, on the model's device.
    """
    parameters = [leaf for _, leaf in trained_parameters(model)]
    d = sum(p.numel() for p in parameters)
    if buffer is None:
        buffer = torch.empty(d, dtype=torch.float32, device=parameters[0].device)
    if buffer.shape != (d,) or buffer.dtype != torch.float32 or not buffer.is_contiguous():
        raise ValueError(
            f"expected a contiguous float32 buffer of {d} elements, got "
            f"{buffer.dtype} of shape {tuple(buffer.shape)}"
        )
    with torch.no_grad():
        for parameter, part in zip(parameters, buffer.split([p.numel() for p in parameters])):
            piece = part.view(parameter.shape)
            piece.copy_(parameter)
            parameter.data = piece
    return buffer
