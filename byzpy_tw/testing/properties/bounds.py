"""Parts of the tests: a bound on time, unchanged inputs and streams, any threads."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, TypeVar

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.aggregators.callables import supported_arguments
from byzpy_tw.kernels.parallel import run_single_threaded, thread_limit
from byzpy_tw.vectors import sha256_of

T = TypeVar("T")

quick = settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))

PATIENCE = 60.0  # seconds for a few small vectors; a longer call hangs


def run_within(seconds: float, work: Callable[[], T]) -> T:
    """Return or raise the outcome of `work`; `AssertionError` if it takes longer.

    It is called as in a run: torch has one thread, and records no gradients.  A
    thread that hangs is left behind: there is no way to end it.
    """
    found: list[Any] = []
    context = copy_context()

    def run() -> None:
        try:
            found.append((True, context.run(run_single_threaded, work)))
        except BaseException as e:  # raised in the test's thread
            found.append((False, e))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        raise AssertionError(f"no answer within {seconds:g} s")
    good, answer = found[0]
    if not good:
        raise answer
    return answer  # type: ignore[no-any-return]


@contextmanager
def assert_untouched(test: SynchronousTestCase, *given: Any) -> Iterator[None]:
    """Fail if the tensors among `given` change, or global streams of random numbers move."""
    tensors = [g for g in given if isinstance(g, Tensor)]
    before = [t.clone() for t in tensors]
    torch_stream, streams = torch.get_rng_state(), _streams()
    yield
    for tensor, kept in zip(tensors, before, strict=True):
        test.assertTrue(same_bits(tensor, kept), "changed its input")
    test.assertTrue(
        torch.equal(torch.get_rng_state(), torch_stream),
        "drew from torch's global stream: use context.stream, or a generator of its own",
    )
    test.assertTrue(
        _streams() == streams,
        "drew from numpy's or Python's global stream: use context.stream, or a generator "
        "of its own",
    )


def _streams() -> tuple[Any, ...]:
    state: Any = np.random.get_state()
    kind, keys, *rest = state
    return kind, keys.tobytes(), *rest, random.getstate()


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same shape, dtype and bits."""
    return sha256_of(a) == sha256_of(b)


def on_threads(work: Callable[[], T]) -> list[T]:
    """Return the results of `work` with 1, 2 and 4 threads for rules."""
    found = []
    for count in (1, 2, 4):
        with thread_limit(count):
            found.append(work())
    return found


def any_rows(n: int, d: int) -> Any:
    """Return a strategy for ``(n, d)`` float32 rows whose numbers and squares are finite."""
    numbers = st.floats(-(2.0**49), 2.0**49, width=32)
    return arrays(np.float32, (n, d), elements=numbers)


def make_with(make: Callable[..., Any], **offered: Any) -> Any:
    """Call the factory `make` with the arguments among `offered` that it takes."""
    return make(**supported_arguments(make, offered))


def bind(test: Callable[..., None], *arguments: Any) -> Callable[[SynchronousTestCase], None]:
    """Return the test method that calls ``test(self, *arguments)``."""

    def bound(self: SynchronousTestCase) -> None:
        test(self, *arguments)

    bound.__doc__ = test.__doc__
    return bound


def test_class(kind: str, make: Callable[..., Any], name: str, tests: dict[str, Any]) -> Any:
    """Return a test class with these tests, for the module that called the kit.

    Its name is `name`, else that of `make` with ``Laws``.
    """
    made_of = getattr(make, "__name__", type(make).__name__).strip("<>")
    words = made_of.replace("-", "_").split("_")
    title = name or "".join(word[:1].upper() + word[1:] for word in words) + "Laws"
    frame = sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__package__")) == __package__:
        frame = frame.f_back
    body = {
        "__doc__": f"The laws of {kind} {made_of}.",
        "__module__": frame.f_globals.get("__name__", __name__),
        **tests,
    }
    return type(title, (SynchronousTestCase,), body)
