"""A program that a process runs, started anew or forked."""

from __future__ import annotations

import sys

from attrs import frozen


@frozen
class ChildProgram:
    """A function without arguments in a module, and the words that it finds in `sys.argv`."""

    module: str
    function: str
    words: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """The command line that runs it in a Python of its own."""
        code = f"from {self.module} import {self.function}; {self.function}()"
        return [sys.executable, "-c", code, *self.words]
