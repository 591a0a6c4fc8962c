"""Hostile conversations with a server at an address: ``conformance --server``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.task import react

from byzpy_tw.errors import ServerUnreachable
from byzpy_tw.scheduling.clock import use_monotonic_clock
from byzpy_tw.transports import Address
from tests.fuzzing.cases import garbage, many, mutated
from tests.fuzzing.client import Replies, run_script, run_scripts
from tests.fuzzing.script import valid

Write = Callable[[str], None]


def server(address: Address, count: int, seed: int, write: Write) -> int:
    """Have `count` hostile conversations with the server at `address`, and a good one.

    Writes what came of them; 0 where the server serves as before.
    """
    found: list[int] = []

    async def main(reactor: Any) -> None:
        use_monotonic_clock(reactor)
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
        before = await run_script(*at, valid())
        if not _good(before):
            write(f"{address} does not serve this peer: {_errors([before])}")
            return 1
        heard = await run_scripts(*at, many(garbage, seed, count // 10))
        heard += await run_scripts(*at, many(mutated, seed, count - count // 10))
        after = await run_script(*at, valid())
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


def _good(heard: Replies) -> bool:
    return bool(heard.welcome and heard.stream_bytes and not heard.errors)


def _errors(heard: Sequence[Replies]) -> str:
    told = Counter(code.decode(errors="replace") for h in heard for code in h.errors)
    return ", ".join(f"{code} {n}" for code, n in told.most_common()) or "none"
