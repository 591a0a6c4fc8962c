"""Files for ``--plugin`` in tests."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

from byzpy_tw.plugins import Registry, load
from byzpy_tw.plugins.plugin_files import read_plugin_files
from tests.support import folder

HOOKS = "from byzpy_tw import Registration, hookimpl\n"
MODEL = """
from torch import nn


def net(*, classes: int, shape: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear({size}, classes))


@hookimpl
def register_models():
    return [Registration("net", net)]
"""


def plugin_file(case: Any, source: str, name: str = "mine.py", where: Path | None = None) -> Path:
    """A file called `name` with hooks' names and `source`, in a folder of its own by default."""
    path = (where or folder(case)) / name
    path.write_text(HOOKS + dedent(source), encoding="utf-8")
    module = "byzpy_tw_file_" + path.stem.replace("-", "_")
    case.addCleanup(sys.modules.pop, module, None)
    return path


def load_files(*paths: Path | str) -> Registry:
    """The registry with the built-ins and these files, whatever is installed."""
    return load(only=(), files=read_plugin_files(paths))
