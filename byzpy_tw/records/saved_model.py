"""The file of a trained model, for plain torch: ``--save-model`` and `Result.save_model`."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from byzpy_tw import models
from byzpy_tw.errors import ConfigError

_SUFFIX = ".safetensors"


def check_can_save(path: Path) -> None:
    """Raise `ConfigError` where no file of a model can be written to `path`."""
    why = ""
    if path.suffix != _SUFFIX:
        why = f"its name must end in {_SUFFIX}, the format that it is written in"
    elif path.is_dir():
        why = "it is a folder"
    elif not path.parent.is_dir():
        why = f"there is no folder {path.parent}: make it first"
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        why = f"the folder {path.parent} cannot be written to"
    if why:
        raise ConfigError(f"a model cannot be saved as {path}: {why}")


def save_model(model: nn.Module, path: Path) -> None:
    """Write all that ``model.state_dict()`` has to `path`, as a whole.  Raises `CannotRecord`."""
    models.write_values(path, model.state_dict())
