"""The specification of a run and of its nodes, from which any server can build them.

A server is told a `RunSpec` and `NodeSpec`s, and nothing else.  They hold numbers, and names
that are looked up in the server's own registry: never code or paths.
"""

from __future__ import annotations

import json
from typing import Any

import attrs
from attrs import field, frozen

from byzpy_tw import parameters
from byzpy_tw.errors import BadParameter, BadRequest
from byzpy_tw.workers.local_steps import LocalSteps

# Number formats for vectors and parameters on the wire, as torch calls them.
WIRE_DTYPES = ("float32", "bfloat16", "float16")
# How a node's batches are chosen, and the precision of its gradients: see `batch_order`, and
# `precision`.
BATCHES = ("draws", "epochs", "epochs:keep")
PRECISIONS = ("float32", "bfloat16", "tf32")


def _field(constraint: parameters.Constraint, *, added: bool = False, **more: Any) -> Any:
    """A field of a spec.  One that was `added` after 0.1 is written only where it is needed."""
    validator = parameters.validated(constraint, BadRequest)
    return field(validator=validator, metadata={"added": added}, **more)


@frozen(kw_only=True)
class RunSpec:
    """The options of a run that all of its nodes need, each the ``node_field`` of an option.

    ``shards`` is the number of honest nodes; ``n``, the number of all nodes, and ``f`` are the
    run's.  Aggregators are the trainer's alone.
    """

    dataset: str = _field(parameters.text_of(2000))
    model: str = _field(parameters.text_of(2000))
    partition: str = _field(parameters.text_of(2000))
    shards: int = _field(parameters.integer_in(1, 1_000_000))
    seed: int = _field(parameters.integer_in(0, 2**63 - 1))
    # A server computes this many examples at once on each thread, for any trainer.
    batch_size: int = _field(parameters.integer_in(1, 1_000_000))
    micro_batch_size: int = _field(parameters.integer_in(1, 8192))
    replacement: bool = _field(parameters.true_or_false, default=False)
    n: int = _field(parameters.integer_in(1, 1_000_000))
    f: int = _field(parameters.integer_in(0, 1_000_000))
    wire_dtype: str = _field(parameters.one_of(*WIRE_DTYPES), default="float32")
    # seconds that a round waits, for nodes that are late on purpose
    patience: float = _field(parameters.real_in(0, 1e9), default=60.0)
    # None: the one that the data or the model names
    task: str | None = _field(
        parameters.optional(parameters.text_of(2000)), default=None, added=True
    )
    batches: str = _field(parameters.one_of(*BATCHES), default="draws", added=True)
    clip_norm: float | None = _field(
        parameters.optional(parameters.real_in(above=0, most=1e30)), default=None, added=True
    )
    precision: str = _field(parameters.one_of(*PRECISIONS), default="float32", added=True)
    data_seed: int | None = _field(
        parameters.optional(parameters.integer_in(0, 2**63 - 1)), default=None, added=True
    )
    validation: float = _field(parameters.real_in(0, below=1), default=0.0, added=True)
    # of the training data, that the trainer keeps for itself
    root_examples: int = _field(parameters.integer_in(0), default=0, added=True)
    # what a node does before it sends an update, for `LocalSteps`; None: it sends a gradient
    local_steps: str | None = _field(
        parameters.optional(parameters.text_of(500)), default=None, added=True
    )

    def __attrs_post_init__(self) -> None:
        if self.local_steps is not None:
            try:
                LocalSteps.parse(self.local_steps)
            except BadParameter as e:
                raise BadRequest(f"local_steps: {e}") from e
            if self.clip_norm is not None:
                raise BadRequest("clip_norm is of gradients: local steps have their own clip")
        if self.replacement and self.batches != "draws":
            raise BadRequest(f"batches {self.batches!r} are not drawn with replacement")

    @property
    def byzantine(self) -> int:
        """The number of Byzantine nodes."""
        return self.n - self.shards

    @property
    def split_seed(self) -> int:
        """The seed of the partition, and of the choice of what is kept aside."""
        return self.seed if self.data_seed is None else self.data_seed

    def newer_fields(self) -> set[str]:
        """Return the names of those added after 0.1 that are not at their default."""
        added = (f for f in attrs.fields(RunSpec) if f.metadata["added"])
        return {f.name for f in added if getattr(self, f.name) != f.default}

    def to_json(self) -> bytes:
        """Encode the spec, without what was added after 0.1 and is at its default.

        So an older server, which refuses fields that it does not know, serves runs that need none.
        """
        newer, fields = self.newer_fields(), attrs.fields(RunSpec)
        told = [f.name for f in fields if f.name in newer or not f.metadata["added"]]
        return json.dumps({name: getattr(self, name) for name in told}, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> RunSpec:
        """Decode a spec; raises `BadRequest`."""
        found, known = _json(data), {f.name: f.metadata["added"] for f in attrs.fields(cls)}
        needed = {name for name, added in known.items() if not added}
        if not isinstance(found, dict) or not needed <= found.keys() <= known.keys():
            names = sorted(map(str, found)) if isinstance(found, dict) else type(found).__name__
            raise BadRequest(f"expected the fields {sorted(known)}, got {str(names)[:300]}")
        return cls(**found)


@frozen(kw_only=True)
class NodeSpec:
    """One node: its number, the number of its shard, and its attack if it is Byzantine."""

    node: int = _field(parameters.integer_in(0, 1_000_000))
    shard: int = _field(parameters.integer_in(0, 1_000_000))
    attack: str | None = _field(parameters.optional(parameters.text_of(500)), default=None)

    @property
    def honest(self) -> bool:
        return self.attack is None


def nodes_to_json(nodes: list[NodeSpec]) -> bytes:
    return json.dumps([[n.node, n.shard, n.attack] for n in nodes]).encode()


def nodes_from_json(data: bytes) -> list[NodeSpec]:
    """Decode the specs of nodes; raises `BadRequest`."""
    rows = _json(data)
    try:
        return [NodeSpec(node=n, shard=s, attack=a) for n, s, a in rows]
    except (TypeError, ValueError) as e:
        raise BadRequest(f"not a list of nodes: {e}") from e


def node_spec(node: int, *, honest: int, attack: str) -> NodeSpec:
    """Return node number `node` of a run, whose first `honest` ones are honest.

    Byzantine node j has a copy of honest node j mod `honest`'s shard, for attacks that start
    from an honest gradient of their own.
    """
    if node < honest:
        return NodeSpec(node=node, shard=node)
    return NodeSpec(node=node, shard=(node - honest) % honest, attack=attack)


def node_specs(*, honest: int, byzantine: int, attack: str) -> list[NodeSpec]:
    """Return the nodes of a run, honest ones first."""
    return [node_spec(i, honest=honest, attack=attack) for i in range(honest + byzantine)]


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as e:
        raise BadRequest(f"not JSON: {e}") from e
