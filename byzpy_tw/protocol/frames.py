"""Tensors as binary frames.  Does no I/O.

A frame is a header of fixed size and then the elements, little-endian, in
order.  The story of reading one:

1. `FrameReader.buffers` says where the next bytes belong; whoever holds the
   socket puts them there and calls `advance`.  First that is the header.
2. When the header is complete its numbers are checked, and the receiver is
   asked where the elements go (`frame_started`).  The receiver answers with
   memory of exactly the right size, which it had reserved because it expects
   this frame; with None, to have the elements dropped as they come; or raises
   `BadFrame`.
3. From then on the first buffer is that memory itself, until it is full and
   `frame_received` is called.

So memory is taken for what the receiver agreed to, never for what the sender
claims, and an element is copied once, by the socket.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

import torch
from attrs import define, field, frozen
from torch import Tensor

from byzpy_tw.errors import BadFrame

_HEADER = struct.Struct("<4sBBHIQQd")
HEADER_SIZE = _HEADER.size  # bytes
_MAGIC = b"BTW1"
_SCRATCH = 1 << 16  # bytes of a dropped frame that are read at a time


class Kind(IntEnum):
    """What a frame holds."""

    PARAMETERS = 1  # trainer to server, once a round
    VECTOR = 2  # server to trainer, one a node
    PIECE = 3  # trainer to server: one piece of what an attack is shown
    PAST = 4  # trainer to server: what one Byzantine node sent in an earlier round


_DTYPES = {1: torch.float32, 2: torch.float64, 3: torch.bfloat16, 4: torch.float16}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@frozen
class Header:
    """What is known of a frame before its elements.

    ``index`` is the node of a vector (or of its past), the position of a piece in its
    announcement, and 0 for parameters.  ``loss`` belongs to honest vectors.
    """

    kind: Kind
    round: int
    elements: int
    index: int = 0
    dtype: torch.dtype = torch.float32
    loss: float = 0.0

    @property
    def size(self) -> int:
        """Bytes of the elements."""
        return self.elements * self.dtype.itemsize

    def pack(self) -> bytes:
        return _HEADER.pack(
            _MAGIC,
            self.kind,
            _CODES[self.dtype],
            0,
            self.index,
            self.round,
            self.elements,
            self.loss,
        )


def unpack(data: bytes | bytearray) -> Header:
    """The header in `data`; `BadFrame` with the reason otherwise."""
    magic, kind, dtype, reserved, index, round, elements, loss = _HEADER.unpack(data)
    if magic != _MAGIC or reserved != 0:
        raise BadFrame(f"not a frame header: {bytes(data[:8])!r}")
    if dtype not in _DTYPES:
        raise BadFrame(f"unknown element type {dtype}")
    try:
        known = Kind(kind)
    except ValueError:
        raise BadFrame(f"unknown kind of frame {kind}") from None
    if elements < 1 or round >= 2**63:
        raise BadFrame(f"impossible header: {elements} elements, round {round}")
    return Header(known, round, elements, index, _DTYPES[dtype], loss)


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of `tensor`, which must be contiguous and on the CPU."""
    if not tensor.is_contiguous() or tensor.device.type != "cpu":
        raise ValueError("only contiguous CPU tensors can be sent or filled in place")
    if tensor.dtype is torch.bfloat16:  # which numpy does not know
        tensor = tensor.view(torch.int16)
    return memoryview(tensor.numpy()).cast("B")


class FrameReceiver(Protocol):
    """Who the frames are for."""

    def frame_started(self, header: Header) -> Tensor | memoryview | None:
        """Memory for the elements, None to drop them; raises `BadFrame`.

        A tensor is contiguous, on the CPU, of the header's dtype and size; or the
        `bytes_of` one.
        """

    def frame_received(self, header: Header) -> None:
        """All elements are in place.  Not called for a dropped frame."""


@define(eq=False)
class FrameReader:
    """Turns a stream of bytes into frames.  See the module's story."""

    receiver: FrameReceiver
    most_bytes: int  # of one frame's elements
    _header: bytearray = field(factory=lambda: bytearray(HEADER_SIZE), init=False)
    _current: Header | None = field(default=None, init=False)
    _target: memoryview = field(init=False)  # what is left to fill
    _left: int = field(default=HEADER_SIZE, init=False)  # bytes of header or elements
    _dropping: bool = field(default=False, init=False)
    bytes_read: int = field(default=0, init=False)
    stopped: bool = field(default=False, init=False)  # whoever was told of a frame hung up

    def __attrs_post_init__(self) -> None:
        self._target = memoryview(self._header)

    @property
    def between_frames(self) -> bool:
        """Whether the next byte would begin a frame."""
        return self._current is None and self._left == HEADER_SIZE

    def buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        return self._target[: self._left]

    def buffers(self, most: int) -> list[memoryview]:
        """`buffer`, or its first `most` bytes, and what may be filled after it.

        After the last of a frame's elements that is the next header.
        """
        if self._current is None or self._dropping or self._left > most:
            return [self.buffer()[:most]]
        return [self.buffer(), memoryview(self._header)]

    def advance(self, count: int) -> None:
        """`count` bytes were put into `buffers`, in order.  Raises `BadFrame`."""
        while count and not self.stopped:
            here = min(count, self._left)
            count -= here
            self.bytes_read += here
            self._left -= here
            if not self._dropping:
                self._target = self._target[here:]
            if self._left == 0:
                if self._current is None:
                    self._begin(unpack(self._header))
                else:
                    self._end(self._current)

    def feed(self, data: bytes) -> None:
        """Take bytes that are already in memory.  Raises `BadFrame`."""
        view = memoryview(data)
        while view and not self.stopped:
            room = self.buffer()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            view = view[count:]
            self.advance(count)

    def _begin(self, header: Header) -> None:
        if header.size > self.most_bytes:
            raise BadFrame(
                f"a frame of {header.size:,} bytes, at most {self.most_bytes:,} are allowed"
            )
        place = self.receiver.frame_started(header)
        self._current, self._left = header, header.size
        self._dropping = place is None
        if place is None:
            self._target = memoryview(bytearray(_SCRATCH))
        else:
            self._target = bytes_of(place) if isinstance(place, Tensor) else place
            if len(self._target) != header.size:
                raise BadFrame(f"{header.size} bytes for a place of {len(self._target)}")

    def _end(self, header: Header) -> None:
        dropped = self._dropping
        self._current, self._left, self._dropping = None, HEADER_SIZE, False
        self._target = memoryview(self._header)
        if not dropped:
            self.receiver.frame_received(header)


def vector_header(node: int, pieces: Sequence[Tensor], loss: float, round: int) -> Header:
    """Of the frame that carries a node's vector, given in pieces."""
    elements = sum(piece.numel() for piece in pieces)
    return Header(Kind.VECTOR, round, elements, node, pieces[0].dtype, loss)
