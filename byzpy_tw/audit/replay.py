"""The nodes of a run, computed again in this process from the state before a round.

A node's vector is a function of the run's spec, the node, the round and the parameters.  A round
is computed from them by `byzpy_tw.algorithms`, as the trainer does:

1. `gradients` of honest nodes, and `Dsgd.receive` of each;
2. `Dsgd.reveal` of those rows to the attack, and `attack_vector` of each Byzantine node;
3. `Dsgd.aggregate` of the rows, and `Dsgd.advance` to the next state.

Nothing is kept between calls: all that a round changes is in a `State`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from attrs import define
from torch import Tensor

from byzpy_tw.algorithms.algorithm import Algorithm, Revealed
from byzpy_tw.algorithms.node_weights import NodeWeights
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.algorithms.state import State
from byzpy_tw.attacks.behaviour import Behaviour
from byzpy_tw.attacks.knowledge.codec import decode_knowledge, decode_piece
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BrokenPlugin
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.plugins import Registry
from byzpy_tw.records.folder import RecordedRun
from byzpy_tw.records.initial_values import use_initial_values
from byzpy_tw.records.weights_file import weights_of
from byzpy_tw.rounds.evaluator import Evaluator
from byzpy_tw.vectors import round_to_dtype
from byzpy_tw.workers.building import build_host, make_model
from byzpy_tw.workers.device import CPU, Device
from byzpy_tw.workers.gradients import Answer, Gradient
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.poisoning import make_poisoning


class ImmediateExecutor(Executor):
    """An executor that runs each job when it is submitted."""

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        future.set_result(work(*args, **kwargs))
        return future


@define(eq=False)
class RoundReplay:
    """Computes the rounds of one configuration.  Make one with `prepare_replay`."""

    config: RunConfig
    algorithm: Algorithm
    host: NodeHost
    evaluator: Evaluator
    first: State  # before round 0
    _pool: Executor
    _most_jobs: int = 4  # of gradients at once, so that few vectors wait
    weights: NodeWeights | None = None  # of the nodes, where these are not equal

    # -- honest nodes

    def gradients(self, state: State, nodes: Sequence[int]) -> Iterator[tuple[int, Gradient]]:
        """Yield the gradient of each of `nodes`, float32, in the order in which they are ready."""
        ready: SimpleQueue[tuple[Sequence[int], list[Answer]]] = SimpleQueue()
        self.host.load(self.algorithm.request(state))
        size, working = self.host.group_size, 0
        waiting = deque(nodes[i : i + size] for i in range(0, len(nodes), size))
        while waiting or working:
            while waiting and working < self._most_jobs:
                group, working = waiting.popleft(), working + 1
                done = partial(_put, ready, group)
                self.host.gradients(self._pool, group, state.round, done)
            group, answers = ready.get()
            working -= 1
            for node, answer in zip(group, answers, strict=True):
                if isinstance(answer, BaseException):
                    where = f"node {node}, round {state.round}"
                    raise BrokenPlugin(f"{where}: {answer!r}") from answer
                yield node, answer

    def gradient(self, state: State, node: int) -> Tensor:
        """Return the gradient of one node: ``(d,)`` float32."""
        return next(self.gradients(state, [node]))[1].vector

    # -- Byzantine ones

    def own_gradient(self, state: State, node: int) -> Tensor | None:
        """Return the gradient that `node`'s attack starts from, if it needs one: ``(d,)``."""
        return self.gradient(state, node) if self.host.needs_own(node) else None

    def attack_vector(
        self,
        state: State,
        node: int,
        honest: int,
        shown: Revealed,
        own: Tensor | None,
    ) -> Tensor:
        """Return the vector of the Byzantine `node`, in the wire's type.

        `honest` is the number of rows that the attack was shown, `own` the node's gradient.
        """
        host, past = self.host, self.algorithm.past_vectors(state).get(node)
        if host.behaviour(node) == Behaviour.GARBAGE:  # accepted, where d is as small as that
            return host.garbage(node, state.round)
        pieces = {piece: decode_piece(tensor) for piece, tensor in shown.pieces.items()}
        known = decode_knowledge(
            pieces, h=honest, d=host.dimension, own=own,
            past=None if past is None else decode_piece(past),
        )  # fmt: skip
        with plugin_call(f"attack {self.config.attack!r}"):
            vector = host.attack(node, state.round, known)
        return round_to_dtype(vector, self.algorithm.wire)


def _put(ready: SimpleQueue, group: Sequence[int], answers: list[Answer]) -> None:
    ready.put((group, answers))


def prepare_replay(
    config: RunConfig, registry: Registry, data_root: Path, pool: Executor, most_jobs: int = 4,
    device: Device = CPU, recorded: RecordedRun | None = None,
) -> RoundReplay:  # fmt: skip
    """Read the data, and make the nodes, on `device`, and the rules of `config`.

    A run that is `recorded` begins with the values that it has on record, if any.
    Raises the errors of names, parameters and data.
    """
    spec = config.spec()
    host = build_host(spec, registry, data_root=data_root, device=device)
    host.register(config.n, config.attack if config.num_byz else None)
    rules = resolve_rules(config, registry)
    rules.make_root_set(host.dataset, host.trial_outcome, data_root)
    model = make_model(spec, registry, host.dataset, root=data_root)
    folder = None if recorded is None else recorded.path
    description = {} if recorded is None else recorded.description
    weights = weights_of(config, host.shard_sizes, folder, description)
    rules.use_weights(weights)
    use_initial_values(config, model, folder, description)
    model = model.to(rules.aggregation.device.place)
    who = registry.owner("model", config.model)
    poisoning = make_poisoning(
        rules.attack, registry.owner("attack", config.attack), host.dataset, spec.seed
    )  # fmt: skip
    evaluator = Evaluator.of_run(spec, model, host.dataset, host.trial_outcome, who, poisoning)
    algorithm = rules.make_algorithm()
    first = algorithm.begin(evaluator.parameters)
    return RoundReplay(config, algorithm, host, evaluator, first, pool, most_jobs, weights)
