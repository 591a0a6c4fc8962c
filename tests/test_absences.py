"""The rounds that nodes miss, told once, when they are back."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.events import NodesBack
from byzpy_tw.rounds.absences import Absences


def record(number: int, lost: set[int], late: Collection[int] = (), **more: Any) -> dict[str, Any]:
    """A round in which the nodes of `lost` have no server."""
    refused = [{"node": node, "reason": "lost", "detail": ""} for node in lost]
    refused += [{"node": node, "reason": "late", "detail": ""} for node in late]
    return {"round": number, "refused": refused, **more}


class AbsenceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.absences = Absences()

    def told(self, *records: dict[str, Any]) -> list[NodesBack]:
        return [event for each in records for event in self.absences.add(each)]

    def test_once(self) -> None:
        """A node is told of when it is back, with the number of rounds, and no more then."""
        away = [record(number, {1}) for number in range(3, 7)]
        back = [record(7, set()), record(8, set())]
        self.assertEqual(self.told(*away, *back), [NodesBack((1,), 4, 3)])

    def test_together(self) -> None:
        """The nodes of one server are one event; others are told of apart."""
        told = self.told(record(0, {1, 3}), record(1, {1, 3, 5}), record(2, set()))
        self.assertEqual(told, [NodesBack((1, 3), 2, 0), NodesBack((5,), 1, 1)])

    def test_late(self) -> None:
        """A node that has a server again, and is late, is not absent."""
        self.assertEqual(self.told(record(0, {1}), record(1, set(), {1})), [NodesBack((1,), 1, 0)])

    def test_not_asked(self) -> None:
        """A round that does not ask for a node says nothing about it."""
        rounds = [
            record(0, {1}),
            record(1, set(), participants=[0]),
            record(2, {1}),
            record(3, set()),
        ]
        self.assertEqual(self.told(*rounds), [NodesBack((1,), 2, 0)])

    @given(st.lists(st.sets(st.integers(0, 3)), max_size=12))
    def test_all_are_counted(self, rounds: list[set[int]]) -> None:
        """The events add up to the rounds missed, once everybody is back."""
        self.absences = Absences()
        told = self.told(*(record(i, lost) for i, lost in enumerate([*rounds, set()])))
        missed = sum(event.rounds * len(event.nodes) for event in told)
        self.assertEqual(missed, sum(map(len, rounds)))
