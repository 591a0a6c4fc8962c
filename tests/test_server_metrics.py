"""A server's metrics, for Prometheus."""

from __future__ import annotations

import socket
import traceback
import urllib.request
from typing import Any

import pytest
import torch
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw.errors import ServerBusy, UnknownRun
from byzpy_tw.output.exposition import Histogram
from byzpy_tw.output.web_server import LimitedConnections
from byzpy_tw.protocol import commands
from byzpy_tw.server.metrics import MetricsPage, MetricsPort
from tests.key_files import ClusterKeys
from tests.server_harness import D, ServerCase
from tests.support import READY, folder, start_server, stop
from tests.test_tap import parse

parser = pytest.importorskip("prometheus_client.parser")


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


class FiguresTests(ServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.site = LimitedConnections(MetricsPage(self.server), self.reactor)

    def ask(self, path: str = "/metrics", method: str = "GET", host: str = "localhost") -> str:
        channel, transport = self.site.buildProtocol(None), StringTransport()
        channel.makeConnection(transport)
        channel.dataReceived(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return transport.value().decode()

    def figures(self) -> dict[tuple[str, ...], float]:
        self.reactor.advance(1)
        return samples(self.ask().partition("\r\n\r\n")[2])

    def assertFigures(self, **expected: float) -> None:
        found = self.figures()
        got: dict[str, Any] = {name: found.get((f"byzpy_server_{name}",)) for name in expected}
        self.assertEqual(got, expected)

    def test_a_run(self) -> None:
        """Gauges show open runs; counters show the work done, before and after a run's
        end."""
        self.assertFigures(runs=0, nodes=0, open_connections=0, rounds_total=0, vectors_total=0)
        trainer, stream = self.running()
        for round in range(2):
            stream.parameters(round, torch.zeros(D))
            trainer.compute(round, [0, 1])
        hosted = self.server.nodes
        done = {"rounds_total": 2, "vectors_total": 4, "runs_opened_total": 1,
                "gradients_seconds_count": 2, "connections_total": 2}  # fmt: skip
        self.assertFigures(runs=1, nodes=hosted, open_connections=2, **done)
        before = self.figures()
        trainer.ask(commands.CloseRun, run="r")
        self.assertFigures(runs=0, nodes=0, **done)
        after = self.figures()
        for direction in ("received", "sent"):
            name = ("byzpy_server_bytes_total", direction)
            self.assertGreater(before[name], 2 * 4 * D)
            self.assertEqual(after[name], before[name])
        self.assertGreater(after["process_resident_memory_bytes",], 2**20)
        self.assertTrue(any(name == "byzpy_tw_build_info" for name, *_ in after))

    def test_refusals(self) -> None:
        """By the code of the error."""
        self.server.runs = self.limits.runs
        for _ in range(2):
            self.assertRaises(ServerBusy, self.trainer().open_run)
        self.assertEqual(self.figures()["byzpy_server_refusals_total", ServerBusy.code], 2)

    def test_a_run_that_is_over(self) -> None:
        """Commands that were on their way when their run ended are no refusals."""
        trainer, _ = self.running()
        trainer.ask(commands.CloseRun, run="r")
        for name in ("r", "other"):
            self.assertRaises(UnknownRun, trainer.ask, commands.CloseRun, run=name)
        self.assertEqual(self.figures()["byzpy_server_refusals_total", UnknownRun.code], 1)

    def test_the_end_of_its_certificate(self) -> None:
        """For an alert before it expires."""
        self.server.keys = keys = ClusterKeys().server()
        until = keys.certificate.not_valid_after_utc.timestamp()
        self.assertFigures(certificate_expiry_timestamp_seconds=until)

    def test_can_only_be_read_here(self) -> None:
        """Other paths, methods and names of this machine are refused."""
        for code, request in (
            (404, {"path": "/"}), (405, {"method": "POST"}), (403, {"host": "evil.example"}),
        ):  # fmt: skip
            self.assertIn(f"HTTP/1.1 {code} ", self.ask(**request))


class HistogramTests(SynchronousTestCase):
    def test_buckets(self) -> None:
        """Each counts what is not longer than its bound."""
        histogram = Histogram()
        for seconds in (0.0, 0.005, 0.006, 1.0, 1e9):
            histogram.add(seconds)
        family = histogram.family("x_seconds", "")
        found = {s.labels.get("le", s.name): s.value for s in family.samples}
        self.assertEqual(
            [found[bound] for bound in ("0.005", "0.01", "0.5", "1.0", "300.0", "+Inf")],
            [2, 3, 3, 4, 4, 5],
        )
        self.assertEqual((found["x_seconds_count"], found["x_seconds_sum"]), (5, 1e9 + 1.011))


class OptionTests(SynchronousTestCase):
    def test_no_endpoint(self) -> None:
        """It is named, with a form that is right."""
        error = self.assertRaises(UsageError, parse, "--metrics", "quux:1")
        self.assertIn("--metrics 'quux:1'", str(error))
        self.assertIn("write --metrics tcp:8080:interface=127.0.0.1", str(error))

    def test_taken(self) -> None:
        """It is refused before the process forks: a daemon's parent still has the terminal."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            for text in (f"{port}", f"tcp:{port}:interface=127.0.0.1"):
                error = self.assertRaises(UsageError, parse, "--metrics", text)
                self.assertIn(f"CANNOT_LISTEN: --metrics {text}: Address already in use",
                              str(error))  # fmt: skip
        parse("--metrics", str(port))

    def test_no_folder(self) -> None:
        """A socket of Unix needs one, and a cure of its own."""
        here = folder(self)
        error = self.assertRaises(UsageError, parse, "--metrics", f"unix:{here}/none/metrics")
        self.assertIn("No such file or directory: choose another path, in a folder", str(error))
        parse("--metrics", f"unix:{here}/metrics")
        self.assertEqual(list(here.iterdir()), [])


class PortTests(SynchronousTestCase):
    def test_ends_a_daemon(self) -> None:
        """A failure to serve is an `Exception` to twistd, which tells the waiting parent."""

        class Taken(MemoryReactorClock):
            def listenTCP(self, port: int, *arguments: Any, **more: Any) -> Any:
                raise CannotListenError("", port, OSError(98, "in use"))

        server: Any = None
        told: list[str] = []
        with self.assertRaises(SystemExit) as caught:
            try:
                MetricsPort(server, "9100", Taken()).startService()
            except Exception as e:
                told += traceback.format_exception_only(e)
                raise
        self.assertEqual(caught.exception.code, 1)
        why = "CANNOT_LISTEN: --metrics 9100: in use: choose another port, or 0 for any"
        self.assertEqual(told, [f"CannotStart: {why}\n"])

    def test_a_bug(self) -> None:
        """One that keeps the port from listening is logged, and the server serves on."""

        class Broken(MemoryReactorClock):
            def listenTCP(self, *arguments: Any, **more: Any) -> Any:
                raise RuntimeError("boom")

        server: Any = None
        MetricsPort(server, "9100", Broken()).startService()
        [failure] = self.flushLoggedErrors(RuntimeError)
        self.assertEqual(str(failure.value), "boom")


@pytest.mark.slow
class ProcessTests(TestCase):
    def test_served(self) -> None:
        """Beside the server's own port, for this machine; a second server cannot have the port."""
        server = start_server(self, "--metrics", "0")
        url = server.wait_for(r"event=metrics-started url=(http://127.0.0.1:\d+/metrics) ").group(1)
        server.wait_for(READY.pattern)
        with urllib.request.urlopen(url, timeout=30) as answer:
            found = samples(answer.read().decode())
        self.assertEqual(found["byzpy_server_runs",], 0)
        self.assertNotIn("object at 0x", server.output)
        taken = url.removesuffix("/metrics").rpartition(":")[2]
        second = start_server(self, "--metrics", taken)
        self.assertEqual(second.wait(), 1)
        self.assertIn(f"byzpy-server: CANNOT_LISTEN: --metrics {taken}: ", second.output)
        self.assertNotIn("Traceback", second.output)
        stop(server)
