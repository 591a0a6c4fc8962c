"""Tensors as binary frames.  Does no I/O.

A frame is a header of fixed size and then the elements, little-endian, in order.  A frame is
read in three steps:

1. `FrameReader.buffers` returns the memory for the next bytes; the owner of the socket fills it
   and calls `advance`.  First that is the header.
2. When the header is complete its numbers are checked, and the receiver is asked for memory for
   the elements (`frame_started`).  It returns memory of exactly the right size, reserved
   because it expects this frame; or None, to have the elements dropped; or raises `BadFrame`.
3. From then on the first buffer is that memory itself, until it is full and `frame_received` is
   called.

So the receiver decides how much memory is used, never the sender, and an element is copied
once, by the socket.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from itertools import chain
from typing import Any, Protocol

import torch
from attrs import define, field, frozen
from torch import Tensor
from twisted.internet.defer import Deferred

from byzpy_tw.errors import BadFrame

HEADER = struct.Struct("<4sBBHIQQd")
HEADER_SIZE = HEADER.size  # bytes
_MAGIC = b"BTW1"
_DROPPED_BYTES = 1 << 16  # of a dropped frame that are read at a time
_MAX_BUFFERS = 64  # of a writer in one call: a small share of what a system takes (IOV_MAX)


class FrameKind(IntEnum):
    """The contents of a frame."""

    PARAMETERS = 1  # trainer to server, once a round
    VECTOR = 2  # server to trainer, one a node
    PIECE = 3  # trainer to server: one piece of an attack's knowledge
    PAST = 4  # trainer to server: a Byzantine node's vector of an earlier round


_DTYPES = {1: torch.float32, 2: torch.float64, 3: torch.bfloat16, 4: torch.float16}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@frozen
class Header:
    """The description of a frame, which is sent before its elements.

    ``index`` is the node of a vector (or of its past), the position of a piece in its
    announcement, and 0 for parameters.  ``loss`` belongs to honest vectors.
    """

    kind: FrameKind
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
        dtype, index, round = _CODES[self.dtype], self.index, self.round
        return HEADER.pack(_MAGIC, self.kind, dtype, 0, index, round, self.elements, self.loss)


def unpack(data: bytes | bytearray) -> Header:
    """Parse a header; raises `BadFrame` with the reason otherwise."""
    magic, kind, dtype, reserved, index, round, elements, loss = HEADER.unpack(data)
    if magic != _MAGIC or reserved != 0:
        raise BadFrame(f"not a frame header: {bytes(data[:8])!r}")
    if dtype not in _DTYPES:
        raise BadFrame(f"unknown element type {dtype}")
    try:
        known = FrameKind(kind)
    except ValueError:
        raise BadFrame(f"unknown kind of frame {kind}") from None
    if elements < 1 or round >= 2**63:
        raise BadFrame(f"impossible header: {elements} elements, round {round}")
    return Header(known, round, elements, index, _DTYPES[dtype], loss)


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of `tensor`, which must be contiguous and on the CPU."""
    if not tensor.is_contiguous() or tensor.device.type != "cpu":
        raise ValueError("only contiguous CPU tensors can be sent or filled in place")
    if tensor.dtype is torch.bfloat16:  # which numpy does not know
        tensor = tensor.view(torch.int16)
    array: Any = tensor.numpy()  # whose stubs have no buffers before Python 3.12
    return memoryview(array).cast("B")


class FrameReceiver(Protocol):
    """The object that frames are received for."""

    def frame_started(self, header: Header) -> Tensor | memoryview | None:
        """Return memory for the elements, or None to drop them; raises `BadFrame`.

        The memory is a contiguous CPU tensor of the header's dtype and size, or the `bytes_of`
        one.
        """

    def frame_received(self, header: Header) -> None:
        """Take a frame whose elements are in place.  Not called for a dropped one."""


@define(eq=False)
class FrameReader:
    """A parser of frames; see the steps in the module's docstring."""

    receiver: FrameReceiver
    max_bytes: int  # of one frame's elements
    _header: bytearray = field(factory=lambda: bytearray(HEADER_SIZE), init=False)
    _current: Header | None = field(default=None, init=False)
    _target: memoryview = field(init=False)  # the rest of the memory to fill
    _left: int = field(default=HEADER_SIZE, init=False)  # bytes of header or elements
    _dropping: bool = field(default=False, init=False)
    bytes_read: int = field(default=0, init=False)
    stopped: bool = field(default=False, init=False)  # the receiver of a frame has hung up

    def __attrs_post_init__(self) -> None:
        self._target = memoryview(self._header)

    @property
    def between_frames(self) -> bool:
        """True if the next byte begins a frame."""
        return self._current is None and self._left == HEADER_SIZE

    def buffer(self) -> memoryview:
        """Return the memory for the next bytes, never empty."""
        return self._target[: self._left]

    def buffers(self, most: int) -> list[memoryview]:
        """Return `buffer`, or its first `most` bytes, and the memory to fill after it.

        That is for the header of the next frame.
        """
        if self._current is None or self._dropping or self._left > most:
            return [self.buffer()[:most]]
        return [self.buffer(), memoryview(self._header)]

    def advance(self, count: int) -> None:
        """Note that `count` bytes of `buffers` were filled.  Raises `BadFrame`."""
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
        """Parse bytes that are already in memory.  Raises `BadFrame`."""
        view = memoryview(data)
        while view and not self.stopped:
            room = self.buffer()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            view = view[count:]
            self.advance(count)

    def _begin(self, header: Header) -> None:
        if header.size > self.max_bytes:
            raise BadFrame(
                f"a frame of {header.size:,} bytes, at most {self.max_bytes:,} are allowed"
            )
        memory = self.receiver.frame_started(header)
        self._current, self._left = header, header.size
        self._dropping = memory is None
        if memory is None:
            self._target = memoryview(bytearray(_DROPPED_BYTES))
        else:
            self._target = bytes_of(memory) if isinstance(memory, Tensor) else memory
            if len(self._target) != header.size:
                raise BadFrame(f"{header.size} bytes for memory of {len(self._target)}")

    def _end(self, header: Header) -> None:
        dropped = self._dropping
        self._current, self._left, self._dropping = None, HEADER_SIZE, False
        self._target = memoryview(self._header)
        if not dropped:
            self.receiver.frame_received(header)


@define(eq=False)
class FrameWriter:
    """A queue of frames to be sent, read from the memory of their tensors.

    The counterpart of `FrameReader`: the owner of the socket takes `buffers`, writes as much of
    them as it can, and reports the number of bytes with `advance`.
    """

    bytes_taken: int = field(default=0, init=False)  # by `advance`, in all
    # Of each frame the rest of its header and elements, which keep their tensors alive.
    _queue: deque[tuple[list[memoryview], Deferred[None]]] = field(factory=deque, init=False)

    def __len__(self) -> int:
        """The number of frames that are not written completely."""
        return len(self._queue)

    def add(self, header: Header, *pieces: Tensor) -> Deferred[None]:
        """Queue a frame of `pieces`, one after the other.

        Fires when their memory may be changed again.
        """
        # An empty part would never be removed.
        parts = [memoryview(header.pack()), *(bytes_of(p) for p in pieces if p.numel())]
        sent: Deferred[None] = Deferred()
        self._queue.append((parts, sent))
        return sent

    def buffers(self, most: int) -> list[memoryview]:
        """Return the next bytes, up to `most`, without a copy."""
        found: list[memoryview] = []
        for part in chain.from_iterable(parts for parts, _ in self._queue):
            found.append(part[:most])
            most -= len(found[-1])
            if most == 0 or len(found) == _MAX_BUFFERS:
                return found
        return found

    def advance(self, count: int) -> list[Deferred[None]]:
        """Note that `count` bytes are written; return the Deferreds of completed frames."""
        self.bytes_taken += count
        done: list[Deferred[None]] = []
        while count:
            parts, sent = self._queue[0]
            if count < len(parts[0]):
                parts[0] = parts[0][count:]
                break
            count -= len(parts.pop(0))
            if not parts:
                self._queue.popleft()
                done.append(sent)
        return done

    def drop(self) -> list[Deferred[None]]:
        """Empty the queue; return the Deferreds of its frames."""
        unsent, self._queue = self._queue, deque()
        return [sent for _, sent in unsent]


def vector_header(node: int, pieces: Sequence[Tensor], loss: float, round: int) -> Header:
    """Return the header of the frame of a node's vector, which is given in pieces."""
    elements = sum(piece.numel() for piece in pieces)
    return Header(FrameKind.VECTOR, round, elements, node, pieces[0].dtype, loss)
