"""docs/explanation/architecture.md shows the packages as they are."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from tests.architecture import BLOCK, DEPRECATED, GROUPS, PAGE, dependencies, diagram, reduced
from tests.test_layers import LAYERS


class PageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.page = PAGE.read_text(encoding="utf-8")

    def test_diagram(self) -> None:
        """Its boxes and arrows are today's packages and imports."""
        [shown] = BLOCK.findall(self.page)
        self.assertEqual(shown, diagram(), "python -m tests.architecture draws it anew")

    def test_groups_follow_the_layers(self) -> None:
        """Each package stands in one group, and no group has a layer above the next group up."""
        named = [name for _, names in GROUPS for name in names]
        self.assertEqual(sorted(named), sorted(set(LAYERS) - DEPRECATED))
        levels = [[LAYERS[name] for name in names] for _, names in GROUPS]
        for upper, lower in zip(levels, levels[1:], strict=False):
            self.assertLessEqual(max(lower), min(upper))

    def test_every_package_is_described(self) -> None:
        """The table says of each package what lives there."""
        table = self.page.partition("## Packages")[2]
        described = {
            name.rstrip("/")
            for row in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
            for name in re.findall(r"`([^`]+)`", row)
        }
        self.assertEqual(described, set(LAYERS) - DEPRECATED)


class ReducedTests(SynchronousTestCase):
    def test_leaves_out_what_follows(self) -> None:
        """An arrow that other arrows imply is not drawn; everything else is."""
        kept = {("cli", "trainer"), ("trainer", "rounds")}
        self.assertEqual(reduced({*kept, ("cli", "rounds")}), kept)
        self.assertLess(len(reduced(dependencies())), len(dependencies()))
