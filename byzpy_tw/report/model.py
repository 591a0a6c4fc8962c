"""The data of a run's page: figures, nodes, servers, events, options and the result."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
from attrs import define, field

from byzpy_tw.config.run_config import RunConfig, flag
from byzpy_tw.records.metrics import metrics_in_result
from byzpy_tw.records.schema import PLOTTED, STATES, is_number
from byzpy_tw.report.downsample import round_digits
from byzpy_tw.report.history import RoundHistory
from byzpy_tw.report.setting import Setting
from byzpy_tw.report.summary import conclusion
from byzpy_tw.rounds.placement import ServerState

_EVENTS = 100  # the newest ones
_LONGEST = 500  # characters of anything that a peer or a file may have made long
_NODES_TOLD = 20  # of a server, by number; the others are counted


@define(eq=False)
class RunReport:
    """A page's data in memory of bounded size.  Nothing in it refers to the running trainer."""

    name: str
    options: Mapping[str, Any]  # as config.json has them
    history: RoundHistory
    rule: str
    status: str = "running"
    error: str | None = None
    servers: Sequence[ServerState] = ()
    result: Mapping[str, Any] = field(factory=dict)
    facts: Mapping[str, str] = field(factory=dict)  # versions, digests
    note: str = ""  # a warning about its files
    setting: Setting = Setting()  # its samples and weights
    _events: deque[tuple[int | None, str]] = field(
        factory=lambda: deque(maxlen=_EVENTS), init=False
    )

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one more round, and its events."""
        self.history.add(record)
        for text in record.get("events", ()):
            self.add_event(str(text), int(record["round"]))

    def add_event(self, text: str, round: int | None = None) -> None:
        """Add a line to the events; `round` is None where it belongs to none."""
        self._events.append((round, text[:_LONGEST]))

    def plain(self) -> dict[str, Any]:
        """Return the data of the page: plain values for JSON."""
        history, columns, nodes = self.history, self.history.columns, self._nodes()
        return {
            "name": self.name[:_LONGEST],
            "status": self.status[:40],
            "conclusion": self.conclusion,
            "setting": self.setting.sentences(self.options, history.counts),
            "note": self.note,
            "rounds": {
                "planned": max(history.planned, history.done),
                "span": self._span(),
                "done": history.done,
                "width": history.width,
                "columns": columns,
                "chooses": history.counts.chooses,
            },
            "figures": self._figures(),
            "metrics": self._metrics(),
            "curves": {name: series.plain(columns) for name, series in history.series.items()},
            "phases": {name[:40]: s.means(columns) for name, s in history.phases.items()},
            "nodes": nodes,
            "unshown": history.counts.n - len(nodes),
            "places": [
                {
                    "name": server.name[:_LONGEST],
                    "up": server.up,
                    "nodes": list(server.nodes[:_NODES_TOLD]),
                    "more": max(0, len(server.nodes) - _NODES_TOLD),
                }
                for server in self.servers
            ],
            "events": [[round, text] for round, text in self._events],
            "options": options_of(self.options),
            "facts": [[str(k)[:80], str(v)[:_LONGEST]] for k, v in self.facts.items()],
        }

    @property
    def conclusion(self) -> list[str]:
        """The run in a few sentences."""
        error = self.error[:_LONGEST].rstrip(".") if self.error else None
        return conclusion(self.history, self.rule[:200], self.status, error)

    def _span(self) -> int:
        """Return the length of the axes in rounds: the run's, halved while half of it is empty."""
        span = max(self.history.planned, self.history.done)
        while span > 20 and span // 2 >= self.history.done:
            span = -(-span // 2)
        return span

    def _figures(self) -> dict[str, Any]:
        """Return the numbers that stand alone."""
        counts = self.history.counts
        ran = sum(counts.phase_seconds.values())
        found: dict[str, Any] = {name: counts.latest.get(name) for name in PLOTTED}
        found["seconds"] = self.result.get("seconds")
        return {
            **{n: round_digits(float(v)) if is_number(v) else None for n, v in found.items()},
            "seconds_a_round": round_digits(ran / counts.rounds) if counts.rounds else None,
            "charged": counts.refusals,
            "bytes": [counts.bytes_sent, counts.bytes_received],
        }

    def _metrics(self) -> list[dict[str, Any]]:
        """Return each metric, with its last value and those of the result."""
        history, figures = self.history, metrics_in_result(self.result)
        found = []
        for metric in history.metrics:
            values = figures.get(metric.name, {})
            found.append({
                **attrs.asdict(metric),
                "value": _finite(history.counts.metrics.get(metric.name)),
                "worst": _finite(values.get("worst")),
                "best": _finite(values.get("best")),
                "curve": history.metric_series(metric).plain(history.columns),
            })  # fmt: skip
        return found

    def _nodes(self) -> list[dict[str, Any]]:
        """Return each node with a strip, with its server and the number of rounds by state."""
        history, shares = self.history, self.setting.shares
        home = {
            node: server.name
            for server in self.servers
            for node in _those_in(server.nodes, history.shown.tolist())
        }
        totals = history.totals
        return [
            {
                "node": node,
                "honest": node < history.num_honest,
                "home": home.get(node, "")[:_LONGEST],
                "letters": letters,
                "digits": digits,
                "excluded": excluded,
                "totals": dict(zip(STATES, totals[node].tolist(), strict=True)),
                "reasons": dict(history.counts.refused.get(node, {})),
                "weight": shares[node] if shares else None,
            }
            for node, letters, digits, excluded in history.strips()
        ]


def _those_in(nodes: Sequence[int], some: Iterable[int]) -> list[int]:
    """Return those of `some` that are in `nodes`."""
    there = nodes if isinstance(nodes, range) else frozenset(nodes)
    return [node for node in some if node in there]


def _finite(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def options_of(options: Mapping[str, Any]) -> list[list[Any]]:
    """Return rows of option, value, whether that is not the default, and if it decides bits."""
    fields = {f.name: f for f in attrs.fields(RunConfig)}
    defaults = {name: option.default for name, option in fields.items()}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}
    return [
        [
            flag(str(name)[:80]),
            _format_option(value),
            value != plain.get(name),
            name not in fields or fields[name].metadata["bits"],
        ]  # fmt: skip
        for name, value in options.items()
    ]


def _format_option(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))[:_LONGEST] or "—"
    return str(value)[:_LONGEST]
