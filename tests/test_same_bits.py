"""scripts/same_bits.py: the same bits as an earlier revision."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.support import PATIENCE, environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "same_bits.py"


def same_bits(*words: str) -> subprocess.CompletedProcess[str]:
    """The script with `words`, from start to end."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(),
    )


def module() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("same_bits", SCRIPT)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


class CompareTests(SynchronousTestCase):
    """The differences that are told of two outcomes."""

    def setUp(self) -> None:
        self.script = module()

    def test_first_differing_round(self) -> None:
        """The first round whose hashes differ is found, also where one run is shorter."""
        first = self.script.first_difference
        self.assertIsNone(first(["a", "b"], ["a", "b"]))
        self.assertEqual(first(["a", "b", "c"], ["a", "x", "y"]), 1)
        self.assertEqual(first(["a", "b"], ["a", "b", "c"]), 2)
        self.assertEqual(first([], ["a"]), 0)

    def told(self, old: dict[str, Any], new: dict[str, Any]) -> tuple[int, str]:
        """How many configurations differ, and the output, for outcomes by configuration."""
        script, output = self.script, io.StringIO()

        class Told:
            def __init__(self, label: str, outcomes: dict[str, Any]) -> None:
                self.label, self.outcomes = label, outcomes

            def run(self, configuration: Any) -> Any:
                return script.Outcome(*self.outcomes[configuration.name])

        wanted = [
            script.Configuration("plain", ("",)),
            script.Configuration("resumed", ("", ""), like="plain"),
        ]
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
            count = script.compare_bits(Told("OLD", old), Told("NEW", new), wanted)
        return count, output.getvalue()

    def test_difference_between_trees(self) -> None:
        """A configuration that differs is told with its round."""
        old = {"plain": (0, ["a", "b"]), "resumed": (0, ["a", "b"])}
        count, output = self.told(old, {**old, "resumed": (0, ["a", "x"])})
        self.assertEqual(count, 1)
        self.assertIn("resumed: OLD and NEW part at round 1 of 2 and 2\n", output)
        self.assertIn("2 configurations, 4 rounds: 1 differ\n", output)

    def test_difference_within_a_tree(self) -> None:
        """A resumed run that differs from the undisturbed one is told for each tree."""
        both = {"plain": (0, ["a", "b"]), "resumed": (0, ["a", "x"])}
        count, output = self.told(both, both)
        self.assertEqual(count, 1)
        self.assertIn("resumed: plain and it, in OLD, part at round 1", output)
        self.assertIn("resumed: plain and it, in NEW, part at round 1", output)

    def test_failure_in_both(self) -> None:
        """A configuration that runs in neither tree guards nothing, and is told."""
        both = {"plain": (1, [], "no such rule"), "resumed": (0, ["a"])}
        count, output = self.told(both, both)
        self.assertEqual(count, 2)
        self.assertIn("plain: both end after 0 rounds with exit code 1: no such rule", output)

    def test_name_of_one_tree(self) -> None:
        """A name that only one tree knows is told and left out, with all that uses it."""
        names: dict[str, list[str]] = {kind: [] for kind in self.script.KINDS}
        names |= {"aggregator": ["median", "trimmed-mean"], "attack": ["alie"]}
        names |= {"model": ["mlp"], "pre-aggregator": ["arc", "nnm"]}
        paths = (ROOT, sys.executable, ROOT)
        old = self.script.Tree("OLD", *paths, {**names, "pre-aggregator": ["arc"]})
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            known = self.script.common([old, self.script.Tree("NEW", *paths, names)])
        found = [configuration.name for configuration in known]
        self.assertEqual(output.getvalue(), "left out: pre-aggregator nnm, which only NEW has\n")
        self.assertIn("pre-aggregator arc", found)
        self.assertNotIn("pre-aggregator nnm", found)
        self.assertNotIn("chain nnm, arc", found)

    def test_option_of_one_tree(self) -> None:
        """One that only one tree has is left out; where its default changed, both do the same."""
        names: dict[str, list[str]] = {kind: [] for kind in self.script.KINDS}
        paths, known = (ROOT, sys.executable, ROOT), ["--batches", "--clip-norm"]
        configurations = self.script.configurations(names)
        known += [n for c in configurations for k, n in c.names() if k == "option"]
        older = [name for name in known if name not in ("--batches", "--clip-norm")]
        old = self.script.Tree("OLD", *paths, {**names, "option": older})
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            new = self.script.Tree("NEW", *paths, {**names, "option": known})
            found = {configuration.name: configuration for configuration in
                     self.script.common([old, new])}  # fmt: skip
        told = "left out: option --batches, which only NEW has\n"
        self.assertIn(told, output.getvalue())
        self.assertNotIn("epochs", found)
        self.assertNotIn("--batches", found["replacement"].request(older))
        self.assertIn("--batches draws --replacement", found["replacement"].request(known))


class SameBitsTests(SynchronousTestCase):
    """The script as a program."""

    def test_list(self) -> None:
        """There are at least sixty configurations, each with a name of its own."""
        done = same_bits("--list")
        self.assertEqual(done.returncode, 0, done.stderr)
        names = done.stdout.splitlines()
        self.assertGreaterEqual(len(names), 60)
        self.assertEqual(len(set(names)), len(names))

    def test_equal_to_head(self) -> None:
        """The working tree has the bits of its own last commit."""
        if not (ROOT / ".git").exists():
            raise SkipTest("not a clone")
        done = same_bits("HEAD", "--only", "worker momentum")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("1 configurations, 12 rounds: all equal\n", done.stdout)

    def test_unknown_revision(self) -> None:
        """A revision that does not exist is bad usage, not a difference."""
        done = same_bits("no-such-revision")
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("same_bits: ", done.stderr)
