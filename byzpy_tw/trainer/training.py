"""A whole run, from its configuration to its result."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy
import torch
from attrs import asdict, define, evolve, field
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.logger import Logger

import byzpy_tw
from byzpy_tw.config.paths import absolute
from byzpy_tw.config.run import RunConfig
from byzpy_tw.config.unused import unused
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import AttackFailed, CannotRecord, Diverged, UnsuitableData
from byzpy_tw.kernels.cpu import resolve_device
from byzpy_tw.output.observers import Observers
from byzpy_tw.output.view import View
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.shorthand import build_attack
from byzpy_tw.records.folder import RunDirectory
from byzpy_tw.records.resume import ResumePoint, compare_with_recorded, new_resume_point
from byzpy_tw.records.summary import RunSummary, summarize
from byzpy_tw.rounds.learner import Evaluation, Learner, add_up
from byzpy_tw.rounds.placement import placement_notices
from byzpy_tw.rounds.resolved_rules import ResolvedRules
from byzpy_tw.rounds.rules_trial import try_rules
from byzpy_tw.scheduling import clock
from byzpy_tw.scheduling.shared_deferred import SharedDeferred, settled
from byzpy_tw.scheduling.threads import defer_to_pool
from byzpy_tw.trainer.checkpointer import Checkpointer
from byzpy_tw.trainer.cluster import Cluster, Terms
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.rounds import CompletedRound, Rounds
from byzpy_tw.trainer.server_interface import Opened
from byzpy_tw.trainer.server_slot import ServerSlot
from byzpy_tw.workers.attack_trial import try_attack
from byzpy_tw.workers.environment import Environment, environment
from byzpy_tw.workers.host import check_model, check_shard, make_model, make_shards, try_run_model
from byzpy_tw.workers.model_trial import TrialOutcome
from byzpy_tw.workers.probe import probe
from byzpy_tw.workers.spec import node_specs

READ_AGAIN_SECONDS, READ_AGAIN_BYTES = 0.2, 1 << 25  # of a plugin's data, at most


@define(eq=False)
class Prepared:
    """What the trainer itself holds before it talks to anyone."""

    dataset: Dataset
    learner: Learner
    digest: str
    environment: Environment
    trial_outcome: TrialOutcome
    warnings: Sequence[str] = ()  # for the user, before round 0
    attack: str = ""  # digest of the attack's trial, where a plugin has it


def prepare_data(
    config: RunConfig, registry: Registry, rules: ResolvedRules, threads: int
) -> Prepared:
    """Read the data and build the model of `config`, and try all that is foreign in it.

    Raises what is wrong with the data, the model, a rule or the attack.
    """
    spec = config.spec()
    data = read_data(config, registry)
    shards = make_shards(spec, registry, data)
    for i, shard in enumerate(shards):
        check_shard(i, len(shard), spec)
    check_model(spec, registry, data)
    begun = time.perf_counter()
    # On the CPU, as the probe is: its bits are compared with the servers'.
    trial_outcome = try_run_model(spec, registry, data, shards, torch.device("cpu"))
    not_finite = [*data.non_finite(), *trial_outcome.warnings]
    if not_finite and config.strict:
        raise UnsuitableData(f"{'; '.join(not_finite)} (--strict)")
    warnings = [*data.empty(), *not_finite]
    model = make_model(spec, registry, data, checked=True)
    dimension = sum(leaf.numel() for leaf in model.parameters())
    try_rules(config, registry, rules, dimension)
    who = registry.owner("model", config.model)
    trial_outcome.check_initial(model, who)
    model = model.to(resolve_device(config.device))
    attack = ""
    if config.num_byz:
        make = partial(
            build_attack, registry, config.attack, n=config.n, b=config.num_byz, f=config.f
        )
        attack = getattr(try_attack(make, spec, dimension), "digest", "")
    trial_outcome = evolve(trial_outcome, seconds=time.perf_counter() - begun)
    learner = Learner(
        model,
        data,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        milestones=config.lr_milestones,
        decay=config.lr_decay,
        copied=trial_outcome.copied,
        who=who,
    )
    here = environment(registry, probe=probe(), device=config.device, threads=threads)
    return Prepared(data, learner, data.digest(), here, trial_outcome, warnings, attack)


def read_data(config: RunConfig, registry: Registry) -> Dataset:
    """The data of `config`; a plugin's is read twice where that takes no time.

    Raises `UnsuitableData` where it is other data then, as no server would have the same.
    """
    root, begun = absolute(config.data_root), time.perf_counter()
    data: Dataset = registry.make("dataset", config.dataset, root=root)
    quick = time.perf_counter() - begun < READ_AGAIN_SECONDS and data.nbytes <= READ_AGAIN_BYTES
    if quick and registry.is_foreign("dataset", config.dataset):
        first = data.digest()  # before it is read again, which may change what it shares
        if registry.make("dataset", config.dataset, root=root).digest() != first:
            raise UnsuitableData(
                f"{registry.owner('dataset', config.dataset)} is other data each time it is "
                "read: it draws from a generator that nobody seeds, or changes what it keeps; "
                "draw from a generator with a seed of its own"
            )
    return data


@define(eq=False)
class Training:
    """One run.  `prepare`, then `run` with the hosts; `result` at any time after."""

    config: RunConfig
    registry: Registry
    rules: ResolvedRules
    screen: View
    directory: RunDirectory
    observers: Observers
    threads: int
    _reactor: Any
    _pool: Executor
    begun: ResumePoint = field(factory=new_resume_point)  # what there is of the run already
    status: str = field(default="running", init=False)
    _tally: RunSummary = field(init=False)
    _started_at: float = field(init=False)
    _cluster: Cluster | None = field(default=None, init=False)
    _rounds: Rounds | None = field(default=None, init=False)
    _saving: Checkpointer = field(init=False)
    _prepared: Prepared | None = field(default=None, init=False)
    _tail: SharedDeferred[None] | None = field(default=None, init=False)  # of the last round
    _bytes: tuple[int, int] = field(default=(0, 0), init=False)  # before this process
    _bits: str = field(init=False)  # the configuration's digest, in each record
    _recorded_bits: str = field(init=False)  # the one whose options are on record

    log = Logger()

    def __attrs_post_init__(self) -> None:
        config, begun = self.config, self.begun
        kept = None if config.keep_checkpoints == "all" else int(config.keep_checkpoints)
        self._saving = Checkpointer(
            self.directory.path, config.checkpoint_interval, kept,
            self.directory.sync_rounds, self._reactor, round=begun.round,
        )  # fmt: skip
        self._started_at = clock.seconds(self._reactor) - (
            begun.state.elapsed if begun.state else 0.0
        )
        self._tally = summarize(config)
        for record in begun.records:
            self._tally.add(record)
        self._bits = config.bits
        self._recorded_bits = begun.records[-1].get("bits", "") if begun.records else ""
        self._bytes = (
            sum(record.get("bytes_sent", 0) for record in begun.records),
            sum(record.get("bytes_received", 0) for record in begun.records),
        )

    # -- before

    async def prepare(self) -> Prepared:
        """Read the data and build the model: nothing needs a server yet."""
        for line in unused(self.config):
            self.screen.notice(line)
        if self.rules.missing_guarantee is not None:
            self.screen.notice(
                f"no guarantee: {self.config.pipeline}: {self.rules.missing_guarantee} "
                "(--strict makes this an error)"
            )
        prepared = self._prepared = await defer_to_pool(
            self._reactor,
            self._pool,
            prepare_data,
            self.config,
            self.registry,
            self.rules,
            self.threads,
        )
        trial_outcome = prepared.trial_outcome
        self.log.info(
            "the trial before round 0 took {seconds:.3f} s", seconds=trial_outcome.seconds
        )
        for line in prepared.warnings:
            self.screen.notice(f"warning: {line}")
        for line in compare_with_recorded(
            self.begun,
            prepared.learner.dimension,
            prepared.digest,
            trial_outcome.trial,
            prepared.environment,
            self.config.strict,
        ):
            self.screen.notice(f"warning: {line}: results may differ in their last bits")
        return prepared

    # -- the run

    async def run(self, slots: Sequence[ServerSlot]) -> None:
        """Train on `slots`.  Raises what ends the run early."""
        assert self._prepared is not None
        config, prepared = self.config, self._prepared
        collector = Collector(
            torch.zeros(config.n, prepared.learner.dimension),
            self._reactor,
            self._pool,
            getattr(torch, config.wire_dtype),
            config.round_timeout,
        )
        self._cluster = cluster = self._make_cluster(slots, prepared, collector)
        self.screen.watch(cluster.server_states)
        rounds = Rounds(
            config,
            cluster,
            collector,
            prepared.learner,
            self.rules,
            self._reactor,
            self._pool,
            self.threads,
        )
        if self.begun.state is not None:
            rounds.restore(self.begun.state)
        await self._start_cluster(cluster)
        if self.begun.description:  # only now: until here all is as it was
            self.directory.cut(self.begun.round)
        self._rounds = rounds
        for number in range(self.begun.round, config.rounds):
            gathered = await rounds.gather(number)
            await settled(self._tail)
            await self._saving.wait_until_tensors_free()
            keep = self._saving.is_due(number + 1)
            # From here to its record, a round is not interrupted.
            ran = SharedDeferred(rounds.commit(gathered, keep=keep))
            self._tail = SharedDeferred(self._finish_round(number, ran.wait()))
            await ran.wait()
        await settled(self._tail)
        failures = self._tally.attack.failures
        if failures is not None and failures.total:
            self.status = "failed"
            raise AttackFailed(
                f"the attack {config.attack!r} failed {failures.counted}, and not one of its "
                f"vectors was aggregated: {failures.first}; the result says nothing about "
                f"{config.pipeline}: mend the attack, or choose another --attack"
            )
        self.status = "finished"

    def _make_cluster(
        self, slots: Sequence[ServerSlot], prepared: Prepared, collector: Collector
    ) -> Cluster:
        config = self.config
        partition = self.registry.make("partition", config.partition)
        terms = Terms(
            config,
            self.registry,
            self.begun.token,
            prepared.environment,
            Opened(prepared.learner.dimension, prepared.digest, prepared.trial_outcome.trial),
            local_data=getattr(partition, "local", False),
            attack=prepared.attack,
        )
        nodes = node_specs(honest=config.num_honest, byzantine=config.num_byz, attack=config.attack)
        return Cluster(slots, terms, nodes, collector, self._reactor, self.screen.event)

    async def _start_cluster(self, cluster: Cluster) -> None:
        config = self.config
        if not config.in_process:
            lines = placement_notices(
                config.n, len(cluster.slots), config.f, config.max_nodes_per_server
            )
            for line in lines:
                self.screen.notice(line)
        await cluster.start()
        self.screen.placement(cluster.assignments())
        description = self._description(cluster)
        self.directory.write_config(description)
        if self.begun.description:
            again = "" if self.begun.round else ", for there is no checkpoint"
            self.screen.say(f"going on with round {self.begun.round + 1}{again}")
        self.screen.begun(description, self.begun.records)
        self.observers.tell("run_started", config=description)

    async def _finish_round(self, number: int, running: Deferred[CompletedRound]) -> None:
        """Evaluate if it is time to, record, and tell: the next round does not wait for it."""
        ran = await running
        record = {**ran.record, "parameters_sha256": await ran.digest, "bits": self._bits}
        if (
            self._recorded_bits != self._bits
        ):  # whoever audits the run finds here what it was made with
            record["options"], self._recorded_bits = self.config.result_options, self._bits
        last = number == self.config.rounds - 1
        every = self.config.eval_interval
        is_due = last or (every and (number + 1) % every == 0)
        if is_due and self._prepared is not None and len(self._prepared.dataset.test):
            evaluation = await self._evaluate()
            record["test_loss"] = evaluation.loss
            record["accuracy"] = evaluation.accuracy
        self.directory.append_round(record)
        before = self._tally.attack.failures
        self._tally.add(record)
        failures = self._tally.attack.failures
        self.observers.tell("round_completed", record=record)
        if before is None and failures is not None:
            self.screen.event(
                f"round {number}: the attack {self.config.attack!r} failed at node "
                f"{failures.node}: {failures.why}; its nodes count as refused"
            )
        for line in ran.news:
            self.screen.event(f"round {number}: {line}")
        self.screen.round(record, self._elapsed())
        if ran.state is not None:
            writing = self._saving.begin(ran.state, self._elapsed())
            if self.config.checkpoint_interval is None:
                writing.addErrback(lambda failure: failure.trap(Exception) and None)
            else:  # asked for: this one must be there
                await writing
        elif self._saving.failed is not None:
            raise self._saving.failed

    async def _evaluate(self) -> Evaluation:
        assert self._prepared is not None
        learner = self._prepared.learner
        jobs = [
            defer_to_pool(self._reactor, self._pool, learner.test, job)
            for job in range(learner.evaluation_jobs)
        ]
        try:
            return add_up(await gatherResults(jobs, consumeErrors=True))
        except FirstError as e:
            raise e.subFailure.value from None

    # -- after

    async def finish(self, error: BaseException | None = None) -> dict[str, Any]:
        """Close every host, write the last checkpoint and the result, and hand that back."""
        if isinstance(error, Diverged):
            self.status = "diverged"
        elif self.status == "running":
            begun = self._rounds is not None
            self.status = "interrupted" if error is None else "paused" if begun else "failed"
        interrupted: CancelledError | None = None
        try:
            await settled(self._tail)  # the last round is told even if the next one failed
        except CancelledError as e:  # not waiting any more
            self.status, interrupted = "interrupted", e
            if self._tail is not None:
                self._tail.cancel()
        except Exception:
            pass  # `error` is what it came to
        try:
            if interrupted is None:
                await self._save()
            if self._cluster is not None:
                await self._cluster.close()
        finally:  # interrupted once more, or only now: the result stands
            self._saving.close()
            result = self.result(error)
            try:
                # Resumed, and ended before its first round: all is as it was.
                if self._rounds is not None or not self.begun.description:
                    self.directory.sync_rounds()  # or it would tell of more than is there
                    self.directory.write_result(result)
            except CannotRecord:
                if not isinstance(error, CannotRecord):  # or it is told already
                    raise
            finally:
                self.directory.close()
        self.observers.tell("run_finished", result=result)
        if self.observers.is_used:  # or a pool that is busy would be waited for
            await defer_to_pool(self._reactor, self._pool, self.observers.finish)
        if interrupted is not None:
            raise interrupted
        return result

    async def _save(self) -> None:
        """The last checkpoint: what the run is after the last round that is on record."""
        if self._rounds is None or self.status == "diverged" or not self._saving.enabled:
            return
        if self._rounds.done != self._tally.rounds:
            return  # a round is half done, or not on record: it will be run again
        try:
            await self._saving.settled()
            if self._tally.rounds > self._saving.round:
                await self._saving.begin(self._rounds.state(), self._elapsed())
        except CancelledError:
            raise
        except Exception as e:
            if self.status == "finished":
                self.screen.notice(f"warning: {e}")
            else:
                self.screen.event(f"no newer checkpoint than of round {self._saving.round}: {e}")

    @property
    def resumable(self) -> str:
        """How to go on with a run that ended early; empty where there is nothing to say."""
        if self.status not in ("paused", "interrupted"):
            return ""
        at = self._saving.round
        what = f"a checkpoint of round {at}" if at else "no checkpoint yet, so from round 0"
        return f"to go on ({what}): --resume {self.directory.path}"

    def result(self, error: BaseException | None = None) -> dict[str, Any]:
        """What result.json holds."""
        sent, received = self._cluster.tensor_bytes() if self._cluster is not None else (0, 0)
        return {
            "status": self.status,
            "error": str(error) if error is not None else None,
            "error_code": getattr(error, "code", None),
            **self._tally.figures(),
            "halted": self._rounds.halt_record if self._rounds is not None else None,
            "seconds": self._elapsed(),
            "bytes_sent": self._bytes[0] + sent,
            "bytes_received": self._bytes[1] + received,
        }

    def _elapsed(self) -> float:
        return clock.seconds(self._reactor) - self._started_at

    def _description(self, cluster: Cluster) -> dict[str, Any]:
        """What config.json holds."""
        assert self._prepared is not None
        here = self._prepared.environment
        return {
            **initial_config_json(self.config, self.begun),
            "dimension": self._prepared.learner.dimension,
            "data_digest": self._prepared.digest,
            "data_digests": dict(cluster.data_digests()),
            "trial": asdict(self._prepared.trial_outcome.trial),
            "versions": {
                "byzpy_tw": byzpy_tw.__version__,
                "python": here.python,
                "torch": here.torch,
                "numpy": numpy.__version__,
                "platform": platform.platform(),
                "instructions": here.instructions,
                "probe": here.probe,
            },
            "plugins": dict(here.plugins),
            "placement": {name: [n.node for n in nodes] for name, nodes in cluster.assignments()},
        }


def initial_config_json(config: RunConfig, begun: ResumePoint) -> dict[str, Any]:
    """What config.json holds from the first moment: enough to begin again."""
    return {"config": config.to_dict(), "bits": config.bits, "run": begun.token}
