"""benchmarks/peers.py: the pages about ByzFL and ByzPy say what was measured."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.plugins import load
from byzpy_tw.plugins.naming import ParsedName, parse, suggest_nearest
from tests.test_docs import ROOT

PEERS = ("byzfl", "byzpy")


class PeersTests(SynchronousTestCase):
    def setUp(self) -> None:
        # The packages themselves are not needed to read what was measured.
        self.patch(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
        self.peers: ModuleType = import_module("peers")
        self.rows = self.peers.read(self.peers.RESULTS)

    def test_every_pair_was_measured(self) -> None:
        """The results have one line for each pair, in the program's order."""
        key = ("peer", "kind", "ours", "theirs")
        measured = [tuple(row[word] for word in key) for row in self.rows]
        pairs = [tuple(getattr(pair, word) for word in key) for pair in self.peers.PAIRS]
        self.assertEqual(measured, pairs)

    def test_pages_show_what_was_measured(self) -> None:
        """The table of each page is that of the results."""
        for peer in PEERS:
            page = self.peers.PAGES / f"coming-from-{peer}.md"
            [shown] = self.peers.TABLES[False].findall(page.read_text(encoding="utf-8"))
            table = self.peers.table(row for row in self.rows if row["peer"] == peer)
            self.assertEqual(shown, f"{table}\n", f"run python benchmarks/peers.py {peer} --table")

    def test_page_shows_the_trainings(self) -> None:
        """Each was made with both orders and ten seeds; their differences are those of the page."""
        training = self.peers.peer_training
        rows = {(r["model"], r["seed"], r["order"]) for r in training.read()}
        for model, seeds in training.MODELS.items():
            wanted = {(model, s, o) for s in seeds.seeds for o in ("byzfl", *training.ORDERS)}
            self.assertEqual(wanted - rows, set())
        page = self.peers.PAGES / "coming-from-byzfl.md"
        [shown] = self.peers.TABLES[True].findall(page.read_text(encoding="utf-8"))
        again = "run python benchmarks/peers.py byzfl --training --table"
        self.assertEqual(shown, f"{training.table()}\n", again)

    def test_our_names_and_arguments_exist(self) -> None:
        """The registry makes our side of each pair, with numbers in place of formulas."""
        names, case = load(only=()), self.peers.Case(n=13, f=3, d=4, seed=0)
        for pair in self.peers.PAIRS:
            named = parse(pair.ours)
            values = {key: str(case.number(value)) for key, value in named.parameters.items()}
            names.make(pair.kind, ParsedName(named.name, values), f=case.f)

    def test_their_class_names_are_answered_with_ours(self) -> None:
        """Each class that was compared, given as a name, suggests a name of ours."""
        names = load(only=())
        ours: dict[tuple[str, str], set[str]] = {}
        for pair in self.peers.PAIRS:
            theirs = pair.theirs.partition("(")[0]
            ours.setdefault((pair.kind, theirs), set()).add(parse(pair.ours).name)
        for (kind, theirs), found in ours.items():
            nearest = suggest_nearest(theirs, names.names[kind])
            self.assertIn(nearest, {f"; did you mean {name!r}?" for name in found}, theirs)

    def test_a_difference_is_explained(self) -> None:
        """Only equal pairs may do without a reason."""
        reasons = {(pair.peer, pair.ours, pair.theirs): pair.why for pair in self.peers.PAIRS}
        for row in self.rows:
            if self.peers.verdict(row) != "yes":
                self.assertTrue(reasons[row["peer"], row["ours"], row["theirs"]], row)
