"""Pre-aggregators, by name and as classes.

Each is called as ``rule(vectors, *, context=None, state=None)`` and returns
``(m, d)`` in the caller's kind.
"""

from byzpy_tw.preaggregators.geometric import ARC, NNM, Bucketing, Clipping

__all__ = ["ARC", "BUILTIN", "NNM", "Bucketing", "Clipping"]

# name, class, aliases
BUILTIN: tuple[tuple[str, type, tuple[str, ...]], ...] = (
    ("clipping", Clipping, ()),
    ("arc", ARC, ()),
    ("nnm", NNM, ()),
    ("bucketing", Bucketing, ()),
)
