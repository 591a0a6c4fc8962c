"""The conversation between a trainer and its servers, read off the wire.

Each connection is recorded at the trainer's end: the bytes that it hands to its system, and
those that it reads.  No object of the trainer or the servers is asked, so a mistake of theirs
cannot hide itself.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen

from byzpy_tw.errors import BadFrame
from byzpy_tw.protocol.frames import HEADER_SIZE, FrameKind, Header, unpack

MOST_KEPT = 2_000  # first bytes of a trainer, for a peer that repeats them


@frozen(eq=False)
class Frame:
    """A complete frame that a trainer read, or handed to its system."""

    time: float
    server: str  # the process that it came from, or is for
    header: Header
    elements: bytes


@frozen(eq=False)
class NodeAssignment:
    """`server` was told to host `node`."""

    time: float
    server: str
    node: int | None  # None: any node of the run
    shard: int | None
    attack: str | None

    def hosts(self, node: int) -> bool:
        """Return whether `node` is meant, or any node."""
        return self.node is None or self.node == node


@frozen(eq=False)
class RecordedRequest:
    """`server` was asked for the vectors of `nodes`."""

    time: float
    server: str
    round: int
    nodes: tuple[int, ...]


@define(eq=False)
class Transcript:
    """The conversation of one process of a trainer with all servers, in order."""

    received: list[Frame] = field(factory=list)  # whole vectors, as they were complete
    parameters: list[Frame] = field(factory=list)  # as the trainer sent them
    assigned: list[NodeAssignment] = field(factory=list)
    asked: list[RecordedRequest] = field(factory=list)
    # When a server had the nodes that it was told to host, each time.
    ready: list[tuple[float, str]] = field(factory=list)
    lost: list[tuple[float, str]] = field(factory=list)  # when a connection to it ended
    failed: list[tuple[float, str, int]] = field(factory=list)  # when, server, node

    def servers_of(self, node: int, time: float) -> set[str]:
        """The servers that were told to host `node`, by then."""
        return {p.server for p in self.assigned if p.hosts(node) and p.time <= time}

    def absent(self, start: float, end: float) -> list[tuple[float, float]]:
        """The stretches between two moments in which no server was ready."""
        events = [(time, server, True) for time, server in self.ready]
        events += [(time, server, False) for time, server in self.lost]
        up: set[str] = set()
        stretches, since = [], 0.0
        for time, server, ready in sorted(events, key=lambda e: (e[0], e[2])):
            if not up:
                stretches.append((since, time))
            (up.add if ready else up.discard)(server)
            since = time
        if not up:
            stretches.append((since, end))
        merged: list[tuple[float, float]] = []
        for first, last in stretches:
            if merged and merged[-1][1] >= first:
                merged[-1] = merged[-1][0], last
            else:
                merged.append((first, last))
        return [(max(a, start), min(b, end)) for a, b in merged if b > start and a < end]


@define(eq=False)
class StreamParser:
    """Splits bytes into AMP's boxes until it is told to `stop`; then into frames."""

    on_box: Callable[[dict[bytes, bytes]], None]
    on_frame: Callable[[Header, bytes], None]
    frames: bool = False
    broken: bool = False
    _data: bytearray = field(factory=bytearray)
    _box: dict[bytes, bytes] = field(factory=dict)
    _key: bytes | None = None
    _header: Header | None = None

    def feed(self, data: bytes) -> None:
        self._data += data
        while not self.broken and (self._parse_frame() if self.frames else self._parse_word()):
            pass

    def _parse_word(self) -> bool:
        if len(self._data) < 2:
            return False
        (size,) = struct.unpack_from("!H", self._data)
        if len(self._data) < 2 + size:
            return False
        word = bytes(self._data[2 : 2 + size])
        del self._data[: 2 + size]
        if self._key is not None:
            self._box[self._key], self._key = word, None
        elif size:
            self._key = word
        else:
            box, self._box = self._box, {}
            self.on_box(box)
        return True

    def _parse_frame(self) -> bool:
        if self._header is None:
            if len(self._data) < HEADER_SIZE:
                return False
            try:
                self._header = unpack(self._data[:HEADER_SIZE])
            except BadFrame:
                self.broken = True
                return False
            del self._data[:HEADER_SIZE]
        header = self._header
        if len(self._data) < header.size:
            return False
        elements = bytes(self._data[: header.size])
        del self._data[: header.size]
        self._header = None
        self.on_frame(header, elements)
        return True


@define(eq=False)
class WireRecorder:
    """Records one connection of the trainer."""

    loop: Any
    number: int
    server: str
    transcript: Transcript
    first: bytearray = field(factory=bytearray)  # of what the trainer said
    stream: bool = False
    asked: set[bytes] = field(factory=set)  # commands, by name
    _open: dict[bytes, bytes] = field(factory=dict)  # questions without an answer
    _out: StreamParser = field(init=False)
    _in: StreamParser = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._out = StreamParser(self._said, self._sent)
        self._in = StreamParser(self._answered, self._got)

    def on_sent(self, data: bytes) -> None:
        if len(self.first) < MOST_KEPT:
            self.first += data
        self._out.feed(data)

    def on_read(self, data: bytes) -> None:
        self._in.feed(data)

    def on_lost(self, why: str) -> None:
        self._note(f"ended: {why}")
        self.transcript.lost.append((self.loop.now, self.server))

    @property
    def _name(self) -> str:
        return f"connection {self.number} to {self.server}"

    def _note(self, what: str) -> None:
        self.loop.note(self._name, what)

    def _said(self, box: dict[bytes, bytes]) -> None:
        command = box.get(b"_command", b"")
        self.asked.add(command)
        if command != b"Ping":
            self._note(f"> {_shown(command, box)}")
        if command == b"SpawnNodes":
            for node, shard, attack in json.loads(box[b"nodes"]):
                here = NodeAssignment(self.loop.now, self.server, node, shard, attack)
                self.transcript.assigned.append(here)
        if command == b"RegisterNodes":
            here = NodeAssignment(self.loop.now, self.server, None, None, None)
            self.transcript.assigned.append(here)
        if command in (b"Compute", b"Attack"):
            asked = RecordedRequest(
                self.loop.now, self.server, int(box[b"round"]), tuple(_numbers(box[b"nodes"]))
            )
            self.transcript.asked.append(asked)
        self._open[box.get(b"_ask", b"")] = command

    def _answered(self, box: dict[bytes, bytes]) -> None:
        command = self._open.pop(box.get(b"_answer", box.get(b"_error", b"")), b"")
        error = box.get(b"_error_description")
        if command == b"Ping":
            return
        if error is not None:
            code = box.get(b"_error_code", b"").decode(errors="replace")
            self._note(f"< {code}: {error.decode(errors='replace')}")
        else:
            failures = box.get(b"failures", b"{}").decode(errors="replace")
            self._note(f"< an answer{'' if failures == '{}' else ' ' + failures[:200]}")
            now = self.loop.now
            self.transcript.failed += [(now, self.server, n) for n in _failed(failures)]
            if command in (b"SpawnNodes", b"RegisterNodes"):
                self.transcript.ready.append((now, self.server))
            if b"OpenStream" in self.asked:
                self.stream = self._in.frames = self._out.frames = True

    def _sent(self, header: Header, elements: bytes) -> None:
        self._note(f"> {_of(header)}")
        if header.kind is FrameKind.PARAMETERS:
            self.transcript.parameters.append(Frame(self.loop.now, self.server, header, elements))

    def _got(self, header: Header, elements: bytes) -> None:
        self._note(f"< {_of(header)}")
        if header.kind is FrameKind.VECTOR:
            self.transcript.received.append(Frame(self.loop.now, self.server, header, elements))


def _of(header: Header) -> str:
    where = "" if header.kind is FrameKind.PARAMETERS else f" {header.index}"
    return f"{header.kind.name.lower()}{where}, round {header.round}, {header.elements} elements"


def _failed(text: str) -> list[int]:
    """The nodes that failed, as far as what a server says of them makes sense."""
    try:
        return [int(node) for node in dict(json.loads(text))]
    except (ValueError, TypeError, RecursionError):
        return []


def _shown(command: bytes, box: dict[bytes, bytes]) -> str:
    words = [command.decode(errors="replace")]
    if b"round" in box:
        words.append(f"round {box[b'round'].decode()}")
    if b"nodes" in box and command != b"SpawnNodes":
        words.append(f"nodes {','.join(map(str, _numbers(box[b'nodes'])))}")
    if command == b"SpawnNodes":
        words.append(box[b"nodes"].decode())
    return " ".join(words)


def _numbers(data: bytes) -> list[int]:
    found = []
    while data:
        (size,) = struct.unpack_from("!H", data)
        found.append(int(data[2 : 2 + size]))
        data = data[2 + size :]
    return found
