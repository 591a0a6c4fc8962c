"""What an attack is shown of the honest vectors, as it is once it has travelled.

Whoever runs a node, a server or this very process, shows it the same bits: each piece
is rounded to what the wire carries, and made wide again.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from byzpy_tw.attacks.knowledge.view import Knowledge, shapes
from byzpy_tw.errors import BadRequest
from byzpy_tw.vectors import round_to_dtype

PIECES = ("mean", "std", "one", "gram", "products", "vectors", "strength")
PAST = "past"  # travels too, but one frame for each node that is shown its own
_WIDE = {"gram", "products", "strength"}  # float64, and small


def wire_dtype_of(piece: str, wire: torch.dtype = torch.float32) -> torch.dtype:
    """What `piece` is on the wire, where vectors are `wire`."""
    return torch.float64 if piece in _WIDE else wire


def encode_pieces(pieces: Mapping[str, Tensor], wire: torch.dtype) -> dict[str, Tensor]:
    """`pieces` as they travel."""
    return {
        p: round_to_dtype(tensor, wire_dtype_of(p, wire)).contiguous()
        for p, tensor in pieces.items()
    }


def decode_piece(tensor: Tensor) -> Tensor:
    """A piece, or a past, that has travelled, as attacks take it."""
    return tensor if tensor.dtype is torch.float64 else tensor.to(torch.float32)


def decode_knowledge(
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
