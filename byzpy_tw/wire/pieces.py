"""How the pieces of an attack's knowledge travel: one frame each.

The order below numbers them on the wire.  A node's own gradient is computed
where the node is, so it never travels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isqrt, prod

import torch
from torch import Tensor

from byzpy_tw.attacks.knowledge import Knowledge, shapes
from byzpy_tw.errors import BadFrame, BadRequest
from byzpy_tw.vectors import narrowed
from byzpy_tw.wire.frames import Header, Kind

PIECES = ("mean", "std", "one", "gram", "products", "vectors", "strength")
PAST = "past"  # travels too, but one frame for each node that is shown its own
_WIDE = {"gram", "products", "strength"}  # float64, and small


def dtype_of(piece: str, wire: torch.dtype = torch.float32) -> torch.dtype:
    """What `piece` is on the wire, where vectors are `wire`."""
    return torch.float64 if piece in _WIDE else wire


def header_of(piece: str, round: int, tensor: Tensor) -> Header:
    """The header of the frame that carries `piece`."""
    return Header(Kind.PIECE, round, tensor.numel(), PIECES.index(piece), tensor.dtype)


def narrow(pieces: Mapping[str, Tensor], wire: torch.dtype) -> dict[str, Tensor]:
    """`pieces` as they travel."""
    return {p: narrowed(tensor, dtype_of(p, wire)).contiguous() for p, tensor in pieces.items()}


def widened(tensor: Tensor) -> Tensor:
    """A piece, or a past, that has travelled, as attacks take it."""
    return tensor if tensor.dtype is torch.float64 else tensor.to(torch.float32)


def largest_piece(h: int, d: int) -> int:
    """Bytes of the largest piece that `h` honest vectors may have."""
    return max(prod(shape) * dtype_of(p).itemsize for p, shape in shapes(PIECES, h, d).items())


def place_of(
    header: Header,
    expected: Collection[str],
    *,
    most_h: int,
    d: int,
    wire: torch.dtype = torch.float32,
) -> tuple[str, Tensor]:
    """The piece that `header` announces, and fresh memory for it.

    The number of honest vectors, at most `most_h`, follows from the size.
    Raises `BadFrame` for a piece not in `expected` or of an impossible size.
    """
    if not header.index < len(PIECES) or PIECES[header.index] not in expected:
        raise BadFrame(f"piece {header.index} was not expected")
    piece = PIECES[header.index]
    h = {
        "gram": isqrt(header.elements),
        "products": header.elements // 2 - 2,
        "vectors": header.elements // d,
    }.get(piece, 1)
    shape = shapes([piece], h, d)[piece]
    if not 1 <= h <= most_h or prod(shape) != header.elements:
        raise BadFrame(f"{piece} of {header.elements} elements for d={d}, h<={most_h}")
    if header.dtype is not dtype_of(piece, wire):
        raise BadFrame(f"{piece} must be {dtype_of(piece, wire)}, not {header.dtype}")
    try:
        return piece, torch.empty(shape, dtype=header.dtype)
    except RuntimeError as e:
        raise BadFrame(f"no memory for {piece} of {header.size:,} bytes") from e


def knowledge_of(
    shown: Mapping[str, Tensor],
    *,
    h: int,
    d: int,
    own: Tensor | None,
    past: Tensor | None = None,
) -> Knowledge:
    """What was `shown`, as an attack takes it; `BadRequest` where shapes differ."""
    right = shapes(shown, h, d)
    for piece, tensor in shown.items():
        if tuple(tensor.shape) != right[piece]:
            raise BadRequest(
                f"{piece} has shape {tuple(tensor.shape)}, {right[piece]} was announced"
            )
    return Knowledge(h=h, dimension=d, own=own, past=past, **shown)
