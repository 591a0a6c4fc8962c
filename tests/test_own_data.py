"""Own data: docs/how-to/your-own-data.md."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.support import folder
from tests.test_docs import BLOCK, DOCS

PAGE = DOCS / "how-to" / "your-own-data.md"


class PageTests(SynchronousTestCase):
    """The page's blocks, one after the other."""

    @pytest.mark.slow
    def test_it_runs(self) -> None:
        """Arrays are learnt, mapped, and cut by node; so is text; pictures are decoded."""
        found = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
        blocks = [code for language, code in found if language == "python"]
        self.assertEqual(len(blocks), 7)
        here, names = folder(self), dict[str, Any]()
        self.patch(os, "environ", {**os.environ, "XDG_CACHE_HOME": str(here / "cache")})
        with contextlib.chdir(here):
            exec(compile("\n".join(blocks), str(PAGE), "exec"), names)  # our documentation
        self.assertEqual(len(list(Path(here, "cache/byzpy-tw/images").iterdir())), 1)
