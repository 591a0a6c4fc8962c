"""What a hostile review of servers and trainers found, and must not come back."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.config.run import RunConfig
from byzpy_tw.config.server import Limits
from byzpy_tw.errors import (
    BadFrame,
    BadRequest,
    BadRuleOutput,
    BrokenPlugin,
    LimitExceeded,
    RunDirectoryError,
    ServerBusy,
    ServerUnreachable,
    UnknownRun,
    WireError,
)
from byzpy_tw.output import program
from byzpy_tw.output.observers import Observers
from byzpy_tw.output.text import TextOutput
from byzpy_tw.output.view import Views
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.addresses import Address
from byzpy_tw.protocol.frames import Header, Kind
from byzpy_tw.protocol.limited_amp import LimitedAMP
from byzpy_tw.protocol.tensor_stream import TensorStream
from byzpy_tw.records.folder import RunDirectory
from byzpy_tw.rounds.aggregation import Aggregation
from byzpy_tw.rounds.resolved_rules import resolve_rules
from byzpy_tw.rounds.round import Round
from byzpy_tw.scheduling import node_scheduler
from byzpy_tw.scheduling.node_scheduler import NodeScheduler
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool, SlowTransport
from byzpy_tw.trainer import server_client
from byzpy_tw.trainer.cluster import Cluster, Terms
from byzpy_tw.trainer.collector import MAX_UNREQUESTED, Collector
from byzpy_tw.trainer.in_process_server import InProcessServer
from byzpy_tw.trainer.rounds import Rounds
from byzpy_tw.trainer.server_client import ANSWER_SECONDS, MOST_UNREAD, RemoteServer, _Control
from byzpy_tw.trainer.server_endpoint import ServerEndpoint
from byzpy_tw.trainer.server_slot import ServerSlot
from byzpy_tw.trainer.training import Training
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.environment import Environment, environment
from byzpy_tw.workers.gradients import MicroBatches
from byzpy_tw.workers.model_size import activation_bytes_per_example
from byzpy_tw.workers.spec import NodeSpec
from tests.server_harness import SPEC, D, ServerCase, registry

MANY = 1200


class DriverTests(SynchronousTestCase):
    """What one run's nodes may hold, whatever commands come."""

    def setUp(self) -> None:
        self.reactor, self.pool = ClockReactor(), HandCrankedPool(eager=True)
        self.host = build_host(SPEC, registry(), data_root=Path("/nonexistent"))
        self.driver = NodeScheduler(self.host, self.reactor, self.pool, 3)
        self.emitted: list[int] = []
        self.taken: list[Deferred[None]] = []

    def emit(self, node: int, vector: Any, loss: float, round: int) -> Deferred[None]:
        """A peer that reads nothing: no emission is ever done by itself."""
        self.emitted.append(node)
        self.taken.append(Deferred())
        return self.taken[-1]

    def attack(self, round: int, *nodes: int) -> Deferred:
        work = self.driver.send_attacks(round, nodes, 2, {}, {}, self.emit)
        return Deferred.fromCoroutine(work)

    def test_a_command_that_is_repeated(self) -> None:
        """Vectors that wait to be sent are bounded for all commands of a run together."""
        self.host.spawn(NodeSpec(node=0, shard=0))
        answers = [
            Deferred.fromCoroutine(self.driver.send_gradients(0, [0], self.emit)) for _ in range(9)
        ]
        self.assertEqual(self.emitted, [0] * 3)
        while self.taken:
            self.taken.pop().callback(None)
        self.assertEqual([self.successResultOf(a) for a in answers], [{}] * 9)

    def test_vectors_that_are_late_pile_up_nowhere(self) -> None:
        """A node that is late on purpose has one vector on its way, not one a round."""
        self.host.spawn(NodeSpec(node=3, shard=0, attack="slow:seconds=0"))
        for round in range(5):
            self.successResultOf(self.attack(round, 3))
            self.reactor.advance(1)
        self.assertEqual(self.emitted, [3])
        self.taken.pop().callback(None)
        self.successResultOf(self.attack(5, 3))
        self.reactor.advance(1)
        self.assertEqual(self.emitted, [3, 3])

    def test_many_that_are_late(self) -> None:
        """All that is held back to be late is bounded, for any number of nodes."""
        self.patch(node_scheduler, "MAX_HELD_BYTES", 4 * D)
        for node, shard in ((2, 0), (3, 1)):
            self.host.spawn(NodeSpec(node=node, shard=shard, attack="slow:seconds=0"))
        self.successResultOf(self.attack(0, 2, 3))
        self.reactor.advance(1)
        self.assertEqual(self.emitted, [2])

    def test_micro_batches_of_a_round_that_is_over(self) -> None:
        """They are not computed any more: the next round does not wait for them."""
        self.host.spawn(NodeSpec(node=0, shard=0))
        self.pool.eager, computed = False, []
        self.patch(MicroBatches, "run", lambda _, part: computed.append(part))
        answer = Deferred.fromCoroutine(self.driver.send_gradients(0, [0], self.emit))
        self.driver.round = 1
        self.pool.drain()
        self.assertIn("is over", self.successResultOf(answer)[0])
        self.assertEqual(computed, [])


class ManyNodesTests(ServerCase):
    limits = Limits(nodes=10_000, shown_mib=1)

    def computing(self) -> tuple[Any, Any, list[Any]]:
        """Over a thousand nodes, all asked for and none computed yet."""
        trainer, stream = self.trainer(), self.dial()
        stream.become_stream(trainer.open_run(n=MANY)["ticket"])
        trainer.spawn([NodeSpec(node=i, shard=0) for i in range(MANY)])
        stream.parameters(0, torch.zeros(D))
        self.pool.eager = False
        return trainer, stream, trainer.compute(0, list(range(MANY)))

    def test_all_fail_at_once(self) -> None:
        """However many nodes wait for their turn, the command is answered when a round ends."""
        trainer, stream, answer = self.computing()
        stream.parameters(1, torch.zeros(D))
        self.pool.drain()
        trainer.pump.flush()
        self.assertEqual(len(json.loads(answer[0]["failures"])), MANY)

    def test_the_run_is_closed(self) -> None:
        """And when the run does."""
        trainer, _, answer = self.computing()
        trainer.ask(commands.CloseRun, run="r")
        self.pool.drain()
        trainer.pump.flush()
        answer[0].trap(UnknownRun)
        self.assertFree()


class SpawnTests(ServerCase):
    def test_attacks_are_made_in_the_pool(self) -> None:
        """A plugin's attack that takes its time does not hold up the reactor."""
        trainer = self.trainer()
        trainer.open_run()
        self.pool.eager = False
        nodes = json.dumps([[3, 0, "ipm"]]).encode()
        answer = trainer.begin(commands.SpawnNodes, run="r", nodes=nodes)
        self.assertEqual((answer, self.server.nodes), ([], 0))
        self.pool.drain()
        trainer.pump.flush()
        self.assertEqual(answer, [{"count": 1, "attacks": ""}])

    def test_a_run_that_is_closed_meanwhile(self) -> None:
        """Its nodes are not counted."""
        trainer = self.trainer()
        trainer.open_run()
        self.pool.eager = False
        nodes = json.dumps([[3, 0, "ipm"]]).encode()
        answer = trainer.begin(commands.SpawnNodes, run="r", nodes=nodes)
        trainer.ask(commands.CloseRun, run="r")
        self.pool.drain()
        trainer.pump.flush()
        self.assertIs(answer[0].check(UnknownRun), UnknownRun)
        self.assertFree()

    def test_a_name_with_control_characters(self) -> None:
        """A run's name is shown in the log, so it cannot steer a terminal."""
        self.assertRaises(BadRequest, self.trainer().open_run, run="r\x1b[2J")


class ShownTests(ServerCase):
    limits = Limits(shown_mib=1)

    def test_what_a_round_is_shown_in_all(self) -> None:
        """The limit holds for all frames of a round together, one a node included."""
        trainer, stream = self.trainer(), self.dial()
        stream.become_stream(trainer.open_run(n=8)["ticket"])
        trainer.spawn([NodeSpec(node=i, shard=0, attack="replay:relabel=yes") for i in range(3, 8)])
        run = trainer.session.runs["r"]
        run._max_knowledge_bytes = 3 * 4 * D
        for node in range(3, 6):
            stream.send(Header(Kind.PAST, 0, D, node), torch.zeros(D))
        for node in range(3, 6):  # another round is another account
            stream.send(Header(Kind.PAST, 1, D, node), torch.zeros(D))
        self.assertFalse(run.closed)
        stream.send(Header(Kind.PAST, 1, D, 6), torch.zeros(D))
        self.assertTrue(run.closed)

    def test_attacks_of_old_rounds(self) -> None:
        """They keep what they were shown, so those of a fourth round are refused."""
        trainer, stream = self.running()
        self.pool.eager, answers = False, []
        for round in range(4):
            stream.parameters(round, torch.zeros(D))
            stream.piece("mean", round, torch.zeros(D))
            answers.append(trainer.attack(round, [3], 2, "mean"))
        self.assertEqual(answers[:3], [[], [], []])
        self.assertIs(answers[3][0].check(ServerBusy), ServerBusy)


class LimitTests(ServerCase):
    limits = Limits(data_mib=1, pieces=3000, working_mib=1, unauthenticated=2, connections=3)

    def test_data(self) -> None:
        """All datasets of a server together are bounded, and shared ones count once."""
        one = "synthetic:n=500,classes=2,features=300"
        trainer = self.trainer()
        trainer.open_run("a", dataset=one)
        trainer.open_run("b", dataset=one)
        self.assertRaises(LimitExceeded, trainer.open_run, "c", dataset=one + ",seed=1")
        for name in "ab":
            trainer.ask(commands.CloseRun, run=name)
        self.assertFree()

    def test_pieces_of_data(self) -> None:
        """A partition that deals out single examples, or labels to each shard, is bounded."""
        trainer = self.trainer()
        for changes in (
            {"dataset": "synthetic:n=5000,classes=2,features=1"},
            {"dataset": "synthetic:n=500,classes=100,features=1", "shards": 50, "n": 50},
        ):
            self.assertRaises(LimitExceeded, trainer.open_run, **changes)
        self.assertFree()

    def test_what_a_micro_batch_takes(self) -> None:
        """A small model of large batches is refused before it takes the memory."""
        changes = {"model": "mlp:hidden=2000", "batch_size": 200}
        trainer = self.trainer()
        trainer.open_run("small", micro_batch_size=10, **changes)
        self.assertRaises(LimitExceeded, trainer.open_run, "large", micro_batch_size=100, **changes)

    def test_strangers_take_no_room(self) -> None:
        """Peers that protected mode turns away cannot keep the others out."""
        unauthenticated = [self.dial("10.0.0.9", "10.0.0.1") for _ in range(4)]
        self.assertEqual([s.open for s in unauthenticated], [True, True, False, False])
        self.assertEqual([self.dial().open for _ in range(4)], [True] * 3 + [False])


class KeptTests(SynchronousTestCase):
    def test_counts_what_grows_with_examples(self) -> None:
        """Activations count, parameters do not."""
        kept = activation_bytes_per_example(
            lambda: nn.Sequential(nn.Linear(1000, 8), nn.ReLU()), (1000,)
        )
        self.assertLess(4 * (1000 + 8), kept)
        self.assertLess(kept, 4 * 3 * (1000 + 8))

    def test_a_model_that_cannot_say(self) -> None:
        """One that cannot run on the meta device is not refused."""

        class Odd(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * x.sum().item()

        self.assertEqual(activation_bytes_per_example(Odd, (3,)), 0)


class _OfflineEndpoint(ServerEndpoint):
    """Connects to nothing."""

    async def connect(self, protocol: Any) -> Any:
        protocol.makeConnection(StringTransport())
        _Offline.second = protocol
        return protocol


class _Offline(RemoteServer):
    """A server that is the test."""

    second: LimitedAMP

    async def ask(self, request: Any, **options: Any) -> Any:
        trial = build_host(SPEC, registry(), data_root=Path("/nonexistent")).trial_outcome.trial
        return commands.OpenRunAnswer(D, "x", trial, b"t")


class RemoteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.host = _Offline(Address("127.0.0.1", 29000), ClockReactor())
        self.host.endpoint = _OfflineEndpoint(self.host.address, self.host._reactor)

    def test_a_host_name_that_is_none(self) -> None:
        """It is an error that says which server, not a traceback."""
        host = RemoteServer(Address("a..b", 29000), reactor)
        failure = self.failureResultOf(Deferred.fromCoroutine(host.hello()))
        self.assertIn("a..b", str(failure.trap(ServerUnreachable) and failure.value))

    def test_a_stream_that_is_refused(self) -> None:
        """The second connection is closed, whatever ends the wait for it."""
        clock: ClockReactor = self.host._reactor
        sink: Any = None
        for end in (lambda d: d.cancel(), lambda d: clock.advance(ANSWER_SECONDS)):
            opening = Deferred.fromCoroutine(self.host.open("r", SPEC, sink))
            end(opening)
            self.failureResultOf(opening)
            self.assertTrue(self.host.second.transport.disconnecting)

    def test_a_server_that_is_gone(self) -> None:
        """Its nodes are lost, before the questions that it leaves open fail."""
        told: list[str] = []

        host = self.host
        host.on_lost = lambda host, why: told.append("lost")
        host._control, host._run = _Control(host._lost), "r"
        host._control.makeConnection(StringTransport())
        host.compute(0, [1]).addCallback(lambda failures: told.append("failed"))
        host._control.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(told, ["lost", "failed"])

    def test_commands_that_fail(self) -> None:
        """Are answered as well: a server is not lost for having said no."""
        host = self.host
        host._control, host._run = _Control(host._lost), "r"  # not connected: all fail
        for round in range(3):
            said = self.successResultOf(host.compute(round, [1]))
            self.assertEqual(set(said), {1})
        self.assertEqual(host._unanswered, 0)

    def test_commands_that_are_not_answered(self) -> None:
        """Are kept until they are, so there is an end to them."""
        self.patch(server_client, "MOST_UNANSWERED", 5)
        host, told = self.host, []
        host.on_lost = lambda host, why: told.append(why)
        host._control, host._run = _Control(host._lost), "r"
        host._control.makeConnection(StringTransport())
        for round in range(6):
            self.assertEqual(told, [])
            host.compute(round, [1])
        host._reactor.advance(0)
        self.assertIn("not answered", told[0])

    def test_a_server_that_does_not_read(self) -> None:
        """What waits for it does not grow with the rounds, and nobody waits for it."""
        host, large = self.host, 200_000
        stream = TensorStream(host, 2**20, lambda why: None)
        transport = SlowTransport(stream)
        host._stream, host._control = stream, LimitedAMP({})
        done = []
        for round in range(6):
            host.parameters(round, torch.zeros(large)).addCallback(done.append)
        self.assertEqual(len(stream.writer), MOST_UNREAD)
        self.assertEqual(len(done), 6 - MOST_UNREAD)
        said = self.successResultOf(host.compute(5, [1]))
        self.assertIn("does not read", said[1])
        while stream.writer:
            transport.peer_reads(2**20)
        host.parameters(6, torch.zeros(large))
        self.assertEqual(len(stream.writer), 1)
        stream.hang_up("the test is over")


class CollectorTests(SynchronousTestCase):
    def test_frames_without_end(self) -> None:
        """A server that floods the trainer with frames nobody asked for is cut off."""
        collector = Collector(torch.zeros(2, 3), ClockReactor(), HandCrankedPool(eager=True))
        host: Any = RemoteServer(Address("h", 1), ClockReactor())
        collector.assign(0, host)
        stale = Header(Kind.VECTOR, 0, 3, 0)
        for number in (1, 2):  # each round anew
            collector.begin(Round(number, 1, 1, 1))
            for _ in range(MAX_UNREQUESTED):
                self.assertIsNone(collector.allocate(host, stale))
        with self.assertRaises(BadFrame):
            for _ in range(MAX_UNREQUESTED):
                collector.allocate(host, stale)


class InProcessTests(SynchronousTestCase):
    def test_rounds_that_are_over(self) -> None:
        """Late nodes are given up as on a server, and write into no row afterwards."""
        pool = HandCrankedPool(eager=True)
        built = build_host(SPEC, registry(), data_root=Path("/nonexistent"))
        expected: Any = None
        host = InProcessServer(
            ClockReactor(), pool, 1, registry(), built.dataset, built.trial_outcome, expected
        )
        sink: Any = Collector(torch.zeros(4, D), ClockReactor(), pool)
        self.successResultOf(Deferred.fromCoroutine(host.open("r", SPEC, sink)))
        self.successResultOf(Deferred.fromCoroutine(host.spawn([NodeSpec(node=0, shard=0)])))
        sink.assign(0, host)
        pool.eager = False
        sink.begin(Round(0, 3, 1, 1))
        host.parameters(0, torch.zeros(D))
        late = host.compute(0, [0])
        sink.begin(Round(1, 3, 1, 1))
        host.parameters(1, torch.ones(D))
        pool.drain()
        self.assertEqual(list(self.successResultOf(late)), [0])
        self.assertEqual(float(sink.matrix.abs().sum()), 0.0)


class _Stuck:
    """A host that takes its time to close."""

    name, bytes_sent, bytes_received = "h", 0, 0

    def __init__(self) -> None:
        self.closing: Deferred[None] = Deferred()
        self.asked = False

    async def close(self) -> None:
        self.asked = True
        await self.closing


class EndTests(SynchronousTestCase):
    def setUp(self) -> None:
        made = TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.folder = Path(made.name) / "run"
        config = RunConfig(in_process=True, attack="mimic", dataset="mnist5k")
        # A pool that does nothing: it is busy with what was interrupted.
        self.pool = HandCrankedPool()
        self.training = Training(
            config, registry(), resolve_rules(config, registry()),
            Views(TextOutput(lambda _: None, True)), RunDirectory.create(self.folder),
            Observers(registry()), 1, ClockReactor(), self.pool,
        )  # fmt: skip
        self.stuck = [_Stuck(), _Stuck()]
        slots = [ServerSlot("h", lambda: None) for _ in self.stuck]  # type: ignore
        for slot, host in zip(slots, self.stuck):
            slot.server = host  # type: ignore[assignment]
        terms: Any = Terms(config, registry(), "r", None, None, False)  # type: ignore
        collector: Any = None
        self.training._cluster = Cluster(slots, terms, [], collector, ClockReactor(), print)

    def finish(self) -> Deferred:
        return Deferred.fromCoroutine(self.training.finish())

    def test_hosts_are_closed_together(self) -> None:
        """Hung servers cost the end of a run one wait, and a busy pool costs none."""
        ending = self.finish()
        self.assertEqual([host.asked for host in self.stuck], [True, True])
        for host in self.stuck:
            host.closing.callback(None)
        self.assertEqual(self.successResultOf(ending)["status"], "interrupted")

    def test_an_interrupt_at_the_very_end(self) -> None:
        """The result is written all the same."""
        ending = self.finish()
        ending.cancel()
        self.failureResultOf(ending)
        self.assertIn("status", json.loads((self.folder / "result.json").read_text()))

    def test_an_error_while_finishing(self) -> None:
        """A full disk is told in one line."""
        told: list[Any] = []
        self.patch(program, "report_error", told.append)
        reactor: Any = type("Reactor", (), {"stop": lambda self: None})()
        ended = program.ReactorProgram(reactor)
        ended._stop(Failure(RunDirectoryError("no space left")))
        self.assertEqual((ended.code, len(told)), (RunDirectoryError.exit_code, 1))


class _Odd:
    """A plugin's rule, or attack, that fails in a way of its own."""

    knowledge, pieces = "one", ("one",)

    def choose(self, honest: Any, **_: Any) -> int:
        raise AttributeError("no such thing")

    def outcome(self, *_: Any, **__: Any) -> Any:
        raise AttributeError("no such thing")


class PluginFailureTests(SynchronousTestCase):
    config = RunConfig(in_process=True, attack="mimic")

    def test_an_attack_that_cannot_choose(self) -> None:
        """It ends the run with an error that names it."""
        pool = HandCrankedPool(eager=True)
        collector = Collector(torch.zeros(4, D), ClockReactor(), pool)
        learner: Any = None
        rules = resolve_rules(self.config, registry())
        rules._attacks[1] = _Odd()
        cluster: Any = None
        rounds = Rounds(self.config, cluster, collector, learner, rules, ClockReactor(), pool, 1)
        round = Round(0, 3, 1, 1)
        for node in range(3):
            round.accept(node)
        self.assertRaises(BrokenPlugin, rounds._show, round, {}, 1)

    def test_a_rule_that_fails_in_its_own_way(self) -> None:
        """So does a rule, whatever it raises."""
        aggregation = Aggregation(self.config, registry())
        aggregation._chains[1] = _Odd()  # type: ignore[assignment]
        self.assertRaises(BadRuleOutput, aggregation, torch.zeros(4, D), (0, 1, 2, 3), 1, 0)


class EnvironmentTests(SynchronousTestCase):
    def test_words_that_would_steer_a_terminal(self) -> None:
        """A server's versions are shown to the user, so they are plain text."""
        expected = environment(registry(), probe="p", device="cpu", threads=1)
        told = json.loads(expected.to_json())
        for key, value in (("python", "3\x1b[2J"), ("plugins", {"a": "1\n2"})):
            with self.subTest(key):
                self.assertRaises(
                    WireError, Environment.from_json, json.dumps({**told, key: value})
                )
