"""Servers that come and go, and rounds that go on, on a virtual clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.cli.train import configuration
from byzpy_tw.errors import ServerDiffers, ServerUnreachable
from byzpy_tw.plugins import load
from byzpy_tw.rounds.round import Reason, Round
from byzpy_tw.testing import FakeServer
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.trainer.cluster import Cluster, Terms
from byzpy_tw.trainer.collection import RoundDriver
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.server_interface import AttackInput, Opened
from byzpy_tw.trainer.server_slot import FIRST_DELAY, TRUSTED_AFTER, ServerSlot
from byzpy_tw.workers.environment import environment
from byzpy_tw.workers.spec import NodeSpec, node_specs

REGISTRY = load()
HERE = environment(REGISTRY, probe="p", device="cpu", threads=1)
D = 3
TIMEOUT, REPLACE = 20.0, 30.0


@define(eq=False, slots=False)
class World:
    """The servers that there are, and how each behaves when it is dialled."""

    reactor: ClockReactor
    servers: list[FakeServer] = field(factory=list)  # every connection that was made
    down: set[str] = field(factory=set)  # servers that are not there
    silent: set[int] = field(factory=set)  # nodes that do not answer
    room: dict[str, int] = field(factory=dict)  # nodes that a server takes
    digest: str = "data"
    wrong: dict[str, str] = field(factory=dict)  # servers that lie, and the command
    slow: dict[str, Deferred] = field(factory=dict)  # servers whose next spawn waits for it
    opening: dict[str, Deferred] = field(factory=dict)  # and whose next run does

    def server(self, name: str) -> FakeServer:
        self.servers.append(
            FakeServer(name, D, HERE, before=self.before, silent=lambda node: node in self.silent)
        )
        return self.servers[-1]

    def before(self, server: FakeServer, command: str) -> Deferred | None:
        if command == "hello" and server.name in self.down:
            raise ServerUnreachable(f"{server.name}: nobody there")
        if self.wrong.get(server.name) == command:
            raise ServerDiffers(f"{server.name} is not as it should be")
        server.digest, server.room = self.digest, self.room.get(server.name, 100)
        waits = {"open": self.opening, "spawn": self.slow}.get(command, {})
        return waits.pop(server.name, None)

    def on(self, name: str) -> FakeServer:
        """The newest connection to `name`."""
        return [server for server in self.servers if server.name == name][-1]


class ClusterCase(SynchronousTestCase):
    options = "--num-honest 3 --num-byz 1 --f 1 --attack empire"

    def setUp(self) -> None:
        self.reactor = ClockReactor()
        self.world = World(self.reactor)
        self.said: list[str] = []

    def cluster(self, more: str = "", *, names: str = "abc") -> Cluster:
        servers = ",".join(f"tcp://{name}:1" for name in names)
        words = f"--remote-hosts {servers} {self.options} --round-timeout {TIMEOUT}"
        words += f" --replace-timeout {REPLACE} {more}"
        self.config = config = configuration(words.split())
        terms = Terms(config, REGISTRY, "run", HERE, Opened(D, "data"), local_data=False)
        self.collector = Collector(
            torch.zeros(config.n, D), self.reactor, HandCrankedPool(eager=True)
        )
        nodes = node_specs(honest=config.num_honest, byzantine=config.num_byz, attack=config.attack)
        slots = [ServerSlot(name, lambda name=name: self.world.server(name)) for name in names]
        return Cluster(slots, terms, nodes, self.collector, self.reactor, self.said.append)

    def start(self, more: str = "", **options: Any) -> Cluster:
        cluster = self.cluster(more, **options)
        self.successResultOf(Deferred.fromCoroutine(cluster.start()))
        return cluster

    def lives(self, cluster: Cluster) -> dict[str, list[int]]:
        return {name: [n.node for n in nodes] for name, nodes in cluster.assignments()}


class StartTests(ClusterCase):
    def test_everyone_gets_their_nodes(self) -> None:
        """Round-robin, each spawned where it lives."""
        cluster = self.start()
        self.assertEqual(self.lives(cluster), {"a": [0, 3], "b": [1], "c": [2]})
        self.assertEqual(self.world.on("a").spawned, [0, 3])
        self.assertIs(self.collector.server_of(1), self.world.on("b"))

    def test_all_must_be_there(self) -> None:
        """Unless told otherwise."""
        self.world.down = {"b"}
        failure = self.failureResultOf(Deferred.fromCoroutine(self.cluster().start()))
        self.assertIn("b: nobody there", str(failure.value))

    def test_some_may_be_late(self) -> None:
        """As many as allowed; they get their nodes when they come."""
        self.world.down = {"a"}
        cluster = self.start("--min-servers 2")
        self.assertEqual(self.lives(cluster), {"a": [], "b": [0, 1], "c": [2, 3]})
        self.world.down = set()
        self.reactor.advance(FIRST_DELAY)
        cluster.return_nodes()
        self.assertEqual(self.lives(cluster), {"a": [0, 3], "b": [1], "c": [2]})
        self.world.down = {"a", "b"}
        failure = self.failureResultOf(
            Deferred.fromCoroutine(self.cluster("--min-servers 2").start())
        )
        self.assertIn("2 of 3 servers did not answer, --min-servers 2", str(failure.value))

    def test_all_differ(self) -> None:
        """Is an error, however few are asked for."""
        self.world.digest = "other"
        for more in ("", "--min-servers 1"):
            starting = Deferred.fromCoroutine(self.cluster(more).start())
            self.failureResultOf(starting, ServerDiffers)

    def test_one_that_cannot_be_used(self) -> None:
        """Is done without, where fewer than all will do: one liar stops nobody."""
        for wrong in ("open", "spawn"):
            with self.subTest(wrong):
                self.setUp()
                self.world.wrong = {"b": wrong}
                starting = Deferred.fromCoroutine(self.cluster().start())
                self.failureResultOf(starting, ServerDiffers)
                cluster = self.start("--min-servers 2")
                self.assertEqual(self.lives(cluster)["b"], [])
                self.assertEqual({self.collector.server_of(n).name for n in range(4)}, {"a", "c"})
                self.assertIn("b is not as it should be", " ".join(self.said))
                self.assertTrue(self.world.on("b").gone)
                fewer = Deferred.fromCoroutine(self.cluster("--min-servers 3").start())
                text = str(self.failureResultOf(fewer, ServerDiffers).value)
                self.assertIn("1 of 3 servers cannot be used, --min-servers 3: b is not", text)
                self.world.wrong = {}
                self.reactor.advance(FIRST_DELAY)
                cluster.return_nodes()
                self.assertEqual(self.lives(cluster), {"a": [0, 3], "b": [1], "c": [2]})

    def test_one_that_is_lost_meanwhile(self) -> None:
        """Its nodes stay where they went, and it is dialled again once."""
        self.world.slow = {"c": (slow := Deferred())}
        cluster = self.cluster()
        starting = Deferred.fromCoroutine(cluster.start())
        self.world.on("b").lose()
        slow.callback(None)
        self.successResultOf(starting)
        self.assertEqual(self.collector.server_of(1).name, "c")
        self.reactor.pump([FIRST_DELAY] * 4)
        self.assertEqual([server.name for server in self.world.servers], ["a", "b", "c", "b"])

    def test_one_that_is_lost_as_it_gets_its_nodes(self) -> None:
        """With --min-servers it is as one that was not there; else the start fails."""
        for more, fails in (("--min-servers 1", False), ("", True)):
            self.world.slow = {"b": (slow := Deferred())}
            starting = Deferred.fromCoroutine(self.cluster(more).start())
            self.world.on("b").lose()
            slow.errback(ServerUnreachable("b: hung up"))
            if fails:
                self.failureResultOf(starting, ServerUnreachable)
            else:
                self.successResultOf(starting)
                self.assertTrue(self.collector.server_of(1) is not None)

    def test_those_that_do_not_wait(self) -> None:
        """Servers that are gone before the last has joined are not there."""
        for options, gone, enough in (
            ("--min-servers 2", "a", True), ("--min-servers 3", "a", False),
            ("--min-servers 1", "abc", False), ("", "a", False),
        ):  # fmt: skip
            with self.subTest(options, gone=gone):
                self.setUp()
                self.world.opening = {"c": (opening := Deferred())}
                cluster = self.cluster(options)
                starting = Deferred.fromCoroutine(cluster.start())
                for name in gone:
                    self.world.on(name).lose("went away")
                opening.callback(None)
                if enough:
                    self.successResultOf(starting)
                    self.assertEqual(self.lives(cluster)["a"], [])
                    self.assertIn("a: went away; going on without it for now", self.said)
                else:
                    failure = self.failureResultOf(starting, ServerUnreachable)
                    self.assertIn("went away", str(failure.value))

    def test_one_that_keeps_the_others_waiting(self) -> None:
        """Once enough are there it has as long as a replacement has; then it may come
        later.  Without --min-servers it has all the time that its answers have."""
        for where in ("opening", "slow"):
            with self.subTest(where):
                self.setUp()
                setattr(self.world, where, {"b": Deferred()})
                cluster = self.cluster("--min-servers 2")
                starting = Deferred.fromCoroutine(cluster.start())
                self.reactor.advance(REPLACE / 2)
                self.assertEqual(self.said, ["waiting for b"])
                self.assertNoResult(starting)
                self.reactor.advance(REPLACE / 2)
                self.successResultOf(starting)
                self.assertIn(f"b: not ready {REPLACE:g} s after enough", " ".join(self.said))
                self.assertEqual({self.collector.server_of(n).name for n in range(4)}, {"a", "c"})
                setattr(self.world, where, {"b": (waits := Deferred())})
                starting = Deferred.fromCoroutine(self.cluster().start())
                self.reactor.advance(10 * REPLACE)
                self.assertNoResult(starting)
                waits.callback(None)
                self.successResultOf(starting)

    def test_given_up(self) -> None:
        """Whoever cancels the start ends it."""
        self.world.opening = {"b": Deferred()}
        starting = Deferred.fromCoroutine(self.cluster("--min-servers 2").start())
        starting.cancel()
        self.failureResultOf(starting, CancelledError)


class LossTests(ClusterCase):
    def test_nodes_move_and_return(self) -> None:
        """To the others at once; back again when their server is there, between rounds."""
        cluster = self.start()
        self.world.on("a").lose()
        self.assertEqual(self.lives(cluster), {"a": [], "b": [0, 1], "c": [2, 3]})
        self.assertIs(self.collector.server_of(0), self.world.on("b"))
        self.assertIn("a is lost: cut off", self.said)
        self.reactor.advance(FIRST_DELAY)
        self.assertEqual(self.lives(cluster)["a"], [])  # a round is under way
        cluster.return_nodes()
        self.assertEqual(self.lives(cluster), {"a": [0, 3], "b": [1], "c": [2]})
        self.assertIs(self.collector.server_of(0), self.world.on("a"))
        # A second time, nodes that are spawned somewhere already are not spawned again.
        self.world.on("a").lose()
        self.assertEqual(self.world.on("b").spawned, [1, 0])

    def test_dialled_less_and_less(self) -> None:
        """Until it answers Hello; then from the start again."""
        cluster = self.start()
        self.world.down = {"a"}
        self.world.on("a").lose()
        times = []
        for _ in range(500):
            before = len(self.world.servers)
            self.reactor.advance(0.125)  # exact in binary
            if len(self.world.servers) > before:
                times.append(self.reactor.seconds())
        waits = [b - a for a, b in zip([0.0, *times], times)]
        self.assertEqual(waits[:7], [0.5, 1, 2, 4, 8, 10, 10])
        self.world.down = set()
        self.reactor.advance(10)
        self.assertIn("a is back", self.said)
        for _ in range(TRUSTED_AFTER):
            cluster.return_nodes()
        self.world.on("a").lose()
        self.reactor.advance(FIRST_DELAY)
        self.assertEqual(self.said.count("a is back"), 2)
        self.assertEqual(sum("nobody there" in line for line in self.said), 0)
        self.successResultOf(Deferred.fromCoroutine(cluster.close()))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_one_that_came_back_different(self) -> None:
        """Does not take part, and that is said once."""
        cluster = self.start()
        self.world.on("a").lose()
        self.world.digest = "other"
        self.reactor.pump([1.0] * 60)
        self.assertEqual(sum("holds other data" in line for line in self.said), 1)
        self.assertEqual(self.lives(cluster)["a"], [])

    def test_one_that_has_no_room(self) -> None:
        """The others are asked."""
        self.world.room = {"b": 1}
        cluster = self.start()
        self.world.on("a").lose()
        self.assertEqual(self.lives(cluster), {"a": [], "b": [1], "c": [0, 2, 3]})
        self.assertTrue(any("b does not take node 0" in line for line in self.said))

    def test_everything_is_lost(self) -> None:
        """Nodes are unassigned since then, until a server is back."""
        cluster, on_unassigned = self.start(), []
        cluster.on_unassigned = lambda nodes, why: on_unassigned.append((nodes, why))
        self.reactor.advance(5)
        self.world.down = {"a", "b", "c"}
        for name in "abc":
            self.world.on(name).lose()
        self.assertEqual(on_unassigned, [([0, 1, 2, 3], "c: cut off")])
        self.assertEqual(cluster.placement.unassigned, [0, 1, 2, 3])
        self.assertEqual(set(cluster.unassigned_since.values()), {5.0})
        self.world.down = {"a", "c"}
        self.reactor.pump([0.1] * 100)
        self.assertEqual(self.lives(cluster)["b"], [0, 1, 2, 3])

    def test_one_that_comes_and_goes(self) -> None:
        """Has its nodes back later each time: they are well where they are."""
        cluster = self.start()
        rounds = []
        for _ in range(6):
            self.world.on("b").lose()
            self.reactor.advance(10)
            count = 1
            cluster.return_nodes()
            while self.lives(cluster)["b"] == []:
                count += 1
                cluster.return_nodes()
            rounds.append(count)
        self.assertEqual(rounds, [1, 1, 2, 4, 8, 16])

    def test_lost_while_nodes_are_spawned(self) -> None:
        """At the start, by a server that takes its time: nobody is left without a home."""
        hold: Deferred[None] = Deferred()
        cluster = self.cluster("--min-servers 2")
        spawn = FakeServer.spawn

        async def slow(server: FakeServer, nodes: Sequence[NodeSpec]) -> None:
            if server.name == "c":
                await hold
            await spawn(server, nodes)

        self.patch(FakeServer, "spawn", slow)
        starting = Deferred.fromCoroutine(cluster.start())
        self.assertNoResult(starting)
        self.world.on("a").lose()
        hold.callback(None)
        self.successResultOf(starting)
        for node in range(4):
            server_of = self.collector.server_of(node)
            self.assertIsNotNone(server_of)
            self.assertEqual(server_of.name, cluster.placement.server_of[node])
        self.reactor.advance(FIRST_DELAY)
        self.assertEqual(len([h for h in self.world.servers if h.name == "a"]), 2)

    def test_room_for_some(self) -> None:
        """As many as there is room for are taken."""
        self.options = "--num-honest 9 --num-byz 0 --f 1"
        self.world.room = {"b": 5, "c": 3}
        cluster = self.start()
        self.world.on("a").lose()
        self.assertEqual(len(self.lives(cluster)["b"]), 5)
        self.assertEqual(len(cluster.placement.unassigned), 1)

    def test_bytes_of_the_lost(self) -> None:
        """Are counted still."""
        cluster = self.start()
        self.world.on("a").bytes_sent = 100
        self.world.on("a").lose()
        self.assertEqual(cluster.tensor_bytes(), (102, 3))


class DriverTests(ClusterCase):
    def driver(
        self, cluster: Cluster, number: int = 0, probation: Sequence[int] = ()
    ) -> RoundDriver:
        config = self.config
        round = Round(number, config.num_honest, config.num_byz, config.f, frozenset(probation))
        driver = RoundDriver(
            round, config, cluster, self.collector, self.reactor,
            lambda server: server.parameters(number, torch.zeros(D)),
        )  # fmt: skip
        driver.begin()
        return driver

    def run_round(self, driver: RoundDriver) -> Deferred[None]:
        async def run() -> None:
            await driver.collect_honest()
            await driver.collect_byzantine(AttackInput(len(driver.round.honest_accepted), {}, {}))
            driver.end()

        return Deferred.fromCoroutine(run())

    def reasons(self, driver: RoundDriver) -> dict[int, Reason]:
        return {node: refusal.reason for node, refusal in driver.round.refusals.items()}

    def test_a_quiet_round(self) -> None:
        """Each server is sent the parameters once, and asked once for each kind."""
        driver = self.driver(self.start())
        self.successResultOf(self.run_round(driver))
        self.assertEqual(driver.round.usable, (0, 1, 2, 3))
        self.assertEqual(
            self.world.on("a").calls,
            [("parameters", 0, ()), ("compute", 0, (0,)), ("attack", 0, (3,))],
        )
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_a_server_is_lost_in_the_middle(self) -> None:
        """What it had not sent is asked of others, in the same round."""
        self.world.silent = {0, 3}
        driver = self.driver(self.start())
        running = self.run_round(driver)
        self.world.silent = {3}
        self.world.on("a").lose()
        self.assertNoResult(running)
        self.assertEqual(driver.round.honest_accepted, (0, 1, 2))
        self.assertEqual(self.world.on("b").calls[-1], ("compute", 0, (0,)))
        self.world.silent = set()
        self.world.on("c").lose()  # has node 3 now; node 2 has answered already
        self.successResultOf(running)
        self.assertEqual(driver.round.usable, (0, 1, 2, 3))
        self.assertEqual(self.world.on("b").calls[-1], ("attack", 0, (3,)))

    def test_no_deadline_while_it_is_replaced(self) -> None:
        """A node that moves has all its time again."""
        self.world.silent = {0}
        driver = self.driver(self.start())
        running = self.run_round(driver)
        self.reactor.advance(TIMEOUT / 2 - 1)
        self.world.on("a").lose()
        self.reactor.advance(TIMEOUT / 2 - 1)
        self.assertNoResult(running)
        self.world.on("b").send(0, 0)
        self.successResultOf(running)
        self.assertEqual(driver.round.refusals, {})

    def test_no_deadline_while_a_server_is_suspect(self) -> None:
        """Its heartbeat decides, not the round."""
        self.world.silent = {0}
        driver = self.driver(self.start())
        running = self.run_round(driver)
        self.world.on("a").suspect = True
        self.reactor.advance(TIMEOUT / 2 + 0.1)
        self.assertNoResult(running)
        self.world.silent = set()
        self.world.on("a").lose("no answer to pings")
        self.successResultOf(running)
        self.assertEqual(driver.round.refusals, {})

    def test_a_server_that_stays_suspect(self) -> None:
        """Is given the benefit of the doubt once, not for ever."""
        self.world.silent = {1}
        driver = self.driver(self.start())
        running = self.run_round(driver)
        self.world.on("b").suspect = True
        for _ in range(400):
            self.reactor.advance(0.1)
        self.successResultOf(running)
        self.assertEqual(self.reasons(driver), {1: Reason.LATE})

    def test_a_server_that_flaps(self) -> None:
        """A round ends, however often its nodes move."""
        self.world.silent = {1}
        driver = self.driver(self.start("--max-nodes-per-server 2"))
        running = self.run_round(driver)
        for second in range(200):
            if second % 9 == 8:
                (self.collector.server_of(1) or self.world.on("b")).lose()
            self.reactor.advance(1.0)
        self.successResultOf(running)
        self.assertIn(1, driver.round.refusals)

    def test_a_server_that_leaves_in_each_round(self) -> None:
        """It costs a few waits, and no more, where nobody else has room for its node: it
        is charged like one that does not move.  Still it is used when it is there."""
        cluster = self.start("--max-nodes-per-server 1", names="abcd")
        waited, missed = [], 0
        for number in range(30):
            cluster.return_nodes()
            slot = cluster._by_name["d"]
            begun = self.reactor.seconds()
            driver = self.driver(cluster, number)
            running = self.run_round(driver)
            while not running.called:
                if self.reactor.seconds() > begun + REPLACE - 10.5:
                    self.world.down.discard("d")
                self.reactor.advance(0.25)
            waited.append(self.reactor.seconds() - begun)
            missed += 3 in driver.round.refusals
            self.world.down.discard("d")
            if not slot.up:  # as long as it is dialled, after a round
                self.reactor.pump([1.0] * 11)
            if slot.up:
                self.world.down.add("d")
                self.world.on("d").lose()
        self.assertLess(sum(seconds > 1 for seconds in waited), 5, waited)
        self.assertGreater(missed, 20)
        self.assertEqual(self.successResultOf(running), None)

    def test_silence_is_charged(self) -> None:
        """At the deadline, within the budget; the whole round takes one timeout."""
        self.world.silent = {1}
        driver = self.driver(self.start())
        running = self.run_round(driver)
        self.reactor.advance(TIMEOUT / 2)
        self.successResultOf(running)
        self.assertEqual(self.reasons(driver), {1: Reason.LATE})
        # Node 1 was all that b had: it is treated as lost.
        self.assertTrue(self.world.on("b").gone)

    def test_a_server_that_answers_for_others(self) -> None:
        """Is not lost for one silent node."""
        self.world.silent = {3}
        driver = self.driver(self.start())
        running = self.run_round(driver)
        self.reactor.advance(TIMEOUT)
        self.successResultOf(running)
        self.assertEqual(self.reasons(driver), {3: Reason.LATE})
        self.assertFalse(self.world.on("a").gone)

    def test_more_than_the_budget(self) -> None:
        """The round waits once more, said in one line; answers count until then."""
        for answer in (True, False):
            with self.subTest(answer):
                self.setUp()
                self.world.silent = {0, 1, 2}
                driver = self.driver(self.start(names="a"))
                running = self.run_round(driver)
                self.reactor.advance(TIMEOUT / 2)
                self.assertNoResult(running)
                self.assertTrue(any("3 of n = 4 nodes have not answered" in s for s in self.said))
                self.assertTrue(self.world.servers[0].gone)  # none of its nodes has answered
                if answer:
                    self.world.silent = set()
                self.reactor.advance(FIRST_DELAY)  # it is dialled again, and asked again
                if not answer:
                    self.assertNoResult(running)
                    self.reactor.pump([1.0] * int(TIMEOUT + REPLACE + 1))
                self.successResultOf(running)
                late = {} if answer else dict.fromkeys((0, 1, 2), Reason.LATE)
                self.assertEqual(self.reasons(driver), late)

    def test_nobody_to_replace_it(self) -> None:
        """Unassigned nodes are waited for so long, in all rounds together."""
        cluster = self.start(names="a")
        driver = self.driver(cluster)
        self.world.silent = {0, 1, 2, 3}
        running = self.run_round(driver)
        self.world.down = {"a"}
        self.world.on("a").lose()
        self.reactor.pump([1.0] * int(REPLACE - 1))
        self.assertNoResult(running)
        self.reactor.advance(1.0)
        self.successResultOf(running)
        self.assertEqual(set(self.reasons(driver).values()), {Reason.LOST})
        following = self.driver(cluster, 1)
        self.assertTrue(following.round.complete)

    def test_it_comes_back_in_time(self) -> None:
        """Then its nodes are asked, and the round goes on."""
        self.world.silent = {0, 1, 2, 3}
        driver = self.driver(self.start(names="a"))
        running = self.run_round(driver)
        self.world.down = {"a"}
        self.world.on("a").lose()
        self.reactor.pump([1.0] * 10)
        self.world.down, self.world.silent = set(), set()
        self.reactor.pump([1.0] * 10)
        self.successResultOf(running)
        self.assertEqual(driver.round.usable, (0, 1, 2, 3))

    def test_no_failover(self) -> None:
        """What the budget covers is charged at once, and no more than that."""
        cluster = self.start("--failover off")
        driver = self.driver(cluster)
        self.world.silent = {1}
        running = self.run_round(driver)
        self.world.on("b").lose()
        self.successResultOf(running)
        self.assertEqual(self.reasons(driver), {1: Reason.LOST})
        self.world.silent = {2}
        self.world.down = {"b", "c"}
        following = self.driver(cluster, 1)
        running = self.run_round(following)
        self.world.on("c").lose()
        self.assertNoResult(running)
        self.reactor.pump([1.0] * int(REPLACE + 1))
        self.successResultOf(running)
        self.assertEqual(self.reasons(following), {1: Reason.LOST, 2: Reason.LOST})

    def test_probation(self) -> None:
        """Is asked like everyone, and nobody waits."""
        self.world.silent = {1}
        driver = self.driver(self.start(), probation=[1])
        self.successResultOf(self.run_round(driver))
        self.assertEqual(self.reasons(driver), {1: Reason.PROBATION})
        self.assertIn(("compute", 0, (1,)), self.world.on("b").calls)
        self.world.on("b").send(1, 0)
        self.assertEqual(driver.round.answered_late, {1})

    def test_what_failed_slowly(self) -> None:
        """Is as dear as silence; what failed at once is not."""
        self.world.silent = {0, 1}
        driver = self.driver(self.start())
        self.run_round(driver)
        self.collector.record_failures(self.world.on("a"), 0, {0: "no memory"})
        self.reactor.advance(TIMEOUT / 2 - 1)
        self.collector.record_failures(self.world.on("b"), 0, {1: "no memory"})
        self.assertEqual(driver.slow_nodes(), {1})

    def test_a_trainer_that_was_stopped(self) -> None:
        """What it has not read yet may be the answers: it looks before it judges."""
        self.world.silent = {1}
        driver = self.driver(self.start())
        running = self.run_round(driver)
        self.reactor.advance(10 * TIMEOUT)
        self.assertNoResult(running)
        self.world.on("c").lose()  # is read first, and must not end the patience
        self.reactor.advance(0.001)
        self.assertNoResult(running)
        self.world.on("b").send(1, 0)
        self.successResultOf(running)
        self.assertEqual(driver.round.refusals, {})

    def test_a_trainer_that_was_stopped_as_a_server_died(self) -> None:
        """Its nodes are not judged before the heartbeat can have noticed."""
        self.world.silent = {1}
        driver = self.driver(self.start())
        running = self.run_round(driver)
        self.reactor.advance(10 * TIMEOUT)
        self.reactor.advance(self.config.heartbeat / 2)
        self.assertEqual(driver.round.refusals, {})
        self.world.on("b").suspect = True  # as of now
        self.reactor.advance(self.config.heartbeat / 4)
        self.world.silent = set()
        self.world.on("b").lose()
        self.successResultOf(running)
        self.assertEqual(driver.round.refusals, {})
