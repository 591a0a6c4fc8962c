"""``python -m byzpy_tw conformance``: rules and servers among bad inputs, and what held.

Rules, built in or a plugin's, are put to the laws of `testing.laws`: rows of NaN, of
infinities and of huge numbers, odd sizes, other threads.  A server at an address is
talked to as no honest trainer would (`testing.hostile`), and must serve afterwards.
"""

from __future__ import annotations

import unittest
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.task import react

from byzpy_tw.errors import ConfigError, ServerUnreachable
from byzpy_tw.plugins.registry import OWN, Entry, Registry
from byzpy_tw.testing import laws
from byzpy_tw.testing.conversation import valid
from byzpy_tw.testing.dialling import Heard, converse, converse_all
from byzpy_tw.testing.hostile import garbage, many, mutated
from byzpy_tw.wire.addresses import Address
from byzpy_tw.wire.clock import steady

Write = Callable[[str], None]

KINDS = ("aggregator", "pre-aggregator", "attack", "partition")


def _root_of_d(honest: Any) -> float:
    return float(honest.shape[1] ** 0.5)


# What else than the longest honest row bounds the answer of a rule of our own; None:
# nothing does, it need only be finite.
BOUNDS: dict[str, Any] = {"mean": None, "sign-majority": _root_of_d}


def laws_of(entry: Entry) -> Any:
    """The class of tests that `entry` is held to."""
    make, own = entry.factory, entry.distribution == OWN
    if entry.kind == "aggregator":
        if own and entry.name == "monna":  # its reference is trusted: it is not poisoned
            return laws.aggregator_tests(lambda f: make(f=f, reference=4))
        bound = {"bound": BOUNDS[entry.name]} if own and entry.name in BOUNDS else {}
        return laws.aggregator_tests(make, **bound)
    if entry.kind == "pre-aggregator":
        return laws.preaggregator_tests(make)
    if entry.kind == "attack":
        return laws.attack_tests(make)
    return laws.partition_tests(make, disjoint=not (own and entry.name == "local"))


@frozen
class Outcome:
    """Of one rule: how many tests held, and the first line of each failure."""

    entry: Entry
    held: int
    failures: tuple[str, ...]


def examined(entries: Sequence[Entry]) -> Iterator[Outcome]:
    """Put each of `entries` to its tests."""
    for entry in entries:
        suite = unittest.TestLoader().loadTestsFromTestCase(laws_of(entry))
        result = unittest.TestResult()
        suite.run(result)
        bad = [
            f"{test.id().rpartition('.')[2]}: {text.strip().splitlines()[-1]}"
            for test, text in (*result.failures, *result.errors)
        ]
        yield Outcome(entry, result.testsRun - len(bad), tuple(bad))


def rules(registry: Registry, names: Sequence[str], write: Write) -> int:
    """Examine the rules called `names`, or of distributions called so, or all.

    Writes a line for each; how many did not hold.
    """
    entries = [e for e in registry.entries() if e.kind in KINDS]
    for name in names:
        if not any(name in (e.name, e.distribution) for e in entries):
            raise ConfigError(f"no rule and no distribution with rules is called {name!r}")
    if names:
        entries = [e for e in entries if e.name in names or e.distribution in names]
    broken = 0
    for outcome in examined(entries):
        entry = outcome.entry
        what = f"{entry.kind} {entry.name} ({entry.distribution} {entry.version})"
        write(f"{what}: {outcome.held} tests held" + (", FAILED:" if outcome.failures else ""))
        for line in outcome.failures:
            write(f"  {line}")
        broken += bool(outcome.failures)
    return broken


def server(address: Address, count: int, seed: int, write: Write) -> int:
    """Have `count` hostile conversations with the server at `address`, and a good one.

    Writes what came of them; 0 where the server serves as before.
    """
    found: list[int] = []

    async def main(reactor: Any) -> None:
        steady(reactor)
        found.append(await _attacked(reactor, address, count, seed, write))

    try:
        react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
    except SystemExit as e:  # how `react` ends
        if not found:
            raise ServerUnreachable(f"{address}: the conversation broke off") from e
    return found[0]


async def _attacked(reactor: Any, address: Address, count: int, seed: int, write: Write) -> int:
    at = reactor, address.host, address.port
    try:
        before = await converse(*at, valid())
        if not _good(before):
            write(f"{address} does not serve this peer: {_errors([before])}")
            return 1
        heard = await converse_all(*at, many(garbage, seed, count // 10))
        heard += await converse_all(*at, many(mutated, seed, count - count // 10))
        after = await converse(*at, valid())
    except ConnectError as e:
        write(f"{address}: nobody answers: {e}")
        return 1
    write(
        f"{len(heard)} conversations: {sum(h.welcome for h in heard)} got past Hello, "
        f"{sum(h.opened for h in heard)} opened a run, "
        f"{sum(h.stream_bytes > 0 for h in heard)} got vectors; errors told: {_errors(heard)}"
    )
    held = _good(after)
    write(
        "it serves as before" if held else f"FAILED: a good conversation ends in {_errors([after])}"
    )
    return 0 if held else 1


def _good(heard: Heard) -> bool:
    return bool(heard.welcome and heard.stream_bytes and not heard.errors)


def _errors(heard: Sequence[Heard]) -> str:
    told = Counter(code.decode(errors="replace") for h in heard for code in h.errors)
    return ", ".join(f"{code} {n}" for code, n in told.most_common()) or "none"
