"""A run's figures in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from byzpy_tw.output.exposition import Histogram, build_info, exposition
from byzpy_tw.records.schema import GAUGES, STATES
from byzpy_tw.report.model import RunReport
from byzpy_tw.tasks.metric import Metric

STATUSES = ("running", "finished", "paused", "interrupted", "diverged", "failed")


def metrics(run_report: RunReport, durations: Histogram) -> tuple[int, str, bytes]:
    """Return HTTP code, content type and body; `durations` has the seconds of all rounds."""
    return exposition(lambda: _families(run_report, durations))


def _gauge(metric: Metric) -> tuple[str, str]:
    """Return the name and the help text of the gauge of `metric`."""
    if metric.name == "accuracy":  # dashboards know it as this
        return "accuracy", "Share of the test data, 0 to 1."
    unit = f", in {metric.unit}" if metric.unit else ""
    if metric.is_of_validation:
        return metric.name, f"{metric.title}{unit}."
    return f"test_{metric.name}", f"{metric.title} on the test data{unit}."


def _families(run_report: RunReport, durations: Histogram) -> Iterator[Any]:
    """Yield the metrics of `run_report` as it is now."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    history, counts = run_report.history, run_report.history.counts
    run = {"run": run_report.name, "rule": run_report.rule}
    yield build_info()
    yield InfoMetricFamily("byzpy_tw_run", "Which run this is.", value=run)
    status = GaugeMetricFamily("byzpy_tw_run_status", "1 for the run's status.", labels=["status"])
    for name in STATUSES:
        status.add_metric([name], float(run_report.status == name))
    yield status
    yield durations.family("byzpy_tw_round_seconds", "Time of a round, without its evaluation.")
    yield CounterMetricFamily("byzpy_tw_rounds", "Rounds that are done.", value=counts.rounds)
    yield GaugeMetricFamily(
        "byzpy_tw_rounds_planned", "Rounds that there are to be.", value=history.planned
    )
    gauges = []
    for entry, (name, help) in GAUGES.items():
        gauges.append((name, help, counts.latest.get(entry)))
        if entry == "test_loss":
            gauges += [(*_gauge(m), counts.metrics.get(m.name)) for m in history.metrics]
    for name, help, value in gauges:
        if value is not None:
            yield GaugeMetricFamily(f"byzpy_tw_{name}", help, value=value)
    phases = CounterMetricFamily(
        "byzpy_tw_phase_seconds", "Time spent in each phase of rounds.", labels=["phase"]
    )
    for phase, seconds in counts.phase_seconds.items():
        phases.add_metric([phase], seconds)
    traffic = CounterMetricFamily("byzpy_tw_bytes", "Bytes of tensors.", labels=["direction"])
    traffic.add_metric(["sent"], counts.bytes_sent)
    traffic.add_metric(["received"], counts.bytes_received)
    outcomes = CounterMetricFamily(
        "byzpy_tw_node_rounds", "Rounds by what a node came to in them.",
        labels=["node", "kind", "outcome"],
    )  # fmt: skip
    totals = history.totals
    for node in history.shown.tolist():  # bounded
        kind = "honest" if node < history.num_honest else "byzantine"
        for state, count in zip(STATES, totals[node].tolist(), strict=True):
            outcomes.add_metric([str(node), kind, state], count)
    up = GaugeMetricFamily("byzpy_tw_server_up", "1 if the server is there.", labels=["server"])
    nodes = GaugeMetricFamily("byzpy_tw_server_nodes", "Nodes that live there.", labels=["server"])
    for server in run_report.servers:
        up.add_metric([server.name], float(server.up is not False))
        nodes.add_metric([server.name], len(server.nodes))
    yield from (phases, traffic, outcomes, up, nodes)
