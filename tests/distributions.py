"""Plugin distributions for tests, as pip would have left them on disk."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

from tests.support import folder

HOOKS = "from byzpy_tw import Registration, hookimpl\n"


def write(
    where: Path, name: str, source: str, *, module: str, version: str = "1.0", point: str = "it"
) -> Path:
    """A distribution called `name` under `where`, whose `module` holds `source`."""
    information = where / f"{name.replace('-', '_')}-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )
    (information / "entry_points.txt").write_text(f"[byzpy_tw]\n{point} = {module}\n")
    (where / f"{module}.py").write_text(HOOKS + dedent(source))
    return where


def on_path(case: Any) -> Path:
    """An empty folder on this process's path, forgotten after the test."""
    where = folder(case)
    sys.path.insert(0, str(where))
    before = set(sys.modules)

    def forget() -> None:
        sys.path.remove(str(where))
        for name in set(sys.modules) - before:
            if str(where) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]
        importlib.invalidate_caches()

    case.addCleanup(forget)
    importlib.invalidate_caches()
    return where
