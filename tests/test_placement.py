"""The placement of nodes on servers that come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.rounds.placement import Placement, placement_notices

SERVERS = ("a", "b", "c")


def placed(nodes: int = 7, up: str = "abc", **more: object) -> Placement:
    placement = Placement(SERVERS, nodes, **more)  # type: ignore[arg-type]
    for server in up:
        placement.add_server(server)
    placement.assign_unassigned()
    return placement


class PlacementTests(SynchronousTestCase):
    def test_round_robin(self) -> None:
        """Node i on server i mod k."""
        placement = placed()
        self.assertEqual([placement.nodes_on(s) for s in SERVERS], [[0, 3, 6], [1, 4], [2, 5]])

    def test_a_server_is_lost(self) -> None:
        """Its nodes go to those that have the fewest, the first listed among equals."""
        placement = placed()
        self.assertEqual(placement.remove_server("a"), [0, 3, 6])
        self.assertEqual(placement.unassigned, [0, 3, 6])
        self.assertEqual(placement.assign_unassigned(), {"b": [0, 6], "c": [3]})
        self.assertEqual(placement.unassigned, [])

    def test_it_comes_back(self) -> None:
        """Its own nodes go back to it, as far as they can be moved."""
        placement = placed()
        placement.remove_server("a")
        placement.assign_unassigned()
        placement.add_server("a")
        self.assertEqual(placement.return_home("a", [6, 0, 4, 5]), [0, 6])
        self.assertEqual(placement.return_home("a", [0, 3, 6]), [3])
        self.assertEqual([placement.nodes_on(s) for s in SERVERS], [[0, 3, 6], [1, 4], [2, 5]])

    def test_a_cap(self) -> None:
        """Whom there is no room for is homeless, until there is."""
        placement = placed(cap=3)
        placement.remove_server("a")
        self.assertEqual(placement.assign_unassigned(), {"b": [0], "c": [3]})
        self.assertEqual(placement.unassigned, [6])
        placement.add_server("a")
        self.assertEqual(placement.assign_unassigned(), {"a": [6]})

    def test_no_failover(self) -> None:
        """Nodes wait for their own server."""
        placement = placed(failover=False)
        placement.remove_server("a")
        self.assertEqual(placement.assign_unassigned(), {})
        placement.add_server("a")
        self.assertEqual(placement.assign_unassigned(), {"a": [0, 3, 6]})

    def test_one_that_takes_no_more(self) -> None:
        """It keeps what it has, and is asked again once it was away."""
        placement = placed()
        placement.remove_server("a")
        moved = placement.assign_unassigned()
        placement.mark_full("b", moved["b"])
        self.assertEqual(placement.assign_unassigned(), {"c": [0, 6]})
        placement.remove_server("c")
        self.assertEqual(placement.assign_unassigned(), {})
        self.assertEqual(placement.nodes_on("b"), [1, 4])
        placement.remove_server("b")
        placement.add_server("b")
        self.assertEqual(placement.assign_unassigned(), {"b": [0, 1, 2, 3, 4, 5, 6]})

    def test_a_late_start(self) -> None:
        """Where not all are there, the others have all nodes for the time being."""
        placement = placed(up="b")
        self.assertEqual(placement.nodes_on("b"), list(range(7)))
        placement.add_server("c")
        self.assertEqual(placement.return_home("c", range(7)), [2, 5])

    @given(
        st.integers(1, 20),
        st.one_of(st.none(), st.integers(1, 20)),
        st.booleans(),
        st.lists(st.tuples(st.sampled_from(["away", "back", "home", "refuse"]),
                           st.sampled_from(SERVERS)), max_size=30),
    )  # fmt: skip
    def test_whatever_happens(
        self, nodes: int, cap: int | None, failover: bool, events: list[tuple[str, str]]
    ) -> None:
        """Nodes live on servers that are up, within the cap; nobody is left out needlessly."""
        placement = placed(nodes, cap=cap, failover=failover)
        for what, server in events:
            if what == "away":
                placement.remove_server(server)
            elif what == "back":
                placement.add_server(server)
            elif server in placement.up and what == "home":
                placement.return_home(server, range(nodes))
            elif server in placement.up:
                placement.mark_full(server, placement.nodes_on(server)[-1:])
            placement.assign_unassigned()
            for node, server_of in placement.server_of.items():
                self.assertTrue(server_of is None or server_of in placement.up)
                if not failover:
                    self.assertIn(server_of, (None, placement.home_server(node)))
            for one in SERVERS:
                self.assertTrue(cap is None or len(placement.nodes_on(one)) <= cap)
            if failover and cap is None and placement.up - placement.full:
                self.assertEqual(placement.unassigned, [])


class NoticeTests(SynchronousTestCase):
    def test_failover(self) -> None:
        """Told only where nodes may move, to any number."""
        [line] = placement_notices(4, 4, 1)
        self.assertIn("failover may give one server more than f = 1 nodes", line)
        self.assertEqual(placement_notices(4, 4, 1, failover=False), [])
        self.assertEqual(placement_notices(4, 4, 1, cap=1), [])
