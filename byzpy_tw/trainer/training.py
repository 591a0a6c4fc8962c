"""A whole run, from its configuration to its result."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy
import torch
from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.python.failure import Failure

import byzpy_tw
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import Diverged
from byzpy_tw.kernels.machine import device_of
from byzpy_tw.nodes.host import check_shard, make_model, make_shards
from byzpy_tw.nodes.probe import probe
from byzpy_tw.nodes.spec import NodeSpec, node_specs
from byzpy_tw.plugins import Registry
from byzpy_tw.runs.config import RunConfig
from byzpy_tw.runs.environment import Environment, environment
from byzpy_tw.runs.learner import Evaluation, Learner, whole
from byzpy_tw.runs.placement import notices, round_robin
from byzpy_tw.runs.record import RunDirectory
from byzpy_tw.runs.rules import Rules
from byzpy_tw.trainer import setup
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.hosts import Host, Opened
from byzpy_tw.trainer.observers import Observers
from byzpy_tw.trainer.rounds import Ran, Rounds
from byzpy_tw.trainer.screen import Screen
from byzpy_tw.wire.threads import in_pool


@define(eq=False)
class Prepared:
    """What the trainer itself holds before it talks to anyone."""

    dataset: Dataset
    learner: Learner
    digest: str
    environment: Environment


@define(eq=False)
class Training:
    """One run.  `prepare`, then `run` with the hosts; `result` at any time after."""

    config: RunConfig
    registry: Registry
    rules: Rules
    screen: Screen
    directory: RunDirectory
    observers: Observers
    threads: int
    _reactor: Any
    _pool: Executor
    status: str = field(default="running", init=False)
    _evaluations: list[Evaluation] = field(factory=list, init=False)
    _records: int = field(default=0, init=False)
    _round_seconds: float = field(default=0.0, init=False)
    _began: float = field(init=False)
    _hosts: Sequence[Host] = field(default=(), init=False)
    _last: dict[str, Any] = field(factory=dict, init=False)
    _prepared: Prepared | None = field(default=None, init=False)
    _tail: Deferred[None] | None = field(default=None, init=False)  # of the last round
    _digests: dict[str, str] = field(factory=dict, init=False)  # host -> of its data

    def __attrs_post_init__(self) -> None:
        self._began = self._reactor.seconds()

    # -- before

    async def prepare(self) -> Prepared:
        """Read the data and build the model: nothing needs a server yet."""
        if self.rules.missing is not None:
            self.screen.notice(
                f"no guarantee: {self.config.pipeline}: {self.rules.missing} "
                "(--strict makes this an error)"
            )
        self._prepared = await in_pool(self._reactor, self._pool, self._load)
        return self._prepared

    def _load(self) -> Prepared:
        config, spec = self.config, self.config.spec()
        data = self.registry.make(
            "dataset", config.dataset, root=Path(config.data_root).absolute()
        )
        for i, shard in enumerate(make_shards(spec, self.registry, data)):
            check_shard(i, len(shard), spec)
        model = make_model(spec, self.registry, data).to(device_of(config.device))
        learner = Learner(
            model,
            data,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            milestones=config.lr_milestones,
            decay=config.lr_decay,
        )
        here = environment(
            self.registry, probe=probe(), device=config.device, threads=self.threads
        )
        return Prepared(data, learner, data.digest(), here)

    # -- the run

    async def run(self, hosts: Sequence[Host]) -> None:
        """Train on `hosts`.  Raises what ends the run early."""
        assert self._prepared is not None
        config, prepared = self.config, self._prepared
        self._hosts = hosts
        collector = Collector(
            torch.zeros(config.n, prepared.learner.dimension),
            self._reactor,
            self._pool,
            getattr(torch, config.wire_dtype),
        )
        placement = await self._set_up(hosts, prepared, collector)
        rounds = Rounds(
            config,
            [host for host, nodes in placement if nodes],
            collector,
            prepared.learner,
            self.rules,
            self._reactor,
            self._pool,
            self.threads,
        )
        for number in range(config.rounds):
            ran = await rounds.run(number, self._settled)
            self._tail = Deferred.fromCoroutine(self._after(number, ran))
        await self._settled()
        self.status = "finished"

    def _settled(self) -> Deferred[None]:
        """Fires, or fails, when all is said of the last round that was run.

        Giving up this wait leaves what is waited for alone.
        """
        waiting: Deferred[None] = Deferred()

        def tell(result: Any) -> None:
            if not waiting.called:
                (waiting.errback if isinstance(result, Failure) else waiting.callback)(result)

        if self._tail is None:
            waiting.callback(None)
        else:
            self._tail.addBoth(tell)
        return waiting

    async def _set_up(
        self, hosts: Sequence[Host], prepared: Prepared, collector: Collector
    ) -> list[tuple[Host, list[NodeSpec]]]:
        config = self.config
        for line in notices(config.n, len(hosts), config.f) if not config.in_process else ():
            self.screen.notice(line)
        await setup.greet(
            hosts, config, self.registry, prepared.environment, self.screen.notice
        )
        partition = self.registry.make("partition", config.partition)
        self._digests = await setup.open_everywhere(
            hosts,
            run=secrets.token_hex(8),
            spec=config.spec(),
            config=config,
            registry=self.registry,
            sink=collector,
            mine=Opened(prepared.learner.dimension, prepared.digest),
            own_data=getattr(partition, "local", False),
        )
        nodes = node_specs(
            honest=config.num_honest, byzantine=config.num_byz, attack=config.attack
        )
        placement = round_robin(nodes, hosts)
        await setup.spawn_everywhere(placement, config, self.registry)
        for host, here in placement:
            for node in here:
                collector.assign(node.node, host)
        self.screen.placement([(host.name, here) for host, here in placement])
        description = self._description(placement)
        self.directory.write_config(description)
        self.observers.tell("run_started", config=description)
        return placement

    async def _after(self, number: int, ran: Ran) -> None:
        """Evaluate if it is time to, record, and tell: the next round does not wait for it."""
        record = {**ran.record, "parameters_sha256": await ran.digest}
        last = number == self.config.rounds - 1
        every = self.config.eval_interval
        if last or (every and (number + 1) % every == 0):
            evaluation = await self._evaluate()
            self._evaluations.append(evaluation)
            record["test_loss"] = evaluation.loss
            record["accuracy"] = evaluation.accuracy
        self._records = number + 1
        self._round_seconds += record["seconds"]
        self._last = record
        self.directory.append_round(record)
        self.observers.tell("round_completed", record=record)
        self.screen.round(record, self._elapsed())

    async def _evaluate(self) -> Evaluation:
        assert self._prepared is not None
        learner = self._prepared.learner
        jobs = [
            in_pool(self._reactor, self._pool, learner.test, job)
            for job in range(learner.test_jobs)
        ]
        return whole(await gatherResults(jobs, consumeErrors=True))

    # -- after

    async def finish(self, error: BaseException | None = None) -> dict[str, Any]:
        """Close every host, write the result, and hand it back."""
        if isinstance(error, Diverged):
            self.status = "diverged"
        elif self.status == "running":
            self.status = "failed" if error is not None else "interrupted"
        interrupted: CancelledError | None = None
        try:
            await self._settled()  # the last round is told even if the next one failed
        except CancelledError as e:  # not waiting any more
            self.status, interrupted = "interrupted", e
            if self._tail is not None:
                self._tail.cancel()
        except Exception:
            pass  # `error` is what it came to
        try:
            closing = [Deferred.fromCoroutine(host.close()) for host in self._hosts]
            await gatherResults(closing, consumeErrors=True)
        finally:  # interrupted once more, or only now: the result stands
            result = self.result(error)
            self.directory.write_result(result)
            self.directory.close()
        self.observers.tell("run_finished", result=result)
        if self.observers.told:  # or a pool that is busy would be waited for
            await in_pool(self._reactor, self._pool, self.observers.finish)
        if interrupted is not None:
            raise interrupted
        return result

    def result(self, error: BaseException | None = None) -> dict[str, Any]:
        """What result.json holds."""
        accuracies = [e.accuracy for e in self._evaluations]
        # Worst over the last fifth: the best alone flatters a run that collapsed.
        tail = accuracies[-max(1, len(accuracies) // 5) :]
        final = self._evaluations[-1] if self._evaluations else None
        return {
            "status": self.status,
            "error": str(error) if error is not None else None,
            "rounds": self._records,
            "final_accuracy": final.accuracy if final else None,
            "final_loss": final.loss if final else None,
            "worst_accuracy": min(tail) if tail else None,
            "best_accuracy": max(accuracies) if accuracies else None,
            "seconds": self._elapsed(),
            "seconds_a_round": self._round_seconds / self._records if self._records else None,
            "parameters_sha256": self._last.get("parameters_sha256"),
            "bytes_sent": sum(host.bytes_sent for host in self._hosts),
            "bytes_received": sum(host.bytes_received for host in self._hosts),
        }

    def _elapsed(self) -> float:
        return self._reactor.seconds() - self._began

    def _description(
        self, placement: Sequence[tuple[Host, Sequence[NodeSpec]]]
    ) -> dict[str, Any]:
        """What config.json holds."""
        assert self._prepared is not None
        here = self._prepared.environment
        return {
            "config": self.config.to_dict(),
            "bits": self.config.bits,
            "dimension": self._prepared.learner.dimension,
            "data_digest": self._prepared.digest,
            "data_digests": self._digests,
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
            "placement": {host.name: [n.node for n in nodes] for host, nodes in placement},
        }

