"""A run's figures in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from byzpy_tw.report.history import STATES
from byzpy_tw.report.model import RunReport

_MISSING = (
    b"no metrics: prometheus-client is not installed where the trainer runs: "
    b"pip install 'byzpy-tw[metrics]'\n"
)


def exposition(run_report: RunReport) -> tuple[int, str, bytes]:
    """HTTP code, content type and body."""
    try:
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
    except ModuleNotFoundError:
        return 501, "text/plain", _MISSING
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_MetricsCollector(run_report))  # type: ignore[arg-type]
    return 200, CONTENT_TYPE_LATEST, generate_latest(registry)


class _MetricsCollector:
    """A collector: what a `RunReport` comes to at the moment."""

    def __init__(self, run_report: RunReport) -> None:
        self._run_report = run_report

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            InfoMetricFamily,
        )

        run_report, history = self._run_report, self._run_report.history

        def gauge(name: str, help: str, value: Any) -> Iterator[Any]:
            if isinstance(value, (int, float)):
                yield GaugeMetricFamily(f"byzpy_tw_{name}", help, value=value)

        run = {"run": run_report.name, "status": run_report.status, "rule": run_report.rule}
        yield InfoMetricFamily("byzpy_tw_run", "Which run this is.", value=run)
        yield CounterMetricFamily("byzpy_tw_rounds", "Rounds that are done.", value=history.done)
        yield from gauge("rounds_planned", "Rounds that there are to be.", history.planned)
        last = history.last
        yield from gauge("loss", "Mean loss of the honest nodes.", last.get("loss"))
        yield from gauge("test_loss", "Loss on the test data.", last.get("test_loss"))
        yield from gauge("accuracy", "Share of the test data, 0 to 1.", last.get("accuracy"))
        yield from gauge("round_seconds", "Time of the last round.", last.get("seconds"))
        yield from gauge("budget", "The rule's f in the last round.", last.get("f"))
        phases = CounterMetricFamily(
            "byzpy_tw_phase_seconds", "Time spent in each phase of rounds.", labels=["phase"]
        )
        for name, seconds in history.phase_seconds.items():
            phases.add_metric([name], seconds)
        yield phases
        traffic = CounterMetricFamily("byzpy_tw_bytes", "Bytes of tensors.", labels=["direction"])
        for direction, count in zip(("sent", "received"), history.bytes, strict=True):
            traffic.add_metric([direction], count)
        yield traffic
        yield from self._nodes(CounterMetricFamily, GaugeMetricFamily)

    def _nodes(self, counter: Any, gauge: Any) -> Iterator[Any]:
        history = self._run_report.history
        outcomes = counter(
            "byzpy_tw_node_rounds", "Rounds by what a node came to in them.",
            labels=["node", "kind", "outcome"],
        )  # fmt: skip
        for node in history.shown.tolist():  # bounded
            kind = "honest" if node < history.honest else "byzantine"
            for state, count in zip(STATES, history.totals[node].tolist(), strict=True):
                outcomes.add_metric([str(node), kind, state], count)
        yield outcomes
        up = gauge("byzpy_tw_server_up", "1 if the server is there.", labels=["server"])
        living = gauge("byzpy_tw_server_nodes", "Nodes that live there.", labels=["server"])
        for place in self._run_report.servers:
            up.add_metric([place.name], float(place.up is not False))
            living.add_metric([place.name], len(place.nodes))
        yield up
        yield living
