"""The loop over a run's rounds: evaluation, records, checkpoints, and the status at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import torch
from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from byzpy_tw.algorithms.rules import ResolvedRules
from byzpy_tw.algorithms.state import State
from byzpy_tw.config.merge import unused_notices
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import AttackFailed, CannotRecord, Diverged
from byzpy_tw.events import (
    AttackCallFailed,
    CheckpointNotWritten,
    CheckpointWritten,
    Evaluated,
    Incident,
    NodesPlaced,
    RoundBegun,
    RoundCompleted,
    RunStarted,
)
from byzpy_tw.output.observers import Observers
from byzpy_tw.output.view import ServersKnown, ViewGroup
from byzpy_tw.plugins import Registry
from byzpy_tw.records.folder import RunDirectory
from byzpy_tw.records.metrics import described_metrics
from byzpy_tw.records.resume import ResumePoint, compare_with_recorded, new_resume_point
from byzpy_tw.records.resume_hints import how_to_resume
from byzpy_tw.records.summary import RunSummary, summarize
from byzpy_tw.rounds.absences import Absences, FirstRefusals
from byzpy_tw.rounds.evaluator import Evaluation, Evaluator
from byzpy_tw.rounds.placement import placement_notices
from byzpy_tw.rounds.round_rows import make_rows
from byzpy_tw.scheduling import clock
from byzpy_tw.scheduling.shared_deferred import SharedDeferred, settled
from byzpy_tw.scheduling.threads import defer_to_pool
from byzpy_tw.text import count_rounds
from byzpy_tw.trainer.checkpoint_scheduler import CheckpointScheduler
from byzpy_tw.trainer.cluster import Cluster, Terms
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.finished_run import check_attack, save_final_model
from byzpy_tw.trainer.handshake import gather_all
from byzpy_tw.trainer.preparation import (
    Prepared,
    budget_notices,
    guarantee_notices,
    prepare_data,
)
from byzpy_tw.trainer.provenance import add_process, begun_at, now
from byzpy_tw.trainer.reactor import ITrainerReactor
from byzpy_tw.trainer.recorded_events import RecordedEvents
from byzpy_tw.trainer.round_runner import CompletedRound, RoundRunner
from byzpy_tw.trainer.run_description import RunDescription
from byzpy_tw.trainer.server_entry import ServerEntry
from byzpy_tw.workers.data import is_local
from byzpy_tw.workers.tasks import task_of


@define(eq=False)
class Training:
    """One run: `prepare`, then `run` with the outcome and the servers, and always `finish`."""

    config: RunConfig
    registry: Registry
    rules: ResolvedRules
    views: ViewGroup
    directory: RunDirectory
    observers: Observers
    threads: int
    _reactor: ITrainerReactor
    _pool: Executor
    resume_point: ResumePoint = field(factory=new_resume_point)  # the rounds that are done
    process: Mapping[str, Any] = field(factory=dict)  # this one, of `describe_process`
    status: str = field(default="running", init=False)
    ended: Mapping[str, Any] | None = field(default=None, init=False)  # the result, once it is over
    _summary: RunSummary = field(init=False)
    _started_at: float = field(init=False)
    _cluster: Cluster | None = field(default=None, init=False)  # once `run` is called
    _rounds: RoundRunner | None = field(default=None, init=False)  # once the servers are there
    checkpoint_scheduler: CheckpointScheduler = field(init=False)
    _recording: SharedDeferred[None] | None = field(default=None, init=False)  # of the last round
    _recorded_events: RecordedEvents = field(factory=RecordedEvents, init=False)
    _absences: Absences = field(init=False)
    _refusals: FirstRefusals = field(factory=FirstRefusals, init=False)
    _processes: Sequence[Mapping[str, Any]] = field(init=False)  # this one is the last
    _bytes: tuple[int, int] = field(default=(0, 0), init=False)  # before this process
    _description: RunDescription = field(init=False)
    _options_digest: str = field(init=False)  # the configuration's digest, in each record
    _recorded_digest: str = field(init=False)  # the one whose options are on record

    log = Logger()

    def __attrs_post_init__(self) -> None:
        config, begun = self.config, self.resume_point
        initial = initial_config_json(config, begun)
        self._description = RunDescription(initial, self.directory, begun)
        keep = None if config.keep_checkpoints == "all" else int(config.keep_checkpoints)
        self.checkpoint_scheduler = CheckpointScheduler(
            self.directory.path, config.checkpoint_interval, keep,
            self.directory.sync_rounds, self._reactor, round=begun.round,
        )  # fmt: skip
        self._started_at = clock.seconds(self._reactor) - begun.seconds
        metrics = described_metrics(begun.description)
        self._summary = summarize(config, begun.records, metrics)
        self._processes = add_process(begun.description, self.process, len(begun.records))
        self._absences = Absences(config.n, len(config.remote_hosts) or config.local or 1)
        for record in begun.records:
            self._absences.add(record)
            self._refusals.add(record)
        self._options_digest = config.bits
        self._recorded_digest = begun.records[-1].get("bits", "") if begun.records else ""
        self._bytes = self._summary.counts.bytes_sent, self._summary.counts.bytes_received

    @property
    def has_begun(self) -> bool:
        """Tell whether it came as far as its first round."""
        return self._rounds is not None

    @property
    def leaves_result(self) -> bool:
        """Tell whether its end is put on record: else a resumed run leaves all as it was."""
        return self.has_begun or not self.resume_point.description

    async def prepare(self) -> Prepared:
        """Read the data and build the model: nothing needs a server yet."""
        for line in (
            *unused_notices(self.config), *guarantee_notices(self.rules),
            *budget_notices(self.rules, self.resume_point),
        ):  # fmt: skip
            self.views.notice(line)
        prepared = await defer_to_pool(
            self._reactor, self._pool, prepare_data, self.config, self.registry, self.rules,
            self.threads, self.directory.path, self.resume_point.description,
        )  # fmt: skip
        outcome = prepared.trial_outcome
        self.log.info(
            "{run}: the trial before round 0 took {seconds:.3f} s",
            run=self.directory.path.name, seconds=outcome.seconds,
        )  # fmt: skip
        for line in prepared.messages:
            self.views.notice(line)
        for line in prepared.warnings:
            self.views.warn(line)
        for line in compare_with_recorded(
            self.resume_point, prepared.evaluator.dimension, prepared.digest, outcome.trial,
            prepared.environment, self.config.strict, self.config.precision,
        ):  # fmt: skip
            self.views.warn(f"{line}: results may differ in their last bits")
        return prepared

    async def run(self, prepared: Prepared, entries: Sequence[ServerEntry]) -> None:
        """Train on `entries`.  Raises the error that ends the run early."""
        config = self.config
        collector = Collector(
            make_rows(
                self.rules.participation.asked, config.n, len(entries),
                prepared.evaluator.dimension, pinned=self.rules.aggregation.device.pinned,
            ),
            self._reactor, self._pool,
            getattr(torch, config.wire_dtype), config.round_timeout,
        )  # fmt: skip
        self._cluster = cluster = self._make_cluster(entries, prepared, collector)
        self.views.handle(ServersKnown(cluster.server_states))
        rounds = RoundRunner(
            config, cluster, collector, prepared.evaluator,
            self.rules.make_algorithm(),
            self._recorded_events, self._reactor, self._pool, self.threads,
            self._foreign_task(prepared),
        )  # fmt: skip
        if self.resume_point.state is not None:
            rounds.restore(self.resume_point.state)
        await self._start_cluster(cluster, prepared)
        if self.resume_point.description:  # only now: until here all is as it was
            self.directory.cut(self.resume_point.round)
        self._rounds = rounds
        for number in range(self.resume_point.round, config.rounds):
            self.views.handle(RoundBegun(number))
            gathered = await rounds.gather(number)
            await settled(self._recording)
            await self.checkpoint_scheduler.wait_until_tensors_free()
            keep = self.checkpoint_scheduler.is_due(number + 1)
            # From here to its record, a round is not interrupted.
            ran = SharedDeferred(rounds.commit(gathered, keep=keep))
            self._recording = SharedDeferred(self._finish_round(number, ran.wait(), prepared))
            await ran.wait()
        await settled(self._recording)
        self._check_attack()
        self.status = "finished"
        if config.save_model is not None:
            await defer_to_pool(
                self._reactor, self._pool, save_final_model, config, self.registry, prepared,
                self.directory.path,
            )  # fmt: skip

    def _foreign_task(self, prepared: Prepared) -> str:
        """Return the task for messages, where it is other code; empty where it is our own."""
        text = task_of(self.config.spec(), self.registry, prepared.dataset)
        return self.registry.owner("task", text) if self.registry.is_foreign("task", text) else ""

    def _check_attack(self) -> None:
        try:
            check_attack(self.config, self._summary)
        except AttackFailed:
            self.status = "failed"
            raise

    def _make_cluster(
        self, entries: Sequence[ServerEntry], prepared: Prepared, collector: Collector
    ) -> Cluster:
        config, asked = self.config, self.rules.participation.asked
        terms = Terms(
            config, self.registry, self.resume_point.token, prepared.environment, prepared.opened,
            local_data=is_local(self.registry, config.partition),
            devices=list(self._description.texts_before("devices").values()),
            attack=prepared.attack,
            most_asked=None if asked == config.n else asked,
            data_digests=self._description.texts_before("data_digests"),
        )  # fmt: skip
        return Cluster(entries, terms, collector, self._reactor, self._handle)

    def _handle(self, incident: Incident) -> None:
        self._recorded_events.handle(incident)
        self.views.handle(incident)

    async def _start_cluster(self, cluster: Cluster, prepared: Prepared) -> None:
        config = self.config
        if not config.in_process:
            for line in placement_notices(
                config.n, len(cluster.entries), config.f, config.max_nodes_per_server,
                cluster.placement.failover,
            ):  # fmt: skip
                self.views.notice(line)
        await cluster.start()
        placement = cluster.assignments()
        self.views.handle(NodesPlaced(placement, config.num_honest))
        description = self._description.begin(prepared, cluster.entries, placement, self._processes)
        self._summary.metrics = described_metrics(description)
        cluster.on_joined = self._record_server
        if self.resume_point.description:
            done, again = self.resume_point.round, "beginning again: there is no checkpoint"
            self.views.say(f"going on after {count_rounds(done)}" if done else again)
        self.views.handle(RunStarted(description, self.resume_point.records))

    def _record_server(self, entry: ServerEntry) -> None:
        assert self._cluster is not None
        try:
            self._description.add_server(entry, self._cluster.home_nodes(entry))
        except CannotRecord as e:
            self.views.warn(str(e))

    async def _finish_round(
        self, number: int, running: Deferred[CompletedRound], prepared: Prepared
    ) -> None:
        """Evaluate if it is due, record, and tell: the next round does not wait for it."""
        ran, config, digest = await running, self.config, self._options_digest
        record = {**ran.record, "parameters_sha256": await ran.digest, "bits": digest}
        if self._recorded_digest != digest:  # an audit finds the options of each round
            record["options"], self._recorded_digest = config.result_options, digest
        every, done = config.eval_interval, number + 1
        is_due = done == config.rounds or (every and done % every == 0)
        if is_due and prepared.evaluator.jobs:
            evaluation = await self._evaluate(prepared.evaluator)
            record |= evaluation.entries
            values = {"test_loss": evaluation.loss, **evaluation.metrics}
            self.views.handle(Evaluated(number, values))
        self.directory.append_round(record)
        before = self._summary.counts.attack_failures
        self._summary.add(record)
        failures = self._summary.counts.attack_failures
        if before is None and failures is not None:
            attack, node = self.config.attack, failures.node
            self.views.handle(AttackCallFailed(number, attack, node, failures.why))
        for event in (*self._refusals.add(record), *ran.events, *self._absences.add(record)):
            self.views.handle(event)
        self.views.handle(RoundCompleted(record, self._elapsed()))
        if ran.state is not None:
            writing = self._write_checkpoint(ran.state)
            if self.config.checkpoint_interval is None:
                writing.addErrback(lambda failure: failure.trap(Exception) and None)
            else:  # an interval was given: this one must be there
                await writing
        elif self.checkpoint_scheduler.failed is not None:
            raise self.checkpoint_scheduler.failed

    async def _evaluate(self, evaluator: Evaluator) -> Evaluation:
        def compute(work: Callable[[int], Any], jobs: int) -> Any:
            return gather_all(
                [defer_to_pool(self._reactor, self._pool, work, job) for job in range(jobs)]
            )

        if jobs := evaluator.statistics_jobs:
            evaluator.write_statistics(await compute(evaluator.record_statistics, jobs))
        return evaluator.add_up(await compute(evaluator.evaluate, evaluator.jobs))

    async def finish(self, error: BaseException | None = None) -> dict[str, Any]:
        """Close all servers, write the last checkpoint and the result, and return that."""
        if isinstance(error, Diverged):
            self.status = "diverged"
        elif self.status == "running":
            # A paused run that cannot be resumed now is paused still.
            before = self.resume_point.result.get("status")
            can_go_on = self.has_begun or before in ("paused", "interrupted")
            early = "paused" if can_go_on else "failed"
            self.status = "interrupted" if error is None else early
        interrupted: CancelledError | None = None
        try:
            await settled(self._recording)  # the last round is recorded even if the next one failed
        except CancelledError as e:  # not waiting any more
            self.status, interrupted = "interrupted", e
            if self._recording is not None:
                self._recording.cancel()
        except Exception:
            pass  # `error` is its consequence
        try:
            if interrupted is None:
                await self._save()
            if self._cluster is not None:
                await self._cluster.close()
        finally:  # interrupted once more, or only now: the result stands
            self.checkpoint_scheduler.close()
            result = self.ended = self.result(error)
            self._write_result(result, error)
        self.observers.tell("run_finished", result=result)
        if self.observers.is_used:  # or a pool that is busy would be waited for
            await defer_to_pool(self._reactor, self._pool, self.observers.finish)
        if interrupted is not None:
            raise interrupted
        return result

    def _write_result(self, result: dict[str, Any], error: BaseException | None) -> None:
        try:
            if self.leaves_result:
                self.directory.sync_rounds()  # or it would tell of more than is there
                self.directory.write_result(result)
        except CannotRecord:
            if not isinstance(error, CannotRecord):  # or the user knows already
                raise
        finally:
            self.directory.close()

    def _write_checkpoint(self, state: State) -> Deferred[None]:
        """Write `state`; tell of the checkpoint when it is on the disk."""
        writing = self.checkpoint_scheduler.begin(state, self._elapsed())
        return writing.addCallback(lambda _: self.views.handle(CheckpointWritten(state.round)))

    async def _save(self) -> None:
        """Write the last checkpoint: the state after the last round on record."""
        if self._rounds is None or self.status == "diverged":
            return
        done, recorded = self._rounds.rounds_done, self._summary.counts.rounds
        if self.config.checkpoint_interval == 0 or done != recorded:
            return  # none is wanted; or a round is half done or not on record: it will run again
        try:
            await self.checkpoint_scheduler.wait_until_written()
            if recorded > self.checkpoint_scheduler.round:
                await self._write_checkpoint(self._rounds.state())
        except CancelledError:
            raise
        except Exception as e:
            if self.status == "finished":
                self.views.warn(str(e))
            else:
                at = self.checkpoint_scheduler.round
                self.views.handle(CheckpointNotWritten(at, str(e)))

    @property
    def resumable(self) -> str:
        """The way to go on with a run that ended early; empty where there is none."""
        cannot_begin = self.status == "paused" and not self.has_begun
        if self.status not in ("paused", "interrupted") or cannot_begin:
            return ""
        at = self.checkpoint_scheduler.round
        what = (
            f"a checkpoint after {count_rounds(at)}"
            if at
            else "no checkpoint, so from the first one"
        )
        return f"to go on ({what}): {how_to_resume(self.directory.path, self.config)}"

    def result(self, error: BaseException | None = None) -> dict[str, Any]:
        """Return the content of result.json."""
        sent, received = self._cluster.tensor_bytes() if self._cluster is not None else (0, 0)
        return {
            "status": self.status,
            "error": str(error) if error is not None else None,
            "error_code": getattr(error, "code", None),
            **self._summary.figures(),
            "halted": self._rounds.halt_record if self._rounds is not None else None,
            "started": begun_at(self._processes),
            "ended": now(self._reactor),
            "seconds": self._elapsed(),
            "bytes_sent": self._bytes[0] + sent,
            "bytes_received": self._bytes[1] + received,
        }

    def _elapsed(self) -> float:
        return clock.seconds(self._reactor) - self._started_at


def initial_config_json(config: RunConfig, begun: ResumePoint) -> dict[str, Any]:
    """Return the content of config.json from the first moment: enough to begin again."""
    return {"config": config.to_dict(), "bits": config.bits, "run": begun.token}
