"""Random streams that depend on their purpose alone.

Every consumer of randomness names its stream by the run's seed, a purpose and numbers such as
the node and the round.  The name alone decides the stream's numbers (a counter-based
generator, Philox, keyed by a hash of the name).  Processes, the order and the number of
streams made before do not matter.  Nothing in this package uses a global generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import field, frozen
from numpy.random.bit_generator import ISeedSequence

if TYPE_CHECKING:
    from torch import Tensor


def key(seed: int, purpose: str, *numbers: int) -> bytes:
    """The 32 bytes that identify the stream ``(seed, purpose, *numbers)``."""
    name = "/".join([str(int(seed)), purpose, *(str(int(n)) for n in numbers)])
    return hashlib.sha256(name.encode()).digest()


class _Words(ISeedSequence):
    """A generator's key; with ``key=`` numpy asks for entropy too: slower than drawing a batch."""

    def __init__(self, words: np.ndarray) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> np.ndarray:
        return self._words


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A fresh generator for the stream ``(seed, purpose, *numbers)``, independent of all others."""
    words = np.frombuffer(key(seed, purpose, *numbers)[:16], dtype="<u8")
    sequence: Any = _Words(words)  # numpy's stubs know SeedSequence only
    return np.random.Generator(np.random.Philox(sequence))


def torch_seed(seed: int, purpose: str, *numbers: int) -> int:
    """A seed in [0, 2**63) for a `torch.Generator`, for the same kind of stream."""
    return int.from_bytes(key(seed, purpose, *numbers)[:8], "little") >> 1


@frozen
class Context:
    """The round and nodes of a call, for a rule or an attack that takes the keyword ``context``.

    ``round`` counts from 0.  ``nodes`` names the node behind each row of the vectors (without
    refused nodes), ``n`` and ``f`` are the run's, ``byzantine`` is the number of Byzantine nodes.
    ``node`` is the Byzantine node that an attack is computed for, -1 for an aggregator.
    ``pipeline`` is the run's own rules, where the trainer asks an attack for its strength.
    ``weights`` is each row's share of their weight, ``(m,)`` float64 in the rows' order with a sum
    of one, as the operator gave it; None where all rows count alike.  ``node_weights`` is the same
    of all ``n`` nodes, for an attack that tries the run's rules.

    Rules that need it have the trainer's root set: ``root`` is the ``(d,)`` vector that an honest
    node would send from it, ``score`` a function from ``(m, d)`` vectors to the ``(m,)`` losses, on
    a batch of it, of the parameters after a plain step along each.
    """

    seed: int = 0
    round: int = 0
    nodes: tuple[int, ...] = ()
    n: int = 0
    f: int = 0
    byzantine: int = 0
    node: int = -1
    pipeline: object = None
    weights: Tensor | None = field(default=None, eq=False)
    node_weights: Tensor | None = field(default=None, eq=False)
    root: Tensor | None = field(default=None, eq=False, repr=False)
    score: Callable[[Tensor], Tensor] | None = field(default=None, eq=False, repr=False)

    def stream(self, purpose: str, *numbers: int) -> np.random.Generator:
        """A generator for `purpose` in this round (and at this node, if any)."""
        return stream(self.seed, purpose, self.round, self.node + 1, *numbers)
