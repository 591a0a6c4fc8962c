"""The computations of rules: inner products, weighted sums and selection by coordinate.

Each reads the matrix of vectors once, tile by tile, on as many threads as
`parallel.thread_limit` allows.  The bits are the same for any number of threads.
"""

from byzpy_tw.kernels.combine import combination, combinations
from byzpy_tw.kernels.gram import norms_of, products
from byzpy_tw.kernels.points import Gram, Points

__all__ = ["Gram", "Points", "combination", "combinations", "norms_of", "products"]
