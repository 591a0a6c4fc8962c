"""Deprecated: `byzpy_tw.runs.config` of 0.1, from which tests of plugins took `RunConfig`."""

import sys
import warnings

from byzpy_tw.config import run_config as config

warnings.warn(
    "byzpy_tw.runs.config is deprecated: import RunConfig from byzpy_tw (byzpy_tw.RunConfig)",
    DeprecationWarning,
    stacklevel=2,
)
sys.modules[f"{__name__}.config"] = config
