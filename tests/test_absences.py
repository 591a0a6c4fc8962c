"""The rounds that nodes miss, told once, when they are back."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.events import NodeRefused, NodesBack
from byzpy_tw.rounds.absences import Absences, FirstRefusals


def record(number: int, lost: set[int], late: Collection[int] = (), **more: Any) -> dict[str, Any]:
    """A round in which the nodes of `lost` have no server."""
    refused = [{"node": node, "reason": "lost", "detail": ""} for node in lost]
    refused += [{"node": node, "reason": "late", "detail": ""} for node in late]
    return {"round": number, "refused": refused, **more}


class AbsenceTests(SynchronousTestCase):
    """Six nodes on two servers."""

    def setUp(self) -> None:
        self.absences = Absences(6, 2)

    def told(self, *records: dict[str, Any]) -> list[NodesBack]:
        return [event for each in records for event in self.absences.add(each)]

    def test_once(self) -> None:
        """A node is told of when it is back, with the number of rounds, and no more then."""
        away = [record(number, {1}) for number in range(3, 7)]
        back = [record(7, set()), record(8, set())]
        self.assertEqual(self.told(*away, *back), [NodesBack((1,), 4, 3, 6)])

    def test_together(self) -> None:
        """The nodes of one server are one event; those of another are told of apart."""
        rounds = [record(0, set()), record(1, {1, 3}), record(2, {1, 2, 3, 5}), record(3, set())]
        told = [NodesBack((2,), 1, 2, 2), NodesBack((1, 3, 5), 2, 1, 2)]
        self.assertEqual(self.told(*rounds), told)

    def test_joins(self) -> None:
        """A server that has never taken part joins; it comes back the next time."""
        rounds = [record(n, {1, 3, 5} if n in (0, 1, 3) else set()) for n in range(5)]
        told = [NodesBack((1, 3, 5), 2, 0, 1, joins=True), NodesBack((1, 3, 5), 1, 3, 3)]
        self.assertEqual(self.told(*rounds), told)

    def test_some_are_back(self) -> None:
        """The others, which a server has no room for, are told of when they are."""
        rounds = [record(0, set()), record(1, {1, 3}), record(2, {3}), record(3, set())]
        told = [NodesBack((1,), 1, 1, 1), NodesBack((3,), 1, 2, 2)]
        self.assertEqual(self.told(*rounds), told)

    def test_late(self) -> None:
        """A node that has a server again, and is late, is not absent."""
        told = self.told(record(0, set()), record(1, {1}), record(2, set(), {1}))
        self.assertEqual(told, [NodesBack((1,), 1, 1, 1)])

    def test_not_asked(self) -> None:
        """A round that does not ask for a node says nothing about it."""
        rounds = [
            record(0, set()),
            record(1, {1}),
            record(2, set(), participants=[0]),
            record(3, {1}),
            record(4, set()),
        ]
        self.assertEqual(self.told(*rounds), [NodesBack((1,), 2, 1, 3)])

    @given(st.lists(st.sets(st.integers(0, 59), min_size=6, max_size=12), min_size=30, max_size=30))
    def test_sampled(self, samples: list[set[int]]) -> None:
        """Where rounds sample nodes, a server that was away is told of in one line."""
        self.absences = Absences(60, 3)
        away = range(5, 15)
        rounds = [
            record(
                number,
                {node for node in asked if node % 3 == 1 and number in away},
                participants=sorted(asked),
            )
            for number, asked in enumerate(samples)
        ]
        missed = [r["round"] for r in rounds if r["refused"]]
        back = any(node % 3 == 1 for asked in samples[15:] for node in asked)
        told = self.told(*rounds)
        self.assertEqual(len(told), bool(missed) and back)
        for event in told:
            self.assertEqual((event.rounds, event.first), (len(missed), missed[0]))
            self.assertEqual(event.last, missed[-1])

    @given(st.lists(st.sets(st.integers(0, 3)), max_size=12))
    def test_all_are_told(self, rounds: list[set[int]]) -> None:
        """Each node that was away is back in the end, and nothing is left."""
        self.absences = Absences(4, 2)
        told = self.told(*(record(i, lost) for i, lost in enumerate([*rounds, set()])))
        self.assertEqual({n for event in told for n in event.nodes}, set().union(*rounds))
        for event in told:
            self.assertLessEqual(event.rounds, event.last - event.first + 1)
        self.assertEqual(self.absences.add(record(len(rounds) + 1, set())), [])


class FirstRefusalTests(SynchronousTestCase):
    def test_once_for_a_reason(self) -> None:
        """A node that is refused again has no line more; another node or reason has one."""
        refusals = FirstRefusals()
        first, again = refusals.add(record(0, {1}, {2, 3})), refusals.add(record(1, set(), {2}))
        self.assertEqual(first, [NodeRefused(0, node, "late", "") for node in (2, 3)])
        self.assertEqual(again, [])
        other = {"round": 2, "refused": [{"node": 2, "reason": "failed", "detail": "no"}]}
        self.assertEqual(refusals.add(other), [NodeRefused(2, 2, "failed", "no")])
