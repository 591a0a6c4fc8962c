"""The old name of `byzpy_tw.testing.properties`, for one release."""

import warnings

from byzpy_tw.testing.properties import (
    aggregator_tests,
    attack_tests,
    dataset_tests,
    longest_row,
    partition_tests,
    preaggregator_tests,
)

__all__ = [
    "aggregator_tests",
    "attack_tests",
    "dataset_tests",
    "longest_row",
    "partition_tests",
    "preaggregator_tests",
]

warnings.warn(
    "byzpy_tw.testing.laws is called byzpy_tw.testing.properties now; this name goes with the "
    "next release",
    DeprecationWarning,
    stacklevel=2,
)
