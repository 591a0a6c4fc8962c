"""A check that a model of a run is given inputs, not the dataset's examples themselves."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from attrs import define
from torch import Tensor, nn

from byzpy_tw.datasets import Dataset

_BYTES = torch.tensor([0, 255], dtype=torch.uint8)
_REMEDY = "give the model result.dataset().inputs(x), which scales and normalises examples x"


@define(eq=False)
class InputCheck:
    """A forward pre-hook of models of a dataset whose examples are bytes, which become floats.

    It raises `TypeError` for bytes.  Bytes that were only converted give wrong outputs and no
    error, so it warns, once, of floats far outside of what examples become.
    """

    low: float  # the least value of an input
    high: float
    checked: bool = False

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not args or not isinstance(args[0], Tensor):
            return
        if args[0].dtype == torch.uint8:
            raise TypeError(f"the model was given bytes, expected float inputs: {_REMEDY}")
        if self.checked or _is_traced() or not args[0].numel():
            return
        try:
            least, most = map(float, torch.aminmax(args[0].detach()))
        except RuntimeError:  # as of vmap, of fake tensors and of the meta device: no values
            return
        self.checked = True  # the first batch tells; comparing each would cost time
        span = self.high - self.low
        if least < self.low - span or most > self.high + span:
            warnings.warn(
                f"the model was given inputs from {least:.4g} to {most:.4g}, and was trained on "
                f"inputs from {self.low:.4g} to {self.high:.4g}: {_REMEDY}",
                stacklevel=5,  # of the call of the model
            )


def _is_traced() -> bool:
    """Return whether the model is being compiled or exported, where tensors have no values."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def check_inputs(model: nn.Module, dataset: Dataset) -> None:
    """Have `model` check its inputs, where the examples of `dataset` are bytes."""
    examples = dataset.train.x
    if not isinstance(examples, Tensor) or examples.dtype != torch.uint8:
        return
    shape = examples.shape[1:]
    inputs = dataset.inputs(_BYTES.reshape(2, *(1 for _ in shape)).expand(2, *shape))
    assert isinstance(inputs, Tensor)
    low, high = map(float, torch.aminmax(inputs))
    if math.isfinite(low) and math.isfinite(high):
        model.register_forward_pre_hook(InputCheck(low, high))
