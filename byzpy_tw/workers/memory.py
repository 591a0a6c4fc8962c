"""The one line that a user gets where a micro-batch does not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from byzpy_tw.errors import LimitExceeded
from byzpy_tw.plugin_code import exception_text
from byzpy_tw.text import clip

_NO_MEMORY = "DefaultCPUAllocator: "  # begins torch's message: on a CPU it has no class for it


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that this machine, or its GPU, has no more memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY in exception_text(error)


@contextmanager
def explain_out_of_memory(examples: int) -> Iterator[None]:
    """Raise `LimitExceeded` with the cure where a batch of `examples` does not fit in memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as e:
        if not is_out_of_memory(e):
            raise
        cure = "begin the run with a smaller --micro-batch-size"
        if examples == 1:
            cure = "the model needs a machine with more memory"
        what = "one example" if examples == 1 else f"a micro-batch of {examples} examples"
        # No cause: a traceback in the log would tell nothing more.
        raise LimitExceeded(
            f"{what} does not fit in memory: {cure} ({clip(exception_text(e), 160)})"
        ) from None
