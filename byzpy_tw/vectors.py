"""Vectors as callers bring them, and as the rest of the package wants them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzpy_tw.errors import BadVectors

# A row whose norm exceeds this counts as not finite, whatever its dtype: its
# square is still a float32, and nothing that is learning gets anywhere near.
NORM_LIMIT = 1e18

_STRETCH = 1024  # elements whose squares are added up in float32
_TINY = 1e-12  # squares of what has a smaller norm may vanish in float32
_SHORT = 1 << 14  # elements, of which one call makes less work than several
_EXACT_AT_ONCE = 1 << 20  # elements

Vectors = Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray]


def as_matrix(vectors: Vectors) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The ``(n, d)`` tensor behind `vectors`, and the way back.

    Takes an ``(n, d)`` tensor or array, or a list of ``n`` equal-shape tensors
    or arrays of any shape.  Nothing is copied where it need not be, so the
    matrix may share the caller's memory: do not write to it.  The function
    returned turns a ``(d,)`` (or ``(m, d)``) tensor into the caller's kind,
    with the caller's dtype, device and row shape.

    Raises `BadVectors` for anything else: no rows, differing shapes or dtypes,
    and numbers that are not floating point.
    """
    if isinstance(vectors, Tensor):
        return _checked(vectors), lambda answer: answer.to(vectors.dtype)
    if isinstance(vectors, np.ndarray):
        matrix = _checked(_from_numpy(vectors))
        return matrix, lambda answer: answer.to(matrix.dtype).numpy()
    if not isinstance(vectors, Sequence) or not vectors:
        raise BadVectors(
            "expected an (n, d) tensor or array, or a list of n vectors, "
            f"got {type(vectors).__name__}"
            + (" of length 0" if isinstance(vectors, Sequence) else "")
        )
    first = vectors[0]
    arrays = isinstance(first, np.ndarray)
    if not all(type(row) is type(first) for row in vectors) or not (
        arrays or isinstance(first, Tensor)
    ):
        kinds = sorted({type(row).__name__ for row in vectors})
        raise BadVectors(f"a list of vectors must hold one kind of them, got {kinds}")
    rows = [_from_numpy(row) for row in vectors] if arrays else list(vectors)
    shape = rows[0].shape
    if any(row.shape != shape or row.dtype != rows[0].dtype for row in rows):
        raise BadVectors(
            "vectors of differing shapes or dtypes: "
            f"{sorted({(tuple(r.shape), str(r.dtype)) for r in rows})}"
        )
    matrix = _checked(torch.stack([row.reshape(-1) for row in rows]))

    def back(answer: Tensor) -> Any:
        answer = answer.to(matrix.dtype)
        if answer.ndim == 1:
            one = answer.reshape(shape)
            return one.numpy() if arrays else one
        return [back(row) for row in answer]

    return matrix, back


def _from_numpy(array: np.ndarray) -> Tensor:
    if array.dtype.kind != "f":
        raise BadVectors(f"vectors must be floating point, got {array.dtype}")
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    # torch warns about memory it may not write to; we never write to a caller's.
    return torch.from_numpy(native if native.flags.writeable else native.copy())


def _checked(matrix: Tensor) -> Tensor:
    if matrix.ndim != 2:
        raise BadVectors(f"expected shape (n, d), got {tuple(matrix.shape)}")
    if 0 in matrix.shape:
        raise BadVectors(f"no vectors to work on: shape {tuple(matrix.shape)}")
    if not matrix.dtype.is_floating_point:
        raise BadVectors(f"vectors must be floating point, got {matrix.dtype}")
    return matrix.detach()


def sha256_of(*tensors: Tensor) -> str:
    """Hex digest of the tensors' bytes, little-endian, in order.

    Shapes and dtypes are part of the digest, so that equal bytes that mean
    different things differ.
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        digest.update(plain.view(torch.uint8).numpy().data if plain.numel() else b"")
    return digest.hexdigest()


def narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A float32 tensor rounded to `dtype`; itself where it has that already.

    What is finite stays finite: it saturates at the largest number there is.  An
    infinity stays one, and NaN stays NaN.
    """
    if tensor.dtype == dtype:
        return tensor
    rounded = tensor.to(dtype)
    if not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(rounded))).all()):
        return rounded
    most = torch.finfo(dtype).max
    over = torch.isinf(rounded) & torch.isfinite(tensor)
    return torch.where(over, rounded.sign() * most, rounded)


def norm_of(vector: Tensor) -> float:
    """The Euclidean norm; nan where it is not a number.

    Accumulated in float64 over stretches of float32: three times as fast as all in
    float64, and right to six digits.  What float32 cannot square is taken anew.
    """
    vector = vector.detach().reshape(-1)
    if vector.numel() <= _SHORT:
        return float(torch.linalg.vector_norm(vector, dtype=torch.float64))
    whole = vector.numel() // _STRETCH * _STRETCH
    if not whole or vector.dtype != torch.float32:
        return _exact_norm(vector)
    stretches = torch.linalg.vector_norm(vector[:whole].view(-1, _STRETCH), dim=1)
    norm = math.hypot(_exact_norm(stretches), _exact_norm(vector[whole:]))
    return norm if _TINY < norm < math.inf else _exact_norm(vector)


def _exact_norm(vector: Tensor) -> float:
    # In parts, since torch makes float64 of all that it is given.
    parts = vector.split(_EXACT_AT_ONCE)
    return math.hypot(
        *(float(torch.linalg.vector_norm(part, dtype=torch.float64)) for part in parts)
    )


def fault_of(norm: float) -> str | None:
    """Why a vector of this norm counts as not finite, or None."""
    if norm <= NORM_LIMIT:
        return None
    if norm > NORM_LIMIT and norm != float("inf"):
        return f"norm {norm:.3g} is above {NORM_LIMIT:g}"
    return "it holds NaN or infinity"
