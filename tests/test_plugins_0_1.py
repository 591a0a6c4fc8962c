"""Plugins written for 0.1 still pass their own tests, and are told what to rename."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase

import byzpy_tw
from tests.support import PATIENCE, environment, folder

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "plugins_0_1"
# Module names that 0.1 had, each with the one that its warning must give.
RENAMED = {
    "byzpy_tw.testing.laws": "byzpy_tw.testing.properties",
    "byzpy_tw.runs.config": "byzpy_tw.RunConfig",
}


class OldPluginTests(SynchronousTestCase):
    def test_pass_their_tests(self) -> None:
        """All tests of the four samples pass; each old name that they import warns."""
        where = folder(self)
        shutil.copytree(HERE, where / "plugins")
        path = [str(Path(byzpy_tw.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(where)]
            + ["-p", "no:cacheprovider", "-p", "no:randomly", "--import-mode=importlib"]
            + ["-W", "always::DeprecationWarning", str(where / "plugins")],
            cwd=where,
            env={**environment(), "PYTHONPATH": os.pathsep.join(filter(None, path))},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout, r"\b[3-9]\d+ passed|\b\d{3,} passed")
        for old, new in RENAMED.items():
            warning = rf"DeprecationWarning: {re.escape(old)}\b.*{re.escape(new)}\b"
            self.assertRegex(done.stdout, warning)
