"""What the page of a run under way is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from byzpy_tw.config.run import RunConfig
from byzpy_tw.output.metrics import exposition
from byzpy_tw.output.view import Places
from byzpy_tw.report.html import script_json
from byzpy_tw.report.load import collect_facts
from byzpy_tw.report.model import RunReport
from byzpy_tw.scheduling import clock
from byzpy_tw.workers.spec import NodeSpec

_PACE = 0.5  # seconds: the data is not made anew more often, however many ask for it
_LONGEST = 2.0  # seconds between two, where making it takes long
_SHARE = 40  # and at most a fortieth of the time goes into it
_WATCHING = 5.0  # seconds after which one that asked counts as gone
_WATCHERS = 256  # that the end waits for; others may well be there
_PARTING = 3.0  # seconds that the end waits for those who watch to have heard of it


@define(eq=False)
class LivePage:
    """A view of a run that is asked, and asks nothing of the run but where nodes live.

    It takes figures from each record and keeps none; its data is made when somebody asks,
    from counts whose size is bounded.
    """

    run_report: RunReport
    _reactor: IReactorTime
    _places: Places | None = field(default=None, init=False)
    _token: str = field(factory=lambda: token_hex(4), init=False)  # of this process's page
    _changes: int = field(default=1, init=False)
    _made: tuple[int, bytes] = field(default=(0, b""), init=False)  # of which change, what
    _rest: float = field(default=0.0, init=False)  # no newer one until then
    _exposed: tuple[float, tuple[int, str, bytes] | None] = field(default=(0, None), init=False)
    _watching: dict[str, float] = field(factory=dict, init=False)  # who, and when they asked
    _heard: Deferred[None] | None = field(default=None, init=False)  # all of them have

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
        self.refresh()
        self._places = None  # the run is let go of
        self.run_report.status, self.run_report.error = result["status"], result["error"]
        self.run_report.result = {
            k: v for k, v in result.items() if isinstance(v, (int, float, str))
        }
        self._changes += 1
        self._rest = 0.0  # this must not wait for its time

    def result(self, result: Mapping[str, Any], directory: str) -> None:
        pass

    # -- for those who ask

    def refresh(self) -> None:
        """Look where each node lives now."""
        if self._places is not None:
            self.run_report.servers = list(self._places())

    def data(self, seen: str, who: str) -> tuple[str, bytes]:
        """The newest version's name, and its JSON; nothing where `seen` is the newest.

        `who` asked, and counts as watching for a while.
        """
        changes, body = self._made
        now = clock.seconds(self._reactor)
        if changes != self._changes and now >= self._rest:
            self.refresh()
            body, changes = script_json(self.run_report.plain()).encode(), self._changes
            self._made = changes, body
            self._rest = self._until(now)
        self._asked(who, now, heard=self._over and changes == self._changes)
        version = f"{self._token}-{changes}"
        return version, b"" if seen == version else body

    def metrics(self) -> tuple[int, str, bytes]:
        """HTTP code, content type and body for Prometheus; as seldom new as `data`."""
        rest, exposed = self._exposed
        now = clock.seconds(self._reactor)
        if exposed is None or now >= rest:
            self.refresh()
            exposed = exposition(self.run_report)
            self._exposed = self._until(now), exposed
        return exposed

    def _until(self, began: float) -> float:
        """When something whose making `began` then, and is done, may be made anew."""
        took = clock.seconds(self._reactor) - began
        return began + min(_LONGEST, max(_PACE, _SHARE * took))

    @property
    def _over(self) -> bool:
        return self.run_report.status != "running"

    def _asked(self, who: str, now: float, *, heard: bool) -> None:
        self._watching.pop(who, None)
        if not heard and len(self._watching) < _WATCHERS:
            self._watching[who] = now
        for name in [n for n, then in self._watching.items() if now - then > _WATCHING]:
            del self._watching[name]
        if heard and not self._watching and self._heard is not None:
            # Not now: the one who asked has the answer only after this.
            self._reactor.callLater(0, _fire, self._heard)
            self._heard = None

    def wait_for_watchers(self) -> Deferred[None]:
        """Fires when all who watch know that the run is over, or have had their time."""
        now = clock.seconds(self._reactor)
        if not any(now - then <= _WATCHING for then in self._watching.values()):
            done: Deferred[None] = Deferred()
            done.callback(None)
            return done
        self._heard = heard = Deferred()
        heard.addTimeout(_PARTING, self._reactor, onTimeoutCancel=lambda *_: None)
        return heard


def _fire(waiting: Deferred[None]) -> None:
    if not waiting.called:  # or its time was over just now
        waiting.callback(None)
