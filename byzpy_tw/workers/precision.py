"""The precision that a node computes its gradient in, ``--precision``.

Parameters, vectors, losses and all that the trainer computes are float32.

- ``bfloat16``: the model is called under torch's autocast, which computes layers of matrices and
  convolutions in bfloat16 and the rest in float32.  Its outputs are widened before the loss.
- ``tf32``: a GPU multiplies float32 matrices rounded to 10 bits of mantissa.  torch has one
  setting for all threads of a process, so computations of either kind wait for each other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from attrs import define, field
from torch import Tensor

from byzpy_tw.batches import Batch, tensors_of
from byzpy_tw.errors import ConfigError
from byzpy_tw.tasks.outputs import map_outputs

FLOAT32, BFLOAT16, TF32 = "float32", "bfloat16", "tf32"
_UNCHANGED = nullcontext()

# Relative differences that are rounding, between a trainer and a server of other hardware.
ROUNDING = {FLOAT32: 1e-3, TF32: 1e-2, BFLOAT16: 5e-2}


def check_precision(precision: str, device: torch.device) -> None:
    """Raise `ConfigError` where `device` does not have `precision`."""
    if precision == TF32 and device.type != "cuda":
        raise ConfigError(
            f"--precision tf32 is one of NVIDIA GPUs, and nodes compute on {device.type} here: "
            "use --device cuda where they live, or --precision bfloat16 or float32"
        )


def autocast(precision: str, inputs: Batch) -> AbstractContextManager[Any]:
    """Return the context of a model's call with `inputs`, in the thread that enters it."""
    if precision == BFLOAT16:
        device = tensors_of(inputs)[0].device.type
        # The cache of rounded weights is one for all threads, which would clear each other's.
        return torch.autocast(device, torch.bfloat16, cache_enabled=False)
    return _UNCHANGED


def to_float32(outputs: Any) -> Any:
    """Return a model's `outputs` with float32 in the place of narrower floating point."""

    def widen(tensor: Tensor) -> Tensor:
        narrow = tensor.is_floating_point() and tensor.element_size() < 4
        return tensor.float() if narrow else tensor

    return map_outputs(widen, outputs)


@define(eq=False)
class _Multiplication:
    """torch's setting for float32 matrices on GPUs, held by any number of threads that agree.

    Threads enter in the order in which they come, so those of one kind do not keep out the other.
    """

    _changed: threading.Condition = field(factory=threading.Condition, init=False)
    _queue: deque[object] = field(factory=deque, init=False)  # those that wait
    _holders: int = field(default=0, init=False)
    _tf32: bool = field(default=False, init=False)

    @contextmanager
    def hold(self, tf32: bool) -> Iterator[None]:
        turn = object()
        with self._changed:
            self._queue.append(turn)
            try:
                self._changed.wait_for(
                    lambda: self._queue[0] is turn and (not self._holders or self._tf32 is tf32)
                )
                self._set(tf32)
                self._holders += 1
            finally:
                self._queue.remove(turn)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._holders -= 1
                if not self._holders:
                    self._set(False)
                    self._changed.notify_all()

    def _set(self, tf32: bool) -> None:
        if tf32 is not self._tf32:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            self._tf32 = tf32


_multiplication = _Multiplication()


def multiplication(precision: str, operands: Batch) -> AbstractContextManager[Any]:
    """Return the context in which matrices such as `operands` are multiplied in `precision`.

    It may not be entered twice by one thread.
    """
    one = operands if isinstance(operands, Tensor) else tensors_of(operands)[0]
    return _multiplication.hold(precision == TF32) if one.is_cuda else _UNCHANGED
