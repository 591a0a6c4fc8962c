"""Calls into foreign code: plugins', and users' own.

Such code may raise anything: `SystemExit`, `KeyboardInterrupt`, errors whose text raises.
`plugin_call` turns all of it into one error of this package, with the owner and the cause.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any

from byzpy_tw import errors
from byzpy_tw.errors import BadRuleOutput, BrokenPlugin, ByzpyTwError
from byzpy_tw.text import clean, clip

# Errors of this package that foreign code may raise on purpose.  Others would steer a run:
# a rule that raises `Diverged`, say, is a rule that failed.
_ALLOWED = (
    errors.BadVectors, errors.ConfigError, errors.DatasetUnavailable, errors.LimitExceeded,
    errors.PluginError, errors.TooManyByzantine, errors.UnsuitableData, errors.UnsuitableModel,
)  # fmt: skip
_LONGEST = 1000  # characters of a foreign error's text
_LIBRARIES = ("byzpy_tw", "torch", "numpy", "importlib", "concurrent", "threading")


class plugin_call:
    """Context manager around foreign code: ``with plugin_call("acme 1.0: attack 'x'"):``.

    Raises `error` (`BrokenPlugin`) with `who` in front for any exception inside, except for
    the errors of this package that a plugin may raise, and for a Ctrl-C of the user.
    """

    def __init__(self, who: str, error: type[ByzpyTwError] = BrokenPlugin) -> None:
        self.who, self.error = who, error
        self.replaced: BaseException | None = None  # the exception that another was raised for
        self._interrupted = False  # by the user
        self._outer: plugin_call | None = None  # the one whose handler of SIGINT is in force
        self._before: Any = None  # the handler of SIGINT, where it was replaced

    def __enter__(self) -> plugin_call:
        # Python raises KeyboardInterrupt for a Ctrl-C in the main thread only.
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if handler is signal.default_int_handler:
                self._before = signal.signal(signal.SIGINT, self._interrupt)
            owner = getattr(handler, "__self__", None)
            self._outer = owner if isinstance(owner, plugin_call) else None
        return self

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        interrupted = self._interrupted or (self._outer is not None and self._outer._interrupted)
        if e is None or (isinstance(e, KeyboardInterrupt) and interrupted):
            return
        own = isinstance(e, _ALLOWED) and type(e).__module__ == errors.__name__
        self.replaced = None if own else e
        if not isinstance(e, _ALLOWED):
            raise self.error(f"{self.who} raised {describe_exception(e)}") from e
        if type(e).__module__ != errors.__name__:
            # A class of the plugin's own, whose constructor may differ from ours.
            ours = next(k for k in type(e).__mro__ if k.__module__ == errors.__name__)
            raise ours(f"{self.who}: {exception_text(e)}") from e


class write_guard(AbstractContextManager[Any]):
    """Context manager around foreign code that is given memory of others.

    Raises `BadRuleOutput` where torch counted a write to a tensor, in the tensor's version.
    """

    def __init__(self, who: str, *tensors: Any) -> None:
        self.who, self._tensors = who, tensors
        self._versions = [tensor._version for tensor in tensors]

    def __exit__(self, kind: object, e: object, tb: object) -> None:
        if e is None:
            self.check()

    def check(self) -> None:
        """Raise `BadRuleOutput` where a tensor was written to since this was made."""
        if any(t._version != v for t, v in zip(self._tensors, self._versions)):
            raise BadRuleOutput(
                f"{self.who} wrote to the vectors that it was given, which others use too: work "
                "on a copy, such as vectors.clone()"
            )


def foreign_cause(error: BaseException) -> BaseException | None:
    """The exception of foreign code that `error` is, or was raised from; None without one."""
    found: BaseException | None = error
    while isinstance(found, ByzpyTwError):
        found = found.__cause__
    return found


def describe_exception(e: BaseException) -> str:
    """One line: the class and text of `e` and its line of foreign code; of our errors the text."""
    if isinstance(e, ByzpyTwError):
        return exception_text(e) or type(e).__name__
    text, where = exception_text(e), _innermost_line(e)
    line = f"{type(e).__name__}: {text}" if text else type(e).__name__
    return f"{line} ({where})" if where else line


def exception_text(e: BaseException) -> str:
    """The text of `e` in one line without control characters, or why it has none."""
    try:
        return clean(clip(" ".join(str(e).split()), _LONGEST), _LONGEST)
    except BaseException as broken:
        return f"no text: that raised {type(broken).__name__}"


def _innermost_line(e: BaseException) -> str:
    """``file.py, line 3`` of the innermost frame outside libraries, or nothing."""
    import traceback  # not before there is an error: starting takes long enough

    found = ""
    for frame, line in traceback.walk_tb(e.__traceback__):
        module = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if module not in _LIBRARIES:
            file = os.path.basename(frame.f_code.co_filename)
            found = "" if file.startswith("<") else f"{file}, line {line}"
    return found
