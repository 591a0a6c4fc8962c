"""The initial values of a run's parameters, where a file gives them (``--init``).

They are kept in the run's folder, so that a run is resumed and verified without that file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from byzpy_tw import models
from byzpy_tw.config.paths import absolute
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError, RunDirectoryError
from byzpy_tw.models.trainable import trained_parameters
from byzpy_tw.models.weight_files import check_value_file, read_initial_values
from byzpy_tw.text import clean_value
from byzpy_tw.vectors import sha256_of

FILE = "init.safetensors"  # in a run's folder


def identify_initial_values(config: RunConfig) -> RunConfig:
    """Return `config` with the SHA-256 of the file of ``--init``, before a run has a folder.

    Raises `ConfigError` where the file is none of values, or has another digest than it must have.
    """
    if config.init is None:
        return config
    path = absolute(config.init)
    check_value_file(path, ConfigError)
    return attrs.evolve(config, init_sha256=_check_digest(path, config.init_sha256))


def _check_digest(path: Path, wanted: str | None) -> str:
    """Return the SHA-256 of the file at `path`; `ConfigError` where it is not the one `wanted`."""
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror or e}") from e
    if wanted not in (None, found):
        raise ConfigError(
            f"--init {path} has the SHA-256 {found}, and must have {wanted} (--init-sha256): put "
            "that file there, or begin another run without --init-sha256"
        )
    return found


def use_initial_values(
    config: RunConfig,
    model: nn.Module,
    folder: Path | None,
    recorded: Mapping[str, Any],
    *,
    keep: bool = False,
) -> str | None:
    """Give the trained parameters of `model` the values of ``--init``; return their SHA-256.

    None where there is no such option.  A run on record (`recorded` is its config.json, empty for
    a new one) has the values in its `folder`; with `keep` those of a new one are written there.
    Raises `ConfigError`, and `RunDirectoryError` where the run began with other values.
    """
    if config.init is None:
        return None
    if recorded and not recorded.get("init") and not keep:
        raise RunDirectoryError(
            "config.json has no digest of the values that --init gave: put back what was there"
        )
    kept, given = None if folder is None else folder / FILE, absolute(config.init)
    begun, path = bool(recorded.get("init")), given
    if begun and kept is not None and (kept.exists() or not given.exists()):
        path = kept
    if not begun and config.init_sha256 is not None:  # it may have been replaced meanwhile
        _check_digest(given, config.init_sha256)
    error = RunDirectoryError if path == kept else ConfigError
    values = read_initial_values(model, path, error)
    digest = sha256_of(*values.values())
    if begun and recorded["init"] != digest:
        raise RunDirectoryError(
            f"the run began with other values (SHA-256 {clean_value(recorded['init'])}) than "
            f"{path} has ({clean_value(digest)}): put back the file of then"
        )
    if keep and kept is not None and not begun:
        models.write_values(kept, values)
    with torch.no_grad():
        for name, leaf in trained_parameters(model):
            leaf.copy_(values[name])
    return digest
