"""The page of a run under way, without its server: it follows the run, and is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from secrets import token_hex
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from byzpy_tw.config.run import RunConfig
from byzpy_tw.output.metrics import exposition
from byzpy_tw.output.view import Places
from byzpy_tw.report.curves import page_data
from byzpy_tw.report.html import script_json
from byzpy_tw.report.load import collect_facts
from byzpy_tw.report.model import RunReport
from byzpy_tw.scheduling import clock
from byzpy_tw.workers.spec import NodeSpec

_PACE = 0.5  # seconds: an answer is not made anew more often, however many ask for it
_LONGEST = 2.0  # seconds between two, where making it takes long
_SHARE = 40  # and at most a fortieth of the time goes into it
_WATCHING = 5.0  # seconds after which a watcher that does not ask counts as gone
_WATCHERS = 256  # that the end waits for
_PARTING = 3.0  # seconds that the end waits for watchers to ask once more


@define
class _Answer:
    changes: int = 0  # of the run, when `value` was made
    rest: float = 0.0  # until when it is good enough
    value: Any = None


@define(eq=False)
class LivePage:
    """A view of a run, which asks the run for nothing but where nodes live.

    It counts each record and keeps none.  Answers are made when somebody asks, from counts
    whose size is bounded.
    """

    run_report: RunReport
    _reactor: IReactorTime
    _places: Places | None = field(default=None, init=False)
    _token: str = field(factory=lambda: token_hex(4), init=False)  # of this process's page
    _changes: int = field(default=1, init=False)
    _data: _Answer = field(factory=_Answer, init=False)
    _metrics: _Answer = field(factory=_Answer, init=False)
    _watching: dict[str, float] = field(factory=dict, init=False)  # when each asked last
    _told: Deferred[None] | None = field(default=None, init=False)  # all of them, of the end

    # -- as a view

    def say(self, line: str) -> None:
        pass  # what it says is on the page

    def notice(self, line: str) -> None:
        self.run_report.add_event(line)
        self._changes += 1

    def event(self, line: str) -> None:
        begun = self.run_report.history.done > 0 and not line.startswith("round ")
        self.run_report.add_event(line, self.run_report.history.done if begun else None)
        self._changes += 1

    def tell(self, line: str) -> None:
        self.notice(line)

    def configuration(self, config: RunConfig, directory: str, threads: int) -> None:
        pass

    def watch(self, servers: Places) -> None:
        self._places = servers
        self._changes += 1

    def placement(self, placement: Sequence[tuple[str, Sequence[NodeSpec]]]) -> None:
        self._changes += 1

    def begun(self, description: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
        for record in records:
            self.run_report.add(record)
        self.run_report.facts = collect_facts(description, {})
        self._changes += 1

    def round(self, record: Mapping[str, Any], elapsed: float) -> None:
        self._changes += 1
        self.run_report.result = {"seconds": elapsed}
        self.run_report.history.add(record)  # its events were told as they happened

    def over(self, result: Mapping[str, Any]) -> None:
        self._look_up_servers()
        self._places = None  # nothing of the run is kept
        self.run_report.status, self.run_report.error = result["status"], result["error"]
        self.run_report.result = {
            k: v for k, v in result.items() if isinstance(v, (int, float, str))
        }
        self._changes += 1
        self._data.rest = 0.0  # this must not wait for its time

    def result(self, result: Mapping[str, Any], directory: str) -> None:
        pass

    # -- for those who ask

    def data(self, seen: str, watcher: str) -> tuple[str, bytes]:
        """Return the newest version's name, and its JSON; no JSON where `seen` is the newest.

        `watcher` counts as watching for some seconds.
        """
        answer = self._answer(
            self._data, lambda: script_json(page_data([self.run_report])).encode()
        )
        is_told = self.run_report.status != "running" and answer.changes == self._changes
        self._note_watcher(watcher, is_told)
        version = f"{self._token}-{answer.changes}"
        return version, b"" if seen == version else answer.value

    def metrics(self) -> tuple[int, str, bytes]:
        """Return HTTP code, content type and body for Prometheus."""
        return self._answer(self._metrics, lambda: exposition(self.run_report)).value

    def _answer(self, answer: _Answer, make: Callable[[], Any]) -> _Answer:
        """Make `answer` anew if the run has changed, and it is time to."""
        began = clock.seconds(self._reactor)
        if answer.changes != self._changes and began >= answer.rest:
            self._look_up_servers()
            answer.changes, answer.value = self._changes, make()
            took = clock.seconds(self._reactor) - began
            answer.rest = began + min(_LONGEST, max(_PACE, _SHARE * took))
        return answer

    def _look_up_servers(self) -> None:
        if self._places is not None:
            self.run_report.servers = list(self._places())

    def _note_watcher(self, watcher: str, is_told: bool) -> None:
        now = clock.seconds(self._reactor)
        self._watching.pop(watcher, None)
        if not is_told and len(self._watching) < _WATCHERS:
            self._watching[watcher] = now
        self._watching = {n: at for n, at in self._watching.items() if now - at <= _WATCHING}
        if is_told and not self._watching and self._told is not None:
            # Not now: the watcher has the answer only after this.  The timeout may come first.
            self._reactor.callLater(0, _fire, self._told)
            self._told = None

    def wait_for_watchers(self) -> Deferred[None]:
        """Fire when all watchers know that the run is over, or have had their time."""
        now = clock.seconds(self._reactor)
        if not any(now - at <= _WATCHING for at in self._watching.values()):
            return succeed(None)
        self._told = told = Deferred[None]()
        told.addTimeout(_PARTING, self._reactor, onTimeoutCancel=lambda *_: None)
        return told


def _fire(waiting: Deferred[None]) -> None:
    if not waiting.called:
        waiting.callback(None)
