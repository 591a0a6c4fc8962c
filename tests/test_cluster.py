"""Servers that start, come and go, on a virtual clock."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred

from byzpy_tw.errors import ServerDiffers, ServerUnreachable
from byzpy_tw.testing import FakeServer
from byzpy_tw.trainer.server_entry import FIRST_DELAY, TRUSTED_AFTER
from byzpy_tw.workers.spec import NodeSpec
from tests.cluster_case import REPLACE, ClusterCase


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

    def test_devices_that_differ(self) -> None:
        """Are told, since a node that moves would have other bits; an error with --strict."""
        self.world.devices = dict.fromkeys("abc", "cuda (card)")
        cluster = self.start()
        self.assertEqual(self.said, [])
        self.assertEqual({entry.device for entry in cluster.entries}, {"cuda (card)"})
        self.world.devices = {"b": "cuda (card)"}
        self.start()
        [line] = self.said
        self.assertIn("b computes on cuda (card), other nodes of the run on cpu: results may", line)
        starting = Deferred.fromCoroutine(self.cluster("--strict").start())
        self.failureResultOf(starting, ServerDiffers)

    def test_a_device_unlike_before(self) -> None:
        """A run that is resumed elsewhere says so once for each server."""
        cluster = self.cluster(names="ab")
        cluster.terms = evolve(cluster.terms, devices=["cuda (card)"])
        self.successResultOf(Deferred.fromCoroutine(cluster.start()))
        self.assertEqual(len([line for line in self.said if "run on cuda (card)" in line]), 2)

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
                self.assertTrue(self.world.on("b").lost)
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
        for options, lost, enough in (
            ("--min-servers 2", "a", True), ("--min-servers 3", "a", False),
            ("--min-servers 1", "abc", False), ("", "a", False),
        ):  # fmt: skip
            with self.subTest(options, lost=lost):
                self.setUp()
                self.world.opening = {"c": (opening := Deferred())}
                cluster = self.cluster(options)
                starting = Deferred.fromCoroutine(cluster.start())
                for name in lost:
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
        """Cancelling the start ends it."""
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

    def test_local_data_that_changed(self) -> None:
        """It is compared with what the site itself had, and no site is to have another's files."""
        for recorded in ({}, {"a": "data"}):
            self.happened.clear()
            cluster = self.start("--min-servers 2", local_data=True, data_digests=recorded)
            self.world.on("a").lose()
            self.world.digest = "other"
            self.reactor.pump([1.0] * 60)
            [line] = [line for line in self.said if "cannot take part" in line]
            self.assertIn("not what this run began with there (digests other now, data", line)
            self.assertNotIn("give both", line)
            self.successResultOf(Deferred.fromCoroutine(cluster.close()))
            self.world.digest = "data"

    def test_local_data_of_a_resumed_run(self) -> None:
        """A site whose data is other than in the process before does not take part."""
        self.start("--min-servers 2", local_data=True, data_digests={"a": "another"})
        [line] = [line for line in self.said if "cannot take part" in line]
        self.assertIn("(digests data now, another then)", line)

    def test_local_data_that_is_the_trainers(self) -> None:
        """A site that trains on the examples that are kept aside is told of once."""
        for digest, validation, told in (("data", "0.1", 3), ("data", "0", 0), ("other", "0.1", 0)):
            self.happened.clear()
            self.world.digest = digest
            self.start(f"--validation {validation}", local_data=True)
            self.world.on("a").lose()
            self.reactor.pump([FIRST_DELAY] * 4)
            found = [line for line in self.said if "has the trainer's own files for" in line]
            self.assertEqual(len(found), told, self.said)

    def test_one_that_joins(self) -> None:
        """It was never there: it does not come back, and it is told of to be put on record."""
        self.world.down = {"c"}
        cluster = self.start("--min-servers 2", local_data=True)
        joined: list[tuple[str, str, list[int]]] = []
        cluster.on_joined = lambda entry: joined.append(
            (entry.name, entry.data_digest, list(cluster.home_nodes(entry)))
        )
        self.world.down = set()
        self.reactor.advance(FIRST_DELAY)
        self.assertEqual(joined, [("c", "data", [2])])
        self.assertIn("c joins", self.said)
        self.world.on("c").lose()
        self.reactor.pump([FIRST_DELAY] * 4)
        self.assertIn("c is back", self.said)

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
