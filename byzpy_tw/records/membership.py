"""Sites that join a run, or are away when it is resumed: entries of config.json, merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from byzpy_tw.text import clean_value

MOST = 1 << 20  # nodes of a run
MANY = 1000  # nodes of a server: more that are evenly spaced are recorded by their ends


def record_nodes(nodes: Sequence[int]) -> list[int] | dict[str, int]:
    """Return `nodes`, ascending, as records have them: `read_nodes` reads that."""
    if len(nodes) > MANY:
        step = nodes[1] - nodes[0]
        if isinstance(nodes, range) or nodes == [*range(nodes[0], nodes[-1] + 1, step)]:
            return {"first": nodes[0], "last": nodes[-1], "step": step}
    return list(nodes)


def read_nodes(recorded: Any) -> Sequence[int] | None:
    """Return the nodes of one server in a ``placement``; None where this is no such thing."""
    if isinstance(recorded, list):
        return [node for node in recorded if type(node) is int]
    if isinstance(recorded, dict) and recorded.keys() == {"first", "last", "step"}:
        first, last, step = (recorded[name] for name in ("first", "last", "step"))
        numbers = type(first) is type(last) is type(step) is int
        if numbers and step > 0 and 0 <= first <= last < MOST:
            return range(first, last + 1, step)
    return None


def address_of(name: str) -> str:
    """Return the address in a server's name, which with keys is "ADDRESS (NAME)"."""
    return name.partition(" (")[0]


def read_texts(description: Mapping[str, Any], entry: str) -> dict[str, str]:
    """Return an `entry` of config.json that has a text for each server; empty for no such one."""
    found = description.get(entry)
    return {k: clean_value(v) for k, v in found.items()} if isinstance(found, dict) else {}


def merge_placement(before: Any, now: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return the ``placement`` of each server `now`; a server away keeps its nodes of `before`.

    Of `before`, which config.json has, a node that has a server now is left out, and so is a
    server that is neither listed now nor has any other node.
    """
    placed = {node for nodes in now.values() for node in nodes}
    merged: dict[str, tuple[str, list[int]]] = {}
    for name, nodes in before.items() if isinstance(before, dict) else ():
        left = [node for node in read_nodes(nodes) or () if node not in placed]
        merged[address_of(name)] = name, left
    listed = set(map(address_of, now))
    for name, nodes in now.items():
        then, left = merged.get(address_of(name), (name, []))
        known = name if name != address_of(name) else then
        merged[address_of(name)] = known, sorted({*nodes, *left})
    return {
        name: record_nodes(nodes)
        for name, nodes in merged.values()
        if nodes or address_of(name) in listed
    }


def add_server(
    description: Mapping[str, Any], name: str, digest: str, device: str, nodes: Sequence[int]
) -> dict[str, Any]:
    """Return config.json with the server called `name`, which has joined the run.

    Of `nodes`, whose home it is, it is recorded with those that no other server was given.
    """
    address = address_of(name)
    before = {name: read_nodes(nodes) or () for name, nodes in description["placement"].items()}
    known = {node for there in before.values() for node in there}
    now = {**before, name: [node for node in nodes if node not in known]}
    return {
        **description,
        "placement": merge_placement(description["placement"], now),
        "data_digests": {address: digest, **description["data_digests"]},
        "devices": {**description["devices"], address: device},
    }
