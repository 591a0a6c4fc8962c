"""``python -m byzpy_tw conformance``: test rules on bad inputs.

Rules, built in or a plugin's, are put to the tests of `testing.properties`: rows of NaN, of
infinities and of huge numbers, odd sizes, other threads.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import frozen

from byzpy_tw.errors import ConfigError
from byzpy_tw.plugins.registry import OWN_DISTRIBUTION, Entry, Registry
from byzpy_tw.testing import properties

Write = Callable[[str], None]

KINDS = ("aggregator", "pre-aggregator", "attack", "partition")


def _root_of_d(honest: Any) -> float:
    return float(honest.shape[1] ** 0.5)


# Bounds on the answers of built-in rules, where the longest honest row is none; None:
# it need only be finite.
BOUNDS: dict[str, Any] = {
    "mean": None, "foolsgold": None, "rlr": None, "sign-majority": _root_of_d
}  # fmt: skip


def make_tests(entry: Entry) -> Any:
    """Return the class of tests for `entry`."""
    make, own = entry.factory, entry.distribution == OWN_DISTRIBUTION
    if entry.kind == "aggregator":
        if own and entry.name == "monna":  # its reference is trusted: it is not poisoned
            return properties.aggregator_tests(lambda f: make(f=f, reference=4))
        bound = {"bound": BOUNDS[entry.name]} if own and entry.name in BOUNDS else {}
        return properties.aggregator_tests(make, **bound)
    if entry.kind == "pre-aggregator":
        return properties.preaggregator_tests(make)
    if entry.kind == "attack":
        return properties.attack_tests(make)
    return properties.partition_tests(make, disjoint=not (own and entry.name == "local"))


@frozen
class RuleResult:
    """The number of tests that one rule passed, and the last line of each failure."""

    entry: Entry
    held: int
    failures: tuple[str, ...]


def examine(entries: Sequence[Entry]) -> Iterator[RuleResult]:
    """Run the tests of each of `entries`."""
    for entry in entries:
        suite = unittest.TestLoader().loadTestsFromTestCase(make_tests(entry))
        result = unittest.TestResult()
        suite.run(result)
        bad = [
            f"{test.id().rpartition('.')[2]}: {text.strip().splitlines()[-1]}"
            for test, text in (*result.failures, *result.errors)
        ]
        yield RuleResult(entry, result.testsRun - len(bad), tuple(bad))


def rules(registry: Registry, names: Sequence[str], write: Write) -> int:
    """Test the rules called `names`, or of distributions of that name, or all.

    Writes a line for each; returns the number of rules that failed.
    """
    entries = [e for e in registry.entries() if e.kind in KINDS]
    for name in names:
        if not any(name in (e.name, e.distribution) for e in entries):
            raise ConfigError(f"no rule and no distribution with rules is called {name!r}")
    if names:
        entries = [e for e in entries if e.name in names or e.distribution in names]
    broken = 0
    for outcome in examine(entries):
        entry = outcome.entry
        what = f"{entry.kind} {entry.name} ({entry.distribution} {entry.version})"
        write(f"{what}: {outcome.held} tests held" + (", FAILED:" if outcome.failures else ""))
        for line in outcome.failures:
            write(f"  {line}")
        broken += bool(outcome.failures)
    return broken
