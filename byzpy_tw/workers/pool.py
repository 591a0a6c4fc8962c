"""The interface of a pool of threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Pool(Protocol):
    """An executor, or a share of one."""

    def submit(self, work: Callable[..., T], /, *args: Any) -> Future[T]:
        """Schedule ``work(*args)``; raises `RuntimeError` once closed."""
