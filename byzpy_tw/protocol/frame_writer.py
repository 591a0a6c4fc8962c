"""Frames to be sent, read from the memory of their tensors.  Does no I/O.

The counterpart of `frames.FrameReader`: the owner of the socket takes `buffers`, writes as much
of them as it can, and reports the number of bytes with `advance`.
"""

from __future__ import annotations

from collections import deque

from attrs import define, field
from torch import Tensor
from twisted.internet.defer import Deferred

from byzpy_tw.protocol.frames import Header, bytes_of

_MOST_BUFFERS = 64  # in one call: a small share of what a system takes (IOV_MAX)


@define(eq=False)
class _Outgoing:
    parts: list[memoryview]  # the rest of header and elements
    sent: Deferred[None]
    keep: tuple[Tensor, ...]  # the owners of the parts' memory


@define(eq=False)
class FrameWriter:
    """A queue of frames, in order."""

    bytes_taken: int = field(default=0, init=False)  # by `advance`, in all
    _queue: deque[_Outgoing] = field(factory=deque, init=False)

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
        self._queue.append(_Outgoing(parts, sent, pieces))
        return sent

    def buffers(self, most: int) -> list[memoryview]:
        """Return the next bytes, up to `most`, without a copy."""
        found: list[memoryview] = []
        for frame in self._queue:
            for part in frame.parts:
                found.append(part[:most])
                most -= len(found[-1])
                if most == 0 or len(found) == _MOST_BUFFERS:
                    return found
        return found

    def advance(self, count: int) -> list[Deferred[None]]:
        """Note that `count` bytes are written; return the Deferreds of completed frames."""
        self.bytes_taken += count
        done: list[Deferred[None]] = []
        while count:
            frame = self._queue[0]
            part = frame.parts[0]
            if count < len(part):
                frame.parts[0] = part[count:]
                break
            count -= len(part)
            frame.parts.pop(0)
            if not frame.parts:
                done.append(self._queue.popleft().sent)
        return done

    def drop(self) -> list[Deferred[None]]:
        """Empty the queue; return the Deferreds of its frames."""
        unsent, self._queue = self._queue, deque()
        return [frame.sent for frame in unsent]
