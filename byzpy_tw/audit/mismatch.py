"""The differences between a recorded round and the same round computed again, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from byzpy_tw.audit.recompute import RecomputedRound
from byzpy_tw.records.schema import ROUND_FIELDS
from byzpy_tw.text import clean_value

CLOSE = 1e-4  # relative; norms that differ by less differ by rounding
_NAMED = 5  # nodes


def norms_match(found: RecomputedRound, record: Mapping[str, Any]) -> bool:
    """Return whether all vectors have the recorded norms."""
    return not list(_differing_norms(found, record))


def compare_entries(found: RecomputedRound, record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the verified entries of `record` that differ from `found`."""
    for name, field in ROUND_FIELDS.items():
        if not field.verified or name not in record or name not in found.entries:
            continue
        here, there = found.entries[name], record[name]
        if name == "norms":  # of refused vectors too
            there = {node: there.get(node) for node in here}
        if not _is_recorded(there, here):
            yield f"{name} {clean_value(there)} on record, {clean_value(here)} here"


def explain_hash(found: RecomputedRound, record: Mapping[str, Any], placement: Any) -> str:
    """Return the cause of another hash than is recorded, as far as the record tells.

    `placement` is that of config.json.
    """
    differing = list(_differing_norms(found, record))
    if differing:
        if all(math.isclose(there, here, rel_tol=CLOSE) for _, there, here in differing):
            return "norms differ by rounding alone: other versions or instructions than then?"
        return _name_nodes(differing, placement)
    if _is_recorded(record.get("aggregate_norm"), found.entries["aggregate_norm"]):
        return "the norms of the vectors and of their aggregate are as recorded"
    return (
        "the norms of the vectors are as recorded, what the rules make of them is not: is it f "
        "or the membership on record, the rules or their version?"
    )


def _differing_norms(
    found: RecomputedRound, record: Mapping[str, Any]
) -> Iterator[tuple[int, float, float]]:
    """Yield each node whose vector has another norm, with the recorded and the computed one."""
    norms = record.get("norms", {})
    for node, here in found.entries["norms"].items():
        there = norms.get(node)
        if not _is_recorded(there, here):
            yield int(node), math.nan if there is None else float(there), here


def _name_nodes(differing: Sequence[tuple[int, float, float]], placement: Any) -> str:
    """Return the nodes whose vectors are not what they compute, and their servers."""
    named = [
        f"node {node}{_server(placement, node)} norm {there:.6g}, here {here:.6g}"
        for node, there, here in differing[:_NAMED]
    ]
    more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
    return (
        f"not what the nodes compute: {'; '.join(named)}{more} (what a server sent in their "
        "place, if it lied, cannot be computed again)"
    )


def _server(placement: Any, node: int) -> str:
    for name, nodes in placement.items() if isinstance(placement, dict) else ():
        if isinstance(nodes, list) and node in nodes:
            return f" (at the start on {clean_value(name)})"
    return ""


def _is_recorded(there: Any, here: Any) -> bool:
    """Return whether a record has the value `here`; null stands for one that is not finite."""
    if isinstance(here, float) and not math.isfinite(here):
        here = None
    return bool(there == here)
