"""SignGuard and clipped clustering: the largest group of rows that look alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from byzpy_tw.aggregators.rule import ALL_LAWS, PERMUTATION, TRANSLATION, Outcome, State, rule
from byzpy_tw.kernels import select
from byzpy_tw.kernels.points import Gram, Points
from byzpy_tw.parameters import integer, real
from byzpy_tw.seeds import Context

# Shares are whole numbers over d: two different ones differ by more than this.
ROUNDING = 1e-12


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
        lengths = torch.outer(norms, norms)
        cosine = torch.where(lengths > 0, products / lengths, 0.0).clamp_(-1, 1)
        members = largest_cluster(two_clusters((1 - cosine).numpy()))
        weights = torch.zeros(gram.size, dtype=torch.float64)
        weights[members] = _clip(norms, tau)[members] / len(members)
        return weights


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
