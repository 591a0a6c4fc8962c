"""The check of a site: vectors of its own nodes, computed again from the data that only it has.

A vector follows from the parameters before its round, which are those of round 0 and of each kept
checkpoint.  Records hold the norm of each vector.  Nothing else of a round can be computed where
other sites' data is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from attrs import frozen

from byzpy_tw.algorithms.state import State
from byzpy_tw.audit.recompute import CLOSE
from byzpy_tw.audit.replay import RoundReplay
from byzpy_tw.errors import ConfigError
from byzpy_tw.records.membership import address_of, read_nodes
from byzpy_tw.text import clean_value, join_numbers
from byzpy_tw.vectors import norm_of, round_to_dtype


@frozen
class CheckedVector:
    """A node's vector of a round: the recorded norm and the computed one."""

    node: int
    recorded: float
    norm: float

    @property
    def difference(self) -> str:
        """The difference in words that follow "round 3: "; empty where there is none."""
        if self.recorded == self.norm:
            return ""
        text = f"node {self.node}: a norm of {self.recorded:.17g} is on record, "
        text += f"its vector has {self.norm:.17g} here"
        if math.isclose(self.recorded, self.norm, rel_tol=CLOSE):
            text += ", which is rounding: other versions, instructions or devices than then?"
        return text


def check_vectors(
    replay: RoundReplay, pool: Executor, state: State, record: Mapping[str, Any],
    nodes: Sequence[int],
) -> Iterator[CheckedVector]:  # fmt: skip
    """Compute the vectors of `nodes` from the `state` before the round of `record`.

    Nodes whose vector did not come whole have no norm on record, and are left out.
    """
    norms = record.get("norms", {})
    came = [node for node in nodes if norms.get(str(node)) is not None]
    for node, gradient in replay.gradients(state, came):
        sent = round_to_dtype(gradient.vector, replay.algorithm.wire)
        norm = pool.submit(norm_of, sent.float()).result()
        yield CheckedVector(node, float(norms[str(node)]), norm)


def describe_site(
    description: Mapping[str, Any], nodes: Sequence[int], local: bool
) -> dict[str, Any]:
    """Return config.json with the data and the devices of the servers of `nodes` alone.

    With `local` data it has no trial, which the trainer made on its own data.  Raises `ConfigError`
    where these servers had different data.
    """
    site = dict(description)
    placement = description.get("placement")
    places = placement.items() if isinstance(placement, dict) else ()
    held = [str(name) for name, there in places if _has_any(there, nodes)]
    # With keys, a placement has "ADDRESS (NAME)", the other entries have the address.
    servers = {*held, *map(address_of, held)}
    for entry in ("data_digests", "devices"):
        if isinstance(known := description.get(entry), dict):
            site[entry] = {name: value for name, value in known.items() if name in servers}
    digests = set(map(str, site.get("data_digests", {}).values()))
    if len(digests) > 1:
        names = clean_value(", ".join(sorted(held)), 300)
        raise ConfigError(
            f"nodes {join_numbers(nodes)} lived on servers with different data ({names}): "
            "check the nodes of one site at a time, where its data is"
        )
    if digests:
        (site["data_digest"],) = digests
    if local:
        site["trial"] = None
    return site


def site_advice(description: Mapping[str, Any], digest: str, honest: int) -> str:
    """Return how to check the nodes of the site whose data has this `digest`, if one has."""
    digests, placement = description.get("data_digests"), description.get("placement")
    here = {name for name, d in digests.items() if d == digest} if isinstance(digests, dict) else ()
    places = placement.items() if isinstance(placement, dict) else ()
    held = [read_nodes(there) or () for name, there in places if address_of(name) in here]
    nodes = sorted(node for there in held for node in there if node < honest)
    if not nodes:
        return "each site can check its own nodes, with --nodes and --data-root"
    return f"the data here is that of nodes {join_numbers(nodes)}: check them alone, with --nodes"


def _has_any(there: Any, nodes: Sequence[int]) -> bool:
    found = read_nodes(there) or ()
    return any(node in found for node in nodes)


def check_nodes(nodes: Sequence[int], honest: int) -> None:
    """Raise `ConfigError` unless each of `nodes` is an honest one of `honest`."""
    wrong = [node for node in nodes if not 0 <= node < honest]
    if wrong:
        raise ConfigError(
            f"--nodes must be honest nodes of the run, 0 to {honest - 1}, got "
            f"{join_numbers(wrong)} (a Byzantine node's vector depends on all others)"
        )
