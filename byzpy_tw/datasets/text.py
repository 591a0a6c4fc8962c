"""A text file of one's own as sequences of bytes, for language models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from byzpy_tw.datasets.core import Dataset, Split
from byzpy_tw.errors import BadParameter, DatasetUnavailable
from byzpy_tw.user_files import FileFault, check_name, error_reason, exists, open_regular

TOKENS = 256
_LONGEST = 2**16  # bytes of a sequence
_MOST = 2**27  # bytes of a file: as examples and targets they take ten times as much
_FEWEST = 10  # sequences


def text(*, root: Path, name: str, length: int = 64) -> Dataset:
    """The bytes of ``NAME.txt`` in the data root, in sequences of `length`: for `next-token`.

    The target of each byte is the one after it.  The last tenth of the sequences is for testing.
    """
    check_name(name)
    if not 1 <= length <= _LONGEST:
        raise BadParameter(f"length must be from 1 to {_LONGEST}, got {length}")
    path = Path(root).absolute() / f"{name}.txt"
    if Path(name).suffix == ".txt" and not exists(path):
        raise DatasetUnavailable(
            f"in {root}: name={name} has the ending of a file, give name={Path(name).stem}"
        )
    given = _read(path)
    count = (len(given) - 1) // length
    if count < _FEWEST:
        raise DatasetUnavailable(
            f"{path} holds {len(given)} bytes, which are {count} sequences of {length} with a byte "
            f"after each: at least {_FEWEST} are needed; give a longer text, or a smaller length="
        )
    # Not uint8, which are pictures; int16 takes a quarter of int64.
    x = torch.from_numpy(given[: count * length].astype(np.int16)).reshape(count, length)
    y = torch.from_numpy(given[1 : count * length + 1].astype(np.int64)).reshape(count, length)
    cut = count - count // 10
    train, test = Split(x[:cut], y[:cut]), Split(x[cut:], y[cut:])
    return Dataset(f"text:{name}", train, test, classes=TOKENS, task="next-token")


def _read(path: Path) -> np.ndarray:
    if not exists(path):
        raise DatasetUnavailable(f"{path} is missing: put the text there, or give --data-root")
    try:
        with open_regular(path) as file:
            found = file.read(_MOST + 1)
    except (FileFault, OSError) as e:
        why = f"cannot be read: {error_reason(e)}" if isinstance(e, OSError) else e
        raise DatasetUnavailable(f"{path} {why}") from e
    if len(found) > _MOST:
        raise DatasetUnavailable(f"{path} is longer than {_MOST >> 20} MiB: cut it")
    return np.frombuffer(found, dtype=np.uint8)
