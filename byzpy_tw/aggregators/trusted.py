"""FLTrust and Zeno: rows measured by the root set, examples that the trainer has for itself."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from byzpy_tw.aggregators.krum import lowest_scores
from byzpy_tw.aggregators.rule import (
    ALL_LAWS,
    EQUAL_ROWS,
    PERMUTATION,
    Outcome,
    State,
    root_needs,
    root_of,
    rule,
    score_of,
    uniform,
)
from byzpy_tw.kernels.points import Gram, Points
from byzpy_tw.parameters import integer, real
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import norm_of

# Of the root vector's norm.  A shorter row has no direction in float32, and no factor there makes
# it as long.
LEAST_NORM = 1e-30


@rule("fltrust", "n >= 1", "any n", "root vector", breaks=ALL_LAWS - {PERMUTATION})
class FLTrust:
    """The mean of the rows, each as long as the root vector, weighted by its cosine with it.

    A row whose cosine is not above zero counts nothing; where none is, the answer is zero.  The
    root vector is the context's ``root``: what an honest node would send from the trainer's root
    set.

    References
    ----------
    Cao et al., "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping", NDSS 2021,
    Algorithm 2.
    """

    inner_products: ClassVar[bool] = False
    needs_root: ClassVar[bool] = True
    f: int = integer(0)

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        length, norms = norm_of(root_of(self, context)), gram.norms
        usable = norms > LEAST_NORM * length
        trust = torch.where(usable, gram.with_center / (norms * length), 0.0).clamp_(0, 1)
        if not (total := float(trust.sum())) > 0:
            return torch.zeros_like(trust)
        return torch.where(usable, trust * (length / norms) / total, 0.0)


@rule("zeno", "n > f", "n > f", "root loss", breaks=ALL_LAWS - {PERMUTATION, EQUAL_ROWS})
class Zeno:
    """The mean of the n - f rows of the least loss plus `rho` times the squared norm.

    The loss of a row is that of the parameters after a plain step along it, on a batch of the
    trainer's root set: the context's ``score``.

    Notes
    -----
    The score is the paper's, less the loss before the step, which is the same for all rows, and
    with the other sign.  b, the number of rows that are left out, is f.

    References
    ----------
    Xie, Koyejo and Gupta, "Zeno: Distributed Stochastic Gradient Descent with Suspicion-based
    Fault-tolerance", ICML 2019, Algorithm 1.
    """

    needs_score: ClassVar[bool] = True
    f: int = integer(0)
    rho: float = real(0.0005, least=0.0)

    def outcome(self, points: Points, *, context: Context | None, state: State) -> Outcome:
        losses = score_of(self, context, points.materialise())
        scores = losses + self.rho * points.norms.square()
        weights = uniform(points.size, lowest_scores(scores, points.size - self.f))
        return Outcome(points.combine(weights), points.row_weights(weights))


def with_made_up_root(context: Context | None, rule: Any, rows: Tensor) -> Context:
    """Return `context` with what `rule` needs of a root set and lacks, made up, for a trial."""
    context, needs = context or Context(), root_needs(rule)
    if "root" in needs and context.root is None:
        d = rows.shape[1]
        context = attrs.evolve(context, root=rows.new_full((d,), d**-0.5))
    if "score" in needs and context.score is None:
        context = attrs.evolve(context, score=_squared_norms)
    return context


def _squared_norms(rows: Tensor) -> Tensor:
    return rows.to("cpu", torch.float64).square().sum(dim=1)
