"""Connections within one process: two pipes, and no system below them.

An end behaves as TCP's does: `twisted.internet.abstract.FileDescriptor`, the base class of real
sockets, decides what is buffered, when a producer is paused, and how `loseConnection` ends.
Nothing but `callLater` is asked of the reactor.  The simulator puts a network between the ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from attrs import define, field, frozen
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import (
    CannotListenError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IListeningPort,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from byzpy_tw.errors import BadAddress
from byzpy_tw.text import clip
from byzpy_tw.transports.base import Link
from byzpy_tw.transports.stream import StreamTransport

CAPACITY = 65_536  # bytes that a pipe holds


@define(eq=False)
class Pipe:
    """One direction of a connection, between the ends `writer` and `reader`.

    Bytes arrive in order and are kept until they are read.  Unread bytes are bounded by
    `capacity`; beyond it a writer has to wait.
    """

    capacity: int
    writer: Any = field(init=False)
    reader: Any = field(init=False)
    buffer: bytearray = field(factory=bytearray, init=False)  # arrived, not yet read
    ended: Exception | None = field(default=None, init=False)  # what is read after that
    broken: bool = field(default=False, init=False)  # writes fail
    _finished: bool = field(default=False, init=False)

    @property
    def room(self) -> int:
        return self.capacity - len(self.buffer)

    def send(self, data: bytes) -> int | Exception:
        """Return how many of these bytes the pipe takes, or an exception where it is broken."""
        if self.broken:
            return CONNECTION_LOST
        data = bytes(data[: max(0, self.room)])
        if data:
            self.carry(data)
        return len(data)

    def carry(self, data: bytes) -> None:
        """Bring bytes that were taken to the reader."""
        self.arrive(data)

    def deliver(self, work: Callable[..., None], *args: Any) -> None:
        """Have the other end learn of something, behind all that it is still to learn."""
        work(*args)

    def arrive(self, data: bytes) -> None:
        if self.reader.closed:
            self.deliver(self.break_off)  # a reset comes back
            return
        self.buffer += data
        self.reader.poll()

    def read(self, most: int) -> bytes:
        data = bytes(self.buffer[:most])
        del self.buffer[:most]
        self.make_room()
        return data

    def make_room(self) -> None:
        """Tell the writer that there is room now."""
        self.writer.poll()

    def finish(self, *, reset: bool) -> None:
        """Queue an end of file, or a reset, behind the data."""
        if not self._finished:
            self._finished = True
            self.deliver(self.arrive_end, CONNECTION_LOST if reset else CONNECTION_DONE)

    def arrive_end(self, how: Exception) -> None:
        self.end(how)

    def end(self, how: Exception) -> None:
        """Have the reader find `how` behind what has arrived."""
        self.ended = self.ended or how
        if how is CONNECTION_LOST:
            self.reader.outgoing.break_off()
        self.reader.poll()

    def break_off(self) -> None:
        """Let writes fail from now on."""
        self.broken = True
        self.writer.poll()


@implementer(ITransport)
class Connection(FileDescriptor):
    """One end of a connection: it reads `incoming` and writes to `outgoing`."""

    log = Logger()
    incoming: Pipe
    outgoing: Pipe

    def __init__(self, reactor: Any, here: Any, there: Any) -> None:
        super().__init__(reactor)
        self.clock, self.here, self.there = reactor, here, there
        self.reading = self.writing = False
        self.closed = False  # the other end is told that nobody reads
        self.protocol: Any = None
        self._poll_scheduled = self._aborting = False

    def begin(self, protocol: Any) -> None:
        """Let `protocol` speak."""
        self.connected, self.protocol = 1, protocol
        self.startReading()
        protocol.makeConnection(self)

    # -- what a reactor does with descriptors

    def startReading(self) -> None:
        self.reading = True
        self.poll()

    def stopReading(self) -> None:
        self.reading = False

    def startWriting(self) -> None:
        self.writing = True
        self.poll()

    def stopWriting(self) -> None:
        self.writing = False

    def poll(self) -> None:
        """Check in the next turn whether there is something to read or to write."""
        if not self._poll_scheduled and (self._readable or self._writable):
            self._poll_scheduled = True
            self.clock.callLater(0, self._poll_now)

    @property
    def _readable(self) -> bool:
        return self.reading and bool(self.incoming.buffer or self.incoming.ended)

    @property
    def _writable(self) -> bool:
        room = self.outgoing.broken or self.outgoing.room > 0
        # An end of file is queued behind the data, without a limit.
        return self.writing and (room or not self.dataBuffer and not self._tempDataLen)

    def _poll_now(self) -> None:
        self._poll_scheduled = False
        for ready, do in (("_readable", "doRead"), ("_writable", "doWrite")):
            if not self.connected or not getattr(self, ready):
                continue
            try:
                why = getattr(self, do)()
            except BaseException as e:
                self.log.failure("a protocol raised")
                why = e
            if why:
                self._disconnect(why, reading=do == "doRead")
                return
        if self.connected:
            self.poll()

    def doRead(self) -> Exception | None:
        if self.incoming.buffer:
            self.protocol.dataReceived(self.incoming.read(self.bufferSize))
            return None
        return self.incoming.ended

    def writeSomeData(self, data: bytes) -> Any:
        return self.outgoing.send(data)

    def _disconnect(self, why: BaseException, *, reading: bool) -> None:
        known = isinstance(why, (ConnectionDone, ConnectionLost))
        reason = Failure(type(why)()) if known else Failure(why)
        if reading and why is CONNECTION_DONE:
            self.stopReading()
            self.readConnectionLost(reason)
        else:
            self.connectionLost(reason)

    # -- the end

    def readConnectionLost(self, reason: Failure) -> None:
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.readConnectionLost()
            self.poll()
        else:
            self.connectionLost(reason)

    def _closeWriteConnection(self) -> None:
        self.outgoing.finish(reset=False)
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.writeConnectionLost()

    def abortConnection(self) -> None:
        # As in twisted.internet.tcp: the protocol is told in a later turn.
        if self.disconnected or self._aborting:
            return
        self._aborting = True
        self.stopReading()
        self.stopWriting()
        self.doRead = self.doWrite = lambda *_: None  # type: ignore[method-assign]
        self.clock.callLater(0, self.connectionLost, Failure(ConnectionAborted()))

    def connectionLost(self, reason: Failure) -> None:
        if self.disconnected:
            return
        super().connectionLost(reason)
        self.close(reset=reason.check(ConnectionAborted) is not None)
        self.tell_end(reason)

    def tell_end(self, reason: Failure) -> None:
        """Tell the protocol, which is the last thing that it hears."""
        protocol, self.protocol = self.protocol, None
        protocol.connectionLost(reason)

    def close(self, *, reset: bool) -> None:
        """Tell the other end, with a reset too where something was not read."""
        if not self.closed:
            self.closed = True
            self.outgoing.finish(reset=reset or bool(self.incoming.buffer))

    def reset(self) -> None:
        """End this end as a network does that lost the connection."""
        self.incoming.end(CONNECTION_LOST)

    def getHost(self) -> Any:
        return self.here

    def getPeer(self) -> Any:
        return self.there


def join(writer: Connection, reader: Connection, pipe: Pipe) -> None:
    """Make `pipe` the way from `writer` to `reader`."""
    pipe.writer, pipe.reader = writer, reader
    writer.outgoing = reader.incoming = pipe


@frozen
class MemoryAddress:
    """The name that a server listens under; each dialler has a number."""

    name: str
    dialler: int = 0
    scheme: ClassVar[str] = "memory"

    def __str__(self) -> str:
        return f"memory://{self.name}" + f"#{self.dialler}" * bool(self.dialler)


class MemoryLink(Link):
    """A connection whose peer is in this process."""

    @property
    def same_machine(self) -> bool:
        return True

    @property
    def peer_machine(self) -> str:
        return "this process"

    @property
    def peer_text(self) -> str:
        return str(self.transport.getPeer())


@define(eq=False)
class Memory(StreamTransport):
    """A place in memory where names are listened under; no two of them share connections."""

    form = "memory://NAME"
    link: ClassVar[type[Link]] = MemoryLink
    capacity: int = CAPACITY
    ports: dict[str, _Port] = field(factory=dict, init=False)
    _dialled: int = field(default=0, init=False)

    def parse(self, text: str, *, listening: bool = False) -> MemoryAddress:
        name = text.strip().removeprefix("memory://")
        if not name or "#" in name:
            raise BadAddress(f"{clip(text)!r} has no name that one could listen under: {self.form}")
        return MemoryAddress(name)

    def endpoint(self, reactor: Any, address: MemoryAddress) -> IStreamClientEndpoint:
        endpoint: Any = _Endpoint(self, reactor, address)
        return endpoint

    def open_port(self, reactor: Any, address: MemoryAddress, factory: Factory) -> IListeningPort:
        port: Any = _Port(self, reactor, address, factory)
        port.startListening()
        return port

    def connect(self, reactor: Any, port: _Port) -> Connection:
        """Return the dialling end of a new connection, which `port` accepts in the next turn."""
        self._dialled += 1
        here = MemoryAddress(port.address.name, self._dialled)
        client = Connection(reactor, here, port.address)
        server = Connection(port.reactor, port.address, here)
        join(client, server, Pipe(self.capacity))
        join(server, client, Pipe(self.capacity))
        port.reactor.callLater(0, port.accept, server)
        return client


@implementer(IStreamClientEndpoint)
@frozen(eq=False)
class _Endpoint:
    memory: Memory
    reactor: Any
    address: MemoryAddress

    def connect(self, factory: Any) -> Deferred[Any]:
        port = self.memory.ports.get(self.address.name)
        if port is None:
            return fail(ConnectionRefusedError(f"nobody listens on {self.address}"))
        protocol = factory.buildProtocol(self.address)
        self.memory.connect(self.reactor, port).begin(protocol)
        return succeed(protocol)


@implementer(IListeningPort)
@frozen(eq=False)
class _Port:
    memory: Memory
    reactor: Any
    address: MemoryAddress
    factory: Any

    def startListening(self) -> None:
        name = self.address.name
        if name in self.memory.ports:
            raise CannotListenError(name, 0, OSError(98, "Address already in use"))
        self.memory.ports[name] = self
        self.factory.doStart()

    def stopListening(self) -> None:
        if self.memory.ports.get(self.address.name) is self:
            del self.memory.ports[self.address.name]
            self.factory.doStop()

    def getHost(self) -> Any:
        return self.address

    def accept(self, server: Connection) -> None:
        protocol = self.factory.buildProtocol(server.there)
        if protocol is None or self.memory.ports.get(self.address.name) is not self:
            server.close(reset=True)
        else:
            server.begin(protocol)
