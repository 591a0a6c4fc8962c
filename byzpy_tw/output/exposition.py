"""Metrics in the text format of Prometheus, by its conventions: base units, totals, histograms."""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

from attrs import define, field

import byzpy_tw

EXTRA = "prometheus-client is not installed here: pip install 'byzpy-tw[metrics]'"
# Upper bounds in seconds, from a small model's round to a large one's over a slow network.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@define(eq=False)
class Histogram:
    """Counts of durations by `BOUNDS`, and their sum."""

    _counts: list[int] = field(factory=lambda: [0] * (len(BOUNDS) + 1), init=False)
    _sum: float = field(default=0.0, init=False)

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    def family(self, name: str, help: str) -> Any:
        from prometheus_client.core import HistogramMetricFamily

        bounds = (*map(str, BOUNDS), "+Inf")
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        return HistogramMetricFamily(name, help, buckets=buckets, sum_value=self._sum)


def build_info() -> Any:
    """Return the versions of what runs here."""
    import torch
    from prometheus_client.core import InfoMetricFamily

    found = {"version": byzpy_tw.__version__, "python": platform.python_version(),
             "torch": torch.__version__}  # fmt: skip
    return InfoMetricFamily("byzpy_tw_build", "Versions of this program.", value=found)


def exposition(
    collect: Callable[[], Iterable[Any]], *, process: bool = False
) -> tuple[int, str, bytes]:
    """Return HTTP code, content type and body; of this `process` too, such as its memory."""
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
        from prometheus_client.registry import Collector
    except ModuleNotFoundError:
        return 501, "text/plain", f"no metrics: {EXTRA}\n".encode()

    class Metrics(Collector):
        def collect(self) -> Iterable[Any]:
            return collect()

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Metrics())
    if process:
        ProcessCollector(registry=registry)
    return 200, CONTENT_TYPE_LATEST, generate_latest(registry)
