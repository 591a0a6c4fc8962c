"""A trainer's duties and limits before the rounds; and the state that is left after."""

from __future__ import annotations

import json

from attrs import evolve
from twisted.logger import capturedLogs, formatEvent

from byzpy_tw.config.server import Limits
from byzpy_tw.errors import (
    BadParameter,
    BadRequest,
    BadTicket,
    LimitExceeded,
    ServerBusy,
    ShardTooSmall,
    UnknownName,
    UnknownRun,
)
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.mtls import Peer
from byzpy_tw.workers.spec import NodeSpec
from tests.key_files import ClusterKeys
from tests.server_harness import BYZANTINE, HONEST, SPEC, D, ServerCase


class TicketTests(ServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.owner = self.trainer()
        self.ticket = self.owner.open_run()["ticket"]

    def assertNoTicket(self, ticket: bytes, peer: str = "127.0.0.1") -> None:
        second = self.dial(peer=peer, here=peer)
        [failure] = second.become_stream(ticket)
        failure.trap(BadTicket)
        self.assertFalse(second.open)

    def test_is_good_for_one_use(self) -> None:
        """The second connection that hands it in is refused, and the first lives on."""
        stream = self.dial()
        self.assertEqual(stream.become_stream(self.ticket), [{}])
        self.assertNoTicket(self.ticket)
        self.assertTrue(stream.open)
        self.reactor.advance(100)
        stream.pump.flush()
        self.assertTrue(stream.open)

    def test_of_another_peer(self) -> None:
        """A ticket that leaked is of no use at another address, and not used up by it."""
        self.assertNoTicket(self.ticket, peer="10.0.0.1")
        self.assertEqual(self.dial().become_stream(self.ticket), [{}])

    def test_expires(self) -> None:
        """It must be used soon."""
        self.reactor.advance(self.limits.ticket_seconds)
        self.assertNoTicket(self.ticket)

    def test_wrong_ones(self) -> None:
        """Guesses of any length are refused."""
        for guess in (b"", b"x", bytes(16), self.ticket[:-1], self.ticket + b"x"):
            self.assertNoTicket(guess)

    def test_of_a_closed_run(self) -> None:
        """It goes with its run."""
        self.owner.ask(commands.CloseRun, run="r")
        self.assertNoTicket(self.ticket)

    def test_a_connection_with_runs_stays_as_it_is(self) -> None:
        """A trainer's first connection cannot become a stream."""
        other = self.trainer()
        other.open_run("other")
        [failure] = other.become_stream(self.ticket)
        failure.trap(BadRequest)
        self.assertEqual(other.ask(commands.Ping, token=1), {"token": 1})


class OpenRunTests(ServerCase):
    limits = Limits(runs=3, nodes=3, connections=4, vector_mib=1)

    def test_answers_dimension_and_digest(self) -> None:
        """Two trainers with the same spec hear the same."""
        first, second = self.trainer().open_run(), self.trainer().open_run()
        self.assertEqual(first["dimension"], D)
        self.assertEqual(first["digest"], second["digest"])
        self.assertNotEqual(first["ticket"], second["ticket"])

    def test_names(self) -> None:
        """The same one may not be used twice on a connection."""
        trainer = self.trainer()
        trainer.open_run("r")
        for name in ("r", "", "x" * 101):
            self.assertRaises(BadRequest, trainer.open_run, name)
        self.assertRaises(UnknownRun, trainer.ask, commands.CloseRun, run="other")
        self.assertEqual(self.server.runs, 1)

    def test_a_name_that_is_being_opened(self) -> None:
        """It is taken from the moment it is asked for."""
        trainer = self.trainer()
        self.pool.eager = False
        opening = trainer.begin(commands.OpenRun, run="r", spec=SPEC.to_json())
        self.assertRaises(BadRequest, trainer.open_run, "r")
        self.pool.drain()
        trainer.pump.flush()
        self.assertIn("ticket", opening[0])

    def test_specs_that_make_no_sense(self) -> None:
        """They are refused in words, and nothing is held for them."""
        trainer = self.trainer()
        fields = json.loads(SPEC.to_json())
        for spec in (
            b"",
            b"[]",
            b"\xff",
            b"[" * 30_000,
            b"{}",
            json.dumps({**fields, "batch_size": 0}).encode(),
            json.dumps({**fields, "batch_size": True}).encode(),
            json.dumps({**fields, "seed": 1e3}).encode(),
            json.dumps({**fields, "model": None}).encode(),
            json.dumps({**fields, "more": 1}).encode(),
        ):
            with self.subTest(spec[:40]):
                self.assertRaises(BadRequest, trainer.ask, commands.OpenRun, run="r", spec=spec)
        for error, changes in (
            (UnknownName, {"model": "small-cmm"}),
            (UnknownName, {"dataset": "nothing"}),
            (BadParameter, {"dataset": "synthetic:n=-1"}),
            (BadParameter, {"dataset": "../../etc/passwd"}),
            (LimitExceeded, {"model": "mlp:hidden=100000"}),
            (LimitExceeded, {"batch_size": 10**6, "replacement": True}),
            (LimitExceeded, {"micro_batch_size": 8192}),
            (LimitExceeded, {"shards": 10**6}),
        ):
            with self.subTest(changes):
                self.assertRaises(error, trainer.open_run, **changes)
        self.assertTrue(trainer.open)
        self.assertFree()

    def test_too_many_runs(self) -> None:
        """The limit is over all trainers, and one that closes makes room."""
        trainers = [self.trainer() for _ in range(3)]
        for i, trainer in enumerate(trainers):
            trainer.open_run(f"r{i}")
        refused = str(self.assertRaises(ServerBusy, trainers[0].open_run, "more"))
        self.assertIn("3 runs", refused)
        self.assertIn("--max-runs", refused)
        trainers[1].ask(commands.CloseRun, run="r1")
        trainers[0].open_run("more")

    def test_too_many_connections(self) -> None:
        """One over the limit is hung up on, and leaves the others alone."""
        trainers = [self.trainer() for _ in range(4)]
        self.assertFalse(self.dial().open)
        trainers[0].leave()
        self.trainer()
        self.assertTrue(all(trainer.open for trainer in trainers[1:]))


class ReturnTests(ServerCase):
    """A trainer that was cut off, or killed, is back on another connection."""

    limits = Limits(runs=1)

    def test_replaces_its_old_self(self) -> None:
        """The run of its name is closed, even where there is no room for another, and one
        line says so."""
        (old, stream), new = self.running(), self.trainer()
        with capturedLogs() as events:
            new.open_run("r")
        stream.pump.flush()
        self.assertFalse(stream.open)
        self.assertEqual((self.server.runs, self.server.nodes), (1, 0))
        said = [line for line in map(formatEvent, events) if "replaces" in line]
        self.assertEqual(len(said), 1, events)
        self.assertIn("run r replaces that of 127.0.0.1:", said[0])
        for ask in (lambda: old.ask(commands.CloseRun, run="r"), lambda: old.spawn(HONEST)):
            self.assertRaises(UnknownRun, ask)
        new.spawn(HONEST)

    def test_while_the_old_one_is_built(self) -> None:
        """The run under construction is dropped when it is there."""
        old, new = self.trainer(), self.trainer()
        self.pool.eager = False
        opening = old.begin(commands.OpenRun, run="r", spec=SPEC.to_json())
        self.server.config = evolve(
            self.server.config, limits=Limits(runs=2)
        )  # the one that is dropped counts until it is
        again = new.begin(commands.OpenRun, run="r", spec=SPEC.to_json())
        self.pool.drain()
        for trainer in (old, new):
            trainer.pump.flush()
        opening[0].trap(UnknownRun)
        self.assertIn("ticket", again[0])
        self.assertEqual(self.server.runs, 1)

    def test_of_another_certificate(self) -> None:
        """Where there are keys, a name alone replaces nothing."""
        self.server.config = evolve(self.server.config, limits=Limits(runs=3))
        self.server.keys = ClusterKeys().server()
        trainers = []
        for shown in ("a", "b", "a"):
            trainers.append(self.dial())
            trainers[-1].session.certificate = Peer("trainer", shown, "1")
            trainers[-1].hello()
            trainers[-1].open_run("r")
        self.assertEqual([len(t.session.runs) for t in trainers], [0, 1, 1])

    def test_of_a_peer_that_may_not_use_the_server(self) -> None:
        """Nobody whom protected mode turns away gets as far as that."""
        self.running()
        far = self.dial(peer="10.0.0.9", here="10.0.0.1")
        self.assertRaises(BadRequest, far.open_run, "r")
        self.assertEqual(self.server.runs, 1)


class SpawnTests(ServerCase):
    limits = Limits(nodes=3)

    def test_counts_the_runs_nodes(self) -> None:
        """Nodes may come in parts."""
        trainer = self.trainer()
        trainer.open_run()
        self.assertEqual(trainer.spawn(HONEST), 2)
        self.assertEqual(trainer.spawn(BYZANTINE), 3)

    def test_too_many_nodes(self) -> None:
        """The limit is over all runs of all trainers, and is told with its option."""
        first, second = self.trainer(), self.trainer()
        first.open_run("r")
        second.open_run("s")
        first.spawn(HONEST)
        error = self.assertRaises(ServerBusy, second.spawn, HONEST, "s")
        self.assertIn("--max-nodes", str(error))
        self.assertEqual(self.server.nodes, 2)

    def test_nodes_that_cannot_be(self) -> None:
        """Each is refused in words; those before it in the list stay and are counted."""
        trainer = self.trainer()
        trainer.open_run()
        for error, node in (
            (BadRequest, NodeSpec(node=4, shard=0)),
            (BadRequest, NodeSpec(node=0, shard=3)),
            (UnknownName, NodeSpec(node=0, shard=0, attack="empyre")),
            (BadParameter, NodeSpec(node=0, shard=0, attack="empire:scale=x")),
        ):
            with self.subTest(node):
                self.assertRaises(error, trainer.spawn, [node])
        self.assertRaises(BadRequest, trainer.spawn, [HONEST[0], HONEST[0]])
        for nodes in (b"", b"7", b"[1]", b'["abc"]', b"[[0, 0]]", b"[[0, 0, 1]]", b"{}x"):
            with self.subTest(nodes):
                arguments = {"run": "r", "nodes": nodes}
                self.assertRaises(BadRequest, trainer.ask, commands.SpawnNodes, **arguments)
        self.assertEqual(self.server.nodes, 1)
        trainer.ask(commands.CloseRun, run="r")
        self.assertFree()

    def test_a_shard_smaller_than_a_batch(self) -> None:
        """It is found out before any round."""
        trainer = self.trainer()
        trainer.open_run(batch_size=100)
        self.assertRaises(ShardTooSmall, trainer.spawn, HONEST)


class EndTests(ServerCase):
    def test_close_run_frees_everything(self) -> None:
        """Nodes, ticket and stream go with the run; the connection stays."""
        trainer, stream = self.running()
        trainer.open_run("unused")
        for run in ("r", "unused"):
            trainer.ask(commands.CloseRun, run=run)
        stream.pump.flush()
        self.assertFree()
        self.assertFalse(stream.open)
        self.assertEqual(len(stream.ended), 1)
        trainer.open_run("r")

    def test_a_lost_trainer_frees_everything(self) -> None:
        """So does the end of its connection."""
        trainer, stream = self.running()
        trainer.open_run("unused")
        trainer.leave()
        stream.pump.flush()
        self.assertFree()
        self.assertFalse(stream.open)
        self.assertEqual(list(self.server._sessions), [])

    def test_a_trainer_that_leaves_while_its_run_is_built(self) -> None:
        """The run is dropped as soon as it is there."""
        trainer = self.trainer()
        self.pool.eager = False
        trainer.begin(commands.OpenRun, run="r", spec=SPEC.to_json())
        trainer.leave()
        self.assertEqual(self.server.runs, 1)
        self.pool.drain()
        self.assertFree()

    def test_a_lost_stream_ends_the_run(self) -> None:
        """A request for rounds then fails, and the run can be closed."""
        trainer, stream = self.running()
        stream.leave()
        [failure] = trainer.compute(0, [0])
        failure.trap(BadRequest, UnknownRun)
        trainer.ask(commands.CloseRun, run="r")
        self.assertFree()

    def test_memory_is_given_back(self) -> None:
        """A moment after runs are closed, once for all of them, in the pool."""
        trainer = self.trainer()
        for run in ("a", "b"):
            trainer.open_run(run)
            trainer.ask(commands.CloseRun, run=run)
        self.pool.eager = False
        self.reactor.advance(1)
        self.assertEqual(len(self.pool.waiting), 1)
        self.pool.drain()
        trainer.leave()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_trainers_do_not_disturb_one_another(self) -> None:
        """One that leaves, or breaks the protocol, ends alone."""
        (first, _), (second, stream) = self.running("first"), self.running()
        first.pump.clientIO.write(b"nonsense")
        first.pump.flush()
        self.assertFalse(first.open)
        self.assertEqual(second.ask(commands.Ping, token=1), {"token": 1})
        self.assertTrue(stream.open)
        self.assertEqual((self.server.runs, self.server.nodes), (1, 3))


class PoolSpawnTests(ServerCase):
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
