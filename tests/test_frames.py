"""Frames are parsed whatever way their bytes are cut, into memory that the receiver chose."""

from __future__ import annotations

import struct
from itertools import pairwise

import torch
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import BadFrame
from byzpy_tw.protocol.frames import HEADER_SIZE, FrameKind, FrameReader, Header, bytes_of, unpack

_RAW = struct.Struct("<4sBBHIQQd")  # written out here, so that a change is noticed


@define(eq=False)
class Kept:
    """A receiver that keeps every frame whose round is not in `unwanted`."""

    unwanted: set[int] = field(factory=set)
    started: list[Header] = field(factory=list)
    places: dict[int, Tensor] = field(factory=dict)
    received: list[Header] = field(factory=list)
    place: Tensor | None = None  # handed out instead of one that fits

    def frame_started(self, header: Header) -> Tensor | None:
        self.started.append(header)
        if header.round in self.unwanted:
            return None
        place = self.place
        if place is None:
            place = torch.empty(header.elements, dtype=header.dtype)
        self.places[header.round] = place
        return place

    def frame_received(self, header: Header) -> None:
        self.received.append(header)


def frame(header: Header, tensor: Tensor) -> bytes:
    return header.pack() + bytes(bytes_of(tensor))


def numbered(count: int, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], bytes]:
    """`count` tensors of different lengths, and the stream of their frames."""
    tensors = [torch.arange(i + 1, dtype=dtype) + 0.5 for i in range(count)]
    stream = b"".join(
        frame(Header(FrameKind.VECTOR, i, t.numel(), index=7, dtype=dtype, loss=1.25), t)
        for i, t in enumerate(tensors)
    )
    return tensors, stream


class HeaderTests(SynchronousTestCase):
    @given(
        kind=st.sampled_from(FrameKind),
        round=st.integers(0, 2**63 - 1),
        elements=st.integers(1, 2**64 - 1),
        index=st.integers(0, 2**32 - 1),
        dtype=st.sampled_from([torch.float32, torch.float64]),
        loss=st.floats(allow_nan=False),
    )
    def test_survives_the_trip(self, **values) -> None:
        """A header that one side packs is unpacked the same by the other."""
        header = Header(**values)
        self.assertEqual(len(header.pack()), HEADER_SIZE)
        self.assertEqual(unpack(header.pack()), header)

    def test_layout_is_little_endian_and_fixed(self) -> None:
        """A header's bytes are the same on every machine."""
        packed = Header(FrameKind.PIECE, 3, 5, index=2, dtype=torch.float64, loss=0.5).pack()
        self.assertEqual(packed, _RAW.pack(b"BTW1", 3, 2, 0, 2, 3, 5, 0.5))
        self.assertEqual(HEADER_SIZE, 36)

    def test_refuses_what_it_does_not_know(self) -> None:
        """Each field is checked, and the message says which one was wrong."""
        for raw, said in {
            (b"GET ", 1, 1, 0, 0, 0, 1, 0.0): "not a frame header",
            (b"BTW1", 1, 1, 9, 0, 0, 1, 0.0): "not a frame header",
            (b"BTW1", 0, 1, 0, 0, 0, 1, 0.0): "kind of frame 0",
            (b"BTW1", 5, 1, 0, 0, 0, 1, 0.0): "kind of frame 5",
            (b"BTW1", 1, 0, 0, 0, 0, 1, 0.0): "element type 0",
            (b"BTW1", 1, 5, 0, 0, 0, 1, 0.0): "element type 5",
            (b"BTW1", 1, 1, 0, 0, 0, 0, 0.0): "0 elements",
            (b"BTW1", 1, 1, 0, 0, 2**63, 1, 0.0): f"round {2**63}",
        }.items():
            with self.subTest(said):
                self.assertIn(said, str(self.assertRaises(BadFrame, unpack, _RAW.pack(*raw))))


class FrameReaderTests(SynchronousTestCase):
    def assertAllRead(self, reader: FrameReader, kept: Kept, tensors: list[Tensor]) -> None:
        self.assertEqual([h.round for h in kept.received], list(range(len(tensors))))
        for i, tensor in enumerate(tensors):
            self.assertTrue(torch.equal(kept.places[i], tensor), i)
        self.assertTrue(reader.between_frames)

    def test_one_byte_at_a_time(self) -> None:
        """Frames arrive whole however slowly their bytes drip in."""
        for dtype in (torch.float32, torch.float64):
            tensors, stream = numbered(4, dtype)
            kept = Kept()
            reader = FrameReader(kept, 1000)
            for i in range(len(stream)):
                reader.feed(stream[i : i + 1])
            self.assertAllRead(reader, kept, tensors)
            self.assertEqual(reader.bytes_read, len(stream))
            self.assertEqual({(h.index, h.loss) for h in kept.received}, {(7, 1.25)})

    @given(st.data())
    @settings(deadline=None)
    def test_any_split(self, data) -> None:
        """Where the network cuts the stream changes nothing."""
        tensors, stream = numbered(5)
        cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12).map(sorted))
        kept = Kept()
        reader = FrameReader(kept, 1000)
        for start, end in pairwise([0, *cuts, len(stream)]):
            reader.feed(stream[start:end])
        self.assertAllRead(reader, kept, tensors)

    def test_elements_land_in_the_receivers_own_memory(self) -> None:
        """A row of a matrix is filled in place, and nothing beside it."""
        matrix = torch.zeros(3, 4)
        kept = Kept(place=matrix[1])
        reader = FrameReader(kept, 1000)
        reader.feed(frame(Header(FrameKind.VECTOR, 0, 4), torch.ones(4)))
        self.assertEqual(matrix.tolist(), [[0.0] * 4, [1.0] * 4, [0.0] * 4])

    def test_buffer_is_the_place_itself(self) -> None:
        """A socket can read straight into the tensor, with no copy between."""
        place = torch.zeros(4)
        kept = Kept(place=place)
        reader = FrameReader(kept, 1000)
        reader.feed(Header(FrameKind.VECTOR, 0, 4).pack())
        room = reader.buffer()
        self.assertEqual(len(room), 16)
        room[:] = bytes(bytes_of(torch.tensor([1.0, 2.0, 3.0, 4.0])))
        self.assertEqual(place.tolist(), [1.0, 2.0, 3.0, 4.0])
        reader.advance(16)
        self.assertEqual(len(kept.received), 1)

    def test_over_the_bound(self) -> None:
        """A frame larger than agreed on is refused before the receiver is asked."""
        for elements in (4, 2**40, 2**64 - 1):
            kept = Kept()
            reader = FrameReader(kept, 15)
            header = Header(FrameKind.VECTOR, 0, elements).pack()
            self.assertIn("at most 15", str(self.assertRaises(BadFrame, reader.feed, header)))
            self.assertEqual(kept.started, [])

    def test_dropped_frames_are_read_past(self) -> None:
        """An unwanted frame takes no memory of its size, and the next one is fine."""
        large = torch.ones(300_000)
        wanted = torch.tensor([1.0, 2.0])
        kept = Kept(unwanted={0})
        reader = FrameReader(kept, 2**24)
        stream = frame(Header(FrameKind.VECTOR, 0, large.numel()), large)
        reader.feed(stream[:50])
        self.assertLessEqual(len(reader.buffer()), 1 << 16)
        self.assertFalse(reader.between_frames)
        reader.feed(stream[50:] + frame(Header(FrameKind.VECTOR, 1, 2), wanted))
        self.assertEqual([h.round for h in kept.received], [1])
        self.assertTrue(torch.equal(kept.places[1], wanted))

    def test_place_of_the_wrong_size(self) -> None:
        """Memory that does not fit the frame is never written to."""
        for place in (torch.zeros(3), torch.zeros(5), torch.zeros(4, dtype=torch.float64)):
            reader = FrameReader(Kept(place=place), 1000)
            stream = frame(Header(FrameKind.VECTOR, 0, 4), torch.ones(4))
            self.assertRaises(BadFrame, reader.feed, stream)
            self.assertEqual(place.sum(), 0)

    def test_refusal_by_the_receiver(self) -> None:
        """A frame that the receiver refuses stops the stream there."""

        class Strict(Kept):
            def frame_started(self, header: Header) -> Tensor | None:
                raise BadFrame("not you again")

        reader = FrameReader(Strict(), 1000)
        self.assertRaises(BadFrame, reader.feed, Header(FrameKind.VECTOR, 0, 4).pack())

    def test_only_plain_memory_is_sent(self) -> None:
        """A tensor whose elements do not lie in order is an error of the caller's."""
        self.assertRaises(ValueError, bytes_of, torch.zeros(4, 4).T)
        self.assertEqual(len(bytes_of(torch.zeros(2, 3, dtype=torch.float64))), 48)
