"""A run's folder, as one process of a trainer has it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, field

from byzpy_tw.records.folder import ROUNDS, RunDirectory


@define(eq=False)
class Folder:
    """A `RunDirectory` that loses its writer, and, with the power, what was not synced.

    Writes of a dead process, while its coroutines are unwound, are dropped.
    """

    _directory: RunDirectory
    rounds: list[Mapping[str, Any]] = field(factory=list, init=False)  # that were appended
    result: Mapping[str, Any] | None = field(default=None, init=False)
    closed: bool = field(default=False, init=False)
    sealed: bool = field(default=False, init=False)
    _synced: int = field(init=False)  # bytes of records that outlive a loss of power

    def __attrs_post_init__(self) -> None:
        self._synced = self._size

    @property
    def path(self) -> Path:
        return self._directory.path

    @property
    def _size(self) -> int:
        return (self.path / ROUNDS).stat().st_size

    def write_config(self, config: Mapping[str, Any]) -> None:
        if not self.sealed:
            self._directory.write_config(config)

    def append_round(self, record: Mapping[str, Any]) -> None:
        if not self.sealed:
            self._directory.append_round(record)
            self.rounds.append(record)

    def cut(self, rounds: int) -> None:
        if not self.sealed:
            self._directory.cut(rounds)
            self._synced = self._size

    def sync_rounds(self) -> None:
        if not self.sealed:
            self._directory.sync_rounds()
            self._synced = self._size

    def write_result(self, result: Mapping[str, Any]) -> None:
        if not self.sealed:
            self._directory.write_result(result)
            self.result = result

    def close(self) -> None:
        if not self.sealed:
            self.closed = True
            self._directory.close()

    def seal(self, random: Random, *, silent: bool) -> None:
        """Drop all later writes: the process is dead or, where that was `silent`, the machine."""
        if self.sealed:
            return
        self.sealed = True
        self._directory.close()
        if silent:  # some of what was written, in the middle of a line perhaps
            os.truncate(self.path / ROUNDS, random.randint(self._synced, self._size))
