"""The nodes of one run, wherever they live.

A server and an in-process trainer hold the same object.  It owns the model,
the data and the nodes; parameters go in, vectors come out.  It does no I/O and
starts no thread: the pool is handed in.

A node keeps nothing between rounds.  What it sends is a function of the run's
spec, the node, the round and the parameters, so it can be rebuilt anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import define, field, frozen
from torch import Tensor, nn
from torch.autograd import graph

from byzpy_tw import models, seeds
from byzpy_tw.attacks.knowledge.levels import pieces_of
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import BadRequest, BrokenPlugin, LimitExceeded, ShardTooSmall
from byzpy_tw.kernels.cpu import resolve_device
from byzpy_tw.object_state import Copier
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.outputs import PluginAttack
from byzpy_tw.plugins.shorthand import build_attack
from byzpy_tw.workers.attack_trial import try_attack
from byzpy_tw.workers.gradients import Done, MicroBatches, submit
from byzpy_tw.workers.model_trial import TrialOutcome, try_model
from byzpy_tw.workers.spec import NodeSpec, RunSpec

# Seconds of a core: gradients that take less are mostly the interpreter's work, and as
# many as make a job of `JOB_SECONDS` seconds, or `MAX_GROUP`, are computed in one.
SMALL_GRADIENT_SECONDS = 0.001
JOB_SECONDS = 0.008
MAX_GROUP = 16
MOST_ATTACKS = 100  # of one run, each tried before it is used


@frozen
class Node:
    """One node on its host: what it is, its data, and its attack if Byzantine."""

    spec: NodeSpec
    shard: np.ndarray  # (k,) int64, indices into the training data
    attack: Any = None


@define(eq=False)
class NodeHost:
    """Make one with `build`."""

    spec: RunSpec
    dataset: Dataset
    model: nn.Module
    parameters: Tensor  # (d,) float32 on `device`, the model's own memory
    device: torch.device
    trial_outcome: TrialOutcome
    _registry: Registry
    _shards: list[np.ndarray]
    nodes: dict[int, Node] = field(factory=dict, init=False)
    _attacks: dict[str, Any] = field(factory=dict, init=False)  # by their text
    _leaves: list[Tensor] = field(init=False)
    _call: Callable[[], nn.Module] = field(init=False)  # gives the model that a call is to use
    _who: str = field(init=False)  # whose code the model is
    # Seconds of a core that a gradient took at best; None: none was computed.
    cost: float | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._leaves = list(self.model.parameters())
        self._call = model_provider(self.model, self.trial_outcome.copied)
        self._who = self._registry.owner("model", self.spec.model)

    @property
    def dimension(self) -> int:
        return self.parameters.numel()

    def spawn(self, node: NodeSpec) -> None:
        """Add `node`, its names looked up here.

        Raises `BadRequest` for one that is already here or has no shard,
        `ShardTooSmall` where a batch would not fit, and what the registry
        raises for its attack.
        """
        if node.node in self.nodes:
            raise BadRequest(f"node {node.node} is here already")
        if node.shard >= len(self._shards) or node.node >= self.spec.n:
            raise BadRequest(
                f"node {node.node} with shard {node.shard}: the run has n={self.spec.n} "
                f"nodes and {len(self._shards)} shards"
            )
        shard = self._shards[node.shard]
        check_shard(node.shard, len(shard), self.spec)
        attack = None
        if node.attack is not None:
            self.prepare_attacks([node.attack])
            attack = self._attacks[node.attack]
        self.nodes[node.node] = Node(node, shard, attack)

    def prepare_attacks(self, attacks: Iterable[str]) -> None:
        """Make `attacks` ready for `spawn`, and try them; a plugin's may take its time.

        Nodes with the same attack share it: it keeps nothing between calls.
        """
        for text in attacks:
            if text not in self._attacks:
                if len(self._attacks) >= MOST_ATTACKS:
                    raise LimitExceeded(f"over {MOST_ATTACKS} attacks in one run")
                make = partial(
                    build_attack, self._registry, text, n=self.spec.n,
                    b=self.spec.n - self.spec.shards, f=self.spec.f,
                )  # fmt: skip
                self._attacks[text] = try_attack(make, self.spec, self.dimension)

    def has_new_foreign_attack(self, attacks: Iterable[str]) -> bool:
        """Return whether a plugin's attack is among `attacks` that is not ready here yet."""
        new = [text for text in attacks if text not in self._attacks]
        return any(self._registry.is_foreign("attack", text) for text in new)

    def digests_of(self, attacks: Iterable[str]) -> list[str]:
        """The digests of the trials of plugins' attacks among `attacks`, in order."""
        found = {getattr(self._attacks[text], "digest", "") for text in attacks}
        return sorted(found - {""})

    def gradients(
        self,
        pool: Executor,
        nodes: Sequence[int],
        round: int,
        done: Done,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Compute the gradients of `nodes` at the present parameters, while `wanted`.

        On `pool`, in one job if there are several; `done` gets them in order, float32,
        with an exception in the place of one that failed.
        """
        work = [self._batches(node, round) for node in nodes]
        submit(pool, work, done, wanted, self._record_cost)

    def _record_cost(self, seconds: float) -> None:
        self.cost = seconds if self.cost is None else min(self.cost, seconds)

    def _batches(self, node: int, round: int) -> MicroBatches:
        return MicroBatches(
            self._call,
            self._leaves,
            self.dataset,
            self.nodes[node].shard,
            self.spec,
            node,
            round,
            self.device,
            self._who,
            flip_labels=self.behaviour(node) == "label-flip",
        )

    @property
    def group_size(self) -> int:
        """How many nodes' gradients are worth computing in one job, going by those so far."""
        if self.cost is None or self.cost >= SMALL_GRADIENT_SECONDS:
            return 1
        return max(1, min(MAX_GROUP, int(JOB_SECONDS / max(self.cost, 1e-9))))

    @property
    def wire(self) -> torch.dtype:
        """What vectors and parameters are on the wire."""
        return getattr(torch, self.spec.wire_dtype)

    def needs_own(self, node: int) -> bool:
        """Whether `node`'s attack starts from an honest gradient of its own."""
        return "own" in pieces_of(self.nodes[node].attack)

    def behaviour(self, node: int) -> str:
        """What `node` does that is more than sending a vector; ``attack`` if nothing."""
        return getattr(self.nodes[node].attack, "behaviour", "attack")

    def plain(self, node: int) -> bool:
        """Whether all that `node` does is to send a vector made from what it is shown."""
        return self.behaviour(node) == "attack" and not self.needs_own(node)

    @property
    def pieces(self) -> set[str]:
        """What the attacks of the nodes here must be shown."""
        return {p for n in self.nodes.values() if n.attack for p in pieces_of(n.attack)}

    @property
    def foreign(self) -> bool:
        """Return whether a plugin's attack is among the nodes here, which may write to vectors."""
        return any(isinstance(attack, PluginAttack) for attack in self._attacks.values())

    def garbage(self, node: int, round: int) -> Tensor:
        """Noise of the wrong length, for a node that sends no vector."""
        stream = seeds.stream(self.spec.seed, "garbage", node, round)
        noise = stream.bytes(4 * (self.dimension // 2 + 1))
        return torch.frombuffer(bytearray(noise), dtype=torch.float32)

    def attack(self, node: int, round: int, knowledge: Knowledge) -> Tensor:
        """The ``(d,)`` vector that Byzantine `node` sends, from what it was shown."""
        context = seeds.Context(
            seed=self.spec.seed,
            round=round,
            nodes=tuple(range(self.spec.shards)),
            n=self.spec.n,
            f=self.spec.f,
            byzantine=self.spec.n - self.spec.shards,
            node=node,
        )
        vector = self.nodes[node].attack(knowledge, context=context)
        return torch.as_tensor(vector, dtype=torch.float32).reshape(-1)


def build(
    spec: RunSpec,
    registry: Registry,
    *,
    data_root: Path,
    device: str = "cpu",
    most_elements: int | None = None,
    most_working: int | None = None,
    dataset: Dataset | None = None,
    trial_outcome: TrialOutcome | None = None,
) -> NodeHost:
    """The host of a run, with no nodes yet.

    Reads the dataset unless it is given, and tries the model unless it has been tried here
    with this data.  The model is counted on the meta
    device before memory is taken: `LimitExceeded` above `most_elements`, and
    where a micro-batch would keep more than `most_working` bytes of it.
    """
    data = (
        dataset if dataset is not None else registry.make("dataset", spec.dataset, root=data_root)
    )
    check_model(spec, registry, data, most_elements=most_elements, most_working=most_working)
    chosen, shards = resolve_device(device), make_shards(spec, registry, data)
    if trial_outcome is None:
        trial_outcome = try_run_model(spec, registry, data, shards, chosen)
    model = make_model(spec, registry, data, checked=True)
    trial_outcome.check_initial(model, registry.owner("model", spec.model))
    model = model.to(chosen)
    parameters = models.flat_parameters(model)
    return NodeHost(spec, data, model, parameters, chosen, trial_outcome, registry, shards)


def try_run_model(
    spec: RunSpec,
    registry: Registry,
    data: Dataset,
    shards: Sequence[np.ndarray],
    device: torch.device,
) -> TrialOutcome:
    """The trial of the run's model, which was checked, on this process's data; see `trial`."""

    def make() -> nn.Module:
        return make_model(spec, registry, data, checked=True)

    who, foreign = registry.owner("model", spec.model), registry.is_foreign("model", spec.model)
    return try_model(make, who, spec, data, shards, device, foreign=foreign)


def model_provider(model: nn.Module, copied: bool) -> Callable[[], nn.Module]:
    """The model for one call: `model` itself, or a copy that shares its tensors."""
    return Copier(model) if copied else lambda: model


def make_model(
    spec: RunSpec, registry: Registry, data: Dataset, *, checked: bool = False
) -> nn.Module:
    """The run's model, its initial values drawn from the run's seed.

    It is looked at on the meta device first, unless `check_model` did.
    """
    factory = _factory(spec, registry, data)
    with plugin_call(registry.owner("model", spec.model)):
        return models.build(factory, {}, seed=spec.seed, counted=checked)


def _factory(spec: RunSpec, registry: Registry, data: Dataset) -> Callable[..., nn.Module]:
    def factory(**_: Any) -> nn.Module:
        return registry.make("model", spec.model, classes=data.classes, shape=data.shape)

    return factory


def check_model(
    spec: RunSpec,
    registry: Registry,
    data: Dataset,
    *,
    most_elements: int | None = None,
    most_working: int | None = None,
) -> None:
    """Count the model before it takes memory; see `build`."""
    factory = _factory(spec, registry, data)
    with plugin_call(registry.owner("model", spec.model)):
        d = models.count(factory, {})
    if most_elements is not None and d > most_elements:
        raise LimitExceeded(
            f"model {spec.model!r} has {d:,} parameters ({d * 4 / 2**20:.0f} MiB a "
            f"vector), over the limit of {most_elements * 4 / 2**20:.0f} MiB"
        )
    examples = min(spec.micro_batch_size, spec.batch_size)
    # The closer look takes seconds the first time, and hardly any model keeps more
    # of an example than it has parameters, and than 128 channels of its size.
    if most_working is not None and examples * 4 * (d + 128 * prod(data.shape)) > most_working:
        working = examples * activation_bytes_per_example(factory, data.shape)
        if working > most_working:
            raise LimitExceeded(
                f"model {spec.model!r} keeps {working / 2**20:.0f} MiB of {examples:,} "
                f"examples, over the limit of {most_working / 2**20:.0f} MiB: use a "
                "smaller --micro-batch-size"
            )


def activation_bytes_per_example(factory: Callable[..., nn.Module], shape: tuple[int, ...]) -> int:
    """Bytes that a model keeps of one example for its gradient, without taking them.

    0 for a model that cannot be run on torch's meta device.
    """
    kept = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    def of(examples: int) -> int:
        nonlocal kept
        kept = 0
        inputs = torch.empty(examples, *shape, device="meta")
        with models.randomness(0), graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = model(inputs)
        return kept + inputs.nbytes + out.nbytes

    try:
        with torch.device("meta"):
            model = factory()
        return of(2) - of(1)  # what is there once, such as parameters, is not counted
    except Exception:  # a plugin's code, not made for this device
        return 0


def make_shards(spec: RunSpec, registry: Registry, data: Dataset) -> list[np.ndarray]:
    """Each honest node's indices into the training data.

    A plugin's partition is asked twice: `BrokenPlugin` where it cuts otherwise then.
    """

    def cut() -> list[np.ndarray]:
        partition = registry.make("partition", spec.partition, min_size=spec.batch_size)
        stream = seeds.stream(spec.seed, "partition")
        found = partition(data.train.y.numpy(), spec.shards, stream)
        return [np.asarray(shard, dtype=np.int64) for shard in found]

    shards = cut()
    if registry.is_foreign("partition", spec.partition):
        if not all(map(np.array_equal, shards, cut())):
            raise BrokenPlugin(
                f"{registry.owner('partition', spec.partition)} cuts otherwise when it is asked "
                "again: it draws from a generator that nobody seeds; draw from the stream that it "
                "is handed"
            )
    return shards


def check_shard(shard: int, size: int, spec: RunSpec) -> None:
    """`ShardTooSmall` where a node could not draw a batch from its shard."""
    if size == 0 or (size < spec.batch_size and not spec.replacement):
        raise ShardTooSmall(
            f"shard {shard} of {spec.shards} has {size} examples, a batch needs "
            f"{spec.batch_size}: use fewer nodes, a smaller --batch-size, "
            "another --partition, or --replacement"
        )
