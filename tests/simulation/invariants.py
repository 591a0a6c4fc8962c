"""Invariants of every history, whatever its faults."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import define, field

from byzpy_tw.records.folder import to_json
from tests.simulation.contributions import Contributions
from tests.simulation.history import History
from tests.simulation.reference import Reference, References
from tests.simulation.trainer import AggregationInput, SimulatedTrainer


def violations(history: History, references: References) -> list[str]:
    """Return everything that is wrong with `history`; empty if nothing is."""
    wrong = [*_check_end(history)]
    wrong += _RunCheck(history, references.for_config(history.schedule.config)).violations()
    if history.ended and history.schedule.recoverable:
        wrong += _check_recovered(
            history, references.for_config(history.schedule.config).undisturbed_digest()
        )
    return wrong


def _check_end(history: History) -> Iterator[str]:
    """Check that the run ended, and that nothing was raised or left behind."""
    loop = history.loop
    if not history.ended:
        yield f"the trainer hangs: not over at {history.ended_at:g} s, {loop.count} events"
    for trainer in history.lifecycle.trainers:
        if trainer.bug is not None:
            yield f"the trainer ended with a bug: {trainer.bug.getTraceback()}"
    for failure in loop.raised:
        yield f"an event raised: {failure.getTraceback()}"
    for text in history.logged:
        yield f"logged as a failure: {text}"
    yield from history.left
    if history.ended and history.trainer.bug is None:
        yield from _check_result(history)


def _check_result(history: History) -> Iterator[str]:
    trainer, result, rounds = history.trainer, history.result, history.rounds
    if trainer.killed and trainer.folder.result is None:
        return
    if trainer.begun.description and not trainer.training_began:
        return  # resumed, and ended before its first round: all is as it was
    if result is None:
        yield "the run ended without a result"
        return
    done = len(rounds) == history.schedule.config.rounds
    if result["rounds"] != len(rounds):
        yield f"result.json counts {result['rounds']} rounds of {len(rounds)}"
    if rounds and result["parameters_sha256"] != rounds[-1]["parameters_sha256"]:
        yield "result.json has other parameters than the last round"
    if (result["status"] == "finished") != (done and trainer.error is None):
        interrupted = any(f.kind == "interrupt" for f in history.schedule.faults)
        if not (interrupted and result["status"] == "interrupted"):
            yield f"{result['status']} after {len(rounds)} rounds, with {trainer.error!r}"


def _check_recovered(history: History, undisturbed_digest: str | None) -> Iterator[str]:
    """Check that failover and resuming hid all faults: the result is that of a run without any."""
    if undisturbed_digest is None:
        return
    ends = [f"{trainer.status}: {trainer.error}" for trainer in history.lifecycle.trainers]
    if history.status != "finished":
        yield f"all that befell it could be met, and it ended {ends}"
    elif not history.rounds or history.rounds[-1]["parameters_sha256"] != undisturbed_digest:
        refused = {r["round"]: r["refused"] for r in history.rounds if r["refused"]}
        yield f"all that befell it could be met, and it came to other bits; refused {refused}"


@define(eq=False)
class _RunCheck:
    """Checks the rounds that each process aggregated, in order."""

    history: History
    reference: Reference
    _expected: list[Mapping[str, Any]] = field(factory=list, init=False)  # in rounds.jsonl

    def violations(self) -> Iterator[str]:
        before: SimulatedTrainer | None = None
        last: SimulatedTrainer | None = None  # that came as far as a round
        for trainer in self.history.lifecycle.trainers:
            begun = trainer.begun
            if begun.round > len(self._expected):
                yield f"{trainer.process.name} begins with round {begun.round}, which is not known"
                return
            if before is not None:
                yield from self._resumed(before, trainer)
            if [*begun.records] != _plain(self._expected[: begun.round]):
                yield f"{trainer.process.name} goes on from other records than were written"
            if not trainer.training_began:
                before = trainer
                continue  # it ended before its first round: all is as it was
            del self._expected[begun.round :]
            self.reference.rewind(begun.round)
            yield from self._check_trainer(trainer)
            before = last = trainer
        found, expected = self.history.rounds, _plain(self._expected)
        lost = last is not None and last.killed  # with its last lines, perhaps
        if (found != expected[: len(found)]) or (len(found) < len(expected) and not lost):
            yield f"rounds.jsonl has {len(found)} rounds, and not those {len(expected)} that were"

    def _resumed(self, before: SimulatedTrainer, trainer: SimulatedTrainer) -> Iterator[str]:
        """Check that it goes on from the newest checkpoint."""
        name, round = trainer.process.name, trainer.begun.round
        if round < before.saved:
            yield f"{name} begins with round {round}, a checkpoint of {before.saved} was there"
        orderly = before.status in ("interrupted", "paused") and not before.killed
        wanted = self.history.schedule.config.checkpoint_interval != 0
        begun = before.training_began
        if orderly and wanted and begun and round != len(self._expected):
            yield f"{name} begins with round {round}, {len(self._expected)} were recorded"

    def _check_trainer(self, trainer: SimulatedTrainer) -> Iterator[str]:
        first, reference = trainer.begun.round, self.reference
        if [u.round for u in trainer.aggregated] != list(
            range(first, first + len(trainer.aggregated))
        ):
            yield f"rounds {[u.round for u in trainer.aggregated]} were aggregated, from {first} on"
            return
        # No round begins before a server has its nodes.
        begins = min((time for time, _ in trainer.transcript.ready), default=0.0)
        for now, record in _pairs(trainer):
            checked = Contributions(self.history, trainer, reference, now, begins, record)
            yield from checked.violations()
            reference.step(now.nodes, now.f, now.rows, record)
            begins = now.time
            if record is None:
                return  # it was not recorded: the run ended here
            self._expected.append(record)
            if record["parameters_sha256"] != reference.digest:
                yield f"round {now.round} gave other parameters than its contributions do"


def _pairs(
    trainer: SimulatedTrainer,
) -> Iterator[tuple[AggregationInput, Mapping[str, Any] | None]]:
    for i, aggregated in enumerate(trainer.aggregated):
        yield aggregated, trainer.folder.rounds[i] if i < len(trainer.folder.rounds) else None


def _plain(records: list[Mapping[str, Any]]) -> list[Any]:
    return [json.loads(to_json(record)) for record in records]
