"""Verification of a run: its records against its configuration and its membership.

1. The files must agree with each other: config.json with the records' digest, result.json with the
   records, kept checkpoints with the recorded hashes.
2. The run is computed again, from round 0 or from a kept checkpoint.  In each round the recorded
   nodes take part, the rules have the recorded f, and the parameters must have the recorded hash.
3. Where they have not, the recorded norms tell what differs, and the next round whether only that
   record was changed.  Otherwise the replay goes on from the next kept checkpoint, if there is one.

A vector that a server sent in place of a node's own is not known here: the hash of its
round cannot be met, and that is reported.

With `nodes`, step 2 is another one: only their vectors are computed, next to each kept checkpoint,
and compared with the recorded norms (see `byzpy_tw.audit.site`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from attrs import define, evolve, field

from byzpy_tw.algorithms.state import State
from byzpy_tw.audit.consistency import Problem, compare_with_result, find_damage, recorded_config
from byzpy_tw.audit.recompute import RoundRecomputer
from byzpy_tw.audit.replay import RoundReplay, prepare_replay
from byzpy_tw.audit.site import check_nodes, check_vectors, describe_site, site_advice
from byzpy_tw.config.paths import absolute
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError, DamagedCheckpoint, RunDirectoryError, format_error
from byzpy_tw.plugins import Registry, parse
from byzpy_tw.records import checkpoint
from byzpy_tw.records.folder import RecordedRun, list_checkpoints
from byzpy_tw.records.resume import ResumePoint, compare_trials, compare_with_recorded
from byzpy_tw.records.weights_file import differing_weights
from byzpy_tw.tasks import Metric
from byzpy_tw.text import clean_value, join_numbers, printable
from byzpy_tw.vectors import sha256_of
from byzpy_tw.workers.data import is_local
from byzpy_tw.workers.device import CPU, Device, find_equal_device, open_device
from byzpy_tw.workers.environment import environment, probe
from byzpy_tw.workers.tasks import task_of


def config_in_process(config: RunConfig, data_root: str | None) -> RunConfig:
    """Return `config` with its nodes in this process, and its data in `data_root` if given."""
    return evolve(
        config, in_process=True, remote_hosts=(), local=None, min_servers=None, keys=None,
        max_nodes_per_server=None, heartbeat_timeout=None, strict=False,
        data_root=str(absolute(config.data_root if data_root is None else data_root)),
    )  # fmt: skip


@define(eq=False, repr=False)
class Verification:
    """The verification of one run.  `run` it, then look at `problems`."""

    recorded: RecordedRun
    registry: Registry
    pool: Executor
    threads: int
    data_root: str | None = None
    nodes: Sequence[int] = ()  # those of one site, to compute their vectors alone
    # Called with the rounds that are done, and how many there are to do.
    progress: Callable[[int, int], None] = lambda done, all: None
    problems: list[Problem] = field(factory=list, init=False)
    notes: list[str] = field(factory=list, init=False)
    spans: list[tuple[int, int]] = field(factory=list, init=False)  # rounds computed: [a, b)
    vectors: int = field(default=0, init=False)  # of `nodes`, that were compared
    _description: Mapping[str, Any] = field(init=False)  # config.json, or the site's part of it
    _config: RunConfig = field(init=False)
    _recomputer: RoundRecomputer = field(init=False)
    _checkpoints: dict[int, Path] = field(factory=dict, init=False)  # the good ones, by round
    _round: int | None = field(default=None, init=False)  # that is being computed
    _unconfirmed: Problem | None = field(default=None, init=False)  # an unmet hash, for one round

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """The records that can be read."""
        return self.recorded.rounds

    def __repr__(self) -> str:
        """Return one line, which a notebook shows of what `byzpy_tw.verify` returns."""
        done = sum(end - begin for begin, end in self.spans)
        first = f": {self.problems[0].text}" if self.problems else ""
        found = "confirmed" if self.confirmed else f"not confirmed{first}"
        of = f"{done} of {len(self.rounds)} rounds computed again"
        return f"<Verification of {printable(self.recorded.path)}: {found}; {of}>"

    @property
    def confirmed(self) -> bool:
        """True if every hash that was compared is met, and nothing contradicts the records."""
        return not self.problems and bool(self.spans)

    def run(self, start: int = 0) -> None:
        """Verify from the state before round `start` on.

        Raises `ConfigError` where there is no checkpoint of `start`, and `RunDirectoryError`
        where no round is on record.
        """
        self.problems += find_damage(self.recorded)
        if not self.rounds:
            why = f" ({self.problems[0].text})" if self.problems else ""
            raise RunDirectoryError(
                f"{printable(self.recorded.path)}: no round is on record{why}, nothing to verify"
            )
        if start and start not in self.checkpointed_rounds():
            there = ", ".join(map(str, self.checkpointed_rounds())) or "none"
            raise ConfigError(f"no checkpoint of round {start} was kept (there are: {there})")
        config, problems = recorded_config(self.recorded)
        self._config = self._with_device_here(config_in_process(config, self.data_root))
        self._description = self._describe()
        self.problems += [*problems, *compare_with_result(self.recorded)]
        self._check_length()
        self._check_checkpoints()
        if start and start not in self._checkpoints:
            return  # damaged, or not as recorded, which is a problem by now
        try:
            self._prepare()
            if self.nodes:
                return self._verify_nodes()
            state: State | None = self._state_before(start)
            while state is not None:
                state = self._verify_from(state)
        except Exception as e:  # models and rules are plugins' code, a checkpoint is a file
            if self._unconfirmed is not None:
                self.problems.append(self._unconfirmed)
            where = "the run" if self._round is None else f"round {self._round}"
            text = f"{where} cannot be computed here: {clean_value(format_error(e), 1000)}"
            self.problems.append(Problem("replay", text, self._round))

    def _state_before(self, round: int) -> State:
        if round == 0:
            return self._recomputer.replay.first
        return checkpoint.read(self._checkpoints[round])

    def checkpointed_rounds(self) -> list[int]:
        """Return the rounds with a checkpoint before them, without the first and the last."""
        found = list_checkpoints(self.recorded.path)
        return sorted(round for round in found if 0 < round < len(self.rounds))

    # -- before the replay

    def _describe(self) -> Mapping[str, Any]:
        if not self.nodes:
            return self.recorded.description
        check_nodes(self.nodes, self._config.num_honest)
        local = is_local(self.registry, self._config.partition)
        return describe_site(self.recorded.description, self.nodes, local)

    def _check_length(self) -> None:
        done, planned = len(self.rounds), self._config.rounds
        if self.recorded.reader.torn:
            self.notes.append("the last line of rounds.jsonl has no end: it was being written")
        if done < planned:
            self.notes.append(f"{done} of {planned} rounds are on record")
        elif done > planned:
            text = f"{done} rounds are on record, the run was to have {planned}"
            self.problems.append(Problem("record", text))

    def _check_checkpoints(self) -> None:
        """Compare the parameters of each kept checkpoint with the recorded hash."""
        for round, path in list_checkpoints(self.recorded.path).items():
            if not 0 < round <= len(self.rounds):
                self.notes.append(f"{path.name} is of a round that is not on record")
                continue
            recorded = self.rounds[round - 1]["parameters_sha256"]
            try:
                parameters = checkpoint.read(path).parameters
                found = self.pool.submit(sha256_of, parameters).result()
            except DamagedCheckpoint as e:
                self.problems.append(Problem("checkpoint", str(e), round))
                continue
            if found == recorded:
                self._checkpoints[round] = path
            else:
                text = (
                    f"{path.name} holds other parameters ({clean_value(found)}) than are on "
                    f"record after round {round - 1} ({clean_value(recorded)})"
                )
                self.problems.append(Problem("checkpoint", text, round - 1))

    def _prepare(self) -> None:
        """Read the data, make the model and the nodes, and compare them with config.json."""
        root, jobs = Path(self._config.data_root), self.threads + 2
        replay = self.pool.submit(  # where torch computes on one thread
            prepare_replay, self._config, self.registry, root, self.pool, jobs,
            self._node_device(), self.recorded,
        ).result()  # fmt: skip
        self._recomputer = RoundRecomputer(replay, self.pool, self.threads)
        if not self.nodes:
            self._check_local_data(replay.host.dataset.digest())
        self._compare_environment(replay)
        self._compare_task(replay)
        self._compare_metrics(replay.evaluator.metrics)
        self._compare_chance(replay)
        if why := differing_weights(replay.weights, self.recorded.description):
            self.problems.append(Problem("record", why))

    def _with_device_here(self, config: RunConfig) -> RunConfig:
        """Return `config` with the CPU in the place of a device that is not here."""
        try:
            open_device(config.device)
        except ConfigError:
            self.notes.append(f"the run's --device {config.device} is not here: on the CPU instead")
            return evolve(config, device="cpu")
        return config

    def _node_device(self) -> Device:
        """Return the device that the run's nodes computed on, or the CPU."""
        recorded = self._description.get("devices")
        found = sorted(set(map(str, recorded.values()))) if isinstance(recorded, dict) else []
        device = find_equal_device(found[0]) if len(found) == 1 else None
        if found and device is None:
            self.notes.append(
                f"the run's nodes computed on {clean_value(', '.join(found))}, here all do on the "
                "CPU: vectors differ by rounding, so that no hash is met"
            )
        return device or CPU

    def _compare_environment(self, replay: RoundReplay) -> None:
        description, trial = self._description, replay.host.trial_outcome.trial
        here = environment(
            self.registry, probe=self.pool.submit(probe).result(), threads=self.threads,
            device=open_device(self._config.device).description,
        )  # fmt: skip
        try:
            lines = compare_with_recorded(
                ResumePoint("", description={**description, "trial": None}),
                replay.host.dimension, replay.host.dataset.digest(), trial, here, False,
                self._config.precision,
            )  # fmt: skip
        except RunDirectoryError as e:
            raise RunDirectoryError(f"{e}; --data-root says where the data is") from e
        self.notes += [f"{line}: last bits may differ" for line in lines]
        same_probe = description.get("versions", {}).get("probe") == here.probe
        recorded, precision = description.get("trial"), self._config.precision
        if changed := compare_trials(recorded, trial, same_probe, precision):
            text = (
                f"{'; '.join(changed)}: the dataset, partition or model is made by other code "
                "here, or from numbers of this process such as hash(), so that what follows says "
                "nothing of the run's nodes"
            )
            self.problems.append(Problem("replay", text))

    def _compare_task(self, replay: RoundReplay) -> None:
        """Compare config.json with the name of the task, where it has one."""
        there = self.recorded.description.get("task")
        here = parse(task_of(replay.host.spec, self.registry, replay.host.dataset)).name
        if there is not None and there != here:
            text = f"config.json has the task {clean_value(there)}, the run is of {here}"
            self.problems.append(Problem("record", text))

    def _compare_metrics(self, here: Sequence[Metric]) -> None:
        """Compare config.json with the task's metrics, which decide what the best value is."""
        there, mine = (
            ", ".join(
                f"{m.name} ({m.better} is better, unit {m.unit or 'none'}, format {m.format})"
                for m in metrics
            )
            for metrics in (self.recorded.metrics, here)
        )
        if there != mine:
            text = f"config.json has the metrics {there}, the task has {mine}"
            self.problems.append(Problem("record", text))

    def _compare_chance(self, replay: RoundReplay) -> None:
        """Compare config.json with the metrics' values by chance, where it has them."""
        if self.nodes:  # it is of the trainer's test labels, and a site may have others
            return
        there = self.recorded.description.get("chance")
        here = replay.evaluator.chance()
        if there is not None and there != here:
            text = (
                f"config.json has chance {clean_value(there)}, the task tells {clean_value(here)}"
            )
            self.problems.append(Problem("record", text))

    def _check_local_data(self, digest: str) -> None:
        """Raise `ConfigError` where servers had data of their own, which is not here."""
        theirs = self._description.get("data_digests")
        if isinstance(theirs, dict) and is_local(self.registry, self._config.partition):
            other = sorted(name for name, d in theirs.items() if d != digest)
            if other:
                raise ConfigError(
                    f"{len(other)} servers trained on data of their own (--partition "
                    f"{self._config.partition}), which is not here: {', '.join(other)[:300]}; "
                    f"{site_advice(self._description, digest, self._config.num_honest)}"
                )

    # -- the replay

    def _verify_nodes(self) -> None:
        """Compare the vectors of `nodes`, in each round before which the parameters are kept."""
        replay = self._recomputer.replay
        rounds = [0, *(round for round in self.checkpointed_rounds() if round in self._checkpoints)]
        unseen = set(self.nodes)
        for done, number in enumerate(rounds, 1):
            self._round = number
            state, record = self._state_before(number), self.rounds[number]
            found = list(check_vectors(replay, self.pool, state, record, self.nodes))
            for text in filter(None, (vector.difference for vector in found)):
                self.problems.append(Problem("norm", f"round {number}: {text}", number))
            self.vectors += len(found)
            unseen -= {vector.node for vector in found}
            self.spans += [(number, number + 1)] if found else []
            self.progress(done, len(rounds))
        if unseen:
            text = (
                f"nothing is confirmed of nodes {join_numbers(sorted(unseen))}: no vector of "
                "theirs came whole in a round whose parameters are kept"
            )
            self.problems.append(Problem("norm", text))

    def _verify_from(self, state: State) -> State | None:
        """Compute on until two hashes in a row are not met; return the state to go on from."""
        begin, total = state.round, len(self.rounds)
        while state.round < total:
            self._round = number = state.round
            record = self.rounds[number]
            found = self._recomputer.recompute(state, record)
            recorded = record["parameters_sha256"]
            met = found.digest == recorded
            if self._unconfirmed is not None:
                before, self._unconfirmed = self._unconfirmed, None
                if not met and found.differing_norms(record):
                    self.problems.append(before)
                    self.spans.append((begin, number))
                    return self._skip_from(number)
                text = f"{before.text}; what follows goes on as if it were: this record was changed"
                self.problems.append(Problem(before.what, text, before.round))
            if met:
                for text in found.differing_entries(record):
                    self.problems.append(Problem("record", f"round {number}: {text}", number))
            else:
                why = found.explain_hash(record, self.recorded.description.get("placement"))
                text = (
                    f"round {number}: the recorded hash {clean_value(recorded)} is not met, "
                    f"computed {clean_value(found.digest)}; {why}"
                )
                self._unconfirmed = Problem("hash", text, number)
            state = found.state
            self.progress(state.round, total)
        if self._unconfirmed is not None:
            self.problems.append(self._unconfirmed)
            self._unconfirmed = None
        self.spans.append((begin, total))
        return None

    def _skip_from(self, number: int) -> State | None:
        """Report the rounds from `number` on as unknown; return the next checkpoint's state."""
        later = min((r for r in self._checkpoints if number < r < len(self.rounds)), default=None)
        until = "to the end" if later is None else f"up to the checkpoint of round {later}"
        text = (
            f"from round {number} on, {until}, the records go another way than the replay and "
            "cannot be checked (with --keep-checkpoints all, a run keeps more to begin from)"
        )
        self.problems.append(Problem("way", text, number))
        return None if later is None else checkpoint.read(self._checkpoints[later])
