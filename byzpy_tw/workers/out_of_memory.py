"""The one line that a user gets where a micro-batch does not fit in memory."""

from __future__ import annotations

import torch
from attrs import define

from byzpy_tw.errors import LimitExceeded
from byzpy_tw.plugin_code import exception_text
from byzpy_tw.text import clip

_NO_MEMORY = "DefaultCPUAllocator: "  # begins torch's message: on a CPU it has no class for it


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that this machine, or its GPU, has no more memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY in exception_text(error)


@define  # made faster than a frozen one
class explain_out_of_memory:
    """Context manager of a computation with a batch of `examples`.

    Raises `LimitExceeded` with the cure where that does not fit in memory.
    """

    examples: int

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or not is_out_of_memory(error):
            return
        cure = "begin the run with a smaller --micro-batch-size"
        what = f"a micro-batch of {self.examples} examples"
        if self.examples == 1:
            what, cure = "one example", "the model needs a machine with more memory"
        # No cause: a traceback in the log would tell nothing more.
        reason = clip(exception_text(error), 160)
        raise LimitExceeded(f"{what} does not fit in memory: {cure} ({reason})") from None
