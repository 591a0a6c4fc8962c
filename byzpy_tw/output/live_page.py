"""The data of the live page: when it is made anew, and who is told of the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from byzpy_tw import events
from byzpy_tw.output.event_text import OF_ONE_ROUND, describe, shown_line
from byzpy_tw.output.exposition import Histogram
from byzpy_tw.output.metrics import metrics
from byzpy_tw.output.view import ServersKnown
from byzpy_tw.records.metrics import described_chance, described_metrics, metrics_in_result
from byzpy_tw.report.curves import page_data
from byzpy_tw.report.html import script_json
from byzpy_tw.report.load import collect_facts
from byzpy_tw.report.model import RunReport, ServerState
from byzpy_tw.report.setting import Setting
from byzpy_tw.scheduling import clock

_PACE = 0.5  # seconds: an answer is not made anew more often, however many ask for it
_LONGEST = 2.0  # seconds between two, where making it takes long
_SHARE = 40  # and at most a fortieth of the time goes into it
_WATCHING = 5.0  # seconds after which a watcher that does not ask counts as gone
_WATCHERS = 256  # that the end waits for
_PARTING = 3.0  # seconds that the end waits for watchers to ask once more
_SCRAPING = 20.0  # and that it waits for the next scrape of a monitor, where it is to come by then
_LATE = 1.0  # seconds that a scrape may be late


@define
class _Answer:
    changes: int = 0  # of the run, when `value` was made
    rest: float = 0.0  # until when it is good enough
    value: Any = None


@define(eq=False)
class LivePage:
    """A view of a run.  It counts each record and keeps none.

    Answers are made when somebody asks, from counts whose size is bounded.
    """

    run_report: RunReport
    _reactor: IReactorTime
    _list_servers: Callable[[], Sequence[ServerState]] | None = field(default=None, init=False)
    _token: str = field(factory=lambda: token_hex(4), init=False)  # of this process's page
    _changes: int = field(default=1, init=False)
    _durations: Histogram = field(factory=Histogram, init=False)  # of rounds
    _data: _Answer = field(factory=_Answer, init=False)
    _metrics: _Answer = field(factory=_Answer, init=False)
    _watching: dict[str, float] = field(factory=dict, init=False)  # when each asked last
    _scraped: float | None = field(default=None, init=False)  # when the metrics were asked last
    _interval: float | None = field(default=None, init=False)  # between the last two times
    _scraped_end: bool = field(default=False, init=False)  # a scrape had the status of the end
    _awaiting_scrape: Deferred[None] | None = field(default=None, init=False)
    _told: Deferred[None] | None = field(default=None, init=False)  # all of them, of the end

    def handle(self, event: events.Event | ServersKnown) -> None:
        report = self.run_report
        match event:
            case events.NodeRefused():
                pass  # its strip shows it, in each round
            case events.Incident():
                report.add_event(describe(event), self._round_of(event))
            case events.Notice(kind=events.Kind.NOTICE | events.Kind.WARNING | events.Kind.ALWAYS):
                report.add_event(shown_line(event))
            case ServersKnown():
                self._list_servers = event.list_servers
            case events.NodesPlaced():
                pass  # only the servers' states have changed
            case events.RunStarted():
                report.history.metrics = described_metrics(event.description)
                report.history.chance = described_chance(event.description)
                report.setting = Setting.of(event.description, report.history.counts.n)
                for record in event.records:
                    report.add(record)
                    self._durations.add(record["seconds"])
                report.facts = collect_facts(event.description, {})
            case events.RoundCompleted():
                report.result = {"seconds": event.elapsed}
                self._durations.add(event.record["seconds"])
                report.history.add(event.record)  # its events were handled as they happened
            case events.RunEnded():
                self._look_up_servers()
                self._list_servers = None  # nothing of the run is kept
                result, plain = event.result, (int, float, str)
                report.status, report.error = result["status"], result["error"]
                report.result = {k: v for k, v in result.items() if isinstance(v, plain)}
                report.result["metrics"] = metrics_in_result(result)
                self._data.rest = self._metrics.rest = 0.0  # this must not wait for its time
            case _:
                return  # the page shows it in other ways, or not at all
        self._changes += 1

    def _round_of(self, event: events.Incident) -> int | None:
        if isinstance(event, OF_ONE_ROUND):
            return event.round
        return self.run_report.history.done or None  # between two rounds

    def data(self, seen: str, watcher: str) -> tuple[str, bytes]:
        """Return the newest version's name and JSON (none if `seen` has it); note `watcher`."""
        answer = self._answer(
            self._data, lambda: script_json(page_data([self.run_report])).encode()
        )
        is_told = self.run_report.status != "running" and answer.changes == self._changes
        self._note_watcher(watcher, is_told)
        version = f"{self._token}-{answer.changes}"
        return version, b"" if seen == version else answer.value

    def metrics(self) -> tuple[int, str, bytes]:
        """Return HTTP code, content type and body for Prometheus."""
        answer = self._answer(self._metrics, lambda: metrics(self.run_report, self._durations))
        now, before = clock.seconds(self._reactor), self._scraped
        self._scraped, self._interval = now, None if before is None else now - before
        self._scraped_end = self.run_report.status != "running"
        if self._scraped_end and self._awaiting_scrape is not None:
            waiting, self._awaiting_scrape = self._awaiting_scrape, None
            self._fire_soon(waiting)
        return answer.value

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
        if self._list_servers is not None:
            self.run_report.servers = list(self._list_servers())

    def _note_watcher(self, watcher: str, is_told: bool) -> None:
        now = clock.seconds(self._reactor)
        self._watching.pop(watcher, None)
        if not is_told and len(self._watching) < _WATCHERS:
            self._watching[watcher] = now
        self._watching = {n: at for n, at in self._watching.items() if now - at <= _WATCHING}
        if is_told and not self._watching and self._told is not None:
            told, self._told = self._told, None
            self._fire_soon(told)

    def _fire_soon(self, told: Deferred[None]) -> None:
        # Not now: the peer has the answer only after this.  The timeout may come first.
        self._reactor.callLater(0, lambda: None if told.called else told.callback(None))

    def wait_for_scrape(self) -> Deferred[None]:
        """Fire when a monitor that asks every few seconds knows that the run is over.

        It has until its next scrape is due.  One that asks less often, or that has asked once
        only, is not waited for, and none is after an interrupt.
        """
        last, interval = self._scraped, self._interval
        if last is None or interval is None or interval > _SCRAPING or self._scraped_end:
            return succeed(None)
        left = last + interval + _LATE - clock.seconds(self._reactor)
        if left <= 0 or self.run_report.status == "interrupted":
            return succeed(None)
        self._awaiting_scrape = waiting = Deferred[None]()
        return waiting.addTimeout(left, self._reactor, onTimeoutCancel=lambda *_: None)

    def wait_for_watchers(self) -> Deferred[None]:
        """Fire when all watchers know that the run is over, or have had their time."""
        now = clock.seconds(self._reactor)
        if not any(now - at <= _WATCHING for at in self._watching.values()):
            return succeed(None)
        self._told = told = Deferred[None]()
        told.addTimeout(_PARTING, self._reactor, onTimeoutCancel=lambda *_: None)
        return told
