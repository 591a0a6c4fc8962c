"""A server's figures in the text format of Prometheus, and the port where they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from byzpy_tw.errors import ByzpyTwError, format_error
from byzpy_tw.log_tail import event_line
from byzpy_tw.output.exposition import build_info, exposition
from byzpy_tw.output.web_server import Answer, ReadOnly, WebServer
from byzpy_tw.scheduling import clock
from byzpy_tw.server.parent import CannotStart

_PACE = 0.5

if TYPE_CHECKING:
    from byzpy_tw.server.service import ByzpyServer


def families(server: ByzpyServer) -> Iterator[Any]:
    """Yield the metrics of `server` as it is now."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    counts = server.counts
    total = counts.with_runs(server.open_runs())
    yield build_info()
    for name, help, value in (
        ("runs", "Runs open now, or being opened.", server.runs),
        ("nodes", "Nodes hosted now.", server.nodes),
        ("open_connections", "Connections now.", server.connections),
    ):
        yield GaugeMetricFamily(f"byzpy_server_{name}", help, value=value)
    if server.keys is not None:
        until = server.keys.certificate.not_valid_after_utc.timestamp()
        yield GaugeMetricFamily("byzpy_server_certificate_expiry_timestamp_seconds",
                                "When the server's certificate expires.", value=until)  # fmt: skip
    for name, help, value in (
        ("runs_opened", "Runs opened.", counts.runs_opened),
        ("rounds", "Rounds of runs for which a vector was sent.", total.rounds),
        ("vectors", "Vectors of nodes sent.", total.vectors),
        ("connections", "Connections accepted.", counts.connections),
        ("connections_refused", "Connections that the server refused or ended.", counts.hung_up),
    ):
        yield CounterMetricFamily(f"byzpy_server_{name}", help, value=value)
    traffic = CounterMetricFamily("byzpy_server_bytes", "Bytes of tensors.", labels=["direction"])
    traffic.add_metric(["received"], total.bytes_received)
    traffic.add_metric(["sent"], total.bytes_sent)
    refusals = CounterMetricFamily("byzpy_server_refusals", "Commands refused.", labels=["code"])
    for code, number in sorted(counts.refusals.items()):
        refusals.add_metric([code], number)
    yield from (traffic, refusals)
    yield counts.computing.family(
        "byzpy_server_gradients_seconds",
        "Time from a trainer's question for nodes' gradients until they were sent.",
    )


class MetricsPage(ReadOnly):
    """``/metrics``, and nothing else; made anew at most every `_PACE` seconds."""

    def __init__(self, server: ByzpyServer, is_local: Callable[[], bool] = lambda: True) -> None:
        super().__init__(is_local)
        self._server = server
        self._made, self._until = (501, "text/plain", b""), 0.0

    def answer(self, request: Any) -> Answer:
        if request.path != b"/metrics":
            return 404, "text/plain", b"there is /metrics\n"
        now = clock.seconds(self._server.reactor)
        if now >= self._until:
            self._until = now + _PACE
            code, kind, body = exposition(lambda: families(self._server), process=True)
            self._made = code, kind.partition("; charset")[0], body
        return self._made


@define(eq=False)
class MetricsPort(Service):
    """Serves the metrics of `_server` at the endpoint of ``--metrics``."""

    _server: ByzpyServer
    _endpoint: str
    _reactor: Any
    _web: WebServer = field(init=False)

    log = Logger()

    def __attrs_post_init__(self) -> None:
        self._web = WebServer(
            lambda is_local: MetricsPage(self._server, is_local),
            self._endpoint, self._reactor, "--metrics",
        )  # fmt: skip

    def startService(self) -> None:
        """Listen; a process that cannot ends with the reason in one line."""
        super().startService()
        failed: list[ByzpyTwError] = []

        def fail(failure: Failure) -> None:
            if failure.check(ByzpyTwError) is None:  # a bug, of this program or of Twisted's
                self.log.failure("cannot serve metrics", failure=failure)
            else:
                failed.append(cast(ByzpyTwError, failure.value))

        Deferred.fromCoroutine(self._web.listen()).addCallbacks(self._log_start, fail)
        if failed:
            why = format_error(failed[0])
            self.log.critical("{line}", line=f"cannot serve: {why}")
            raise CannotStart(why)

    def _log_start(self, url: str) -> None:
        is_socket = not (self._web.is_local or self._web.is_public)  # of Unix
        where = url if is_socket else f"{url}metrics"
        if self._web.is_public:
            self.log.warn("anyone who can reach {where} can read it", where=where)
        line = event_line(f"metrics at {where}", "metrics-started", url=where, pid=os.getpid())
        self.log.info("{line}", line=line)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._web.close())
