"""A run's folder: what it was, what happened, how it ended."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from attrs import define, field

from byzpy_tw.errors import CannotRecord, RunDirectoryError

CONFIG, ROUNDS, RESULT = "config.json", "rounds.jsonl", "result.json"


@define(eq=False)
class RunDirectory:
    """Writes the files of one run.  Make one with `create`."""

    path: Path
    _rounds: IO[str] | None = field(default=None, init=False)

    @classmethod
    def create(cls, path: Path) -> RunDirectory:
        """A new run's folder; `RunDirectoryError` where it cannot be one."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            # One that ended before its first round left nothing worth keeping.
            if (path / ROUNDS).exists() and (path / ROUNDS).stat().st_size:
                raise RunDirectoryError(
                    f"{path} holds another run; choose another --run-dir"
                )
            directory = cls(path)
            directory._rounds = open(path / ROUNDS, "w", encoding="utf-8")
        except OSError as e:
            raise RunDirectoryError(f"cannot write to {path}: {e.strerror or e}") from e
        return directory

    def write_config(self, config: Mapping[str, Any]) -> None:
        self._write_whole(CONFIG, config)

    def write_result(self, result: Mapping[str, Any]) -> None:
        self._write_whole(RESULT, result)

    def append_round(self, record: Mapping[str, Any]) -> None:
        """Add one line; it is on its way to the disk when this returns."""
        assert self._rounds is not None
        try:
            self._rounds.write(to_json(record) + "\n")
            self._rounds.flush()
        except OSError as e:
            raise CannotRecord(f"cannot write to {self.path}: {e.strerror or e}") from e

    def close(self) -> None:
        if self._rounds is not None:
            self._rounds.close()
            self._rounds = None

    def _write_whole(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a file so that nobody ever reads a part of it."""
        unfinished = self.path / f".{name}.new"
        try:
            with open(unfinished, "w", encoding="utf-8") as file:
                file.write(to_json(value, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self.path / name)
        except OSError as e:
            raise CannotRecord(f"cannot write to {self.path}: {e.strerror or e}") from e


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: what is not finite becomes null."""
    return json.dumps(_finite(value), indent=indent)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
