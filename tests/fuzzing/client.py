"""Has the conversations of `testing.hostile` with a server, over a reactor's sockets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.amp import AmpBox, BinaryBoxProtocol
from twisted.python.failure import Failure

from byzpy_tw.scheduling import clock
from tests.fuzzing.script import Box, Script

ANSWER_SECONDS = 20.0  # for what an honest trainer would be answered
PATIENCE = 0.3  # seconds in all, once a conversation makes no sense any more
END_SECONDS = 30.0  # for the server to see the end of a connection


class _Boxes(BinaryBoxProtocol):
    """Parses boxes; the first frame, whose magic is no key, ends them."""

    frames = False

    def lengthLimitExceeded(self, length: int) -> None:
        self.frames = True


@define(eq=False)
class _Connection(Protocol):
    """One connection: hears boxes, and once it is a stream counts bytes."""

    boxes: list[AmpBox] = field(factory=list)
    stream_bytes: int = 0
    over: bool = False
    here: str = ""  # this end's host and port
    dismissed: bool = False  # it was the other end that ended it
    leaving: bool = False
    _parser: _Boxes = field(init=False)
    _waiting: list[tuple[Any, Deferred[None]]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self._parser = _Boxes(self)

    def connectionMade(self) -> None:
        at = self.transport.getHost()
        self.here = f"{at.host}:{at.port}"

    # What a parser of boxes wants of its receiver.
    def ampBoxReceived(self, box: AmpBox) -> None:
        self.boxes.append(box)

    def dataReceived(self, data: bytes) -> None:
        if not self._parser.frames:
            self._parser.dataReceived(data)
        if self._parser.frames:
            self.stream_bytes += len(data)
        self._tell()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.over, self.dismissed = True, not self.leaving
        self._tell()

    def until(self, holds: Any) -> Deferred[None]:
        """Fires when `holds` does of this line, or when it is over."""
        done: Deferred[None] = Deferred()
        self._waiting.append((holds, done))
        self._tell()
        return done

    def _tell(self) -> None:
        for waiter in list(self._waiting):
            holds, done = waiter
            if (self.over or holds()) and waiter in self._waiting:
                self._waiting.remove(waiter)
                if not done.called:
                    done.callback(None)

    def tags(self, tag: bytes) -> int:
        """How often a question of this tag was answered."""
        return sum(tag in (box.get(b"_answer"), box.get(b"_error")) for box in self.boxes)


@define(eq=False)
class Replies:
    """A server's answers in one conversation."""

    conversation: Script
    lines: dict[str, _Connection] = field(factory=dict)

    @property
    def welcome(self) -> bool:
        """Return whether Hello was answered with the server's environment."""
        return any(b"environment" in box for box in self._boxes)

    @property
    def opened(self) -> bool:
        """Return whether a run was opened."""
        return bool(self.ticket)

    @property
    def ticket(self) -> bytes:
        return next((box[b"ticket"] for box in self._boxes if b"ticket" in box), b"")

    @property
    def errors(self) -> list[bytes]:
        return [box[b"_error_code"] for box in self._boxes if b"_error_code" in box]

    @property
    def stream_bytes(self) -> int:
        return sum(line.stream_bytes for line in self.lines.values())

    @property
    def _boxes(self) -> list[AmpBox]:
        return [box for line in self.lines.values() for box in line.boxes]


async def run_script(reactor: Any, host: str, port: int, conversation: Script) -> Replies:
    """Say all of `conversation`, and wait until the server has seen its end."""
    heard, asked, strange = Replies(conversation), {}, False  # type: ignore[var-annotated]
    patience = PATIENCE
    for step in conversation.steps:
        line = await _connect(reactor, host, port, heard, step.line)
        strange = strange or step.touched
        line.transport.write(step.part.render(heard.ticket))
        if step.awaited and isinstance(step.part, Box):
            tag = step.part.values.get(b"_ask", b"")
            asked[step.line, tag] = asked.get((step.line, tag), 0) + 1
            count, began = asked[step.line, tag], clock.seconds(reactor)
            answered = line.until(lambda t=tag, n=count, x=line: x.tags(t) >= n)
            await _wait_at_most(reactor, patience if strange else ANSWER_SECONDS, answered)
            if strange:
                patience = max(0.0, patience - (clock.seconds(reactor) - began))
    for line in heard.lines.values():
        if line.over:
            continue
        line.leaving = True
        if conversation.abort:
            line.transport.abortConnection()
        else:
            # An end of file, behind everything: the server reads all of it.
            line.transport.loseWriteConnection()
    for line in heard.lines.values():
        await line.until(lambda: False).addTimeout(END_SECONDS, reactor)
    return heard


async def _connect(reactor: Any, host: str, port: int, heard: Replies, name: str) -> _Connection:
    if name not in heard.lines:
        endpoint = HostnameEndpoint(reactor, host, port)
        heard.lines[name] = await connectProtocol(endpoint, _Connection())
    return heard.lines[name]


async def _wait_at_most(reactor: Any, seconds: float, answered: Deferred[None]) -> None:
    try:
        await answered.addTimeout(seconds, reactor)
    except TimeoutError:
        pass


def run_scripts(
    reactor: Any, host: str, port: int, conversations: Iterable[Script], *, at_once: int = 6
) -> Deferred[list[Replies]]:
    """Have all `conversations`, a few at a time; what was heard in each."""
    waiting, heard = iter(conversations), []

    async def some() -> None:
        for conversation in waiting:
            heard.append(await run_script(reactor, host, port, conversation))

    workers = [Deferred.fromCoroutine(some()) for _ in range(at_once)]
    return gatherResults(workers, consumeErrors=True).addCallback(lambda _: heard)
