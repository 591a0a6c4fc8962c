"""The file of nodes' weights (``--weights FILE``): a line ``NODE,WEIGHT`` for each node.

A copy is kept in the run's folder, so that a run is resumed and verified without that file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from byzpy_tw import files
from byzpy_tw.algorithms.node_weights import NodeWeights
from byzpy_tw.config.paths import absolute
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ByzpyTwError, CannotRecord, ConfigError, RunDirectoryError
from byzpy_tw.text import clean_value, clip
from byzpy_tw.user_files import FileFault, describe_content, open_regular
from byzpy_tw.workers.shards import examples_of_nodes

FILE = "weights.csv"  # in a run's folder
_MOST_BYTES = 1 << 26  # a line for each of a million nodes, and comments
_HEADER = ["node", "weight"]
_LEAST, _MOST = 1e-30, 1e30  # of a weight above 0


def identify_weights(config: RunConfig) -> RunConfig:
    """Return `config` with the SHA-256 of the file of ``--weights``, before a run has a folder.

    Raises `ConfigError` where the file has no weights for the run's nodes, or has another digest
    than it must have.
    """
    if config.weights_file is None:
        return config
    path = absolute(config.weights_file)
    content = _read(path, ConfigError)
    digest = _check_digest(content, path, config.weights_sha256, ConfigError)
    _parse(content, config.n, path, ConfigError)
    return attrs.evolve(config, weights_sha256=digest)


def check_same_weights(config: RunConfig) -> None:
    """Raise `ConfigError` where the file of ``--weights`` is there, and not the resumed run's."""
    if config.weights_file is None or not (path := absolute(config.weights_file)).exists():
        return  # the run's folder has a copy
    found = hashlib.sha256(_read(path, ConfigError)).hexdigest()
    if found != config.weights_sha256:
        raise ConfigError(
            f"--weights {path} would make it another run: it was begun with a file of the SHA-256 "
            f"{config.weights_sha256}, and this one has {found}; leave it out"
        )


def weights_of(
    config: RunConfig, sizes: Sequence[int], folder: Path | None, recorded: Mapping[str, Any],
    *, keep: bool = False,
) -> NodeWeights | None:  # fmt: skip
    """Return the weights of the nodes of `config`; None where all are equal.

    `sizes` are those of the partition's shards; `folder`, `recorded` and `keep` are as for
    `read_weights`, and so are the errors.
    """
    if config.weights == "equal":
        return None
    weights: Sequence[float]
    if config.weights_file is None:
        weights = examples_of_nodes(sizes, config.spec())
    else:
        weights = read_weights(config, folder, recorded, keep=keep)
    return NodeWeights.of(weights, config.max_weight)


def differing_weights(weights: NodeWeights | None, recorded: Mapping[str, Any]) -> str:
    """Return how config.json, `recorded`, differs from `weights`, in words; empty if it does not.

    A run that was ended before round 0 may have none there.
    """
    there = recorded.get("weights")
    here = None if weights is None else weights.describe()
    if there is None or there == here:
        return ""
    shares = here["shares"] if here is not None else None
    told = there.get("shares") if isinstance(there, dict) else there
    return f"config.json has the weights {clean_value(told)}, --weights gives {clean_value(shares)}"


def read_weights(
    config: RunConfig, folder: Path | None, recorded: Mapping[str, Any], *, keep: bool = False
) -> list[float]:
    """Return the weight of each node, from the file of ``--weights``.

    A run on record (`recorded` is its config.json, empty for a new one) has a copy in its `folder`;
    with `keep` that of a new one is written there.  Raises `ConfigError`, and `RunDirectoryError`
    where the copy is another file than the run began with.
    """
    path = absolute(str(config.weights_file))
    kept = folder / FILE if folder is not None and folder.is_dir() else None
    error: type[ByzpyTwError] = ConfigError
    if recorded and kept is not None and kept.exists():
        path, error = kept, RunDirectoryError
    content = _read(path, error)
    _check_digest(content, path, config.weights_sha256, error)
    found = _parse(content, config.n, path, error)
    if keep and kept is not None and path != kept:
        try:
            files.write_text(kept, content.decode())
        except OSError as e:
            raise CannotRecord(f"cannot write {kept}: {e.strerror or e}") from e
    return found


def _read(path: Path, error: type[ByzpyTwError]) -> bytes:
    try:
        with open_regular(path) as file:
            content = file.read(_MOST_BYTES + 1)
    except FileFault as e:
        raise error(
            f"--weights: {path} {e}; name a file, or use --weights equal or --weights examples"
        ) from e
    if len(content) > _MOST_BYTES:
        raise error(
            f"--weights: {path} has over {_MOST_BYTES >> 20} MiB: that is no file of weights"
        )
    return content


def _check_digest(content: bytes, path: Path, wanted: str | None, error: type[ByzpyTwError]) -> str:
    """Return the SHA-256 of `content`; raise `error` where it is not the one `wanted`."""
    found = hashlib.sha256(content).hexdigest()
    if wanted not in (None, found):
        raise error(
            f"--weights {path} has the SHA-256 {found}, and must have {wanted} (--weights-sha256): "
            "put that file there, or begin another run without --weights-sha256"
        )
    return found


def _parse(content: bytes, n: int, path: Path, error: type[ByzpyTwError]) -> list[float]:
    """Return the weights of nodes 0 to `n` - 1; raise `error`, with the line, for anything else."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        what = describe_content(content[:512]) or "no text"
        raise error(f"--weights: {path} is {what}, expected lines NODE,WEIGHT") from None
    found: dict[int, tuple[float, int]] = {}
    first = True
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line.split(",")]
        if cells == [""] or cells[0][:1] == "#":
            continue
        header, first = first and [cell.lower() for cell in cells] == _HEADER, False
        if header:
            continue
        try:
            node, weight = _parse_line(cells, n)
            if node in found:
                raise ValueError(f"node {node} has a weight already, on line {found[node][1]}")
        except ValueError as e:
            raise error(f"--weights: {path}, line {number}: {e}") from None
        found[node] = weight, number
    if missing := [node for node in range(n) if node not in found]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise error(
            f"--weights: {path} has no weight of node {missing[0]}{more}: the run has n = {n} "
            f"nodes, 0 to {n - 1}, Byzantine ones last"
        )
    return [found[node][0] for node in range(n)]


def _parse_line(cells: list[str], n: int) -> tuple[int, float]:
    """Return the node and its weight; `ValueError` says what is wrong."""
    if len(cells) != 2:
        raise ValueError(f"expected NODE,WEIGHT, got {clip(','.join(cells))!r}")
    node, weight = cells
    if not (node.isascii() and node.isdigit() and len(node) < 10 and int(node) < n):
        raise ValueError(f"expected a node from 0 to {n - 1}, got {clip(node)!r}")
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if value != 0 and not _LEAST <= value <= _MOST:
        raise ValueError(
            f"expected a weight of 0, or from {_LEAST:g} to {_MOST:g}, got {clip(weight)!r}"
        )
    return int(node), abs(value)
