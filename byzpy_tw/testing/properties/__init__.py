"""The laws of each kind of plugin, as tests: one call makes a test class.

    from byzpy_tw.testing.properties import aggregator_tests

    WinsorizedLaws = aggregator_tests(WinsorizedMean)

What comes back is a `SynchronousTestCase`, which pytest and trial find under the name
that it is given.  What a rule is held to depends on what it declares: of the laws in
its ``laws`` it gets one test each, and what every rule owes its caller is tested always.
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
