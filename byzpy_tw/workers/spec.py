"""What the nodes of a run are built from.

A `RunSpec` and a `NodeSpec` are all that a server is told.  They hold numbers
and names that are looked up in the server's own registry, never code or paths.
"""

from __future__ import annotations

import json
from typing import Any

import attrs
from attrs import field, frozen
from attrs.validators import ge, in_, instance_of, le, max_len

from byzpy_tw.errors import BadRequest

# What vectors and parameters may be on the wire, as torch calls it.
WIRE_DTYPES = ("float32", "bfloat16", "float16")


def _count(least: int, most: int = 2**31 - 1, **more: Any) -> Any:
    return field(validator=[_whole, ge(least), le(most)], **more)


def _whole(_: object, attribute: attrs.Attribute, value: object) -> None:
    if type(value) is not int:
        raise TypeError(f"{attribute.name} must be a whole number, got {value!r}")


def _name(**more: Any) -> Any:
    return field(validator=[instance_of(str), max_len(2000)], **more)


@frozen(kw_only=True)
class RunSpec:
    """What every node of a run has in common.

    ``shards`` is the number of honest nodes; ``n`` and ``f`` are the run's.  The
    rules are the trainer's alone.
    """

    dataset: str = _name()
    model: str = _name()
    partition: str = _name()
    shards: int = _count(1, 1_000_000)
    seed: int = _count(0, 2**63 - 1)
    # A server computes this many examples at once on each thread, whoever asks.
    batch_size: int = _count(1, 1_000_000)
    micro_batch_size: int = _count(1, 8192)
    replacement: bool = field(default=False, validator=instance_of(bool))
    n: int = _count(1, 1_000_000)
    f: int = _count(0, 1_000_000)
    # what vectors and parameters are on the wire
    wire_dtype: str = field(default="float32", validator=in_(WIRE_DTYPES))
    # seconds that a round waits, for nodes that are late on purpose
    patience: float = field(default=60.0, validator=[instance_of((int, float)), ge(0), le(1e9)])

    def to_json(self) -> bytes:
        return json.dumps(attrs.asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> RunSpec:
        """The spec in `data`; `BadRequest` with the reason otherwise."""
        return _from_fields(cls, data)


@frozen(kw_only=True)
class NodeSpec:
    """One node: its number, whose shard it has, and its attack if it is Byzantine."""

    node: int = _count(0, 1_000_000)
    shard: int = _count(0, 1_000_000)
    attack: str | None = field(
        default=None, validator=attrs.validators.optional([instance_of(str), max_len(500)])
    )

    @property
    def honest(self) -> bool:
        return self.attack is None


def nodes_to_json(nodes: list[NodeSpec]) -> bytes:
    """`nodes` as they travel."""
    return json.dumps([[n.node, n.shard, n.attack] for n in nodes]).encode()


def nodes_from_json(data: bytes) -> list[NodeSpec]:
    """The nodes in `data`; `BadRequest` with the reason otherwise."""
    rows = _json(data)
    try:
        return [NodeSpec(node=n, shard=s, attack=a) for n, s, a in rows]
    except (TypeError, ValueError) as e:
        raise BadRequest(f"not a list of nodes: {e}") from e


def node_specs(*, honest: int, byzantine: int, attack: str) -> list[NodeSpec]:
    """The nodes of a run, honest ones first.

    Byzantine node j has a copy of honest node j mod `honest`'s shard, for
    attacks that start from an honest gradient of their own.
    """
    return [
        *(NodeSpec(node=i, shard=i) for i in range(honest)),
        *(NodeSpec(node=honest + j, shard=j % honest, attack=attack) for j in range(byzantine)),
    ]


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as e:
        raise BadRequest(f"not JSON: {e}") from e


def _from_fields(cls: type, data: bytes) -> Any:
    found = _json(data)
    known = {f.name for f in attrs.fields(cls)}
    if not isinstance(found, dict) or set(found) != known:
        names = sorted(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise BadRequest(f"expected the fields {sorted(known)}, got {str(names)[:300]}")
    try:
        return cls(**found)
    except (TypeError, ValueError) as e:
        raise BadRequest(str(e.args[0] if e.args else e)) from e
