"""The old name of `byzpy_tw.testing.properties`, for one release."""

import warnings

from byzpy_tw.testing.properties import *  # noqa: F403
from byzpy_tw.testing.properties import __all__ as __all__

warnings.warn(
    "byzpy_tw.testing.laws is called byzpy_tw.testing.properties now; this name goes with the "
    "next release",
    DeprecationWarning,
    stacklevel=2,
)
