"""A run's folder: what it was, what happened, how it ended."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from attrs import define, field, frozen

from byzpy_tw import files
from byzpy_tw.errors import CannotRecord, RunDirectoryError
from byzpy_tw.records.checkpoint import list_checkpoints, round_of
from byzpy_tw.records.schema import decode_json, parse_record
from byzpy_tw.text import clean_value, printable

CONFIG, ROUNDS, RESULT = "config.json", "rounds.jsonl", "result.json"
_LOCK = ".lock"


@define(eq=False)
class RunDirectory:
    """Writes the files of one run, which nobody else may use meanwhile.

    Make one with `create`, or with `reopen` to go on where a run ended.
    """

    path: Path
    _lock: IO[str]
    _rounds: IO[bytes] | None = field(default=None, init=False)

    @classmethod
    def create(cls, path: Path) -> RunDirectory:
        """A new run's folder; `RunDirectoryError` where it cannot be one."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            directory = cls(path, lock_folder(path))
            # One that ended before its first round left nothing worth keeping.
            if (path / ROUNDS).exists() and (path / ROUNDS).stat().st_size:
                directory.close()
                raise RunDirectoryError(
                    f"{path} holds another run; choose another --run-dir, or go on with "
                    f"that one: --resume {path}"
                )
            directory._rounds = open(path / ROUNDS, "wb")
        except OSError as e:
            raise RunDirectoryError(f"cannot write to {path}: {e.strerror or e}") from e
        return directory

    @classmethod
    def reopen(cls, path: Path) -> RunDirectory:
        """The folder of a run that was begun; `RunDirectoryError` where there is none."""
        if not (path / CONFIG).is_file():
            raise RunDirectoryError(
                f"{path} holds no run that was begun (no {CONFIG}): start it with --run-dir"
            )
        try:
            return cls(path, lock_folder(path))
        except OSError as e:
            raise RunDirectoryError(f"cannot write to {path}: {e.strerror or e}") from e

    def read_config(self) -> dict[str, Any]:
        """What `write_config` was last given."""
        return read_json_object(self.path / CONFIG)

    def read_result(self) -> dict[str, Any] | None:
        """What `write_result` was last given, if anything."""
        return read_json_object(self.path / RESULT) if (self.path / RESULT).exists() else None

    def read_rounds(self, n: int) -> RecordedRounds:
        """What is on record of this run, which has `n` nodes."""
        return read_rounds(self.path, n)

    def cut(self, rounds: int) -> None:
        """Leave the first `rounds` records, ready for the next.

        Whatever the run did after its checkpoint it will do again.
        """
        try:
            self._rounds = open(self.path / ROUNDS, "ab")
            with open(self.path / ROUNDS, "rb") as lines:
                self._rounds.truncate(sum(map(len, islice(lines, rounds))))
            (self.path / RESULT).unlink(missing_ok=True)  # it is of an end that was none
            for stale in list_checkpoints(self.path):  # damaged, or of records that are not there
                if round_of(stale) > rounds:
                    stale.unlink()
        except OSError as e:
            raise RunDirectoryError(f"cannot write to {self.path}: {e.strerror or e}") from e

    def write_config(self, config: Mapping[str, Any]) -> None:
        self._write_whole(CONFIG, config)

    def write_result(self, result: Mapping[str, Any]) -> None:
        self._write_whole(RESULT, result)

    def append_round(self, record: Mapping[str, Any]) -> None:
        """Add one line; it is on its way to the disk when this returns."""
        assert self._rounds is not None
        line = memoryview((to_json(record) + "\n").encode())
        try:
            while line:  # not buffered: what failed once must not be tried again at the end
                line = line[os.write(self._rounds.fileno(), line) :]
        except OSError as e:
            raise CannotRecord(f"cannot write to {self.path}: {e.strerror or e}") from e

    def sync_rounds(self) -> None:
        """See to it that the records are on the disk.  Blocks, so not in the reactor's thread."""
        try:
            if self._rounds is not None:
                os.fsync(self._rounds.fileno())
        except (OSError, ValueError) as e:  # ValueError: closed meanwhile
            raise CannotRecord(f"cannot write to {self.path}: {e}") from e

    def close(self) -> None:
        if self._rounds is not None:
            self._rounds.close()
            self._rounds = None
        self._lock.close()

    def _write_whole(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace the file `name` by `value` as JSON; `CannotRecord` where that fails."""
        try:
            files.write_text(self.path / name, to_json(value, indent=2) + "\n")
        except OSError as e:
            raise CannotRecord(f"cannot write to {self.path}: {e.strerror or e}") from e


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; `RunDirectoryError` where there is none."""
    try:
        found = decode_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise RunDirectoryError(
            f"{printable(path.parent)} holds no run that was begun (no {path.name})"
        ) from e
    except OSError as e:
        raise RunDirectoryError(f"cannot read {printable(path)}: {e.strerror or e}") from e
    except ValueError as e:
        raise RunDirectoryError(f"cannot read {printable(path)}: {clean_value(e, 200)}") from e
    if not isinstance(found, dict):
        raise RunDirectoryError(f"{printable(path)} holds no JSON object")
    return found


@frozen(eq=False)
class RecordedRounds:
    """What is on record in a folder: the rounds from 0 on, up to the first damaged line."""

    rounds: Sequence[dict[str, Any]]
    damage: str = ""  # which line is damaged, and how
    torn: bool = False  # whether the last line was never written whole
    after: int = 0  # lines that come after the damaged one

    def __len__(self) -> int:
        return len(self.rounds)


def read_rounds(folder: Path, n: int) -> RecordedRounds:
    """What is on record in `folder` of a run of `n` nodes; nothing, where nothing is there.

    Raises `RunDirectoryError` where the file cannot be read.
    """
    try:
        lines = (folder / ROUNDS).read_bytes().split(b"\n")
    except FileNotFoundError:
        return RecordedRounds([])
    except OSError as e:
        raise RunDirectoryError(
            f"cannot read {printable(folder / ROUNDS)}: {e.strerror or e}"
        ) from e
    torn = lines.pop() != b""  # what has no end yet was being written
    rounds: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        try:
            rounds.append(parse_record(line, number, n))
        except ValueError as e:
            damage = f"line {number + 1} of {ROUNDS} {clean_value(e, 300)}"
            return RecordedRounds(rounds, damage, torn, len(lines) - number - 1)
    return RecordedRounds(rounds, torn=torn)


def lock_folder(path: Path) -> IO[str]:
    """A lock on the folder, which the system lets go of when this process ends."""
    lock = open(path / _LOCK, "a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read(20).strip() or "another"
        lock.close()
        raise RunDirectoryError(f"{path} is in use by process {holder}") from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


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
