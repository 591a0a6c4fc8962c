"""The entries of config.json about servers, as they join, and as a run is resumed without them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.audit.site import describe_site
from byzpy_tw.records.membership import add_server, merge_placement, read_texts

BEGUN = {
    "placement": {"a:1": [0, 3], "b:1 (beta)": [1, 4], "c:1": []},
    "data_digests": {"a:1": "x", "b:1": "y"},
    "devices": {"a:1": "cpu", "b:1": "cpu"},
}


class JoinTests(SynchronousTestCase):
    def test_its_data_and_nodes(self) -> None:
        """A site that joins late can verify its nodes, as the others can."""
        joined = add_server(BEGUN, "c:1 (gamma)", "z", "cuda", [2, 5])
        self.assertEqual(
            joined["placement"], {"a:1": [0, 3], "b:1 (beta)": [1, 4], "c:1 (gamma)": [2, 5]}
        )
        site = describe_site(joined, [2, 5], True)
        self.assertEqual((site["data_digest"], site["devices"]), ("z", {"c:1": "cuda"}))

    def test_again(self) -> None:
        """A server that is known changes nothing but its device: its data is that of the begin."""
        self.assertEqual(add_server(BEGUN, "b:1 (beta)", "y", "cpu", [1, 4]), BEGUN)
        self.assertEqual(add_server(BEGUN, "b:1 (beta)", "n", "cpu", [1, 4]), BEGUN)

    def test_nodes_that_others_have(self) -> None:
        """With failover they were given to others at the start."""
        moved = {**BEGUN, "placement": {"a:1": [0, 2, 3], "b:1": [1, 4, 5], "c:1": []}}
        joined = add_server(moved, "c:1", "x", "cpu", [2, 5])
        self.assertEqual(joined["placement"], moved["placement"])


class ResumeTests(SynchronousTestCase):
    def test_one_that_is_away(self) -> None:
        """It keeps its nodes and its name; they are nobody else's."""
        now = {"a:1": [0, 3], "b:1": [], "c:1": [2, 5]}
        merged = {"a:1": [0, 3], "b:1 (beta)": [1, 4], "c:1": [2, 5]}
        self.assertEqual(merge_placement(BEGUN["placement"], now), merged)

    def test_nodes_that_moved(self) -> None:
        """A node has one server; one that is not listed any more and has none is left out."""
        merged = merge_placement(BEGUN["placement"], {"a:1": [0, 1, 2], "d:1": [3, 4, 5]})
        self.assertEqual(merged, {"a:1": [0, 1, 2], "d:1": [3, 4, 5]})

    def test_damaged(self) -> None:
        """Entries of other types are none."""
        for before in (None, 3, [], {"a:1": 3}):
            self.assertEqual(merge_placement(before, {"a:1": [0]}), {"a:1": [0]})
        for entry in ({}, {"devices": 3}):
            self.assertEqual(read_texts(entry, "devices"), {})

    @given(
        st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 5), unique=True)),
        st.permutations(range(6)), st.integers(0, 6),
    )  # fmt: skip
    def test_nothing_is_dropped(self, before: dict[str, Any], nodes: list[int], cut: int) -> None:
        """Each node of before or now is there, and those of now where they are."""
        now = {"a": sorted(nodes[:cut]), "e": []}
        merged = merge_placement(before, now)
        held = {node for there in merged.values() for node in there}
        self.assertEqual(held, {*nodes[:cut], *(n for there in before.values() for n in there)})
        self.assertLessEqual(set(now["a"]), set(merged["a"]))
