"""The encoding of knowledge on the wire.

A server and the trainer's own process show an attack the same bits: each piece is rounded to
the wire's type, and widened again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from byzpy_tw.attacks.knowledge.view import Knowledge, shapes
from byzpy_tw.errors import BadRequest
from byzpy_tw.vectors import round_to_dtype

STEP = "step"  # the last round's change of the parameters
PIECES = ("mean", "std", "one", "gram", "products", "vectors", "strength", STEP)
PAST = "past"  # travels too, in one frame for each node: its own past vector
_WIDE = {"gram", "products", "strength"}  # float64, and small


def wire_dtype_of(piece: str, wire: torch.dtype = torch.float32) -> torch.dtype:
    """Return the type of `piece` on the wire, where vectors are `wire`."""
    return torch.float64 if piece in _WIDE else wire


def encode_pieces(pieces: Mapping[str, Tensor], wire: torch.dtype) -> dict[str, Tensor]:
    """Return `pieces` as they travel."""
    return {p: round_to_dtype(t, wire_dtype_of(p, wire)).contiguous() for p, t in pieces.items()}


def decode_piece(tensor: Tensor) -> Tensor:
    """Return a piece, or a past vector, that has travelled, in the type that attacks take."""
    return tensor if tensor.dtype is torch.float64 else tensor.to(torch.float32)


def decode_knowledge(
    shown: Mapping[str, Tensor], *, h: int, d: int, own: Tensor | None, past: Tensor | None = None
) -> Knowledge:
    """Return the pieces `shown` as an attack takes them; `BadRequest` where shapes differ."""
    expected = shapes(shown, h, d)
    for piece, tensor in shown.items():
        if tuple(tensor.shape) != expected[piece]:
            raise BadRequest(
                f"{piece} has shape {tuple(tensor.shape)}, {expected[piece]} was announced"
            )
    pieces: dict[str, Any] = {"own": own, "past": past, **shown}
    return Knowledge(h=h, dimension=d, **pieces)
