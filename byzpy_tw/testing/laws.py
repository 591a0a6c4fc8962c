"""The old name of `byzpy_tw.testing.properties`, for one release."""

import warnings

from byzpy_tw.testing.properties import __all__ as __all__
from byzpy_tw.testing.properties import aggregator_tests as aggregator_tests
from byzpy_tw.testing.properties import attack_tests as attack_tests
from byzpy_tw.testing.properties import dataset_tests as dataset_tests
from byzpy_tw.testing.properties import longest_row as longest_row
from byzpy_tw.testing.properties import partition_tests as partition_tests
from byzpy_tw.testing.properties import preaggregator_tests as preaggregator_tests

warnings.warn(
    "byzpy_tw.testing.laws is called byzpy_tw.testing.properties now; this name goes with the "
    "next release",
    DeprecationWarning,
    stacklevel=2,
)
