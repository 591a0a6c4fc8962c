"""A server that a run is on, and strangers who talk to it as no trainer would.

In virtual time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from tests.fuzzing.cases import garbage, mutated
from tests.fuzzing.client import Replies, run_scripts
from tests.fuzzing.script import Script
from tests.simulation import many
from tests.simulation.cluster import PORT, host_of
from tests.simulation.history import History, registry
from tests.simulation.process import VirtualProcess
from tests.simulation.schedule import Schedule

ROUNDS = 40
MOST = 150  # conversations in a history
AT_ONCE = 6
STRANGERS = "10.0.3.1"
SLOW = 30.0  # seconds; a third of the shortest --round-timeout that is drawn
GARBAGE = 20  # one conversation in so many is a byte string, and no more


@define(eq=False)
class MaliciousTrainers:
    """Talk to the first server of a history for as long as its run goes on."""

    seed: int
    counts: Counter[str] = field(factory=Counter, init=False)
    wrong: list[str] = field(factory=list, init=False)
    events = 5_000_000  # at most, on top: where all comes in dust, a million are nothing
    _machine: VirtualProcess = field(init=False)
    _done: Deferred[Any] = field(init=False)
    _log: list[str] = field(factory=list, init=False)  # what the server said of them

    @property
    def over(self) -> bool:
        return self._done.called

    def begin(self, history: History) -> None:
        loop, network = history.loop, history.cluster.network
        self._machine = VirtualProcess(loop, network, "strangers", STRANGERS)
        globalLogPublisher.addObserver(self._logged)
        said = self._until_over(history)
        self._done = run_scripts(self._machine, host_of(0), PORT, said, at_once=AT_ONCE)
        self._done.addCallbacks(self._judge, self._broken)

    def leave(self) -> None:
        globalLogPublisher.removeObserver(self._logged)
        self._machine.die(silent=False)

    def _until_over(self, history: History) -> Iterator[Script]:
        for number in range(MOST):
            if history.lifecycle.over:
                break
            make = mutated if number % GARBAGE else garbage
            yield make(self.seed, number)

    def _logged(self, event: Any) -> None:
        if STRANGERS in str(event.get("peer", event.get("name", ""))):
            self._log.append(formatEvent(event))

    def _broken(self, failure: Failure) -> None:
        self.wrong.append(f"a conversation broke off: {failure.getTraceback()}")

    def _judge(self, heard: list[Replies]) -> None:
        reasons = "\n".join(line for line in self._log if " opened: " not in line)
        for one in heard:
            names = one.conversation.mutations or ("bytes",)
            self.counts["past the first box" if one.welcome else "first box"] += len(names)
            self.counts.update(names)
            self.counts["conversations"] += 1
            self.wrong += [f"{what}: {names}" for what in _unexpected_errors(one)]
            for line in one.lines.values():
                told = line.boxes and b"_error" in line.boxes[-1]
                if line.dismissed and not told and f"{line.here}: " not in reasons:
                    self.wrong.append(f"{line.here} was sent away without a word: {names}")


def _unexpected_errors(heard: Replies) -> Iterator[str]:
    """Return answers that were not due: one before Hello, or for a ticket's second use."""
    lines, streams = heard.lines.values(), 0
    for line in lines:
        answers = [box for box in line.boxes if b"_answer" in box]
        stream = line.stream_bytes or any(box[b"_answer"] == b"OpenStream" for box in answers)
        streams += bool(stream)
        # One that holds nothing may be OpenStream's, whatever its tag was changed to.
        telling = bool(answers) and len(answers[0]) > 1
        if telling and not stream and b"environment" not in answers[0]:
            yield f"{line.here} was answered {dict(answers[0])} before Hello"
    tickets = sum(b"ticket" in box for line in lines for box in line.boxes)
    if streams > tickets:
        yield f"{streams} tensor streams were opened with {tickets} tickets"


def draw_schedule(seed: int) -> Schedule:
    """A run that must come to the bits that it has alone."""
    number = seed
    while True:
        made = Schedule.draw(number, registry(), faults=0)
        if made.recoverable:
            break
        number += 1_000_003
    config = evolve(made.config, rounds=ROUNDS)
    # Much is said here: in crumbs it would take millions of events.
    profile = evolve(made.profile, capacity=max(made.profile.capacity, 65_536))
    return evolve(made, seed=seed, config=config, profile=profile, resumes=0)


def examine(seed: int) -> tuple[History, list[str], Counter[str]]:
    """The history of `seed`, what is wrong with it, and what strangers said."""
    unauthenticated = MaliciousTrainers(seed)
    history, wrong = many.examine(draw_schedule(seed), peers=unauthenticated)
    slow = [r["seconds"] for r in history.rounds if r["seconds"] > SLOW]
    if slow:
        wrong.append(f"{len(slow)} rounds were held up, for {max(slow):g} s at most")
    return history, [*wrong, *unauthenticated.wrong], unauthenticated.counts
