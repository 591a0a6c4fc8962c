"""Rounds that go on while servers come and go, on a virtual clock."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from twisted.internet.defer import Deferred

from byzpy_tw.rounds.round import Reason, Round
from byzpy_tw.trainer.cluster import Cluster
from byzpy_tw.trainer.round_driver import RoundDriver
from byzpy_tw.trainer.server_entry import FIRST_DELAY
from byzpy_tw.trainer.server_interface import AttackInput
from tests.cluster_case import REPLACE, TIMEOUT, ClusterCase, D


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
        """Vectors that it had not sent are asked of others, in the same round."""
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

    def test_waiting_for_a_server(self) -> None:
        """Is told as it begins, once a round, with its end; not where the budget covers it."""
        cluster = self.start(local_data=True)
        self.world.down = {"a"}
        self.world.on("a").lose()
        driver = self.driver(cluster)
        running = self.run_round(driver)
        sentence = f"round 0 waits up to {REPLACE:g} s for a server: 2 of 4 nodes have none, f = 1"
        self.assertEqual([line for line in self.said if "waits" in line], [sentence])
        self.reactor.advance(REPLACE)
        self.successResultOf(running)
        self.happened.clear()
        self.world.down = set()
        cluster = self.start("--f 2 --num-honest 4", local_data=True)
        self.world.on("a").lose()
        self.successResultOf(self.run_round(self.driver(cluster)))
        self.assertEqual([line for line in self.said if "waits" in line], [])

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
            entry = cluster._by_name["d"]
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
            if not entry.up:  # as long as it is dialled, after a round
                self.reactor.pump([1.0] * 11)
            if entry.up:
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
        self.assertTrue(self.world.on("b").lost)

    def test_a_server_that_answers_for_others(self) -> None:
        """Is not lost for one silent node."""
        self.world.silent = {3}
        driver = self.driver(self.start())
        running = self.run_round(driver)
        self.reactor.advance(TIMEOUT)
        self.successResultOf(running)
        self.assertEqual(self.reasons(driver), {3: Reason.LATE})
        self.assertFalse(self.world.on("a").lost)

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
                self.assertTrue(self.world.servers[0].lost)  # none of its nodes has answered
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
        """Losses within the budget are charged at once, and no more than those."""
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
        self.assertEqual(driver.round.answered_on_probation, {1})

    def test_what_failed_slowly(self) -> None:
        """Is as dear as silence; what failed at once is not."""
        self.world.silent = {0, 1}
        driver = self.driver(self.start())
        self.run_round(driver)
        self.collector.record_failures(self.world.on("a"), 0, {0: "no memory"})
        self.reactor.advance(TIMEOUT / 2 - 1)
        self.collector.record_failures(self.world.on("b"), 0, {1: "no memory"})
        self.assertEqual(driver.costly_failures(), {1})

    def test_a_trainer_that_was_stopped(self) -> None:
        """It looks at unread answers before it judges: they may be the missing ones."""
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


class ReplacementTests(ClusterCase):
    """Nodes in the place of absent ones are asked in the same round."""

    options = "--num-honest 6 --num-byz 2 --f 1 --attack empire --participants 3 --over-sample 2"

    def play(self, nodes: tuple[int, ...], spare: tuple[int, ...], cluster: Cluster,
             probation: Sequence[int] = ()) -> tuple[RoundDriver, Deferred[None]]:  # fmt: skip
        config = self.config
        round = Round(0, config.num_honest, config.num_byz, 1, frozenset(probation), nodes, spare)
        driver = RoundDriver(
            round, config, cluster, self.collector, self.reactor,
            lambda server: server.parameters(0, torch.zeros(D)),
        )  # fmt: skip
        driver.begin()

        async def run() -> None:
            await driver.collect_honest()
            await driver.collect_byzantine(AttackInput(len(driver.round.honest_accepted), {}, {}))
            driver.end()

        return driver, Deferred.fromCoroutine(run())

    def asked(self) -> list[tuple[str, int]]:
        """Return what each node was asked for, in order."""
        return [
            (command, node)
            for server in self.world.servers
            for command, _, nodes in server.calls
            for node in nodes
            if command in ("compute", "attack")
        ]

    def test_late(self) -> None:
        """An honest spare node has as long as the late one had; nothing is charged."""
        self.world.silent = {0}
        driver, running = self.play((0, 1, 6), (4, 7), self.start())
        self.reactor.advance(TIMEOUT / 2 - 0.1)
        self.assertEqual(driver.round.replacements, {})
        self.world.silent = {4}
        self.reactor.advance(0.2)
        self.assertEqual(driver.round.replacements, {0: 4})
        self.reactor.advance(TIMEOUT / 2 - 0.5)
        self.assertNoResult(running)
        self.world.on("b").send(4, 0)
        self.successResultOf(running)
        self.assertEqual(driver.round.usable, (1, 4, 6))
        self.assertEqual(driver.round.charged(), 0)
        self.assertEqual(sorted(self.asked()), [("attack", 6), ("compute", 0), ("compute", 1),
                                                ("compute", 4)])  # fmt: skip
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_byzantine_for_honest(self) -> None:
        """A Byzantine spare node is asked once, when the attack's knowledge is there."""
        self.world.silent = {0}
        driver, running = self.play((0, 1, 2), (7, 4), self.start())
        self.reactor.advance(TIMEOUT + 0.1)  # nobody attacks before it is asked
        self.successResultOf(running)
        self.assertEqual(driver.round.usable, (1, 2, 7))
        self.assertEqual(self.asked().count(("attack", 7)), 1)

    def test_honest_for_byzantine(self) -> None:
        """An honest spare node answers after the attack; another one may replace it."""
        self.world.silent = {6, 4}
        driver, running = self.play((0, 1, 6), (4, 5), self.start())
        self.reactor.advance(TIMEOUT + 0.1)
        self.assertEqual(driver.round.replacements, {6: 4})
        self.assertNoResult(running)
        self.reactor.advance(TIMEOUT / 2 + 0.1)
        self.successResultOf(running)
        self.assertEqual(driver.round.replacements, {6: 4, 4: 5})
        self.assertEqual(driver.round.usable, (0, 1, 5))

    def test_probation(self) -> None:
        """Nodes on probation are asked, and so are those in their places, each once."""
        self.world.silent = {0}
        driver, running = self.play((0, 1, 6), (4, 7), self.start(), [0])
        self.successResultOf(running)
        self.assertEqual(driver.round.usable, (1, 4, 6))
        self.assertEqual(sorted(self.asked()), [("attack", 6), ("compute", 0), ("compute", 1),
                                                ("compute", 4)])  # fmt: skip

    def test_servers_that_are_away(self) -> None:
        """Nodes of a server that no other may have are replaced at once; spare ones of it too."""
        cluster = self.start("--failover off")
        self.world.down = {"a"}
        self.world.on("a").lose()  # the home of nodes 0, 3 and 6
        driver, running = self.play((0, 1, 2), (3, 4), cluster)
        self.successResultOf(running)
        self.assertEqual(driver.round.replacements, {0: 3, 3: 4})
        self.assertEqual(driver.round.usable, (1, 2, 4))

    def test_lost_in_the_middle(self) -> None:
        """A node that moves is not absent."""
        self.world.silent = {0}
        driver, running = self.play((0, 1, 6), (4, 7), self.start())
        self.world.silent = set()
        self.world.on("a").lose()
        self.successResultOf(running)
        self.assertEqual((driver.round.replacements, driver.round.usable), ({}, (0, 1, 6)))

    def test_end(self) -> None:
        """A round ends, whoever replaces whom."""
        self.world.silent = set(range(8))
        driver, running = self.play((0, 1, 6), (4, 7), self.start())
        while self.reactor.seconds() < 2 * TIMEOUT + REPLACE:
            self.reactor.advance(0.5)
        self.successResultOf(running)
        self.assertEqual(len(driver.round.refusals), 5)
