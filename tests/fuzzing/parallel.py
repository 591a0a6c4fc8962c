"""Work that several processes share, each a ``python -m`` of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def run_in_processes(
    module: str, shares: Sequence[Sequence[str]], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Run `module` with the arguments of each share; the JSON that is its last line.

    `say` is called with all lines before that.  An exit code of 1 means that something
    was found, any other but 0 that the process broke.
    """

    def one(arguments: Sequence[str]) -> dict[str, Any]:
        command = [sys.executable, "-m", module, *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            last = ""
            for line in child.stdout:
                if last:
                    say(last)
                last = line.rstrip("\n")
        if child.returncode not in (0, 1) or not last.startswith("{"):
            raise RuntimeError(f"{' '.join(arguments)} ended with exit code {child.returncode}")
        found: dict[str, Any] = json.loads(last)
        return found

    with ThreadPoolExecutor(max(1, len(shares))) as threads:
        return list(threads.map(one, shares))
