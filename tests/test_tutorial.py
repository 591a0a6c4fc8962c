"""docs/tutorial.md, done as it stands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.support import PATIENCE, environment, folder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# What a reader's shell has: `python`, and a `pip` that needs no network and installs for
# this test alone.  The folder that the commands run in comes first on Python's path, so
# what is in it counts, as with -e.
PRELUDE = """
set -e
python() {{ {python} "$@"; }}
pip() {{
    test "$*" = "install -e ."
    python -m pip install --quiet --no-deps --no-build-isolation --no-index --target {site} .
}}
"""


class TutorialTests(SynchronousTestCase):
    def test_names_its_files(self) -> None:
        """A block's first line names its file, and is not shown: the text above says it too."""
        text = TUTORIAL.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            if block.group(2):
                above = text[: block.start()].rstrip().rpartition("\n\n")[2]
                self.assertIn(f"`{block.group(2)}`", above)

    def test_word_by_word(self) -> None:
        """Each file is written, each command run, and what it should say is said."""
        here, site = folder(self), folder(self)
        path = [str(site), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        surroundings = {**environment(), "PYTHONPATH": os.pathsep.join(path)}
        python, target = shlex.quote(sys.executable), shlex.quote(str(site))
        prelude = PRELUDE.format(python=python, site=target)
        said, accuracies = "", []
        for language, name, text in BLOCK.findall(TUTORIAL.read_text(encoding="utf-8")):
            if name:
                (here / name).write_text(text, encoding="utf-8")
            elif language == "sh":
                done = subprocess.run(
                    ["bash", "-c", prelude + text], cwd=here, env=surroundings, text=True,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE,
                )  # fmt: skip
                said = done.stdout
                self.assertEqual(done.returncode, 0, f"{text}\n{said}")
                accuracies += re.findall(r"^final: .* accuracy ([\d.]+)%", said, re.MULTILINE)
            else:
                self.assertEqual(language, "text")
                for line in text.splitlines():
                    self.assertIn(line, said)
        mean, ours = map(float, accuracies)
        self.assertLess(mean, 25)
        self.assertGreater(ours, 70)
