"""A run's state on disk, which is written as a whole and read only where it is intact.

A checkpoint has everything that rounds change.  Random streams are named by the
round and have no state.

The file: a magic line, the SHA-256 of what follows, then `torch.save`'s format,
which is read with ``weights_only=True``: numbers, words and tensors, never code.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from byzpy_tw import files
from byzpy_tw.algorithms.state import State
from byzpy_tw.errors import BadRuleOutput, CannotRecord, DamagedCheckpoint
from byzpy_tw.records.folder import list_checkpoints

MAGIC = b"byzpy_tw checkpoint 1\n"
_NUMPY = "byzpy_tw: numpy"  # the key that marks what was an array
_DIGEST = hashlib.sha256().digest_size


def _to_storable(value: Any, where: str) -> Any:
    """Return `value` in types that `torch.load` reads; raise `BadRuleOutput` for others."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc":
        return {_NUMPY: torch.from_numpy(np.array(value))}
    if type(value) in (list, tuple):
        return type(value)(_to_storable(v, f"{where}[{i}]") for i, v in enumerate(value))
    keys = value if isinstance(value, Mapping) else (None,)
    if all(type(key) in (str, int) and key != _NUMPY for key in keys):
        return {key: _to_storable(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise BadRuleOutput(
        f"what a rule remembers cannot be kept in a checkpoint: {where} is "
        f"{type(value).__name__}; a rule's state may hold tensors, arrays, numbers, words, "
        "and lists, tuples and dicts of these (or run with --checkpoint-interval 0)"
    )


def _from_storable(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {_NUMPY}:
            return value[_NUMPY].numpy()
        return {key: _from_storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_from_storable, value))
    return value


class _HashingFile(io.RawIOBase):
    """A file that hashes what is written, as it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.failed: OSError | None = None  # torch raises another error for it

    def write(self, data: Any) -> int:
        self.hash.update(data)
        left = memoryview(data).cast("B")
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as e:
            self.failed = e
            raise
        return len(data)


def write(folder: Path, state: State, keep: int | None = 2) -> Path:
    """Write `state` into `folder`, and remove all but the newest `keep` (None: all).

    It is on the disk when this returns.  Raises `CannotRecord`, with the older
    checkpoints untouched, and `BadRuleOutput` for memory that cannot be kept.
    """
    try:
        plain = {name: _to_storable(value, name) for name, value in state.fields.items()}
    except (TypeError, ValueError, RecursionError) as e:  # of an odd array, or a loop
        raise BadRuleOutput(f"what a rule remembers cannot be kept: {e}"[:300]) from e
    path = folder / f"checkpoint.{state.round:08d}"
    body: _HashingFile | None = None
    try:
        with files.replacing(path, folder / ".checkpoint.new") as file:
            file.write(MAGIC + bytes(_DIGEST))
            body = _HashingFile(file)
            torch.save(plain, cast("IO[bytes]", body))  # it has what torch uses
            file.seek(len(MAGIC))
            file.write(body.hash.digest())
        for old in list(list_checkpoints(folder).values())[keep:] if keep is not None else ():
            if old != path:
                old.unlink()
    except (OSError, RuntimeError) as e:  # torch says RuntimeError for a full disk
        why = (body and body.failed) or e
        raise CannotRecord(
            f"cannot write a checkpoint to {folder}: {getattr(why, 'strerror', None) or why}"
        ) from e
    return path


def read(path: Path) -> State:
    """Return the state in `path`; raise `DamagedCheckpoint` with the cause where there is none."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise DamagedCheckpoint(f"{path}: {e.strerror or e}") from e
    start = len(MAGIC) + _DIGEST
    if data[: len(MAGIC)] != MAGIC or len(data) < start:
        raise DamagedCheckpoint(f"{path} is no checkpoint of this version")
    body = memoryview(data)[start:]
    if hashlib.sha256(body).digest() != data[len(MAGIC) : start]:
        raise DamagedCheckpoint(f"{path} is damaged: its bytes are not those that were written")
    try:
        plain = torch.load(io.BytesIO(body), weights_only=True, map_location="cpu")
        fields = _from_storable(plain)
        if "velocity" in fields:  # written by 0.1, whose only optimizer is SGD
            fields["optimizer"] = {"velocity": fields.pop("velocity")}
        return State(**fields)
    except Exception as e:  # whole, but of another version
        raise DamagedCheckpoint(f"{path} cannot be read: {e}"[:300]) from e
