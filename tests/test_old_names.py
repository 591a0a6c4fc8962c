"""Names of the test tools that plugins and scripts may still use."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

from twisted.trial.unittest import SynchronousTestCase

import byzpy_tw.testing
from byzpy_tw.attacks import LEVELS, TIERS
from byzpy_tw.testing import properties


class OldNamesTests(SynchronousTestCase):
    def test_laws(self) -> None:
        """The kit's old module is the new one, with a warning that names it."""
        sys.modules.pop("byzpy_tw.testing.laws", None)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            laws = importlib.import_module("byzpy_tw.testing.laws")
        [warning] = [w for w in caught if "testing.laws" in str(w.message)]
        self.assertIs(warning.category, DeprecationWarning)
        self.assertIn("byzpy_tw.testing.properties", str(warning.message))
        self.assertEqual(set(laws.__all__), set(properties.__all__))
        for name in properties.__all__:
            self.assertIs(getattr(laws, name), getattr(properties, name))

    def test_programs_that_moved(self) -> None:
        """The simulator and the fuzzer say where they are."""
        for old, new in (("simulate", "tests.simulation"), ("siege", "tests.fuzzing")):
            command = [sys.executable, "-m", f"byzpy_tw.testing.{old}", "--seeds", "3"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 2)
            self.assertIn(f"python -m {new}", done.stderr)

    def test_levels(self) -> None:
        """The levels of knowledge under their old name."""
        self.assertIs(TIERS, LEVELS)

    def test_unknown(self) -> None:
        """A name that the package has not is an AttributeError."""
        self.assertRaises(AttributeError, lambda: byzpy_tw.testing.weather)
