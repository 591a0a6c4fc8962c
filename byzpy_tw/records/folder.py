"""A run's folder: the one reader and the one writer of its files, and its lock."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar

from attrs import define, field

from byzpy_tw import files
from byzpy_tw.config.run_config import RunConfig, from_dict
from byzpy_tw.errors import (
    ByzpyTwError,
    CannotRecord,
    ConfigError,
    PluginError,
    RunDirectoryError,
    UnsuitableData,
    UnsuitableModel,
)
from byzpy_tw.records.metrics import described_metrics
from byzpy_tw.records.schema import FILES, decode_json, find_result_error, parse_record
from byzpy_tw.tasks.metric import Metric
from byzpy_tw.text import clean_value, printable

CONFIG, ROUNDS, RESULT = "config.json", "rounds.jsonl", "result.json"
CELLS = "cells"  # in a sweep's folder: the folder of its runs' folders
_LOCK = ".lock"
_CHECKPOINT = re.compile(r"checkpoint\.(\d{8,})")
_MOST_NODES = 1_000_000  # as many as a run may have
_IN_THE_LOG = (PluginError, UnsuitableModel, UnsuitableData)  # their causes' tracebacks
_LONGEST_LINE = 1 << 28  # bytes; a record of that many nodes is far shorter


# -- reading ------------------------------------------------------------------


@define(eq=False)
class RoundReader:
    """Reads the records of a run of `n` nodes, one by one, up to the first damaged line.

    The fields describe the file when the iteration is over.  It raises `RunDirectoryError`
    where the file cannot be read; a missing one has no records.
    """

    path: Path
    n: int
    count: int = field(default=0, init=False)  # records read
    error: str = field(default="", init=False)  # of the damaged line, to follow "line 3"
    skipped: int = field(default=0, init=False)  # lines that follow the damaged one
    torn: bool = field(default=False, init=False)  # whether the last line has no end

    @property
    def damage(self) -> str:
        """The damaged line and its error; empty where there is none."""
        return f"line {self.count + 1} of {ROUNDS} {self.error}" if self.error else ""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.count, self.error, self.skipped, self.torn = 0, "", 0, False
        try:
            with open(self.path, "rb") as lines:
                while line := lines.readline(_LONGEST_LINE):
                    if not line.endswith(b"\n"):  # it was being written
                        self.torn = True
                    elif self.error:
                        self.skipped += 1
                    else:
                        try:
                            record = parse_record(line, self.count, self.n)
                        except ValueError as e:
                            self.error = clean_value(e, 300)
                            continue
                        self.count += 1
                        yield record
        except FileNotFoundError:
            return
        except OSError as e:
            raise RunDirectoryError(f"cannot read {printable(self.path)}: {e.strerror or e}") from e


@define(eq=False, slots=False)
class RecordedRun:
    """A run's folder as `read_run` found it.  Nothing is locked: the run may go on meanwhile."""

    path: Path
    description: Mapping[str, Any]  # config.json
    options: dict[str, Any]  # as config.json has them

    @cached_property
    def result(self) -> Mapping[str, Any] | None:
        """The content of result.json, if there is one; `RunDirectoryError` if it is damaged."""
        path = self.path / RESULT
        return read_json_object(path) if path.exists() else None

    @cached_property
    def config(self) -> RunConfig:
        """The configuration; `RunDirectoryError` for entries that this version does not write."""
        file, versions = printable(self.path / CONFIG), self.description.get("versions", {})
        if not isinstance(versions, dict):
            raise RunDirectoryError(
                f"{file} has versions {clean_value(versions, 40)}: these are no names with a "
                "version each; put back what was there, or take the entry out"
            )
        try:
            return from_dict(self.options)
        except (ConfigError, TypeError, AttributeError) as e:
            raise RunDirectoryError(
                f"{file} is no configuration: {clean_value(e, 300)}; put back what was there"
            ) from e

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of the run's task; `RunDirectoryError` for what can be none."""
        return described_metrics(self.description, printable(self.path / CONFIG))

    @cached_property
    def reader(self) -> RoundReader:
        """The reader of the rounds; needs no more of the options than the number of nodes."""
        return RoundReader(
            self.path / ROUNDS, sum(count_nodes(self.options, printable(self.path / CONFIG)))
        )

    @cached_property
    def rounds(self) -> list[dict[str, Any]]:
        """The records up to the first damaged line, all in memory; see `reader` for damage."""
        return list(self.reader)

    def check(self) -> None:
        """Raise `RunDirectoryError` for anything that is damaged, but for a torn last line."""
        _, _, _ = self.config, self.metrics, self.rounds  # reading them raises, or finds damage
        if self.reader.damage:
            raise RunDirectoryError(
                f"{printable(self.path)}: {self.reader.damage}; put back what was there, or "
                "delete that line and what follows it"
            )
        if self.result is not None and (why := find_result_error(self.result)):
            raise RunDirectoryError(
                f"{printable(self.path / RESULT)} {why}; put back what was there, or delete the "
                "file: the records have all of it but how the run ended"
            )


def read_run(path: Path, *, strict: bool = False) -> RecordedRun:
    """Read the run in `path`, which may be under way.

    Raises `RunDirectoryError` where there is no run, and, if `strict`, where a file of it is
    damaged.  Otherwise the properties of the result raise it, as far as they are used.
    """
    description = read_json_object(path / CONFIG)
    if not isinstance(description.get("config"), dict):
        raise RunDirectoryError(f"{printable(path / CONFIG)} is not of this version of byzpy_tw")
    run = RecordedRun(path, description, description["config"])
    if strict:
        run.check()
    return run


def count_nodes(options: Mapping[str, Any], file: str) -> tuple[int, int]:
    """Return the numbers of honest and Byzantine nodes; `RunDirectoryError` for odd ones."""
    honest, byzantine = (read_count(options, name, file) for name in ("num_honest", "num_byz"))
    if not 1 <= honest + byzantine <= _MOST_NODES:
        raise RunDirectoryError(f"{file} has {honest + byzantine} nodes")
    return honest, byzantine


def read_count(options: Mapping[str, Any], name: str, file: str) -> int:
    """Return the option `name`, a count; raise `RunDirectoryError` where it is none."""
    value = options.get(name)
    if type(value) is not int or not 0 <= value < 2**31:
        raise RunDirectoryError(f"{file}: {name} is {clean_value(value, 40)!r}, not a whole number")
    return value


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """Return the checkpoints in `folder` by the number of rounds before them, the newest first."""
    matches = (_CHECKPOINT.fullmatch(path.name) for path in folder.iterdir())
    found = {int(match[1]): folder / match[0] for match in matches if match}
    return dict(sorted(found.items(), reverse=True))


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; raise `RunDirectoryError` where there is none."""
    try:
        found = decode_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        here = printable(path.parent)
        remedy = "name a run's folder, such as runs/DATE-TIME-RULE-ATTACK"
        if (path.parent / CELLS).is_dir():
            remedy = f"a sweep's runs are in {here}/{CELLS}/*"
        raise RunDirectoryError(
            f"{here} holds no run that was begun (no {path.name}): {remedy}"
        ) from e
    except (OSError, ValueError) as e:
        why = getattr(e, "strerror", None) or clean_value(e, 200)
        raise RunDirectoryError(f"cannot read {printable(path)}: {why}") from e
    if not isinstance(found, dict):
        raise RunDirectoryError(f"{printable(path)} holds no JSON object")
    return found


# -- writing ------------------------------------------------------------------


def to_json(value: Any, indent: int | None = None) -> str:
    """Return `value` as JSON; numbers that are not finite become null."""
    return json.dumps(_replace_infinite(value), indent=indent)


def _replace_infinite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _replace_infinite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_infinite(item) for item in value]
    return value


@contextmanager
def _writing(path: Path, error: type[ByzpyTwError]) -> Iterator[None]:
    try:
        yield
    except ByzpyTwError:  # some of which are ValueErrors
        raise
    except (OSError, ValueError) as e:  # ValueError: of a file that was closed meanwhile
        raise error(f"cannot write to {path}: {getattr(e, 'strerror', None) or e}") from e


@define(eq=False)
class RunDirectory:
    """The one writer of a run's files, which locks their folder; see `create` and `reopen`."""

    has_folder: ClassVar[bool] = True

    path: Path
    _lock: IO[str]
    _rounds: IO[bytes] | None = field(default=None, init=False)

    @classmethod
    def create(cls, path: Path) -> RunDirectory:
        """Make a new run's folder; raise `RunDirectoryError` where it cannot be one."""
        with _writing(path, RunDirectoryError):
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
        return directory

    @classmethod
    def reopen(cls, path: Path) -> RunDirectory:
        """Open the folder of a run that was begun; raise `RunDirectoryError` for no such one."""
        if not (path / CONFIG).is_file():
            raise RunDirectoryError(
                f"{path} holds no run that was begun (no {CONFIG}): start it with --run-dir"
            )
        with _writing(path, RunDirectoryError):
            return cls(path, lock_folder(path))

    def cut(self, rounds: int) -> None:
        """Leave the first `rounds` records, ready for the next; later ones are run again."""
        with _writing(self.path, RunDirectoryError):
            self._rounds = open(self.path / ROUNDS, "ab")
            with open(self.path / ROUNDS, "rb") as lines:
                self._rounds.truncate(sum(map(len, islice(lines, rounds))))
            (self.path / RESULT).unlink(missing_ok=True)  # the run goes on
            for round, path in list_checkpoints(self.path).items():
                if round > rounds:  # damaged, or of records that are not there
                    path.unlink()

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace config.json; raise `CannotRecord`."""
        self._write(CONFIG, config)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Replace result.json; raise `CannotRecord`."""
        self._write(RESULT, result)

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        with _writing(self.path, CannotRecord):
            files.write_text(self.path / name, to_json(value, indent=2) + "\n")

    def append_round(self, record: Mapping[str, Any]) -> None:
        """Add one line; it is on its way to the disk when this returns."""
        assert self._rounds is not None
        line = memoryview((to_json(record) + "\n").encode())
        with _writing(self.path, CannotRecord):
            while line:  # not buffered: what failed once must not be tried again at the end
                line = line[os.write(self._rounds.fileno(), line) :]

    def sync_rounds(self) -> None:
        """Wait until the records are on the disk, in a thread that may wait."""
        with _writing(self.path, CannotRecord):
            if self._rounds is not None:
                os.fsync(self._rounds.fileno())

    def close(self) -> None:
        """Close the files and let go of the lock."""
        if self._rounds is not None:
            self._rounds.close()
            self._rounds = None
        self._lock.close()


def discard_unbegun(path: Path, error: ByzpyTwError) -> bool:
    """Delete the folder of a run that a mistake ended before round 0; return whether it is gone.

    One stays that has more than that to tell: a plugin's traceback, or the log of a server.
    """
    if isinstance(error, _IN_THE_LOG):
        return False
    try:
        result = read_json_object(path / RESULT)
        own = {path / name for name in FILES}
        if (result.get("status"), result.get("rounds")) != ("failed", 0) or {*path.iterdir()} - own:
            return False
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    except (OSError, RunDirectoryError):
        return False
    return True


def lock_folder(path: Path) -> IO[str]:
    """Lock the folder until the file is closed; `RunDirectoryError` has the owner's number."""
    lock = open(path / _LOCK, "a+", encoding="utf-8")
    if not files.lock(lock, wait=False):
        lock.seek(0)
        holder = lock.read(20).strip() or "another"
        lock.close()
        raise RunDirectoryError(f"{path} is in use by process {holder}")
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock
