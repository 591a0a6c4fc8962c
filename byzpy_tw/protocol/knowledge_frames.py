"""Frames of an attack's knowledge: one for each piece.

The order of `PIECES` numbers them on the wire.  A node's own gradient is computed on the node's
server, so it never travels.
"""

from __future__ import annotations

from collections.abc import Collection
from math import isqrt, prod

import torch
from torch import Tensor

from byzpy_tw.attacks.knowledge.codec import PIECES, wire_dtype_of
from byzpy_tw.attacks.knowledge.view import shapes
from byzpy_tw.errors import BadFrame
from byzpy_tw.protocol.frames import FrameKind, Header


def piece_header(piece: str, round: int, tensor: Tensor) -> Header:
    """Return the header of the frame that carries `piece`."""
    return Header(FrameKind.PIECE, round, tensor.numel(), PIECES.index(piece), tensor.dtype)


def largest_piece(h: int, d: int) -> int:
    """Return the bytes of the largest piece for `h` honest vectors."""
    return max(prod(shape) * wire_dtype_of(p).itemsize for p, shape in shapes(PIECES, h, d).items())


def allocate_piece(
    header: Header,
    expected: Collection[str],
    *,
    max_h: int,
    d: int,
    wire: torch.dtype = torch.float32,
) -> tuple[str, Tensor]:
    """Return the name of the piece that `header` announces, and new memory for it.

    The number of honest vectors, at most `max_h`, follows from the size.  Raises `BadFrame`
    for a piece that is not `expected` or has an impossible size.
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
    if not 1 <= h <= max_h or prod(shape) != header.elements:
        raise BadFrame(f"{piece} of {header.elements} elements for d={d}, h<={max_h}")
    if header.dtype is not wire_dtype_of(piece, wire):
        raise BadFrame(f"{piece} must be {wire_dtype_of(piece, wire)}, not {header.dtype}")
    try:
        return piece, torch.empty(shape, dtype=header.dtype)
    except RuntimeError as e:
        raise BadFrame(f"no memory for {piece} of {header.size:,} bytes") from e
