"""Sites that join a run, or are away when it is resumed: entries of config.json, merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from byzpy_tw.text import clean_value


def address_of(name: str) -> str:
    """Return the address in a server's name, which with keys is "ADDRESS (NAME)"."""
    return name.partition(" (")[0]


def read_texts(description: Mapping[str, Any], entry: str) -> dict[str, str]:
    """Return an `entry` of config.json that has a text for each server; empty for no such one."""
    found = description.get(entry)
    return {k: clean_value(v) for k, v in found.items()} if isinstance(found, dict) else {}


def merge_placement(before: Any, now: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Return the nodes of each server `now`; a server away keeps its nodes of `before`.

    Of `before`, which config.json has, a node that has a server now is left out, and so is a
    server that is neither listed now nor has any other node.
    """
    placed = {node for nodes in now.values() for node in nodes}
    merged: dict[str, tuple[str, list[int]]] = {}
    for name, nodes in before.items() if isinstance(before, dict) else ():
        left = [n for n in nodes if n not in placed] if isinstance(nodes, list) else []
        merged[address_of(name)] = name, left
    listed = set(map(address_of, now))
    for name, nodes in now.items():
        then, left = merged.get(address_of(name), (name, []))
        known = name if name != address_of(name) else then
        merged[address_of(name)] = known, sorted({*nodes, *left})
    return {name: nodes for name, nodes in merged.values() if nodes or address_of(name) in listed}


def add_server(
    description: Mapping[str, Any], name: str, digest: str, device: str, nodes: Sequence[int]
) -> dict[str, Any]:
    """Return config.json with the server called `name`, which has joined the run.

    Of `nodes`, whose home it is, it is recorded with those that no other server was given.
    """
    before, address = description["placement"], address_of(name)
    known = {node for nodes in before.values() for node in nodes}
    now = {**before, name: [node for node in nodes if node not in known]}
    return {
        **description,
        "placement": merge_placement(before, now),
        "data_digests": {address: digest, **description["data_digests"]},
        "devices": {**description["devices"], address: device},
    }
