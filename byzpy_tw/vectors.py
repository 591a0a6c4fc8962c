"""Vectors: callers' tensors, arrays and lists as matrices, digests, rounding and norms."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzpy_tw.errors import BadVectors

# A row of a larger norm counts as not finite, in any dtype.  Its square is still a float32,
# and training that works never gets near it.
NORM_LIMIT = 1e18

_STRETCH = 1024  # elements whose squares are added up in float32
_TINY = 1e-12  # below this norm, squares may vanish in float32
_SHORT = 1 << 14  # elements: up to here one exact call is faster than several
_EXACT_PART = 1 << 20  # elements that are added up at once, which decides last bits
AT_ONCE = 1 << 22  # numbers of a tensor of any size that are read or copied at once

Vectors = Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray]

_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_BYTES = (str, bytes, bytearray, memoryview)
_WIDTHS = (2, 4, 8)  # bytes of an array's numbers
_EXPECTED = (
    "expected an (n, d) tensor or array of float16, bfloat16, float32 or float64, or a list of "
    "n such vectors of one shape"
)
_JOIN = "join each node's layers first: torch.cat([t.reshape(-1) for t in layers])"


def as_matrix(vectors: Vectors) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The ``(n, d)`` tensor of `vectors`, and a function that converts results back.

    Takes an ``(n, d)`` tensor or array, or a list of ``n`` equal-shape tensors or arrays of any
    shape.  The matrix may share the caller's memory: do not write to it.  The function turns a
    ``(d,)`` or ``(m, d)`` tensor into the caller's kind, dtype, device and row shape.

    Raises `BadVectors` for anything else: no rows, differing shapes, dtypes or devices, numbers
    that are not floating point, masked, sparse and the like.
    """
    if isinstance(vectors, Tensor):
        matrix = _check_matrix(vectors)
        return matrix, lambda answer: answer.to(matrix.dtype)
    if isinstance(vectors, np.ndarray):
        matrix = _check_matrix(_from_numpy(vectors))
        return matrix, lambda answer: answer.to(matrix.dtype).numpy()
    if not isinstance(vectors, Sequence) or isinstance(vectors, _BYTES):
        raise _bad_vectors(type(vectors).__name__, _suggest(vectors))
    if not len(vectors):
        raise _bad_vectors(f"{type(vectors).__name__} of length 0")
    return _stack(vectors)


def _stack(vectors: Sequence[Any]) -> tuple[Tensor, Callable[[Tensor], Any]]:
    arrays = isinstance(vectors[0], np.ndarray)
    kind = np.ndarray if arrays else Tensor
    if not all(isinstance(row, kind) for row in vectors):
        raise _bad_vectors(*_mixed_kinds(vectors))
    rows: list[Any] = [_from_numpy(row) for row in vectors] if arrays else list(vectors)
    one = _check_dense(rows[0])
    shape, dtype, layout, device = one.shape, one.dtype, one.layout, one.device
    for row in rows:
        if (
            row.dtype is not dtype
            or row.layout is not layout
            or row.is_nested
            or row.shape != shape
            or row.device != device
            or (type(row) is not Tensor and type(row) is not type(one))
        ):
            _check_alike([_check_dense(row) for row in rows])
            break
    matrix = _check_matrix(torch.stack([row.reshape(-1) for row in rows]))

    def back(answer: Tensor) -> Any:
        answer = answer.to(matrix.dtype)
        if answer.ndim == 1:
            shaped = answer.reshape(shape)
            return shaped.numpy() if arrays else shaped
        return [back(row) for row in answer]

    return matrix, back


def _from_numpy(array: np.ndarray) -> Tensor:
    if isinstance(array, np.ma.MaskedArray):
        raise _bad_vectors(
            f"a masked array of {array.dtype}, whose mask no rule knows of",
            "fill it in first: x.filled(...)",
        )
    if array.dtype.kind != "f" or array.dtype.itemsize not in _WIDTHS:
        cures = {"O": _JOIN, **dict.fromkeys("iufb", "make them floats: x.astype('float32')")}
        raise _bad_vectors(f"an array of {array.dtype}", cures.get(array.dtype.kind, ""))
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    # torch warns about memory it may not write to; we never write to a caller's.
    return torch.from_numpy(native if native.flags.writeable else native.copy())


def _check_dense(tensor: Tensor) -> Tensor:
    """`tensor`; raises `BadVectors` unless it is dense and of floating-point numbers."""
    if type(tensor) is not Tensor and type(tensor).__name__ == "MaskedTensor":
        raise _bad_vectors("a masked tensor", "fill it in first: x.to_tensor(0.0)")
    if tensor.is_nested:
        raise _bad_vectors("a nested tensor", "pad its rows first: x.to_padded_tensor(0.0)")
    if tensor.layout is not torch.strided:
        raise _bad_vectors(f"a tensor of layout {tensor.layout}", "make it dense: x.to_dense()")
    if tensor.dtype not in _DTYPES:
        if tensor.is_quantized:
            raise _bad_vectors(f"a quantized tensor of {tensor.dtype}", "x.dequantize() first")
        cure = "" if tensor.dtype.is_complex else "make them floats: x.float()"
        raise _bad_vectors(f"a tensor of {tensor.dtype}", cure)
    if tensor.is_meta:
        raise _bad_vectors("a tensor on the meta device, which has no values")
    return tensor


def _check_matrix(matrix: Tensor) -> Tensor:
    matrix = _check_dense(matrix)
    if matrix.ndim != 2:
        cure = "x.flatten(1) keeps a row for each node"
        if matrix.ndim < 2:
            cure = "stack the vectors of the nodes: torch.stack(vectors)"
        raise _bad_vectors(f"shape {tuple(matrix.shape)}", cure)
    if 0 in matrix.shape:
        raise _bad_vectors(f"no vectors to work on: shape {tuple(matrix.shape)}")
    matrix = matrix.detach()
    return matrix.resolve_neg() if matrix.is_neg() else matrix  # NumPy has no lazy signs


def _check_alike(rows: Sequence[Tensor]) -> None:
    apart = len({row.device for row in rows}) > 1
    found = {
        f"{tuple(row.shape)} of {str(row.dtype).removeprefix('torch.')}"
        + (f" on {row.device}" if apart else "")
        for row in rows
    }
    if len(found) > 1:
        kinds = "; ".join(sorted(found))[:300]
        raise _bad_vectors(f"vectors of differing shapes, dtypes or devices: {kinds}")


def _mixed_kinds(rows: Sequence[Any]) -> tuple[str, str]:
    """The kinds of rows in a list of wrong ones, and a suggestion."""
    kinds = sorted({type(row).__name__ for row in rows})
    odd = next((row for row in rows if not isinstance(row, (Tensor, np.ndarray))), None)
    if len(kinds) == 1 or odd is not None:
        return f"a list of {', '.join(kinds)}", _suggest(odd, inside=True)
    return f"a list of both {' and '.join(kinds)}", "make them all tensors"


def _bad_vectors(got: str, cure: str = "") -> BadVectors:
    return BadVectors(f"{_EXPECTED}, got {got}{f'; {cure}' if cure else ''}")


def _suggest(thing: Any, *, inside: bool = False) -> str:
    """Code that makes vectors of `thing`, where there is a usual way."""
    if isinstance(thing, Mapping):
        return _JOIN.replace("layers]", "x.values()]").replace("in layers", "in x.values()")
    if isinstance(thing, (bool, int, float, complex, np.generic)):
        return "make it a tensor of two dimensions: torch.tensor(...)"
    if isinstance(thing, _BYTES):
        return ""
    if isinstance(thing, Sequence):
        numbers = len(thing) > 0 and isinstance(thing[0], (int, float))
        return "make it a tensor: torch.tensor(...)" if numbers else _JOIN
    if isinstance(thing, torch.nn.Module):
        return "join its parameters: torch.cat([p.reshape(-1) for p in x.parameters()])"
    if hasattr(thing, "to_numpy"):
        return "x.to_numpy() is an array"
    if hasattr(thing, "__array__"):
        return "numpy.asarray(x) is an array"
    if isinstance(thing, Iterable):
        return _JOIN if inside else "list(x) is a list"
    return ""


def sha256_of(*tensors: Tensor) -> str:
    """Hex digest of the tensors' bytes, little-endian, in order, with their shapes and dtypes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu()
        digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        whole = plain.is_contiguous() or not plain.numel()
        # Rows that lie apart are copied, a few of a large tensor at a time.
        rows = max(1, AT_ONCE // plain[0].numel()) if not whole else 0
        for part in (plain,) if whole else plain.split(rows):
            if part.numel():
                # An axis of length 1 may have any stride, and then no view of bytes.
                flat = part.contiguous().as_strided((part.numel(),), (1,))
                digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def round_to_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A float32 tensor rounded to `dtype`, or itself; finite numbers saturate, never overflow."""
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

    Accumulated in float64 over stretches of float32: three times as fast as all in float64,
    and right to six digits.  Where float32 cannot hold the squares, all is done in float64.
    """
    vector = vector.detach().reshape(-1)
    if vector.numel() <= _SHORT:
        return float(torch.linalg.vector_norm(vector, dtype=torch.float64))
    whole = vector.numel() // _STRETCH * _STRETCH
    if not whole or vector.dtype != torch.float32:
        return exact_norm(vector)
    stretches = torch.linalg.vector_norm(vector[:whole].view(-1, _STRETCH), dim=1)
    norm = math.hypot(exact_norm(stretches), exact_norm(vector[whole:]))
    return norm if _TINY < norm < math.inf else exact_norm(vector)


def exact_norm(vector: Tensor) -> float:
    """The Euclidean norm of a flat vector, accumulated in float64."""
    # In parts, since torch converts its whole argument to float64.
    parts = vector.split(_EXACT_PART)
    return math.hypot(
        *(float(torch.linalg.vector_norm(part, dtype=torch.float64)) for part in parts)
    )


def norm_fault(norm: float) -> str | None:
    """The reason why a vector of this norm counts as not finite, or None."""
    if norm <= NORM_LIMIT:
        return None
    finite = math.isfinite(norm)
    return f"norm {norm:.3g} is above {NORM_LIMIT:g}" if finite else "it holds NaN or infinity"
