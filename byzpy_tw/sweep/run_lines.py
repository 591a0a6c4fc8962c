"""runs.jsonl: the runs of a sweep that are recorded in one line each.

Only the sweep's own process writes it.  A line that was torn by the end of that process, or is
damaged, is skipped, and its run is run again; of several lines of a run the last one counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from attrs import define, field

from byzpy_tw import files
from byzpy_tw.errors import CannotRecord, ConfigError
from byzpy_tw.records.folder import to_json
from byzpy_tw.sweep.plan import PlannedRun

RUNS_FILE = "runs.jsonl"
LINES, FOLDERS = "lines", "folders"
# From so many runs on, of at most so many rounds, a line each is the default.
MANY_RUNS, FEW_ROUNDS = 1000, 100


def default_records(runs: Sequence[PlannedRun]) -> str:
    """Return how `runs` are recorded if nothing else is asked for."""
    short = all(run.config.rounds <= FEW_ROUNDS and not _copied(run) for run in runs)
    return LINES if len(runs) >= MANY_RUNS and short else FOLDERS


def check_records(records: str, runs: Sequence[PlannedRun]) -> None:
    """Raise `ConfigError` where `runs` cannot be recorded so."""
    if records == LINES and (names := next(filter(None, map(_copied, runs)), "")):
        raise ConfigError(
            f"--records {LINES} leaves no folder for the copy of {names} that a run "
            f"keeps: use --records {FOLDERS}"
        )


def _copied(run: PlannedRun) -> str:
    """Return which of its files `run` keeps a copy of, in words; empty for none."""
    if run.config.init is not None:
        return "--init's values"
    return "" if run.config.weights_file is None else "the file of --weights"


@define(eq=False)
class RunLines:
    """The file in a sweep's folder."""

    _path: Path
    _file: IO[bytes] | None = field(default=None, init=False)

    @classmethod
    def below(cls, folder: Path) -> RunLines:
        return cls(folder / RUNS_FILE)

    def read(self) -> dict[str, Mapping[str, Any]]:
        """Return the entries by their runs' folders."""
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        except OSError as e:
            raise CannotRecord(f"cannot read {self._path}: {e.strerror or e}") from e
        found = {}
        for line in lines:
            try:
                entry = json.loads(line)
                found[entry["folder"]] = entry
            except (ValueError, TypeError, LookupError, RecursionError):
                continue
        return found

    def forget(self, runs: Set[str]) -> None:
        """Remove the lines of `runs`, given by their folders.  Raises `CannotRecord`."""
        entries = self.read()
        if entries.keys() & runs:
            kept = [entry for folder, entry in entries.items() if folder not in runs]
            try:
                files.write_text(self._path, "".join(to_json(entry) + "\n" for entry in kept))
            except OSError as e:
                raise CannotRecord(f"cannot write to {self._path}: {e.strerror or e}") from e

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add the line of a run, or none of it.  Raises `CannotRecord`."""
        line = memoryview((to_json(entry) + "\n").encode())
        size = None
        try:
            if self._file is None:
                self._file = open(self._path, "a+b", buffering=0)
                if self._is_torn(self._file):
                    self._file.write(b"\n")
            size = os.fstat(self._file.fileno()).st_size
            while line:
                line = line[os.write(self._file.fileno(), line) :]
        except OSError as e:
            if self._file is not None and size is not None:
                with suppress(OSError):  # a part of a line would spoil the next one
                    os.ftruncate(self._file.fileno(), size)
            raise CannotRecord(f"cannot write to {self._path}: {e.strerror or e}") from e

    @staticmethod
    def _is_torn(file: IO[bytes]) -> bool:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"

    def close(self) -> None:
        """Wait until all lines are on the disk.  Raises `CannotRecord`."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            with file:
                os.fsync(file.fileno())
        except OSError as e:
            raise CannotRecord(f"cannot write to {self._path}: {e.strerror or e}") from e
