"""Vectors as callers bring them, and as the rest of the package wants them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
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

_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_WIDTHS = (2, 4, 8)  # bytes of an array's numbers
_EXPECTED = (
    "expected an (n, d) tensor or array of float16, bfloat16, float32 or float64, or a list of "
    "n such vectors of one shape"
)
_JOIN = "join each node's layers first: torch.cat([t.reshape(-1) for t in layers])"


def as_matrix(vectors: Vectors) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The ``(n, d)`` tensor behind `vectors`, and the way back.

    Takes an ``(n, d)`` tensor or array, or a list of ``n`` equal-shape tensors
    or arrays of any shape.  Nothing is copied where it need not be, so the
    matrix may share the caller's memory: do not write to it.  The function
    returned turns a ``(d,)`` (or ``(m, d)``) tensor into the caller's kind,
    with the caller's dtype, device and row shape.

    Raises `BadVectors` for anything else: no rows, differing shapes, dtypes or
    devices, numbers that are not floating point, masked, sparse and the like.
    """
    if isinstance(vectors, Tensor):
        matrix = _checked(vectors)
        return matrix, lambda answer: answer.to(matrix.dtype)
    if isinstance(vectors, np.ndarray):
        matrix = _checked(_from_numpy(vectors))
        return matrix, lambda answer: answer.to(matrix.dtype).numpy()
    if not isinstance(vectors, Sequence) or isinstance(
        vectors, (str, bytes, bytearray, memoryview)
    ):
        cure = "" if isinstance(vectors, memoryview) else _cure(vectors)
        raise _refused(type(vectors).__name__, cure)
    if not len(vectors):
        raise _refused(f"{type(vectors).__name__} of length 0")
    first = vectors[0]
    arrays = isinstance(first, np.ndarray)
    kind = np.ndarray if arrays else Tensor
    if not all(isinstance(row, kind) for row in vectors):
        raise _refused(*_kinds(vectors))
    rows: list[Any] = [_from_numpy(row) for row in vectors] if arrays else list(vectors)
    one = _plain(rows[0])
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
            _check_alike([_plain(row) for row in rows])
            break
    matrix = _checked(torch.stack([row.reshape(-1) for row in rows]))

    def back(answer: Tensor) -> Any:
        answer = answer.to(matrix.dtype)
        if answer.ndim == 1:
            shaped = answer.reshape(shape)
            return shaped.numpy() if arrays else shaped
        return [back(row) for row in answer]

    return matrix, back


def _from_numpy(array: np.ndarray) -> Tensor:
    if isinstance(array, np.ma.MaskedArray):
        raise _refused(
            f"a masked array of {array.dtype}, whose mask no rule knows of",
            "fill it in first: x.filled(...)",
        )
    if array.dtype.kind != "f" or array.dtype.itemsize not in _WIDTHS:
        cure = "make them floats: x.astype('float32')" if array.dtype.kind in "iufb" else ""
        if array.dtype.kind == "O":
            cure = _JOIN
        raise _refused(f"an array of {array.dtype}", cure)
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    # torch warns about memory it may not write to; we never write to a caller's.
    return torch.from_numpy(native if native.flags.writeable else native.copy())


def _plain(tensor: Tensor) -> Tensor:
    """`tensor`, which is dense and of floating-point numbers; `BadVectors` otherwise."""
    if (
        tensor.dtype in _DTYPES
        and tensor.layout is torch.strided
        and not tensor.is_meta
        and not tensor.is_nested
        and (type(tensor) is Tensor or type(tensor).__name__ != "MaskedTensor")
    ):
        return tensor
    if type(tensor).__name__ == "MaskedTensor":
        raise _refused("a masked tensor", "fill it in first: x.to_tensor(0.0)")
    if tensor.is_nested:
        raise _refused("a nested tensor", "pad its rows first: x.to_padded_tensor(0.0)")
    if tensor.layout is not torch.strided:
        raise _refused(f"a tensor of layout {tensor.layout}", "make it dense: x.to_dense()")
    if tensor.is_quantized:
        raise _refused(f"a quantized tensor of {tensor.dtype}", "x.dequantize() first")
    if tensor.dtype not in _DTYPES:
        cure = "" if tensor.dtype.is_complex else "make them floats: x.float()"
        raise _refused(f"a tensor of {tensor.dtype}", cure)
    raise _refused("a tensor on the meta device, which has no values")


def _checked(matrix: Tensor) -> Tensor:
    matrix = _plain(matrix)
    if matrix.ndim != 2:
        cure = "stack the vectors of the nodes: torch.stack(vectors)" if matrix.ndim < 2 else (
            "x.flatten(1) keeps a row for each node"
        )  # fmt: skip
        raise _refused(f"shape {tuple(matrix.shape)}", cure)
    if 0 in matrix.shape:
        raise _refused(f"no vectors to work on: shape {tuple(matrix.shape)}")
    matrix = matrix.detach()
    return matrix.resolve_neg() if matrix.is_neg() else matrix  # NumPy has no lazy signs


def _check_alike(rows: Sequence[Tensor]) -> None:
    """`BadVectors` where dense `rows` differ in shape, dtype or device."""
    apart = len({row.device for row in rows}) > 1
    found = sorted({_told(row, device=apart) for row in rows})
    if len(found) > 1:
        raise _refused(f"vectors of differing shapes, dtypes or devices: {'; '.join(found)[:300]}")


def _kinds(rows: Sequence[Any]) -> tuple[str, str]:
    """A list of what the wrong `rows` are, and the cure."""
    kinds = sorted({type(row).__name__ for row in rows})
    odd = next((row for row in rows if not isinstance(row, (Tensor, np.ndarray))), None)
    if len(kinds) == 1 or odd is not None:
        return f"a list of {', '.join(kinds)}", _cure(odd, inside=True)
    return f"a list of both {' and '.join(kinds)}", "make them all tensors"


def _refused(got: str, cure: str = "") -> BadVectors:
    return BadVectors(f"{_EXPECTED}, got {got}{f'; {cure}' if cure else ''}")


def _told(row: Tensor, *, device: bool) -> str:
    where = f" on {row.device}" if device else ""
    return f"{tuple(row.shape)} of {str(row.dtype).removeprefix('torch.')}{where}"


def _cure(thing: Any, *, inside: bool = False) -> str:
    """A way to make vectors of `thing`, where there is a usual one."""
    if isinstance(thing, Mapping):
        return _JOIN.replace("layers]", "x.values()]").replace("in layers", "in x.values()")
    if isinstance(thing, (bool, int, float, complex, np.generic)):
        return "make it a tensor of two dimensions: torch.tensor(...)"
    if isinstance(thing, Sequence) and not isinstance(thing, (str, bytes, bytearray)):
        numbers = len(thing) > 0 and isinstance(thing[0], (int, float))
        return "make it a tensor: torch.tensor(...)" if numbers else _JOIN
    if isinstance(thing, torch.nn.Module):
        return "join its parameters: torch.cat([p.reshape(-1) for p in x.parameters()])"
    if hasattr(thing, "to_numpy"):
        return "x.to_numpy() is an array"
    if hasattr(thing, "__array__"):
        return "numpy.asarray(x) is an array"
    if isinstance(thing, Iterable) and not isinstance(thing, (str, bytes, bytearray)):
        return _JOIN if inside else "list(x) is a list"
    return ""


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


def round_to_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
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


def norm_fault(norm: float) -> str | None:
    """Why a vector of this norm counts as not finite, or None."""
    if norm <= NORM_LIMIT:
        return None
    if norm > NORM_LIMIT and norm != float("inf"):
        return f"norm {norm:.3g} is above {NORM_LIMIT:g}"
    return "it holds NaN or infinity"
