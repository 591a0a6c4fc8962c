"""FoolsGold: nodes whose vectors point the same way, round after round, count less."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzpy_tw.aggregators.clusters import COSINE_ROUNDING
from byzpy_tw.aggregators.rule import EQUAL_ROWS, TRANSLATION, Outcome, State, rule
from byzpy_tw.errors import TooManyByzantine
from byzpy_tw.kernels.combine import compute_dtype
from byzpy_tw.kernels.gram import norms_of
from byzpy_tw.kernels.points import Gram, Points
from byzpy_tw.parameters import boolean, integer
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import NORM_LIMIT


@rule("foolsgold", "n >= 1", "f = 0", "none", breaks={TRANSLATION, EQUAL_ROWS})
class FoolsGold:
    """The mean of the rows, each times a weight that falls as its node is like another node.

    Nodes are compared by the cosines c_ij of the sums of their rows of all rounds; without
    `memory`, of this round's rows.  With v_i = max(0, max_j c_ij), c_ij is lowered to
    c_ij v_i / v_j where v_j > v_i; then a_i = 1 - max_j c_ij, cut to [0, 1] and divided by the
    largest, and the weight is ln(a_i / (1 - a_i)) + 1/2, cut to [0, 1].  Made against several
    nodes of one attacker: a single row, however long, counts fully, so it is put behind
    a rule such as ``clipping``.

    Notes
    -----
    The memory holds a vector for each node that ever took part.  The paper sums the weighted rows
    where this takes their mean over n, and its v_i may be negative, where a node is unlike all.

    References
    ----------
    Fung, Yoon and Beschastnikh, "The Limitations of Federated Learning in Sybil Settings",
    RAID 2020, Algorithm 1, without its choice of features.
    """

    f: int = integer(0)
    memory: bool = boolean(True)

    @property
    def products_only(self) -> bool:
        """Return whether inner products suffice: sums over rounds need the vectors."""
        return not self.memory

    @property
    def trusts_a_row(self) -> bool:
        """Return whether row i must be node i's own, as a memory of it needs."""
        return self.memory

    def memory_bytes(self, n: int, d: int) -> int:
        """Return the bytes that the memory may come to hold of n nodes' vectors."""
        return 4 * n * d if self.memory else 0

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        norms = gram.norms.numpy()
        lengths = np.outer(norms, norms)
        cosines = np.zeros_like(lengths)
        np.divide(gram.from_origin.numpy(), lengths, out=cosines, where=lengths > 0)
        return torch.from_numpy(_dissimilarity(np.clip(cosines, -1, 1)) / gram.size)

    def outcome(self, points: Points, *, context: Context | None, state: State) -> Outcome:
        seen = points
        if self.memory and state is not None:
            seen = Points(_add_to_history(points.materialise(), context, state))
        weights = self.weights(seen.gram)
        return Outcome(points.combine(weights), points.row_weights(weights))


def _dissimilarity(cosines: np.ndarray) -> np.ndarray:
    """Return each node's weight in [0, 1], from the cosines of all."""
    cosines = cosines.copy()
    np.fill_diagonal(cosines, 0)  # as of a node that is like no other
    most = cosines.max(axis=1)
    ratio = np.ones_like(cosines)
    np.divide(most[:, None], most, out=ratio, where=most > most[:, None])
    apart = 1 - (cosines * ratio).max(axis=1)
    apart[apart < COSINE_ROUNDING] = 0  # or rounding alone would be scaled up to 1
    if not (largest := apart.max()) > 0:
        return np.zeros(len(apart))
    apart /= largest
    with np.errstate(divide="ignore"):
        return np.clip(np.log(apart) - np.log1p(-apart) + 0.5, 0, 1)


def _add_to_history(rows: Tensor, context: Context | None, state: dict[str, Any]) -> Tensor:
    """Add each row to its node's sum in `state`; return these nodes' sums, one row each.

    A sum that is longer than a row may be is scaled down to that: its direction is what counts.
    """
    nodes = context.nodes if context is not None and context.nodes else tuple(range(len(rows)))
    if len(nodes) != len(rows):
        raise TooManyByzantine(
            f"foolsgold needs each node's own row, got n={len(rows)} rows of {len(nodes)} nodes"
        )
    known = state.get("sums", {})
    sums = rows.to(compute_dtype(rows.dtype), copy=True)
    for place, node in enumerate(nodes):
        if node in known:
            sums[place] += known[node].to(sums)
    for place, norm in enumerate(norms_of(sums).tolist()):
        if norm > NORM_LIMIT:
            sums[place] *= NORM_LIMIT / norm
    # In memory of its own each, or one of them would keep all.
    state["sums"] = {**known, **{node: sums[i].clone() for i, node in enumerate(nodes)}}
    return sums
