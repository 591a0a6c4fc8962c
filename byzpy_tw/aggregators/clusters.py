"""SignGuard, clipped clustering and FLAME: the largest group of rows that look alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from byzpy_tw.aggregators.rule import (
    ALL_LAWS,
    EQUAL_ROWS,
    PERMUTATION,
    TRANSLATION,
    Outcome,
    State,
    rule,
)
from byzpy_tw.kernels import select
from byzpy_tw.kernels.points import Gram, Points
from byzpy_tw.parameters import integer, real
from byzpy_tw.seeds import Context

# Shares are whole numbers over d: two different ones differ by more than this.
ROUNDING = 1e-12
# A distance by cosine of two float32 vectors that is less may be all rounding.
COSINE_ROUNDING = 1e-6


# Clusters of one size tie, and the lowest index decides.
@rule("sign-guard", "n >= 2", "n > 2f", "length", breaks={PERMUTATION, TRANSLATION})
class SignGuard:
    """The mean of rows of ordinary norm and ordinary signs, clipped to the median norm.

    A row counts if its norm is within [`low`, `high`] times the median norm, and
    its shares of positive, zero and negative coordinates fall in the largest
    cluster of these (`mean_shift`).  Where no row passes both tests, the rows of
    ordinary signs count.  The shares are taken over all coordinates.

    References
    ----------
    Xu et al., "Byzantine-robust Federated Learning through Collaborative Malicious
    Gradient Filtering", ICDCS 2022, Algorithm 2 (which draws a tenth of the coordinates).
    """

    f: int = integer(0)
    low: float = real(0.1, least=0.0)
    high: float = real(3.0, above=0.0)

    def outcome(self, points: Points, *, context: Context | None, state: State) -> Outcome:
        norms = points.norms
        middle = _median(norms)
        ordinary = (norms >= self.low * middle) & (norms <= self.high * middle)
        shares = select.sign_counts(points) / points.matrix.shape[1]
        alike = torch.zeros(points.size, dtype=torch.bool)
        alike[largest_cluster(mean_shift(shares.numpy()))] = True
        chosen = ordinary & alike if (ordinary & alike).any() else alike
        weights = torch.where(chosen, _clip(norms, middle), 0.0) / chosen.sum()
        return Outcome(points.combine(weights), points.row_weights(weights))


@rule("clipped-clustering", "n >= 2", "n > 2f", "length")
class ClippedClustering:
    """Rows clipped to `tau`, cut in two by their angles; the mean of the larger part.

    `tau` is the median of all norms seen so far, which the state keeps, unless
    given.  The cut is agglomerative clustering by cosine distance, average
    linkage.  A zero row is at distance one from every other.

    References
    ----------
    Li, Ngai and Voigt, "An Experimental Study of Byzantine-Robust Aggregation
    Schemes in Federated Learning", IEEE Transactions on Big Data 2023, section 4.
    """

    f: int = integer(0)
    tau: float | None = real(
        None, above=0.0, none="the median of the norms of all rows of this and earlier rounds"
    )

    @property
    def laws(self) -> frozenset[str]:
        return ALL_LAWS - {PERMUTATION, TRANSLATION} if self.tau is None else frozenset()

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        norms = gram.norms
        tau = self.tau
        if tau is None:
            seen = norms if state is None else torch.cat([state.get("norms", norms[:0]), norms])
            tau = _median(seen)
            if state is not None:
                state["norms"] = seen
        squares = norms.square()
        products = (squares[:, None] + squares - gram.squared) / 2
        members = largest_cluster(two_clusters((1 - _cosines(products, norms)).numpy()))
        weights = torch.zeros(gram.size, dtype=torch.float64)
        weights[members] = _clip(norms, tau)[members] / len(members)
        return weights


@rule("flame", "n >= 1", "n > 2f", "length")
class FLAME:
    """Rows of the majority by angle, clipped to the median norm, their mean, and a little noise.

    The majority is the cluster that HDBSCAN finds by the rows' cosine distances when a cluster
    must have more than half of the rows (`majority_component`).  The median is that of the norms
    of all rows.  The noise is normal, its deviation `noise` times the median; it is drawn by the
    run's seed and the round (by seed 0 and round 0 where no context is given).  A zero row is at
    distance one from every other.

    References
    ----------
    Nguyen et al., "FLAME: Taming Backdoors in Federated Learning", USENIX Security 2022,
    Algorithm 1, on the rows in the place of the local models.
    """

    f: int = integer(0)
    noise: float = real(0.001, least=0.0, most=1e6)

    @property
    def laws(self) -> frozenset[str]:
        return ALL_LAWS - ({TRANSLATION, EQUAL_ROWS} if self.noise else {TRANSLATION})

    @property
    def products_only(self) -> bool:
        """Return whether inner products suffice: noise is no combination of rows."""
        return not self.noise

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        norms = gram.norms
        apart = 1 - _cosines(gram.from_origin, norms)
        apart[apart < COSINE_ROUNDING] = 0
        members = majority_component(apart.numpy())
        weights = torch.zeros(gram.size, dtype=torch.float64)
        weights[members] = _clip(norms, _median(norms))[members] / len(members)
        return weights

    def outcome(self, points: Points, *, context: Context | None, state: State) -> Outcome:
        weights = self.weights(points.gram, context=context, state=state)
        vector = points.combine(weights)
        if self.noise:
            stream = (context or Context()).stream("flame")
            drawn = torch.from_numpy(stream.standard_normal(len(vector), dtype=np.float32))
            vector.add_(drawn.to(vector), alpha=self.noise * _median(points.gram.norms))
        return Outcome(vector, points.row_weights(weights))


def _cosines(products: Tensor, norms: Tensor) -> Tensor:
    """Return the rows' cosines from their inner products and norms; zero for a row of zeros."""
    lengths = torch.outer(norms, norms)
    return torch.where(lengths > 0, products / lengths, 0.0).clamp_(-1, 1)


def _median(values: Tensor) -> float:
    ranked = values.sort().values
    return float((ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2)


def _clip(norms: Tensor, limit: float) -> Tensor:
    return torch.where(norms > limit, limit / norms, 1.0)


def largest_cluster(clusters: list[list[int]]) -> list[int]:
    """Return the cluster with most members; of several, the one with the lowest member."""
    return min(clusters, key=lambda members: (-len(members), members[0]))


def two_clusters(apart: np.ndarray) -> list[list[int]]:
    """Merge the two nearest clusters, by average distance, until two are left."""
    clusters: list[list[int]] = [[i] for i in range(len(apart))]
    apart = apart.copy()
    np.fill_diagonal(apart, np.inf)
    while len(clusters) > 2:
        a, b = sorted(divmod(int(apart.argmin()), len(clusters)))
        sizes = len(clusters[a]), len(clusters[b])
        joined = (sizes[0] * apart[a] + sizes[1] * apart[b]) / sum(sizes)
        apart[a], apart[:, a] = joined, joined
        apart[a, a] = np.inf
        apart = np.delete(np.delete(apart, b, axis=0), b, axis=1)
        clusters[a] = sorted(clusters[a] + clusters.pop(b))
    return clusters


def majority_component(apart: np.ndarray) -> list[int]:
    """Return the component with over half of the points at the least distance that has one.

    Points at most a distance apart are in one component.  This is HDBSCAN with
    ``min_cluster_size = n // 2 + 1``, ``min_samples = 1`` and ``allow_single_cluster``: no point
    is nearer than its nearest neighbour, so its mutual reachability is the distance itself, and of
    the two sides of a split at most one has so many points.  There is one cluster, of the points
    that are in it until it is too small.
    """
    n = len(apart)
    group = np.arange(n)
    at_most, members = np.inf, [0]
    for distance, a, b in _spanning_tree(apart):
        if distance > at_most:
            break
        group[group == group[b]] = group[a]
        joined = np.flatnonzero(group == group[a])
        if len(joined) > n // 2:
            at_most, members = distance, joined.tolist()
    return members


def _spanning_tree(apart: np.ndarray) -> list[tuple[float, int, int]]:
    """Return the edges of a minimum spanning tree, shortest first, by Prim's algorithm."""
    near, parent = apart[0].copy(), np.zeros(len(apart), dtype=int)
    outside, edges = np.arange(len(apart)) > 0, []
    while outside.any():
        new = int(np.where(outside, near, np.inf).argmin())
        edges.append((float(near[new]), int(parent[new]), new))
        outside[new] = False
        closer = outside & (apart[new] < near)
        near[closer], parent[closer] = apart[new][closer], new
    return sorted(edges)


def mean_shift(features: np.ndarray) -> list[list[int]]:
    """Return clusters of the rows of ``(n, k)`` `features`, by mean shift with a flat kernel.

    The bandwidth is the mean distance to the (n // 2)-th nearest row, itself
    counted.  A peak within a bandwidth of another with more rows around it is
    dropped, and each row goes to the nearest remaining peak.
    """
    n = len(features)
    apart = _distances(features, features)
    bandwidth = float(np.sort(apart, axis=1)[:, max(1, n // 2) - 1].mean()) + ROUNDING
    peaks = features
    for _ in range(300):
        inside = _distances(peaks, features) <= bandwidth
        moved = (inside[:, :, None] * features).sum(axis=1) / inside.sum(axis=1)[:, None]
        done = float(np.abs(moved - peaks).max()) <= 1e-3 * ROUNDING
        peaks = moved
        if done:
            break
    around = (_distances(peaks, features) <= bandwidth).sum(axis=1)
    left: list[int] = []
    for i in sorted(range(n), key=lambda i: (-around[i], i)):
        if all(np.sqrt(((peaks[i] - peaks[j]) ** 2).sum()) > bandwidth for j in left):
            left.append(i)
    home = _distances(features, peaks[left]).argmin(axis=1)
    clusters = [np.flatnonzero(home == c).tolist() for c in range(len(left))]
    return [members for members in clusters if members]


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2))
