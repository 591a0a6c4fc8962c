"""The page of a run under way, over HTTP, without a socket."""

from __future__ import annotations

import json
import sys
from typing import Any

from attrs import define
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase

import byzpy_tw
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import CannotListen, ConfigError
from byzpy_tw.events import (
    NodeReadmitted,
    RoundCompleted,
    RunEnded,
    RunStarted,
    ServerBack,
    ServerLost,
)
from byzpy_tw.output.live_page import LivePage
from byzpy_tw.output.view import ServersKnown, ViewGroup
from byzpy_tw.output.web import Root, Web
from byzpy_tw.output.web_server import LimitedConnections, parse_endpoint
from byzpy_tw.report.load import begin
from byzpy_tw.rounds.placement import ServerState
from tests.recorded_runs import HTML, record, refused


def page(clock: Any, name: str = "run") -> LivePage:
    config = RunConfig(in_process=True, num_honest=4, num_byz=2, rounds=100)
    return LivePage(begin(name, config.to_dict()), clock)


@define
class Answer:
    code: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _Full(StringTransport):
    """A transport whose peer reads nothing: it pauses its producer after 8 KiB."""

    producerPaused = False

    def write(self, data: bytes) -> None:
        super().write(data)
        if len(self.value()) > 8192 and not self.producerPaused:
            self.producerPaused = True
            self.producer.pauseProducing()

    def writeSequence(self, data: list[bytes]) -> None:
        self.write(b"".join(data))


class Served(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.page = page(self.clock)
        self.root = Root(self.page)

    def talk(self, sent: bytes, port: int = 4000) -> bytes:
        """Return the answer to `sent` on a new connection."""
        site = LimitedConnections(self.root, self.clock)
        channel = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", port))
        transport = StringTransport(peerAddress=IPv4Address("TCP", "127.0.0.1", port))
        channel.makeConnection(transport)
        channel.dataReceived(sent)
        return transport.value()

    def ask(
        self, path: str = "/", method: str = "GET", host: str = "127.0.0.1:8080",
        port: int = 4000, body: bytes = b"",
    ) -> Answer:  # fmt: skip
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
        answer = self.talk(head.encode() + b"\r\n" + body, port)
        top, _, rest = answer.partition(b"\r\n\r\n")
        first, *lines = top.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return Answer(int(first.split()[1]), {k.lower(): v for k, v in headers.items()}, rest)


class ReadOnlyTests(Served):
    def test_what_there_is(self) -> None:
        """The page and its files, each of its own type; nothing else."""
        for path, kind in (
            ("/", "text/html"), ("/curves.js", "text/javascript"), ("/run.js", "text/javascript"),
            ("/vendor/uPlot.iife.min.js", "text/javascript"),
            ("/page.css", "text/css"), ("/data.json", "application/json"),
            ("/metrics", "text/plain"),
        ):  # fmt: skip
            answer = self.ask(path)
            self.assertEqual(answer.code, 200, path)
            self.assertTrue(answer.headers["content-type"].startswith(kind), path)
        for path in ("/report.html", "/../setup.cfg", "/%2e%2e/setup.cfg", "//", "/page.css/x",
                     "/vendor/LICENSE", "/sweep.js", "*"):  # fmt: skip
            self.assertIn(self.ask(path).code, (404, 405), path)

    def test_only_get_and_head(self) -> None:
        """Everything else is refused, and changes nothing."""
        before = self.ask("/data.json").body
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "QUX"):
            for path in ("/", "/data.json", "/metrics"):
                answer = self.ask(path, method, body=b"a=1")
                self.assertEqual(answer.code, 405, method)
                self.assertEqual(answer.headers["allow"], "GET, HEAD")
        self.assertEqual(self.ask("/data.json").body, before)

    def test_head(self) -> None:
        """The length, and no body."""
        answer, whole = self.ask("/", "HEAD"), self.ask("/")
        self.assertEqual(answer.body, b"")
        self.assertEqual(answer.headers["content-length"], str(len(whole.body)))

    def test_a_body_goes_nowhere(self) -> None:
        """An upload uses no memory and no disk."""
        site = LimitedConnections(self.root, self.clock)
        channel = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        channel.makeConnection(StringTransport())
        channel.dataReceived(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n"
        )
        channel.dataReceived(b"x" * 1_000_000)
        [request] = channel.wrappedProtocol._channel.requests
        self.assertEqual(request.content.getvalue(), b"")

    def test_one_that_does_not_read(self) -> None:
        """A client that sends many requests at once, and reads nothing, is cut off after as
        much as the system's buffers hold."""
        for number in range(300):
            self.page.handle(RoundCompleted(record(number), 1))
        site = LimitedConnections(self.root, self.clock)
        channel = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        transport = _Full(peerAddress=IPv4Address("TCP", "127.0.0.1", 1))
        channel.makeConnection(transport)
        channel.dataReceived(b"GET /data.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
        self.assertTrue(transport.disconnected)
        self.assertEqual(transport.value().count(b"HTTP/1.1 200"), 1)

    def test_those_who_drip(self) -> None:
        """Any number of connections that send a byte at a time keep nobody from an answer."""
        site = LimitedConnections(self.root, self.clock)
        question = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

        def dial(sent: bytes) -> StringTransport:
            address = IPv4Address("TCP", "127.0.0.1", 4000)
            visit, transport = site.buildProtocol(address), StringTransport(peerAddress=address)
            visit.makeConnection(transport)
            visit.dataReceived(sent)
            return transport

        watching = dial(question)
        dripping = [dial(b"G") for _ in range(200)]
        self.assertEqual(len([t for t in dripping if not t.disconnected]), 63)
        self.assertIn(b" 200 OK", dial(question).value())
        self.assertFalse(watching.disconnected)
        # Of connections with a request, the one with the oldest makes room.
        asking = [dial(question) for _ in range(63)]
        self.assertTrue(watching.disconnected)
        self.assertFalse(any(transport.disconnected for transport in asking))

    def test_policy(self) -> None:
        """Every answer forbids what this page does not need."""
        for path in ("/", "/data.json", "/nothing"):
            headers = self.ask(path).headers
            policy = headers["content-security-policy"]
            self.assertIn("default-src 'none'", policy)
            self.assertIn("script-src 'self';", policy)
            self.assertNotIn("unsafe", policy)
            self.assertEqual(headers["x-content-type-options"], "nosniff")
            self.assertEqual(headers["cache-control"], "no-store")
            self.assertEqual(headers["server"], "byzpy_tw")

    def test_another_name_for_this_machine(self) -> None:
        """A name from elsewhere that has come to mean 127.0.0.1 is refused; ours are not."""
        for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "",
                     "localhost.evil", "10.0.0.7:8080", "[::2]:1", "[", "0.0.0.0"):  # fmt: skip
            answer = self.ask("/data.json", host=host)
            self.assertEqual(answer.code, 403, host)
            self.assertNotIn(b"rounds", answer.body)
        for host in ("127.0.0.1", "127.0.0.1:9", "localhost:8080", "LOCALHOST", "[::1]:8080"):
            self.assertEqual(self.ask("/data.json", host=host).code, 200, host)
        self.root = Root(self.page, lambda: False)  # not on loopback: any name
        self.assertEqual(self.ask("/data.json", host="trainer.lan").code, 200)

    def test_names_stay_text(self) -> None:
        """HTML in a run's name is escaped in the page, and no markup in the data."""
        self.page = page(self.clock, HTML)
        self.root = Root(self.page)
        self.page.handle(ServersKnown(lambda: [ServerState(HTML, [0])]))
        self.page.handle(ServerBack(HTML))
        for path in ("/", "/data.json"):
            body = self.ask(path).body
            self.assertNotIn(b"<img", body)
            self.assertNotIn(b"<script>", body)
        self.assertEqual(self.ask("/data.json").json["places"][0]["name"], HTML)


class FollowingTests(Served):
    def test_new_figures_only(self) -> None:
        """A browser that has the newest is told so in a word."""
        first = self.ask("/data.json")
        version = first.headers["etag"].strip('"')
        self.assertEqual(self.ask(f"/data.json?since={version}").code, 204)
        self.clock.advance(1)
        self.page.handle(RoundCompleted(record(0), 1.5))
        second = self.ask(f"/data.json?since=%22{version}%22").json
        self.assertEqual((second["rounds"]["done"], second["figures"]["seconds"]), (1, 1.5))

    def test_a_refused_node_turns_its_cell(self) -> None:
        """In the data of the round in which it was refused."""
        self.page.handle(RoundCompleted(record(0), 1))
        self.page.handle(RoundCompleted(record(1, **refused(2, "malformed")), 2))
        node = self.ask("/data.json").json["nodes"][2]
        self.assertEqual((node["letters"], node["reasons"]), ("sr", {"malformed": 1}))

    def test_where_nodes_live_now(self) -> None:
        """Whatever the fleet says at the moment of asking, not at the last round."""
        servers = [ServerState("tcp://a:1", [0, 1], True)]
        self.page.handle(ServersKnown(lambda: servers))
        self.assertTrue(self.ask("/data.json").json["places"][0]["up"])
        self.clock.advance(1)
        servers[0] = ServerState("tcp://a:1", [], False)
        self.page.handle(ServerLost("tcp://a:1", "it was killed"))
        told = self.ask("/data.json").json
        self.assertFalse(told["places"][0]["up"])
        lost = [None, "tcp://a:1 is lost: it was killed"]
        self.assertEqual(told["events"], [lost])
        self.clock.advance(1)
        self.page.handle(RoundCompleted(record(0), 1))
        self.page.handle(NodeReadmitted(0, 3))
        self.page.handle(ServerBack("tcp://a:1"))  # in the second round
        self.assertEqual(self.ask("/data.json").json["events"], [
            lost, [0, "node 3 is readmitted: it answered well and in time"],
            [1, "tcp://a:1 is back"],
        ])  # fmt: skip

    def test_made_at_most_so_often(self) -> None:
        """Many watchers and fast rounds do not make the data more often."""
        made = []
        self.page.handle(ServersKnown(lambda: made.append(1) or []))
        for number in range(50):
            self.page.handle(RoundCompleted(record(number), number))
            for _ in range(3):
                self.ask("/data.json")
            self.clock.advance(0.1)
        self.assertLessEqual(len(made), 11)

    def test_keeps_nothing_of_the_run(self) -> None:
        """Neither a record, nor, after the end, the fleet."""
        first = record(0)
        self.page.handle(RoundCompleted(first, 1))
        before = sys.getrefcount(first)
        self.page.handle(RoundCompleted(record(1), 2))
        self.assertEqual(sys.getrefcount(first), before)

        def servers() -> list[ServerState]:
            return [ServerState("a", [0])]

        self.page.handle(ServersKnown(servers))
        watched = sys.getrefcount(servers)
        self.page.handle(RunEnded({"status": "finished", "error": None}))
        self.assertEqual(sys.getrefcount(servers), watched - 1)
        self.assertEqual(self.ask("/data.json").json["places"][0]["name"], "a")

    def test_a_resumed_run(self) -> None:
        """The rounds before are on the page too."""
        self.page.handle(RunStarted({"versions": {"torch": "2.4"}}, [record(0), record(1)]))
        self.page.handle(RoundCompleted(record(2), 9))
        told = self.ask("/data.json").json
        self.assertEqual(told["rounds"]["done"], 3)
        self.assertIn(["torch", "2.4"], told["facts"])

    def test_a_failing_guest(self) -> None:
        """A page with a bug does not end a run: it is logged, once."""
        views = ViewGroup(page(self.clock), [page(self.clock)])
        views.others[0].run_report = None  # type: ignore[attr-defined]
        views.handle(ServerBack("one"))
        views.handle(ServerBack("two"))
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)


class EndTests(Served):
    def over(self) -> Deferred[None]:
        self.page.handle(RunEnded({"status": "finished", "error": None, "seconds": 3.0}))
        return self.page.wait_for_watchers()

    def test_nobody_watches(self) -> None:
        """Then the program ends at once."""
        self.successResultOf(self.over())
        self.ask("/data.json")
        self.clock.advance(10)  # that one is long gone
        self.successResultOf(self.page.wait_for_watchers())

    def test_all_who_watch_are_told(self) -> None:
        """The end waits until each of them has asked once more."""
        self.ask("/data.json", port=1)
        self.ask("/data.json", port=2)
        wait_for_watchers = self.over()
        self.assertEqual(self.ask("/data.json", port=1).json["status"], "finished")
        self.assertNoResult(wait_for_watchers)
        self.ask("/data.json", port=2)
        self.assertNoResult(wait_for_watchers)  # until the answer is on its way
        self.clock.advance(0)
        self.successResultOf(wait_for_watchers)

    def test_but_not_for_long(self) -> None:
        """One that does not come back is waited for for seconds."""
        self.ask("/data.json", port=1)
        wait_for_watchers = self.over()
        self.clock.advance(2.9)
        self.assertNoResult(wait_for_watchers)
        self.clock.advance(0.2)
        self.successResultOf(wait_for_watchers)
        self.ask("/data.json", port=1)


class LastScrapeTests(Served):
    """The end, for a monitor that asks for the metrics every few seconds."""

    def over(self, *gaps: float, status: str = "paused") -> Deferred[None]:
        """The wait at the end of a run that was scraped, with these seconds after each time."""
        for gap in gaps:
            self.ask("/metrics")
            self.clock.advance(gap)
        self.page.handle(RunEnded({"status": status, "error": None, "seconds": 3.0}))
        return self.page.wait_for_scrape()

    def test_has_the_status(self) -> None:
        """Its next scrape is waited for, and has the status of the end."""
        waiting = self.over(15, 5)
        self.clock.advance(10)
        self.assertNoResult(waiting)
        self.assertIn(b'byzpy_tw_run_status{status="paused"} 1.0', self.ask("/metrics").body)
        self.assertNoResult(waiting)  # until the answer is on its way
        self.clock.advance(0)
        self.successResultOf(waiting)
        self.successResultOf(self.page.wait_for_scrape())

    def test_that_does_not_come(self) -> None:
        """It has until a second after it is due."""
        waiting = self.over(15, 5)
        self.clock.advance(10.9)
        self.assertNoResult(waiting)
        self.clock.advance(0.2)
        self.successResultOf(waiting)
        self.ask("/metrics")

    def test_nobody_is_waited_for(self) -> None:
        """No monitor, one that has asked once or seldom asks, one that is gone, an interrupt."""
        for gaps in ((), (5,), (30, 5), (15, 17)):
            self.setUp()
            self.successResultOf(self.over(*gaps))
        self.setUp()
        self.successResultOf(self.over(15, 5, status="interrupted"))


class MetricsTests(Served):
    def test_figures(self) -> None:
        """Prometheus can read them, with escaped labels."""
        try:
            from prometheus_client.parser import text_string_to_metric_families
        except ModuleNotFoundError:
            self.skipTest("prometheus-client is not installed")
        servers = [ServerState('a"b\\c\nd', [0, 1], True), ServerState("b", [], False)]
        self.page.handle(ServersKnown(lambda: servers))
        self.page.handle(RoundCompleted(record(0, accuracy=0.5, test_loss=1.5), 1))
        self.page.handle(RoundCompleted(record(1, **refused(2, "late")), 2))
        text = self.ask("/metrics").body.decode()
        found = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        self.assertEqual(found["byzpy_tw_rounds_total",], 2)
        self.assertEqual(found["byzpy_tw_accuracy",], 0.5)
        self.assertAlmostEqual(found["byzpy_tw_phase_seconds_total", "honest"], 0.12)
        self.assertEqual(found["byzpy_tw_node_rounds_total", "2", "honest", "late"], 1)
        self.assertEqual(found["byzpy_tw_server_up", 'a"b\\c\nd'], 1)
        self.assertEqual(found["byzpy_tw_server_up", "b"], 0)
        self.assertEqual(found["byzpy_tw_bytes_total", "received"], 6000)
        self.assertEqual(found["byzpy_tw_run_status", "running"], 1)
        self.assertEqual(found["byzpy_tw_run_status", "failed"], 0)
        self.assertEqual(found["byzpy_tw_round_seconds_count",], 2)
        self.assertAlmostEqual(found["byzpy_tw_round_seconds_sum",], 2 * record(0)["seconds"])
        self.assertEqual(found["byzpy_tw_round_seconds_bucket", "300.0"], 2)
        [built] = [labels for name, *labels in found if name == "byzpy_tw_build_info"]
        self.assertIn(byzpy_tw.__version__, built)

    def test_status_at_the_end(self) -> None:
        """A series for each status, one of which is 1: no label changes."""
        self.ask("/metrics")
        self.clock.advance(10)
        self.page.handle(RunEnded({"status": "diverged", "error": "no"}))
        lines = self.ask("/metrics").body.decode()
        self.assertIn('\nbyzpy_tw_run_status{status="diverged"} 1.0\n', lines)
        self.assertIn('\nbyzpy_tw_run_status{status="running"} 0.0\n', lines)
        self.assertNotIn("status=", lines.partition("byzpy_tw_run_info{")[2].partition("}")[0])

    def test_without_the_library(self) -> None:
        """One line says what to install, and the page goes on."""
        hidden = {n: m for n, m in sys.modules.items() if n.startswith("prometheus_client")}
        for name in [*hidden, "prometheus_client"]:
            sys.modules[name] = None  # type: ignore[assignment]
        try:
            answer = self.ask("/metrics")
        finally:
            sys.modules.pop("prometheus_client", None)
            sys.modules.update(hidden)
        self.assertEqual(answer.code, 501)
        self.assertIn(b"pip install 'byzpy-tw[metrics]'", answer.body)
        self.assertEqual(self.ask("/").code, 200)


class EndpointTests(SynchronousTestCase):
    def test_bad_ones(self) -> None:
        """One line: what was typed, what is wrong with it, what to type."""
        for text in ("", "tcp", "tcp:", "tcp:x", "http://a:1", "quux:1", "stdio:", "8080x",
                     "tcp:1:interfaze=a", "ssl:443:privateKey=/nothing", "unix",
                     "fd:3"):  # fmt: skip
            with self.assertRaises(ConfigError) as caught:
                parse_endpoint(text, Clock())
            self.assertIn(repr(text), str(caught.exception))
            self.assertIn("write --web tcp:8080:interface=127.0.0.1", str(caught.exception))

    def test_a_port_alone(self) -> None:
        """It is one of this machine only."""
        self.assertEqual(parse_endpoint("8080", Clock())._interface, "127.0.0.1")  # type: ignore


class SocketTests(TestCase):
    """With real ports."""

    def web(self, text: str) -> Web:
        from twisted.internet import reactor

        made = Web(page(reactor), text, reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(made.close()))
        return made

    async def test_a_busy_port(self) -> None:
        """An error that names it, and what to do."""
        first = self.web("tcp:0:interface=127.0.0.1")
        url = await first.listen()
        self.assertRegex(url, r"^http://127\.0\.0\.1:\d+/$")
        self.assertTrue(first.is_local)
        port = url.rstrip("/").rpartition(":")[2]
        with self.assertRaisesRegex(CannotListen, f"--web {port}: .*in use.*another port"):
            await self.web(port).listen()

    async def test_a_port_that_there_is_not(self) -> None:
        with self.assertRaisesRegex(CannotListen, "--web tcp:70000"):
            await self.web("tcp:70000").listen()

    async def test_open_to_others(self) -> None:
        """One that other machines can reach is known as such."""
        everywhere = self.web("tcp:0")
        await everywhere.listen()
        self.assertTrue(everywhere.is_public)
        self.assertFalse(everywhere.is_local)
