"""The laws of each kind of plugin, as tests: one call makes a test class.

    from byzpy_tw.testing.properties import aggregator_tests

    WinsorizedLaws = aggregator_tests(WinsorizedMean)

The result is a `SynchronousTestCase`, which pytest and trial find under the name
that it is given.  A rule gets one test for each law in its ``laws``, and the tests
that every rule must pass.
Needs hypothesis: ``pip install 'byzpy-tw[test]'``.
"""

from byzpy_tw.testing.properties.attacks import attack_tests
from byzpy_tw.testing.properties.data import dataset_tests, partition_tests
from byzpy_tw.testing.properties.rules import aggregator_tests, longest_row, preaggregator_tests

__all__ = [
    "aggregator_tests",
    "attack_tests",
    "dataset_tests",
    "longest_row",
    "partition_tests",
    "preaggregator_tests",
]
