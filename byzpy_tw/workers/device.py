"""The device that a process computes on: nodes' gradients, or a trainer's aggregation and steps.

``--device`` names it.  What differs between a CPU and a GPU stands here alone: how a batch gets
there, how a vector comes back, and which settings make results repeatable.  Another kind of
device is a class here with its line in `_KINDS`, and its name among those that an option takes
(`config.validators.device_name`).

Work on a GPU is queued on its default stream by all threads, so that what one of them copies
there is complete before another's computation, queued later, reads it.  Copies go by way of
pinned memory, in which torch's allocator keeps each block until the copies from it are done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Protocol

import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.batches import Batch, map_tensors
from byzpy_tw.errors import ConfigError


class Device(Protocol):
    """A device, whose methods may be called in any thread."""

    @property
    def place(self) -> torch.device:
        """The device as torch knows it."""

    @property
    def description(self) -> str:
        """Its kind and model, such as ``cpu``: equal where results are expected to be."""

    @property
    def pinned(self) -> bool:
        """True if memory of the CPU is to be pinned, so that copies from it are quick."""

    def put(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return `tensors` of the CPU on this device; what is queued there sees them complete.

        Memory that is pinned already must not be written to until something was fetched.
        """

    def fetch(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return `tensors` of this device in the CPU's memory, where they may be read at once."""


@frozen
class Cpu:
    """The CPU, where nothing is copied; implements `Device`."""

    place: torch.device = torch.device("cpu")
    description: str = "cpu"
    pinned: bool = False

    def put(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tensors

    def fetch(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(tensors)


@frozen
class Cuda:
    """An NVIDIA GPU; implements `Device`."""

    place: torch.device
    description: str
    pinned: bool = True

    def put(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.pin_memory().to(self.place, non_blocking=True) for t in tensors)

    def fetch(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        found = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
        for here, there in zip(found, tensors, strict=True):
            here.copy_(there, non_blocking=True)
        copied = torch.cuda.Event(blocking=True)  # waiting takes no core
        copied.record(torch.cuda.current_stream(self.place))
        copied.synchronize()
        return tuple(found)


CPU = Cpu()


def put_batches(device: Device, *batches: Batch) -> Sequence[Batch]:
    """Return `batches` of the CPU on `device`, by one `put` where each is one tensor."""
    tensors = [batch for batch in batches if isinstance(batch, Tensor)]
    if len(tensors) == len(batches):
        return device.put(*tensors)
    return [map_tensors(lambda tensor: device.put(tensor)[0], batch) for batch in batches]


def _open_cpu(index: int) -> Device:
    return CPU


def _open_cuda(index: int) -> Device:
    # Read when the first thread multiplies matrices there.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    # A model of somebody's may need what has no repeatable way: torch warns of that.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    place = torch.device("cuda", index)
    torch.zeros(1, device=place)
    return Cuda(place, f"cuda ({torch.cuda.get_device_name(place)})")


@frozen
class _Kind:
    """A kind of device: how many of it are here, and how one is opened."""

    title: str
    count: Callable[[], int]  # without opening one: a process that has opened one cannot fork
    open: Callable[[int], Device]


_KINDS: Mapping[str, _Kind] = {
    "cuda": _Kind("CUDA device", torch.cuda.device_count, _open_cuda),
    "cpu": _Kind("CPU", lambda: 1, _open_cpu),  # the last, for auto
}


def check_device(name: str) -> tuple[str, int]:
    """Return the kind and the number of the device that ``--device`` names, and open nothing.

    Raises `ConfigError` where it is not here.
    """
    if name == "auto":
        return next(kind for kind in _KINDS if _KINDS[kind].count()), 0
    kind, _, number = name.partition(":")
    index, title, count = int(number or 0), _KINDS[kind].title, _KINDS[kind].count()
    if not count:
        raise ConfigError(f"--device {name}: no {title} is available here; use cpu or auto")
    if index >= count:
        last = f"{kind}:0 to {kind}:{count - 1}" if count > 1 else f"{kind}:0"
        raise ConfigError(
            f"--device {name}: {count} {title}{'s' * (count > 1)} here, {last}; use one of "
            "these, cpu or auto"
        )
    return kind, index


@cache
def open_device(name: str) -> Device:
    """Return the device that ``--device`` names, ready to compute to the same bits each time.

    Raises `ConfigError` where it is not here, or cannot be used.
    """
    kind, index = check_device(name)
    try:
        return _KINDS[kind].open(index)
    except RuntimeError as e:
        why = str(e).partition("\n")[0][:300]
        raise ConfigError(f"--device {name}: it cannot be used: {why}") from e


def find_equal_device(description: str) -> Device | None:
    """Return a device of this machine with that description, or None."""
    return next((d for d in _all_devices() if d.description == description), None)


def _all_devices() -> Iterator[Device]:
    yield CPU
    for kind, made in _KINDS.items():
        if kind != "cpu":
            yield from (open_device(f"{kind}:{index}") for index in range(made.count()))
