"""The records of a run without a folder, kept in memory until it has ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from attrs import define, field

from byzpy_tw.records.folder import RecordedRun, RunDirectory, to_json


@define(eq=False)
class RecordsInMemory(RunDirectory):
    """Takes the place of a run's folder; `path` only names the run."""

    has_folder: ClassVar[bool] = False

    path: Path
    _lock: Any = field(default=None, init=False)
    _config: dict[str, Any] = field(factory=dict, init=False)
    _records: list[dict[str, Any]] = field(factory=list, init=False)
    _result: dict[str, Any] | None = field(default=None, init=False)

    def cut(self, rounds: int) -> None:
        self._records = self._records[:rounds]

    def write_config(self, config: Mapping[str, Any]) -> None:
        self._config = _as_read(config)

    def write_result(self, result: Mapping[str, Any]) -> None:
        self._result = _as_read(result)

    def append_round(self, record: Mapping[str, Any]) -> None:
        self._records.append(_as_read(record))

    def sync_rounds(self) -> None:
        """Do nothing: there is no file."""

    def close(self) -> None:
        """Do nothing: there is no file."""

    def recorded(self) -> RecordedRun:
        """Return the run as `read_run` would find it in a folder."""
        found = RecordedRun(self.path, self._config, self._config["config"])
        # In the places where these properties keep what they have read.
        found.__dict__.update(result=self._result, rounds=self._records)
        return found


def _as_read(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is read where `value` was written."""
    found: dict[str, Any] = json.loads(to_json(value))
    return found
