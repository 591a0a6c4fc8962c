"""A run as its pages tell it: what it was, what happened, how it stands."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import define, field

from byzpy_tw.config.run import RunConfig, flag
from byzpy_tw.records.schema import is_number
from byzpy_tw.report.downsample import round_digits
from byzpy_tw.report.history import STATES, RoundHistory
from byzpy_tw.report.summary import conclusion
from byzpy_tw.rounds.placement import ServerState

_EVENTS = 100  # the newest ones
_LONGEST = 500  # characters of anything that a peer or a file may have made long
_NODES_TOLD = 20  # for whom a server's list says each


@define(eq=False)
class RunReport:
    """Everything of it is bounded, and nothing of it refers to the run itself."""

    name: str
    options: Mapping[str, Any]  # as config.json has them
    history: RoundHistory
    rule: str
    status: str = "running"
    error: str | None = None
    servers: Sequence[ServerState] = ()
    result: Mapping[str, Any] = field(factory=dict)
    facts: Mapping[str, str] = field(factory=dict)  # versions, digests
    note: str = ""  # about what is told here
    _events: deque[tuple[int | None, str]] = field(
        factory=lambda: deque(maxlen=_EVENTS), init=False
    )

    def add(self, record: Mapping[str, Any]) -> None:
        """One more round."""
        self.history.add(record)
        for text in record.get("events", ()):
            self.add_event(str(text), int(record["round"]))

    def add_event(self, text: str, round: int | None = None) -> None:
        """Something that is worth a line; `round` None where it belongs to none."""
        self._events.append((round, text[:_LONGEST]))

    def plain(self) -> dict[str, Any]:
        """What the page is drawn from: plain values for JSON."""
        history = self.history
        columns = history.columns
        phases = {name: s.means(columns) for name, s in history.phases.items()}
        return {
            "name": self.name[:_LONGEST],
            "status": self.status[:40],
            "conclusion": self.conclusion,
            "note": self.note,
            "rounds": {
                "planned": max(history.planned, history.done),
                "span": self._span(),
                "done": history.done,
                "width": history.width,
                "columns": columns,
            },
            "figures": self._figures(),
            "curves": {
                "loss": history.loss.plain(columns),
                "test_loss": history.test_loss.plain(columns),
                "accuracy": history.accuracy.plain(columns),
                "seconds": history.seconds.plain(columns),
            },
            "phases": {name[:40]: values for name, values in phases.items()},
            "nodes": self._nodes(),
            "unshown": history.n - len(history.shown),
            "places": [
                {
                    "name": place.name[:_LONGEST],
                    "up": place.up,
                    "nodes": list(place.nodes[:_NODES_TOLD]),
                    "more": max(0, len(place.nodes) - _NODES_TOLD),
                }
                for place in self.servers
            ],
            "events": [[round, text] for round, text in self._events],
            "options": options_of(self.options),
            "facts": [[str(k)[:80], str(v)[:_LONGEST]] for k, v in self.facts.items()],
        }

    @property
    def conclusion(self) -> list[str]:
        error = self.error[:_LONGEST].rstrip(".") if self.error else None
        return conclusion(self.history, self.rule[:200], self.status, error)

    def _span(self) -> int:
        """Rounds that the axes reach over: all, or so many that half of them are done."""
        span = max(self.history.planned, self.history.done)
        while span > 20 and span // 2 >= self.history.done:
            span = -(-span // 2)
        return span

    def _figures(self) -> dict[str, Any]:
        """The numbers that stand alone."""
        history, last, result = self.history, self.history.last, self.result
        ran = sum(history.phase_seconds.values())
        return {
            "loss": _short(last.get("loss")),
            "test_loss": _short(last.get("test_loss")),
            "accuracy": _short(last.get("accuracy")),
            "worst_accuracy": _short(result.get("worst_accuracy")),
            "best_accuracy": _short(result.get("best_accuracy")),
            "seconds": _short(result.get("seconds")),
            "seconds_a_round": round_digits(ran / history.done) if history.done else None,
            "charged": history.charged,
            "bytes": history.bytes,
        }

    def _nodes(self) -> list[dict[str, Any]]:
        """Each node with a strip: where it lives, and how often it was what."""
        history = self.history
        home = {node: place.name for place in self.servers for node in place.nodes}
        return [
            {
                "node": node,
                "honest": node < history.honest,
                "home": home.get(node, "")[:_LONGEST],
                "letters": letters,
                "digits": digits,
                "excluded": excluded,
                "totals": dict(zip(STATES, history.totals[node].tolist(), strict=True)),
                "reasons": dict(history.reasons.get(node, {})),
            }
            for node, letters, digits, excluded in history.strips()
        ]


def options_of(options: Mapping[str, Any]) -> list[list[Any]]:
    """Rows of option, value, and whether that is not the default."""
    defaults = {f.name: f.default for f in attrs.fields(RunConfig)}
    rows = []
    for name, value in options.items():
        default = defaults.get(name)
        default = list(default) if isinstance(default, tuple) else default
        rows.append([flag(str(name)[:80]), _written(value), value != default])
    return rows


def _written(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))[:_LONGEST] or "—"
    return str(value)[:_LONGEST]


def _short(value: Any) -> float | None:
    return round_digits(float(value)) if is_number(value) else None
