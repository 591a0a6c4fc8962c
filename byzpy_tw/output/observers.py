"""Call plugins that watch a run, without waiting for them."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from contextlib import suppress
from queue import Full, Queue
from typing import Any

from attrs import define, field
from twisted.logger import Logger

from byzpy_tw.events import Event, RoundCompleted, RunStarted
from byzpy_tw.output.view import ServersKnown
from byzpy_tw.plugin_code import describe_exception
from byzpy_tw.plugins import Registry

_WAITING = 1000  # events that a slow observer may fall behind
_END_TIMEOUT = 5.0  # seconds that the end of a run waits for observers


@define(eq=False)
class Observers:
    """Calls every observer, one event after another, in a thread of its own.

    An observer that raises is logged once and still called.  One that hangs loses the events
    after it, but does not stop the run: the thread is a daemon.
    """

    _registry: Registry
    _events: Queue[tuple[str, Mapping[str, Any]] | None] = field(
        factory=lambda: Queue(_WAITING), init=False
    )
    _thread: threading.Thread | None = field(default=None, init=False)
    _failed: set[str] = field(factory=set, init=False)
    _overflowed: bool = field(default=False, init=False)
    _finished: bool = field(default=False, init=False)

    log = Logger()

    def handle(self, event: Event | ServersKnown) -> None:
        """Call `run_event`, and the hooks for events that have their own."""
        match event:
            case ServersKnown():
                return
            case RunStarted():
                self.tell("run_started", config=event.description)
            case RoundCompleted():
                self.tell("round_completed", record=event.record)
        self.tell("run_event", event=event)

    def tell(self, hook: str, **event: Any) -> None:
        """Call `hook` with a copy of `event`, without waiting; nothing is told after `finish`."""
        unused = not getattr(self._registry.manager.hook, hook).get_hookimpls()
        if unused or self._finished:
            return
        if self._thread is None:
            name = "byzpy_tw observers"
            self._thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._thread.start()
        try:
            self._events.put_nowait((hook, copy.deepcopy(event)))
        except Full:
            if not self._overflowed:
                self._overflowed = True
                self.log.warn("observers are {n} events behind: some are left out", n=_WAITING)

    @property
    def is_used(self) -> bool:
        """Return whether `finish` has a thread to wait for."""
        return self._thread is not None

    def finish(self) -> None:
        """Wait until the observers have had all events, but not for ever.  Call it in a pool."""
        self._finished = True
        if self._thread is None:
            return
        with suppress(Full):
            self._events.put(None, timeout=_END_TIMEOUT)
        self._thread.join(_END_TIMEOUT)

    def _work(self) -> None:
        while (event := self._events.get()) is not None:
            hook, arguments = event
            others = getattr(self._registry.manager.hook, hook).get_hookimpls()
            while others:
                implementation = others.pop(0)
                given = copy.deepcopy(arguments) if others else arguments  # it may change them
                wanted = {name: given[name] for name in implementation.argnames}
                try:
                    implementation.function(**wanted)
                except BaseException as e:  # foreign code: SystemExit would end this thread
                    plugin = implementation.plugin_name
                    if plugin not in self._failed:
                        self._failed.add(plugin)
                        self.log.failure(
                            "observer {plugin} failed in {hook} and goes on unheard: {error}",
                            plugin=plugin, hook=hook, error=describe_exception(e),
                        )  # fmt: skip
