"""A model from its factory: counted, checked, and initialised from a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import UninitializedParameter

from byzpy_tw import global_random, seeds
from byzpy_tw.errors import ByzpyTwError, UnsuitableModel
from byzpy_tw.models.dropout import check_dropout, replace_dropout
from byzpy_tw.plugin_code import describe_exception

Factory = Callable[..., nn.Module]


def count(factory: Factory, params: Mapping[str, Any]) -> int:
    """Return the number of the model's parameters, without taking their memory.

    Raises `UnsuitableModel` for one that cannot be trained here.
    """
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
    return check(model)


def build(
    factory: Factory, params: Mapping[str, Any], *, seed: int, counted: bool = False
) -> nn.Module:
    """Return the model, its initial values a function of `seed`.

    The global generators, torch's (which modules draw initial values from), NumPy's and
    Python's, are seeded for the duration and restored.  A caller that has `counted` the
    parameters saves another count.  Raises `UnsuitableModel`.
    """
    if not counted:
        count(factory, params)
    with global_random.temporary_seed(seeds.torch_seed(seed, "model")):
        model = factory(**params)
    check(model)
    replace_dropout(model)
    return model


def check(model: nn.Module) -> int:
    """Return the number of parameters; `UnsuitableModel` unless gradients alone can train it."""
    if not isinstance(model, nn.Module):
        raise UnsuitableModel(f"the factory returned {type(model).__name__}, not a torch.nn.Module")
    for name, layer in model.named_modules():
        # Other buffers may be constants: the trial before round 0 finds out.
        if isinstance(layer, _NormBase) and layer.track_running_stats:
            cure = "use GroupNorm or LayerNorm in place of BatchNorm"
            if isinstance(layer, _InstanceNorm):
                cure = "make it with track_running_stats=False, or use GroupNorm"
            raise UnsuitableModel(
                f"the model keeps floating-point statistics outside its parameters "
                f"({name}, a {type(layer).__name__}): no node would own them, and micro-batches "
                f"would change them; {cure}"
            )
    total = 0
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise UnsuitableModel(
                f"parameter {name} has no size yet: in the place of lazy layers use those that are "
                "told their sizes, such as Linear for LazyLinear"
            )
        if parameter.dtype != torch.float32:
            raise UnsuitableModel(f"parameter {name} is {parameter.dtype}, not float32")
        if not parameter.requires_grad:
            raise UnsuitableModel(f"parameter {name} is frozen: it has no gradient")
        total += parameter.numel()
    if total == 0:
        raise UnsuitableModel("the model has no parameters to train")
    check_dropout(model)
    return total


def flat_parameters(model: nn.Module, buffer: Tensor | None = None) -> Tensor:
    """Return a flat ``(d,)`` float32 tensor that is the memory of the model's parameters.

    Writing to it changes the model.  Parameters lie in the order of ``model.parameters()``, and
    keep their values.  `buffer`, if given, is the memory to use: contiguous, of the right
    length, on the model's device.
    """
    parameters = list(model.parameters())
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
