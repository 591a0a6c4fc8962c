"""Pieces of an attack's knowledge travel as frames of sizes that the receiver works out."""

from __future__ import annotations

import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.attacks.knowledge.codec import PIECES, decode_knowledge, wire_dtype_of
from byzpy_tw.attacks.knowledge.view import Knowledge, shapes
from byzpy_tw.errors import BadFrame, BadRequest
from byzpy_tw.protocol.frames import FrameKind, Header
from byzpy_tw.protocol.knowledge_frames import allocate_piece, largest_piece, piece_header


def tensor_of(piece: str, h: int, d: int) -> torch.Tensor:
    return torch.rand(shapes([piece], h, d)[piece]).to(wire_dtype_of(piece))


class PlaceTests(SynchronousTestCase):
    @given(st.sampled_from(PIECES), st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
    @settings(deadline=None)
    def test_size_tells_the_shape(self, piece: str, h: int, d: int, more: int) -> None:
        """The receiver finds each piece's shape from its size alone."""
        tensor = tensor_of(piece, h, d)
        header = piece_header(piece, 3, tensor)
        found, place = allocate_piece(header, {piece}, max_h=h + more, d=d)
        self.assertEqual((found, place.shape, place.dtype), (piece, tensor.shape, tensor.dtype))
        self.assertLessEqual(header.size, largest_piece(h, d))

    @given(
        st.integers(0, 2**32 - 1) | st.integers(0, 7),
        st.integers(1, 2**64 - 1) | st.integers(1, 200),
        st.sampled_from([torch.float32, torch.float64]),
    )
    @settings(deadline=None)
    def test_any_header(self, index: int, elements: int, dtype: torch.dtype) -> None:
        """Whatever a peer announces, no more than the largest piece is taken."""
        h, d = 3, 5
        header = Header(FrameKind.PIECE, 0, elements, index, dtype)
        try:
            _, place = allocate_piece(header, PIECES, max_h=h, d=d)
        except BadFrame:
            return
        self.assertEqual(place.nbytes, header.size)
        self.assertLessEqual(place.nbytes, largest_piece(h, d))

    def test_refusals(self) -> None:
        """A piece nobody asked for, of another size or type, or of too many vectors."""
        d = 6
        good = piece_header("vectors", 0, tensor_of("vectors", 3, d))
        allocate_piece(good, {"vectors"}, max_h=3, d=d)
        for header, expected, max_h in (
            (good, {"mean"}, 3),
            (good, set(), 3),
            (good, {"vectors"}, 2),
            (evolve(good, elements=17), {"vectors"}, 3),
            (evolve(good, index=99), {"vectors"}, 3),
            (evolve(good, dtype=torch.float64), {"vectors"}, 3),
            (piece_header("gram", 0, torch.zeros(5)), {"gram"}, 3),
            (piece_header("products", 0, torch.zeros(2)), {"products"}, 3),
            (piece_header("mean", 0, torch.zeros(d - 1)), {"mean"}, 3),
        ):
            with self.subTest(header=header, expected=expected):
                self.assertRaises(BadFrame, allocate_piece, header, expected, max_h=max_h, d=d)


class KnowledgeTests(SynchronousTestCase):
    def test_shown_pieces_become_knowledge(self) -> None:
        """An attack takes what travelled as if it had been computed there."""
        honest = torch.randn(4, 7)
        known = Knowledge.of(honest, "gram", needs={"mean", "std", "gram"})
        shown = {p: getattr(known, p) for p in ("mean", "std", "gram")}
        own = torch.randn(7)
        again = decode_knowledge(shown, h=4, d=7, own=own)
        self.assertEqual((again.h, again.dimension), (4, 7))
        for piece, tensor in {**shown, "own": own}.items():
            self.assertTrue(torch.equal(getattr(again, piece), tensor), piece)
        self.assertIsNone(again.vectors)

    def test_shapes_must_agree_with_the_announcement(self) -> None:
        """A Gram matrix of other nodes than were announced is refused."""
        shown = {"gram": torch.zeros(3, 3, dtype=torch.float64)}
        self.assertRaises(BadRequest, decode_knowledge, shown, h=4, d=7, own=None)
