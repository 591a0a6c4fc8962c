"""MoNNA and CGE: the mean of the rows nearest to a trusted one, and to zero."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from byzpy_tw.aggregators.krum import lowest_scores
from byzpy_tw.aggregators.rule import PERMUTATION, TRANSLATION, State, rule, uniform
from byzpy_tw.errors import TooManyByzantine
from byzpy_tw.kernels.points import Gram
from byzpy_tw.parameters import integer
from byzpy_tw.seeds import Context


# The reference's row is not like the others.
@rule("monna", "n > f", "n > 2f", "distance if the reference is honest", breaks={PERMUTATION})
class MoNNA:
    """The mean of the n - f rows nearest to node `reference`'s own, itself included.

    `reference` is a node's id, as in the context; a row's position where no
    context is given.  An error where that node's row is not there.

    References
    ----------
    Farhadkhani et al., "Robust Collaborative Learning with Linear Gradient
    Overhead", ICML 2023, Algorithm 2.
    """

    inner_products: ClassVar[bool] = False
    trusts_a_row: ClassVar[bool] = True
    f: int = integer(0)
    reference: int = integer(0)

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        n = gram.size
        nodes = context.nodes if context is not None and context.nodes else tuple(range(n))
        if self.reference not in nodes or len(nodes) != n:
            raise TooManyByzantine(
                f"monna needs the row of its reference, node {self.reference}, "
                f"got n={n} rows of nodes {', '.join(map(str, nodes))}"
            )
        row = nodes.index(self.reference)
        away = gram.squared_from(row).clone()
        away[row] = -1  # itself first, before rows that equal it
        return uniform(n, lowest_scores(away, n - self.f))


@rule("cge", "n > f", "n > 2f", "length", breaks={TRANSLATION})
class CGE:
    """Comparative gradient elimination: the mean of the n - f rows of least norm.

    References
    ----------
    Gupta, Liu and Vaidya, "Byzantine Fault-Tolerant Distributed Machine Learning
    using Norm-Based Comparative Gradient Elimination", 2020.
    """

    inner_products: ClassVar[bool] = False
    f: int = integer(0)

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        return uniform(gram.size, lowest_scores(gram.norms, gram.size - self.f))
