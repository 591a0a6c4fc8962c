"""A run's state on disk: written whole or not at all, and read only if it is whole.

A checkpoint has everything that rounds change.  Random streams are named by the
round, so there is nothing of theirs to keep.

The file: a magic line, the SHA-256 of what follows, then `torch.save`'s format,
which is read with ``weights_only=True``: numbers, words and tensors, never code.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import attrs
import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from byzpy_tw import files
from byzpy_tw.errors import BadRuleOutput, CannotRecord, DamagedCheckpoint

MAGIC = b"byzpy_tw checkpoint 1\n"
LARGE = 1 << 27  # bytes of a state that is not copied to be written
_NAME = re.compile(r"checkpoint\.(\d{8,})")
_NUMPY = "byzpy_tw: numpy"  # the key that marks what was an array
_DIGEST = hashlib.sha256().digest_size


@frozen(eq=False)
class State:
    """What a run is after `round` rounds.

    ``parameters`` and ``velocity`` are ``(d,)``; ``momenta`` maps honest nodes to
    theirs; ``history`` a round to what Byzantine nodes sent in it.  ``aggregation``
    and ``attack`` are what the rules and the attack remember, ``probation`` the
    nodes' conduct, ``elapsed`` seconds.
    """

    round: int
    parameters: Tensor
    velocity: Tensor
    momenta: Mapping[int, Tensor] = field(factory=dict)
    history: Mapping[int, Mapping[int, Tensor]] = field(factory=dict)
    aggregation: Mapping[str, Any] = field(factory=dict)
    attack: Mapping[str, Any] = field(factory=dict)
    probation: Mapping[str, Any] = field(factory=dict)
    elapsed: float = 0.0

    @property
    def large(self) -> bool:
        """Whether a copy would be a good part of a small machine's memory."""
        return sum(map(_nbytes, attrs.astuple(self, recurse=False))) >= LARGE

    def snapshot(self) -> State:
        """What this state is now, to be written while the run goes on.

        In memory of its own; of a `large` one tensors and arrays are the run's own, which
        must leave them alone until they are written.
        """
        copy = not self.large
        return State(**{name: _copied(value, copy) for name, value in _fields(self)})


def _fields(state: State) -> Iterator[tuple[str, Any]]:
    return ((f.name, getattr(state, f.name)) for f in attrs.fields(State))


def _nbytes(value: Any) -> int:
    if isinstance(value, Tensor):  # one without strides knows no `nbytes`
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_nbytes, value.values()))
    return sum(map(_nbytes, value)) if isinstance(value, (list, tuple)) else 0


def _is_a_part(tensor: Tensor) -> bool:
    """Whether it is a view of more, all of which would be written."""
    strided = tensor.layout is torch.strided
    return strided and tensor.untyped_storage().nbytes() > _nbytes(tensor)


def _copied(value: Any, numbers: bool) -> Any:
    """`value` with containers of its own, and tensors and arrays too if `numbers`."""
    if isinstance(value, Tensor):
        return value.clone() if numbers or _is_a_part(value) else value
    if isinstance(value, np.ndarray):
        return value.copy() if numbers else value
    if isinstance(value, Mapping):
        return {key: _copied(item, numbers) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item, numbers) for item in value)
    return value


def _storable(value: Any, where: str) -> Any:
    """`value` as `torch.load` takes it back; `BadRuleOutput` where it does not."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc":
        return {_NUMPY: torch.from_numpy(np.array(value))}
    if type(value) in (list, tuple):
        return type(value)(_storable(v, f"{where}[{i}]") for i, v in enumerate(value))
    keys = value if isinstance(value, Mapping) else (None,)
    if all(type(key) in (str, int) and key != _NUMPY for key in keys):
        return {key: _storable(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise BadRuleOutput(
        f"what a rule remembers cannot be kept in a checkpoint: {where} is "
        f"{type(value).__name__}; a rule's state may hold tensors, arrays, numbers, words, "
        "and lists, tuples and dicts of these (or run with --checkpoint-interval 0)"
    )


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {_NUMPY}:
            return value[_NUMPY].numpy()
        return {key: _restored(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_restored, value))
    return value


class _Hashing(io.RawIOBase):
    """A file that hashes what is written, as it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.failed: OSError | None = None  # torch has words of its own for it

    def writable(self) -> bool:
        return True

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

    When this returns, it is on the disk.  Raises `CannotRecord`, with the older
    checkpoints untouched, and `BadRuleOutput` for memory that cannot be kept.
    """
    try:
        plain = {name: _storable(value, name) for name, value in _fields(state)}
    except BadRuleOutput:
        raise
    except (TypeError, ValueError, RecursionError) as e:  # of some odd array, or of itself
        raise BadRuleOutput(f"what a rule remembers cannot be kept: {e}"[:300]) from e
    path = folder / f"checkpoint.{state.round:08d}"
    body: _Hashing | None = None
    try:
        with files.replacing(path, folder / ".checkpoint.new") as file:
            file.write(MAGIC + bytes(_DIGEST))
            body = _Hashing(file)
            torch.save(plain, body)
            file.seek(len(MAGIC))
            file.write(body.hash.digest())
        for old in list_checkpoints(folder)[keep:] if keep is not None else ():
            if old != path:
                old.unlink()
    except (OSError, RuntimeError) as e:  # torch says RuntimeError for a full disk
        why = (body and body.failed) or e
        raise CannotRecord(
            f"cannot write a checkpoint to {folder}: {getattr(why, 'strerror', None) or why}"
        ) from e
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the newest first."""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=round_of, reverse=True)


def round_of(path: Path) -> int:
    """The rounds that are behind the checkpoint at `path`, by its name."""
    return int(path.name.partition(".")[2])


def read(path: Path) -> State:
    """The state in `path`; `DamagedCheckpoint` says why there is none."""
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
        return State(**_restored(plain))
    except Exception as e:  # whole, but of another version
        raise DamagedCheckpoint(f"{path} cannot be read: {e}"[:300]) from e
