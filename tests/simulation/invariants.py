"""What must hold of every history, whatever befell it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import define, field

from byzpy_tw.records.folder import to_json
from tests.simulation.contributions import Contributions
from tests.simulation.history import History
from tests.simulation.reference import Reference, References
from tests.simulation.trainer import SimulatedTrainer, Used


def violations(history: History, references: References) -> list[str]:
    """What is wrong with `history`; empty if nothing is."""
    wrong = [*_sound(history)]
    wrong += _Chain(history, references.of(history.schedule.config)).wrong()
    if history.ended and history.schedule.meetable:
        wrong += _met(history, references.of(history.schedule.config).undisturbed())
    return wrong


def _sound(history: History) -> Iterator[str]:
    """It ended, and nothing was raised or left behind."""
    world = history.world
    if not history.ended:
        yield f"the trainer hangs: not over at {history.ended_at:g} s, {world.count} events"
    for life in history.lives.all:
        if life.bug is not None:
            yield f"the trainer ended with a bug: {life.bug.getTraceback()}"
    for failure in world.raised:
        yield f"an event raised: {failure.getTraceback()}"
    for text in history.logged:
        yield f"logged as a failure: {text}"
    yield from history.left
    if history.ended and history.trainer.bug is None:
        yield from _result(history)


def _result(history: History) -> Iterator[str]:
    life, result, rounds = history.trainer, history.result, history.rounds
    if life.killed and life.folder.result is None:
        return
    if life.begun.description and not life.training_began:
        return  # resumed, and ended before its first round: all is as it was
    if result is None:
        yield "the run ended without a result"
        return
    done = len(rounds) == history.schedule.config.rounds
    if result["rounds"] != len(rounds):
        yield f"result.json counts {result['rounds']} rounds of {len(rounds)}"
    if rounds and result["parameters_sha256"] != rounds[-1]["parameters_sha256"]:
        yield "result.json has other parameters than the last round"
    if (result["status"] == "finished") != (done and life.error is None):
        interrupted = any(f.kind == "interrupt" for f in history.schedule.faults)
        if not (interrupted and result["status"] == "interrupted"):
            yield f"{result['status']} after {len(rounds)} rounds, with {life.error!r}"


def _met(history: History, undisturbed: str | None) -> Iterator[str]:
    """Whatever befell it, failover and resuming met it: it must not show."""
    if undisturbed is None:
        return
    ends = [f"{life.status}: {life.error}" for life in history.lives.all]
    if history.status != "finished":
        yield f"all that befell it could be met, and it ended {ends}"
    elif not history.rounds or history.rounds[-1]["parameters_sha256"] != undisturbed:
        refused = {r["round"]: r["refused"] for r in history.rounds if r["refused"]}
        yield f"all that befell it could be met, and it came to other bits; refused {refused}"


@define(eq=False)
class _Chain:
    """Goes through the rounds that each process aggregated, in order."""

    history: History
    reference: Reference
    _expected: list[Mapping[str, Any]] = field(factory=list, init=False)  # in rounds.jsonl

    def wrong(self) -> Iterator[str]:
        before: SimulatedTrainer | None = None
        last: SimulatedTrainer | None = None  # that came as far as a round
        for life in self.history.lives.all:
            begun = life.begun
            if begun.round > len(self._expected):
                yield f"{life.machine.name} begins with round {begun.round}, which is not known"
                return
            if before is not None:
                yield from self._resumed(before, life)
            if [*begun.records] != _plain(self._expected[: begun.round]):
                yield f"{life.machine.name} goes on from other records than were written"
            if not life.training_began:
                before = life
                continue  # it ended before its first round: all is as it was
            del self._expected[begun.round :]
            self.reference.go_back(begun.round)
            yield from self._life(life)
            before = last = life
        found, expected = self.history.rounds, _plain(self._expected)
        lost = last is not None and last.killed  # with its last lines, perhaps
        if (found != expected[: len(found)]) or (len(found) < len(expected) and not lost):
            yield f"rounds.jsonl has {len(found)} rounds, and not those {len(expected)} that were"

    def _resumed(self, before: SimulatedTrainer, life: SimulatedTrainer) -> Iterator[str]:
        """It goes on from the newest checkpoint."""
        name, round = life.machine.name, life.begun.round
        if round < before.saved:
            yield f"{name} begins with round {round}, a checkpoint of {before.saved} was there"
        orderly = before.status in ("interrupted", "paused") and not before.killed
        wanted = self.history.schedule.config.checkpoint_interval != 0
        begun = before.training_began
        if orderly and wanted and begun and round != len(self._expected):
            yield f"{name} begins with round {round}, {len(self._expected)} were recorded"

    def _life(self, life: SimulatedTrainer) -> Iterator[str]:
        first, reference = life.begun.round, self.reference
        if [u.round for u in life.used] != list(range(first, first + len(life.used))):
            yield f"rounds {[u.round for u in life.used]} were aggregated, from {first} on"
            return
        # No round begins before a server has its nodes.
        begins = min((time for time, _ in life.heard.ready), default=0.0)
        for now, record in _pairs(life):
            checked = Contributions(self.history, life, reference, now, begins, record)
            yield from checked.wrong()
            reference.step(now.nodes, now.f, now.matrix)
            begins = now.time
            if record is None:
                return  # it was not recorded: the run ended here
            self._expected.append(record)
            if record["parameters_sha256"] != reference.digest:
                yield f"round {now.round} gave other parameters than its contributions do"


def _pairs(life: SimulatedTrainer) -> Iterator[tuple[Used, Mapping[str, Any] | None]]:
    for i, used in enumerate(life.used):
        yield used, life.folder.rounds[i] if i < len(life.folder.rounds) else None


def _plain(records: list[Mapping[str, Any]]) -> list[Any]:
    return [json.loads(to_json(record)) for record in records]
