"""Whether a run's records are what its configuration and its membership come to.

1. What the folder says of itself must agree: config.json with the records' digest,
   result.json with the records, kept checkpoints with the hashes (`recorded_run`, `_checkpoints`).
2. The run is computed again (`replay`), from round 0 or from a kept checkpoint.  In each
   round the recorded nodes take part, the rules have the recorded f, and the parameters
   must have the recorded hash.
3. Where one is not met, the recorded norms tell what differs, and the next round whether
   only that record was changed.  Where it was more, the replay goes on from the next kept
   checkpoint, if there is one.

What a server really sent that it should not have sent is not known here: a round that it
entered cannot be met, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from attrs import define, field

from byzpy_tw.audit.recompute import RecomputedRound, RoundRecomputer
from byzpy_tw.audit.replay import prepare_replay
from byzpy_tw.config.run import RunConfig
from byzpy_tw.errors import ConfigError, DamagedCheckpoint, RunDirectoryError, format_error
from byzpy_tw.plugins import Registry
from byzpy_tw.records import checkpoint
from byzpy_tw.records.checkpoint import State
from byzpy_tw.records.recorded_run import (
    Problem,
    RecordedRun,
    compare_with_result,
    config_in_process,
    recorded_config,
)
from byzpy_tw.records.resume import ResumePoint, compare_trials, compare_with_recorded
from byzpy_tw.text import clean_value, printable
from byzpy_tw.vectors import sha256_of
from byzpy_tw.workers.environment import environment
from byzpy_tw.workers.probe import probe

CLOSE = 1e-4  # relative; norms that differ by less differ by rounding


@define(eq=False)
class Verification:
    """One run directory.  `run`, then look at `problems`."""

    recorded_run: RecordedRun
    registry: Registry
    pool: Executor
    threads: int
    data_root: str | None = None
    # Called with the rounds that are done, and how many there are to do.
    progress: Callable[[int, int], None] = lambda done, all: None
    problems: list[Problem] = field(factory=list, init=False)
    notes: list[str] = field(factory=list, init=False)
    spans: list[tuple[int, int]] = field(factory=list, init=False)  # rounds computed: [a, b)
    _config: RunConfig = field(init=False)
    _again: RoundRecomputer = field(init=False)
    _kept: dict[int, Path] = field(factory=dict, init=False)  # round -> checkpoint that is good
    _at: int | None = field(default=None, init=False)  # the round that is being computed
    _pending: Problem | None = field(default=None, init=False)  # a hash, until the next round

    @property
    def confirmed(self) -> bool:
        """Whether every recorded hash that was looked at is met, and nothing contradicts it."""
        return not self.problems and bool(self.spans)

    def run(self, start: int = 0) -> None:
        """Verify, from the state before round `start`; raises `ConfigError` for a bad one."""
        recorded_run = self.recorded_run
        self.problems += recorded_run.problems
        if not len(recorded_run):
            why = f" ({recorded_run.problems[0].text})" if recorded_run.problems else ""
            raise RunDirectoryError(
                f"{printable(recorded_run.path)}: no round is on record{why}, nothing to verify"
            )
        if start and start not in self.checkpointed_rounds():
            there = ", ".join(map(str, sorted(self.checkpointed_rounds()))) or "none"
            raise ConfigError(f"no checkpoint of round {start} was kept (there are: {there})")
        config, found = recorded_config(recorded_run)
        self._config = config_in_process(config, self.data_root)
        self.problems += [*found, *compare_with_result(recorded_run)]
        self._ended()
        self._checkpoints()
        if start and start not in self._kept:
            return  # damaged, or not what is on record, which is a problem by now
        try:
            self._prepare()
            self._replay_from(start)
        except Exception as e:  # models and rules are plugins' code, a checkpoint is a file
            if self._pending is not None:
                self.problems.append(self._pending)
            where = "the run" if self._at is None else f"round {self._at}"
            text = f"{where} cannot be computed here: {clean_value(format_error(e), 1000)}"
            self.problems.append(Problem("replay", text, self._at))

    def checkpointed_rounds(self) -> list[int]:
        """The rounds of which there is a checkpoint with records before and after it."""
        found = map(checkpoint.round_of, checkpoint.list_checkpoints(self.recorded_run.path))
        return sorted(r for r in found if 0 < r < len(self.recorded_run))

    # -- before the replay

    def _ended(self) -> None:
        recorded_run, rounds = self.recorded_run, self._config.rounds
        if recorded_run.torn:
            self.notes.append("the last line of rounds.jsonl has no end: it was being written")
        if len(recorded_run) < rounds:
            self.notes.append(f"{len(recorded_run)} of {rounds} rounds are on record")
        elif len(recorded_run) > rounds:
            text = f"{len(recorded_run)} rounds are on record, the run was to have {rounds}"
            self.problems.append(Problem("record", text))

    def _checkpoints(self) -> None:
        """Each kept checkpoint must have the parameters whose hash is on record."""
        for path in checkpoint.list_checkpoints(self.recorded_run.path):
            round = checkpoint.round_of(path)
            if not 0 < round <= len(self.recorded_run):
                self.notes.append(f"{path.name} is of a round that is not on record")
                continue
            recorded = self.recorded_run.records[round - 1]["parameters_sha256"]
            try:
                state = checkpoint.read(path)
                found = self._do(sha256_of, state.parameters)
            except DamagedCheckpoint as e:
                self.problems.append(Problem("checkpoint", str(e), round))
                continue
            if found == recorded:
                self._kept[round] = path
            else:
                text = (
                    f"{path.name} holds other parameters ({found[:12]}) than are on record "
                    f"after round {round - 1} ({recorded[:12]})"
                )
                self.problems.append(Problem("checkpoint", text, round - 1))

    def _prepare(self) -> None:
        config, recorded_run = self._config, self.recorded_run
        root = Path(config.data_root)
        replay = self._do(prepare_replay, config, self.registry, root, self.pool, self.threads + 2)
        self._again = RoundRecomputer(replay, self.pool, self.threads)
        digest = replay.host.dataset.digest()
        here = environment(
            self.registry, probe=self._do(probe), device=config.device, threads=self.threads
        )
        try:
            lines = compare_with_recorded(
                ResumePoint("", description={**recorded_run.description, "trial": None}),
                replay.host.dimension, digest, replay.host.trial_outcome.trial, here, False,
            )  # fmt: skip
        except RunDirectoryError as e:
            raise RunDirectoryError(f"{e}; --data-root says where the data is") from e
        self.notes += [f"{line}: last bits may differ" for line in lines]
        same = recorded_run.description.get("versions", {}).get("probe") == here.probe
        changed = compare_trials(
            recorded_run.description.get("trial"), replay.host.trial_outcome.trial, same
        )
        if changed:
            text = (
                f"{'; '.join(changed)}: the dataset, partition or model is made by other code "
                "here, or from numbers of this process such as hash(), so that what follows says "
                "nothing of the run's nodes"
            )
            self.problems.append(Problem("replay", text))
        partition = self.registry.make("partition", config.partition)
        theirs = recorded_run.description.get("data_digests")
        if getattr(partition, "local", False) and isinstance(theirs, dict):
            other = sorted(name for name, d in theirs.items() if d != digest)
            if other:
                raise ConfigError(
                    f"{len(other)} servers trained on data of their own (--partition "
                    f"{config.partition}), which is not here: {', '.join(other)[:300]}"
                )

    # -- the replay

    def _replay_from(self, start: int) -> None:
        state: State | None = self._state(start)
        while state is not None:
            state = self._span(state)

    def _state(self, round: int) -> State:
        """Before `round`: of a checkpoint that was found good, or the first."""
        return checkpoint.read(self._kept[round]) if round else self._again.replay.first

    def _span(self, state: State) -> State | None:
        """Compute on until the records go another way; where to begin again, if anywhere."""
        begun, total = state.round, len(self.recorded_run)
        while state.round < total:
            self._at = number = state.round
            record = self.recorded_run.records[number]
            ran = self._again.round(state, record)
            met = ran.digest == record["parameters_sha256"]
            same_way = met or self._norms_met(ran, record)
            if self._pending is not None:
                before, self._pending = self._pending, None
                if same_way:
                    self._only_the_record(before)
                else:
                    self.problems.append(before)
                    later = [r for r in sorted(self._kept) if r > number and r < total]
                    end = later[0] if later else total
                    self._unknown(number, end)
                    self._went(begun, number)
                    return self._state(later[0]) if later else None
            if met:
                self._figures(number, ran, record)
            else:
                self._pending = self._unmet(number, ran, record)
            state = ran.state
            self.progress(state.round, total)
        if self._pending is not None:
            self.problems.append(self._pending)
            self._pending = None
        self._went(begun, total)
        return None

    def _went(self, begun: int, end: int) -> None:
        if end > begun:
            self.spans.append((begun, end))

    def _only_the_record(self, problem: Problem) -> None:
        text = f"{problem.text}; what follows goes on as if it were: this record was changed"
        self.problems.append(Problem(problem.what, text, problem.round))

    def _unknown(self, number: int, end: int) -> None:
        until = (
            f"up to the checkpoint of round {end}" if end < len(self.recorded_run) else "to the end"
        )
        text = (
            f"from round {number} on, {until}, the records go another way than the replay and "
            "cannot be checked (with --keep-checkpoints all, a run keeps more to begin from)"
        )
        self.problems.append(Problem("way", text, number))

    def _do(self, work: Callable[..., Any], *args: Any) -> Any:
        """In the pool, where torch computes on one thread, as it did in the run."""
        return self.pool.submit(work, *args).result()

    # -- what differs

    def _norms_met(self, ran: RecomputedRound, record: Mapping[str, Any]) -> bool:
        """Whether all vectors have the norms that are on record: the way is the same."""
        return not list(_other_norms(ran, record))

    def _figures(self, number: int, ran: RecomputedRound, record: Mapping[str, Any]) -> None:
        """What else a record says that must follow where the hash is met."""
        for name, here in ran.figures.items():
            there = record.get(name)
            if name == "norms":
                there = {n: there.get(n) for n in here} if isinstance(there, Mapping) else there
            if name in record and not _equal(there, here):
                text = (
                    f"round {number}: {name} {clean_value(there)} on record, "
                    f"{clean_value(here)} here"
                )
                self.problems.append(Problem("record", text, number))

    def _unmet(self, number: int, ran: RecomputedRound, record: Mapping[str, Any]) -> Problem:
        """What a hash that is not met is owed to, as far as the record tells."""
        recorded = record["parameters_sha256"]
        lead = (
            f"round {number}: the recorded hash {clean_value(recorded[:12])} is not met, "
            f"computed {ran.digest[:12]}"
        )
        other = list(_other_norms(ran, record))
        if not other:
            if _equal(record.get("aggregate_norm"), ran.figures["aggregate_norm"]):
                why = "the norms of the vectors and of their aggregate are as recorded"
            else:
                why = (
                    "the norms of the vectors are as recorded, what the rules make of them is "
                    "not: is it f or the membership on record, the rules or their version?"
                )
        elif all(math.isclose(a, b, rel_tol=CLOSE) for _, a, b in other):
            why = "norms differ by rounding alone: other versions or instructions than then?"
        else:
            why = self._liars(other)
        return Problem("hash", f"{lead}; {why}", number)

    def _liars(self, other: Sequence[tuple[int, float, float]]) -> str:
        """Which nodes' vectors are not what they compute, and where they lived."""
        homes = self.recorded_run.description.get("placement")
        told = []
        for node, recorded, here in other[:5]:
            told.append(f"node {node}{_home(homes, node)} norm {recorded:.6g}, here {here:.6g}")
        more = f" and {len(other) - 5} more" if len(other) > 5 else ""
        return (
            f"not what the nodes compute: {'; '.join(told)}{more} (what a server sent in their "
            "place, if it lied, cannot be computed again)"
        )


def _other_norms(
    ran: RecomputedRound, record: Mapping[str, Any]
) -> Iterator[tuple[int, float, float]]:
    """Nodes whose vector has another norm than on record, and both."""
    norms = record.get("norms")
    for node, here in ran.figures["norms"].items():
        there = norms.get(node) if isinstance(norms, Mapping) else None
        if not _equal(there, here):
            there = there if isinstance(there, (int, float)) else math.nan
            yield int(node), float(there), here


def _home(homes: Any, node: int) -> str:
    for name, nodes in homes.items() if isinstance(homes, dict) else ():
        if isinstance(nodes, list) and node in nodes:
            return f" (at the start on {clean_value(name)})"
    return ""


def _equal(there: Any, here: Any) -> bool:
    """Whether a record says what was found; what is not finite is null there."""
    if isinstance(here, float) and not math.isfinite(here):
        here = None
    return there == here
