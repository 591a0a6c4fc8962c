"""The nodes of one run in one process, on a server or in the trainer.

The host owns the model, the data and the nodes; it takes parameters and gives vectors.  It does
no I/O and starts no thread: the pool is an argument.

A node keeps no state between rounds.  Its vector is a function of the run's spec, the node, the
round and the parameters, so it can be rebuilt anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf
from typing import Any

import numpy as np
import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from byzpy_tw import seeds
from byzpy_tw.attacks.behaviour import Behaviour, behaviour_of
from byzpy_tw.attacks.knowledge.levels import pieces_of
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import BadRequest, LimitExceeded
from byzpy_tw.models.statistics import normalises_by_batch
from byzpy_tw.models.trainable import trained_parameters
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.contracts import PluginAttack
from byzpy_tw.plugins.shorthand import build_attack
from byzpy_tw.workers.attack_trial import attack_context, try_attack
from byzpy_tw.workers.batch_order import BatchOrder
from byzpy_tw.workers.device import Device
from byzpy_tw.workers.gradients import Answer, Done, Gradient, MicroBatches, model_provider, submit
from byzpy_tw.workers.local_training import LocalTraining
from byzpy_tw.workers.model_trial import TrialOutcome
from byzpy_tw.workers.poisoning import NodePoisoning, Poisoning, make_poisoning
from byzpy_tw.workers.pool import Pool
from byzpy_tw.workers.shards import check_shard, check_shards, shard_of
from byzpy_tw.workers.spec import NodeSpec, RunSpec, node_spec

# Seconds of a core.  Smaller gradients are mostly the interpreter's work; up to `MAX_GROUP`
# of them are computed in one job of about `JOB_SECONDS`.
SMALL_GRADIENT_SECONDS = 0.001
JOB_SECONDS = 0.008
MAX_GROUP = 16
MOST_ATTACKS = 100  # of one run, each tried before it is used


@frozen
class Node:
    """One node: its spec, its data, and its attack if it is Byzantine."""

    spec: NodeSpec
    shard: np.ndarray  # (k,) int64, indices into the training data
    attack: Any = None
    poisoning: NodePoisoning | None = None  # of its shard, where the attack does that


@frozen
class Registered:
    """All nodes of a run, of which a round asks at most `most`; Byzantine ones have `attack`."""

    most: int
    attack: str | None


@define(eq=False)
class NodeHost:
    """The model, the data and the nodes of one run; made by `build_host`."""

    spec: RunSpec
    dataset: Dataset
    model: nn.Module
    parameters: Tensor  # (d,) float32 on `device`, the model's own memory
    device: Device
    trial_outcome: TrialOutcome
    _registry: Registry
    _shards: Sequence[np.ndarray]
    _local: LocalTraining | None = None  # where nodes send updates, not gradients
    nodes: dict[int, Node] = field(factory=dict, init=False)  # that were spawned
    registered: Registered | None = field(default=None, init=False)  # all nodes, if they are
    _attacks: dict[str, Any] = field(factory=dict, init=False)  # by their text
    _poisonings: dict[str, Poisoning | None] = field(factory=dict, init=False)  # likewise
    _batches: Callable[..., MicroBatches] = field(init=False)  # of a shard, node and round
    gradient_seconds: float = field(default=inf, init=False)  # of a core, for the fastest one

    def __attrs_post_init__(self) -> None:
        self._batches = partial(
            MicroBatches,
            model_provider(self.model, self.trial_outcome.needs_copies),
            [leaf for _, leaf in trained_parameters(self.model)],
            self.dataset,
            self.spec,
            BatchOrder(self.spec),
            self.device,
            self._registry.owner("model", self.spec.model),
            self.trial_outcome.task,
            join_single=normalises_by_batch(self.model),
        )

    @property
    def shard_sizes(self) -> list[int]:
        """The number of examples in each shard."""
        return [len(shard) for shard in self._shards]

    @property
    def dimension(self) -> int:
        return self.parameters.numel()

    def load(self, vector: Tensor) -> None:
        """Take the ``(d,)`` parameters `vector`, of the CPU and of any type, for gradients to come.

        It may be written to afterwards, unless it is in pinned memory.
        """
        (there,) = self.device.put(vector)
        self.parameters.copy_(there)

    def spawn(self, node: NodeSpec) -> None:
        """Add `node`, looking its names up in this process.

        Raises `BadRequest` for a node that exists or has no shard, `ShardTooSmall` where a
        batch would not fit, and the registry's errors for its attack.
        """
        if node.node in self.nodes or self.registered is not None:
            raise BadRequest(f"node {node.node} is here already")
        self.nodes[node.node] = self._make_node(node)

    def _make_node(self, node: NodeSpec) -> Node:
        if node.shard >= len(self._shards) or node.node >= self.spec.n:
            raise BadRequest(
                f"node {node.node} with shard {node.shard}: the run has n={self.spec.n} "
                f"nodes and {len(self._shards)} shards"
            )
        number = shard_of(node, len(self._shards), self.spec)
        shard = self._shards[number]
        check_shard(number, len(shard), self.spec)
        attack, poisoned = None, None
        if node.attack is not None:
            self.prepare_attacks([node.attack])
            attack, poisoning = self._attacks[node.attack], self._poisonings[node.attack]
            if poisoning is not None:
                poisoned = poisoning.of_node(self.spec.seed, node.node, len(shard))
        return Node(node, shard, attack, poisoned)

    def register(self, most: int, attack: str | None) -> None:
        """Have all nodes of the run, of which a round asks at most `most`.

        They are made when they are asked, and not kept.  Raises `ShardTooSmall` where one could
        not fill a batch.
        """
        if self.nodes:
            raise BadRequest("a run's nodes are spawned one by one, or registered all together")
        if bool(self.spec.byzantine) is (attack is None):
            raise BadRequest(f"attack {attack!r:.80} for {self.spec.byzantine} Byzantine nodes")
        check_shards(self._shards, self.spec)
        if attack is not None:
            NodeSpec(node=0, shard=0, attack=attack)  # raises for a text that is none
            self.prepare_attacks([attack])
        self.registered = Registered(most, attack)

    def node(self, number: int) -> Node | None:
        """Return the node of this number, if it is spawned or registered here."""
        found, all_nodes = self.nodes.get(number), self.registered
        if found is not None or all_nodes is None or not 0 <= number < self.spec.n:
            return found
        honest, attack = self.spec.shards, all_nodes.attack or ""
        return self._make_node(node_spec(number, honest=honest, attack=attack))

    @property
    def size(self) -> int:
        """The nodes that count here: those spawned, and those that a round may ask."""
        return len(self.nodes) + (self.registered.most if self.registered else 0)

    def prepare_attacks(self, attacks: Iterable[str]) -> None:
        """Make and try `attacks` for `spawn`; a plugin's may take seconds.

        Nodes with the same attack share it: it keeps no state between calls.
        """
        for text in attacks:
            if text not in self._attacks:
                if len(self._attacks) >= MOST_ATTACKS:
                    raise LimitExceeded(f"over {MOST_ATTACKS} attacks in one run")
                n, f, b = self.spec.n, self.spec.f, self.spec.byzantine
                updates, who = self._local is not None, self._registry.owner("attack", text)
                make = partial(
                    build_attack, self._registry, text, n=n, b=b, f=f, updates=updates
                )  # fmt: skip
                attack = try_attack(make, self.spec, self.dimension)
                self._poisonings[text] = make_poisoning(attack, who, self.dataset, self.spec.seed)
                self._attacks[text] = attack

    def has_new_foreign_attack(self, attacks: Iterable[str]) -> bool:
        """Return whether `attacks` has a plugin's attack that is not prepared yet."""
        return any(
            self._registry.is_foreign("attack", a) for a in attacks if a not in self._attacks
        )

    def digests_of(self, attacks: Iterable[str]) -> list[str]:
        """Return the digests of the trials of plugins' attacks among `attacks`, sorted."""
        found = {getattr(self._attacks[text], "digest", "") for text in attacks}
        return sorted(found - {""})

    def gradients(
        self,
        pool: Pool,
        nodes: Sequence[int],
        round: int,
        done: Done,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Compute the gradients of `nodes` at the current parameters on `pool`, or their updates.

        Several nodes are one job.  `done` gets the float32 gradients in order, with an
        exception in the place of one that failed.  Work ends once `wanted` returns False.
        """
        work = [self._batch(self._known(number), round) for number in nodes]
        run = submit if self._local is None else self._local.submit
        run(pool, work, self._clipping(done), wanted, self._record_seconds)

    def _known(self, number: int) -> Node:
        node = self.node(number)
        assert node is not None, number
        return node

    def attack_of(self, node: int) -> Any:
        """Return the attack of Byzantine `node`."""
        return self._known(node).attack

    def _batch(self, node: Node, round: int) -> MicroBatches:
        """Return the batch of `node` in `round`, or the first one of its local steps."""
        flips = behaviour_of(node.attack) == Behaviour.LABEL_FLIP
        return self._batches(node.shard, node.spec.node, round, flips, node.poisoning)

    def _clipping(self, done: Done) -> Done:
        """Return `done` behind ``--clip-norm``, which is of the gradient of a whole batch."""
        most = self.spec.clip_norm
        if most is None:
            return done

        def clip(answer: Answer) -> Answer:
            try:
                return answer.scale_down(most) if isinstance(answer, Gradient) else answer
            except Exception as e:  # as of no memory: it is the node's failure
                return e

        return lambda answers: done(list(map(clip, answers)))

    def _record_seconds(self, seconds: float) -> None:
        self.gradient_seconds = min(self.gradient_seconds, seconds)

    @property
    def group_size(self) -> int:
        """The number of nodes whose gradients are one job, by the time of earlier ones."""
        if self.gradient_seconds >= SMALL_GRADIENT_SECONDS:
            return 1
        return max(1, min(MAX_GROUP, int(JOB_SECONDS / max(self.gradient_seconds, 1e-9))))

    @property
    def wire(self) -> torch.dtype:
        """The dtype of vectors and parameters on the wire."""
        dtype: torch.dtype = getattr(torch, self.spec.wire_dtype)
        return dtype

    def needs_own(self, node: int) -> bool:
        """Return whether `node`'s attack starts from an honest gradient of its own."""
        return "own" in pieces_of(self.attack_of(node))

    def behaviour(self, node: int) -> str:
        """Return the `Behaviour` of `node`."""
        return behaviour_of(self.attack_of(node))

    def needs_knowledge_only(self, node: int) -> bool:
        """Return whether `node`'s vector is made from knowledge of others alone."""
        return self.behaviour(node) == Behaviour.ATTACK and not self.needs_own(node)

    @property
    def pieces(self) -> set[str]:
        """The pieces of knowledge that the attacks of these nodes need."""
        return {piece for attack in self._attacks.values() for piece in pieces_of(attack)}

    @property
    def has_foreign_attack(self) -> bool:
        """True if these nodes have a plugin's attack, which may write to vectors."""
        return any(isinstance(attack, PluginAttack) for attack in self._attacks.values())

    def garbage(self, node: int, round: int) -> Tensor:
        """Return noise of the wrong length, float32, for a node that sends no vector."""
        stream = seeds.stream(self.spec.seed, "garbage", node, round)
        noise = stream.bytes(4 * (self.dimension // 2 + 1))
        return torch.frombuffer(bytearray(noise), dtype=torch.float32)

    def attack(self, node: int, round: int, knowledge: Knowledge) -> Tensor:
        """Return the ``(d,)`` float32 vector that Byzantine `node` sends."""
        context = attack_context(self.spec, round, node, self.spec.shards)
        vector = self.attack_of(node)(knowledge, context=context)
        return torch.as_tensor(vector, dtype=torch.float32).reshape(-1)
