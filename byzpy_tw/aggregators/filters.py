"""CAF and DnC: rows that stick out along one direction count less, or not at all."""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from torch import Tensor

from byzpy_tw.aggregators.krum import lowest_scores
from byzpy_tw.aggregators.rule import Outcome, State, rule, uniform
from byzpy_tw.kernels.points import Gram, Points
from byzpy_tw.parameters import integer, real
from byzpy_tw.seeds import Context

MAX_STEPS = 300  # steps
MIN_PROGRESS = 1e-6  # of one row's weight a step


@rule("caf", "n > 2f", "n > 2f", "distance")
class CAF:
    """The covariance-bound agnostic filter.

    While more than n - 2f weight is left, weights are lowered along the top
    direction of the weighted covariance; the answer is the weighted mean whose
    covariance had the least top eigenvalue on the way.  `power_iterations` is the
    number of iterations that find the direction; None for the exact one.

    Notes
    -----
    ByzFL draws the start of its one power iteration at random, and does not end
    where a row is very far out; see the comment below for what happens here.

    References
    ----------
    Allouah, Guerraoui and Stephan, "Towards Trustworthy Federated Learning with
    Untrusted Participants", ICML 2025, Algorithm 2.
    """

    f: int = integer(0)
    power_iterations: int | None = integer(
        None,
        least=1,
        most=100_000,
        none="no iteration: the exact top eigenvector of the covariance",
    )

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        # NumPy's calls take less time at this size.  Not its BLAS, which would have
        # threads of its own.
        n, inner = gram.size, gram.inner.numpy()
        mass = np.ones(n)
        least, centre = float("inf"), mass / n
        # A row far out without weight still sets the scale, and can slow the others down
        # without end.  Then it is left out of the scale, and each step drops a row.
        patient = True
        for step in range(MAX_STEPS + n):
            total = mass.sum()
            if total <= n - 2 * self.f:
                break
            at = mass / total
            along = np.einsum("ij,j->i", inner, at)
            off = inner - along[:, None] - along + (along * at).sum()
            root = np.sqrt(at)
            top, vector = _top_eigenpair(
                torch.from_numpy(off * root * root[:, None]), self.power_iterations
            )
            if top < least:
                least, centre = top, at
            out = np.einsum("ij,j->i", off, root * vector.numpy()) ** 2
            most = out.max()
            lowered = mass * (1 - out / most) if most > 0 else mass
            if patient and not total - lowered.sum() > MIN_PROGRESS:
                patient = False
            if step >= MAX_STEPS or not patient:
                most = out[mass > 0].max()
                if not (top > 0 and most > 0):
                    break  # nothing is left to tell the rows apart by
                lowered = mass * (1 - out / most)
            mass = np.maximum(lowered, 0)
        return torch.from_numpy(centre)


def _top_eigenpair(matrix: Tensor, power_iterations: int | None) -> tuple[float, Tensor]:
    """Return the largest eigenvalue of a positive semidefinite matrix, and its vector."""
    if power_iterations is None:
        values, vectors = torch.linalg.eigh(matrix)
        return float(values[-1]), vectors[:, -1]
    vector = matrix[int(matrix.diagonal().argmax())]
    for _ in range(power_iterations):
        length = torch.linalg.vector_norm(vector)
        if not length > 0:
            break
        vector = torch.mv(matrix, vector / length)
    length = torch.linalg.vector_norm(vector)
    vector = vector / length if length > 0 else vector
    return float(torch.dot(vector, torch.mv(matrix, vector))), vector


@rule("dnc", None, "n > 2f", "probable", told="n > ceil(c f)")
class DnC:
    """Divide and conquer: rows of large projection on a top singular direction are dropped.

    `iterations` times, `subsample` coordinates are drawn (by the run's seed and the round, or by
    `seed` where it is given), and the ceil(c f) rows of largest projection dropped.  The rows that
    no iteration dropped are averaged; if there are none, the rows that the last one kept.

    References
    ----------
    Shejwalkar and Houmansadr, "Manipulating the Byzantine", NDSS 2021, Algorithm 2.
    """

    f: int = integer(0)
    iterations: int = integer(1, least=1, most=1000)
    subsample: int = integer(10_000, least=1)
    c: float = real(1.0, above=0.0)
    seed: int | None = integer(
        None, most=2**63 - 1, none="the run's seed and the round, both 0 outside a run"
    )

    def computable(self, n: int) -> str | None:
        why = f"dnc needs n > ceil(c f), got n={n}, f={self.f}, c={self.c:g}"
        return None if n > self._drop else why

    @property
    def _drop(self) -> int:
        return ceil(self.c * self.f)

    def outcome(self, points: Points, *, context: Context | None, state: State) -> Outcome:
        n, d = points.size, points.matrix.shape[1]
        named = context or Context() if self.seed is None else Context(seed=self.seed)
        kept = set(range(n))
        last: list[int] = []
        for iteration in range(self.iterations):
            if d > self.subsample:
                stream = named.stream("dnc", iteration)
                drawn = stream.choice(d, self.subsample, replace=False, shuffle=False)
                index = torch.from_numpy(drawn).sort().values
            else:
                index = torch.arange(d)
            some = points.columns(index)
            # Twice, for rows that are near each other and far from zero.
            some -= some.mean(dim=0)
            some -= some.mean(dim=0)
            _, along = _top_eigenpair(some @ some.T, None)
            last = lowest_scores(along.square(), n - self._drop).tolist()
            kept &= set(last)
        weights = uniform(n, sorted(kept or last))
        return Outcome(points.combine(weights), points.row_weights(weights))
