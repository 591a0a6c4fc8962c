"""The initial values of a run's parameters, where a file gives them (``--init``).

They are kept in the run's folder, so that a run is resumed and verified without that file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from byzpy_tw import models
from byzpy_tw.config.paths import absolute
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError, RunDirectoryError
from byzpy_tw.text import clean_value
from byzpy_tw.vectors import sha256_of

FILE = "init.safetensors"  # in a run's folder


def check_initial_values(config: RunConfig) -> None:
    """Raise `ConfigError` where the file of ``--init`` is none, before a run has a folder."""
    if config.init is not None:
        models.check_value_file(absolute(config.init), ConfigError)


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
    error = RunDirectoryError if path == kept else ConfigError
    values = models.read_initial_values(model, path, error)
    digest = sha256_of(*values.values())
    if begun and recorded["init"] != digest:
        raise RunDirectoryError(
            f"the run began with other values (SHA-256 {clean_value(recorded['init'], 12)}) than "
            f"{path} has ({digest[:12]}): put back the file of then"
        )
    if keep and kept is not None and not begun:
        models.write_values(kept, values)
    with torch.no_grad():
        for name, leaf in models.trained_parameters(model):
            leaf.copy_(values[name])
    return digest
