"""Partitions: rules that cut the training data into the honest nodes' shards.

A partition is called with the ``(N, *shape)`` targets, the number of shards and a random stream,
and returns one int64 index array a shard, none of them empty.  Equal arguments give equal shards.
Of several targets it gets the one called ``label``, else the first by name.  One with the
attribute ``by_node = True`` gets the node of each example in their place.
"""

from byzpy_tw.partitions.builtin import (
    ByNode,
    Dirichlet,
    Extreme,
    Gamma,
    Iid,
    Local,
    Shards,
    Stride,
)

__all__ = [
    "BUILTIN",
    "ByNode",
    "Dirichlet",
    "Extreme",
    "Gamma",
    "Iid",
    "Local",
    "Shards",
    "Stride",
]

# name, factory, aliases
BUILTIN = (
    ("stride", Stride, ()),
    ("iid", Iid, ()),
    ("extreme", Extreme, ()),
    ("gamma", Gamma, ()),
    ("dirichlet", Dirichlet, ()),
    ("shards", Shards, ()),
    ("local", Local, ()),
    ("given", ByNode, ()),
)
