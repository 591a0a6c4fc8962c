"""Deadlines of a round, without a reactor: times are numbers."""

from __future__ import annotations

from attrs import define
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.rounds.deadlines import (
    GRACE,
    LATE_ALARM,
    SUSPECT_AFTER,
    AlarmActions,
    Deadlines,
)
from byzpy_tw.rounds.placement import Placement
from byzpy_tw.rounds.round import Reason, Round

TIMEOUT, REPLACE, HEARTBEAT = 20.0, 30.0, 6.0
END = 2 * TIMEOUT + REPLACE


@define(eq=False)
class FakeServer:
    suspect: bool = False


class DeadlineTests(SynchronousTestCase):
    def setUp(self) -> None:
        config = RunConfig(
            in_process=True, num_honest=3, num_byz=1, f=1, round_timeout=TIMEOUT,
            replace_timeout=REPLACE, heartbeat_timeout=HEARTBEAT,
        )  # fmt: skip
        self.round = Round(0, 3, 1, 1)
        self.placement = Placement(("a", "b"), 4)
        for name in "ab":
            self.placement.add_server(name)
        self.placement.assign_unassigned()
        self.a, self.b = FakeServer(), FakeServer()
        self.at: dict[int, FakeServer | None] = {0: self.a, 1: self.b, 2: self.a, 3: self.b}
        self.deadlines = Deadlines(self.round, config, self.placement, self.at.get, 0.0)
        self.deadlines.watched = range(3)
        self.deadlines.start([0, 2], self.a, 0.0, honest=True)
        self.deadlines.start([1], self.b, 0.0, honest=True)

    def ring(self, late: float = 0.0) -> AlarmActions[FakeServer]:
        """Have the alarm ring when it should, or `late` seconds after that."""
        at = self.deadlines.next_alarm(0.0)
        assert at is not None
        return self.deadlines.on_alarm(at + late)

    def test_honest_nodes_have_half_of_the_timeout(self) -> None:
        """Attackers have the other half, however late they are asked."""
        self.assertEqual(self.deadlines.next_alarm(0.0), TIMEOUT / 2)
        self.deadlines.watched = range(3, 4)
        for asked, due in ((1.0, TIMEOUT), (TIMEOUT / 2, TIMEOUT), (15.0, 15.0 + TIMEOUT / 2)):
            self.deadlines.start([3], self.b, asked, honest=False)
            self.assertEqual(self.deadlines.next_alarm(asked), due)

    def test_within_the_budget(self) -> None:
        """A late node is refused, and its silent server given up."""
        self.round.accept(0)
        self.round.accept(2)
        self.assertEqual(self.ring(), AlarmActions(late=[1], unresponsive=[self.b]))

    def test_a_server_that_answered_for_another_node(self) -> None:
        self.round.accept(0)
        self.round.accept(1)
        self.assertEqual(self.ring(), AlarmActions(late=[2]))

    def test_more_than_the_budget(self) -> None:
        """The round is extended, once."""
        self.round.accept(0)
        self.assertEqual(self.ring(), AlarmActions(over_budget=2, unresponsive=[self.b]))
        self.assertEqual(self.deadlines.next_alarm(TIMEOUT / 2), TIMEOUT / 2 + REPLACE)
        self.assertEqual(self.ring().late, [1, 2])

    def test_a_suspect_server(self) -> None:
        """Its nodes have one heartbeat more, once."""
        self.round.accept(0)
        self.round.accept(2)
        self.b.suspect = True
        self.assertEqual(self.ring(), AlarmActions())
        self.assertEqual(self.deadlines.next_alarm(TIMEOUT / 2), TIMEOUT / 2 + HEARTBEAT)
        self.assertEqual(self.ring().late, [1])

    def test_a_node_that_moves(self) -> None:
        """Only the end of the round is its deadline."""
        self.at[1] = None
        self.round.accept(0)
        self.round.accept(2)
        self.assertEqual(self.deadlines.next_alarm(0.0), END)
        self.assertEqual(self.ring().unassigned, [1])

    def test_a_node_without_a_server(self) -> None:
        """It is lost after the replace timeout, counted from its server's loss."""
        self.at[1] = self.placement.server_of[1] = None
        self.round.accept(0)
        self.round.accept(2)
        refuse = self.deadlines.unassign([1], {1: -10.0}, lambda node: True, 0.0)
        self.assertEqual(refuse, ([], []))
        self.assertEqual(self.deadlines.next_alarm(TIMEOUT / 2), REPLACE - 10)
        overdue = self.deadlines.unassign([1], {1: -REPLACE}, lambda node: True, 0.0)
        self.assertEqual(overdue, ([], [1]))

    def test_a_server_that_is_not_worth_waiting_for(self) -> None:
        """Its nodes are refused at once as far as the budget covers them."""
        self.assertEqual(self.deadlines.unassign([1], {}, lambda node: False, 0.0), ([1], []))
        self.assertEqual(self.deadlines.unassign([0, 2], {}, lambda node: False, 0.0), ([], []))

    def test_an_alarm_that_rings_late(self) -> None:
        """No node is late for a while: this process was stopped."""
        rang = TIMEOUT / 2 + LATE_ALARM + 1
        self.assertEqual(self.ring(LATE_ALARM + 1), AlarmActions())
        pause = max(GRACE, SUSPECT_AFTER * HEARTBEAT)
        self.assertEqual(self.deadlines.next_alarm(rang), rang + pause)

    def test_slow_nodes(self) -> None:
        """Silence is slow, and so is a failure that came late."""
        self.round.refuse(0, Reason.LATE)
        self.round.refuse(1, Reason.FAILED)
        self.round.refuse(2, Reason.FAILED)
        slow = self.deadlines.costly_failures({1: TIMEOUT / 4 - 1, 2: TIMEOUT / 4 + 1})
        self.assertEqual(slow, {0, 2})
