"""AMP that a peer cannot use to exhaust or confuse this process.

Twisted's AMP trusts its peer: a box may have any number of keys, any number of commands may
run at once, an argument that does not parse is logged as a bug of this program, and a peer may
start TLS.  Here each of these closes the peer's connection, with one line in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure
from zope.interface import implementer

from byzpy_tw import errors
from byzpy_tw.config.server import MAX_BOX_BYTES, MAX_COMMANDS_IN_FLIGHT
from byzpy_tw.errors import BadRequest, ByzpyTwError, ServerError, WireError
from byzpy_tw.protocol import error_fields
from byzpy_tw.protocol.requests import WIRE_ERRORS, CommandRequest, decode, encode
from byzpy_tw.text import clean
from byzpy_tw.transports import Link, StreamLink

A = TypeVar("A")
Responders = Mapping[type[CommandRequest[Any]], Callable[[Any], Any]]  # each returns an answer

# After these errors a server closes the connection.  (AMP's own `fatalErrors` come last in its
# table, where a base class has matched already.)
FATAL = (errors.BadTicket, errors.VersionMismatch, errors.ProtectedMode, errors.NotAuthenticated)
MAX_ERROR_CHARS = 2_000  # of an error that travels
# The length that AMP reads where TLS begins a record: its kind (an alert, or a
# handshake), and the first byte of a version.
TLS_RECORD_STARTS = (0x1503, 0x1603)


@implementer(IHandshakeListener)
class LimitedAMP(amp.AMP):
    """An AMP connection with bounds, which answers the commands in `responders` only.

    Another command, or one that wants no answer, is a breach of the protocol.
    """

    log = Logger()
    transport: Any  # Twisted's, of the link; None once it is gone

    def __init__(
        self,
        responders: Responders,
        link: Link | None = None,
        *,
        max_box_bytes: int = MAX_BOX_BYTES,
        max_in_flight: int = MAX_COMMANDS_IN_FLIGHT,
    ) -> None:
        super().__init__()
        self.link = StreamLink() if link is None else link
        self._max_box_bytes, self._max_in_flight = max_box_bytes, max_in_flight
        self._responders = {r.wire_command.commandName: (r, f) for r, f in responders.items()}
        self._box_bytes = 0
        self._sent_fields: dict[bytes, bytes] = {}  # of errors about to be sent, by the command
        self._received_fields = b""  # of the error that is being received
        self._producing = self._released = False  # as a producer of the transport
        self.in_flight = 0  # commands of the peer that are being answered
        self.hung_up = False
        self.bytes_received = self.boxes_received = 0
        self.secured = False  # the TLS handshake is over
        self.refusal = ""  # why the peer's certificate was refused
        self.peer_spoke_tls = False  # where a command was expected

    @property
    def peer_text(self) -> str:
        """The other end, for log lines."""
        return "a peer that is gone" if self.transport is None else self.link.peer_text

    # -- the connection

    def makeConnection(self, transport: Any) -> None:
        # Not AMP's, nor its `connectionLost`: they log a line for each connection.
        amp.BinaryBoxProtocol.makeConnection(self, transport)

    def connectionMade(self) -> None:
        super().connectionMade()
        self.link.attach(self.transport)
        if not self.link.encrypted:
            self._register_producer()

    def _register_producer(self) -> None:
        """Stop reading from the peer while it does not read our answers."""
        if not self.hung_up and not self._released:
            self._producing = True
            self.transport.registerProducer(self, True)

    def handshakeCompleted(self) -> None:
        """Note that TLS is up.

        A server has verified the trainer's certificate by then; a trainer is done with the
        handshake before the server looks at its certificate.
        """
        self.secured = True
        self._register_producer()  # before, it would have kept us from reading the handshake

    def hang_up(self, why: str, *, close: bool = True) -> None:
        """Close the connection because of an action of the peer, and ignore further input.

        Data written before still goes out.  Without `close` the caller closes the connection.
        """
        transport = self.transport
        if self.hung_up or transport is None:
            return
        self.hung_up = True
        self.log_warning(f"hanging up: {clean(why)}")
        self.release_transport()
        if self.paused:  # a peer that does not read would keep the connection open
            transport.abortConnection()
        if close:
            transport.loseConnection()

    def log_warning(self, what: str) -> None:
        self.log.warn("{peer}: {what}", peer=self.peer_text, what=what)

    def release_transport(self) -> None:
        """Stop being the transport's producer, or never become it, as before a switch."""
        self._released = True
        if self._producing:
            self._producing = False
            self.transport.unregisterProducer()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.hung_up = True
        amp.BinaryBoxProtocol.connectionLost(self, reason)
        self.transport = None

    def unhandledError(self, failure: Failure) -> None:
        self.hang_up(f"unexpected answer: {failure.getErrorMessage()}")

    # -- boxes

    def dataReceived(self, data: bytes) -> None:
        if self.hung_up:
            return
        self.bytes_received += len(data)
        super().dataReceived(data)

    def stringReceived(self, string: bytes) -> None:
        """Take a key or a value of a box."""
        self._box_bytes += len(string) + 2
        if self._box_bytes > self._max_box_bytes:
            # Keep nothing of it: the parser would hold it until the end.
            self._currentBox: Any = amp.AmpBox()
            self._box_bytes = 0
            self.hang_up(f"a box of over {self._max_box_bytes:,} bytes")
        super().stringReceived(string)

    def ampBoxReceived(self, box: amp.AmpBox) -> None:
        self._box_bytes = 0
        self.boxes_received += 1
        if self.hung_up:
            return
        if amp.ERROR in box and not (amp.ERROR_CODE in box and amp.ERROR_DESCRIPTION in box):
            # AMP would drop the pending question before it finds this out.
            self.hang_up("an error without a code or a description")
            return
        self._received_fields = box.get(error_fields.KEY, b"")
        try:
            super().ampBoxReceived(box)
        except (KeyError, amp.AmpError) as e:
            self.hang_up(f"a box that is no command and no answer: {e!r:.200}")
        finally:
            self._received_fields = b""

    def sendBox(self, box: amp.AmpBox) -> None:
        """Send `box`; an error takes its fields along."""
        fields = self._sent_fields.pop(box.get(amp.ERROR, b""), b"")
        if fields:
            box[error_fields.KEY] = fields
        super().sendBox(box)

    def lengthLimitExceeded(self, length: int) -> None:
        self.peer_spoke_tls = length in TLS_RECORD_STARTS
        what = "TLS" if self.peer_spoke_tls else f"a key of {length} bytes"
        self.hang_up(f"not an AMP box: {what}")

    # -- commands

    def ask(self, request: CommandRequest[A], *switch: Any) -> Deferred[A]:
        """Send `request`; fires with its answer.

        A request that switches protocols takes the factory of the new one as `switch`.  Fails
        with `WireError` for an answer that is not allowed.
        """
        answer = self.callRemote(request.wire_command, *switch, **encode(request))
        answer.addErrback(self._add_received_fields)
        if request.answer is None:
            return answer
        return answer.addCallback(lambda found: decode(request.answer, found, WireError))

    def _add_received_fields(self, failure: Failure) -> Failure:
        error = failure.value
        if isinstance(error, ByzpyTwError):
            error.with_fields(**error_fields.decode_fields(self._received_fields, type(error)))
        return failure

    def check_command(self, request: type[CommandRequest[Any]]) -> None:
        """Raise an error if the peer may not send this command now."""

    def refused(self, box: amp.AmpBox, code: str, why: str) -> None:
        """Note that the command in `box` is answered with the error of this code."""

    def locateResponder(self, name: bytes) -> Callable[[amp.AmpBox], Deferred]:
        request, responder = self._responders[name]

        def work(arguments: dict[str, Any]) -> Any:
            self.check_command(request)
            answered = maybeDeferred(responder, decode(request, arguments, BadRequest))
            return answered if request.answer is None else answered.addCallback(encode)

        def answer(**arguments: Any) -> Deferred:
            return maybeDeferred(work, arguments).addErrback(_to_wire_error)

        return self._wrapWithSerialization(answer, request.wire_command)

    def dispatchCommand(self, box: amp.AmpBox) -> Deferred:
        """Answer a command; each failure becomes a bounded error."""
        if amp.ASK not in box or self.in_flight >= self._max_in_flight:
            many = f"over {self._max_in_flight} commands at once"
            self.hang_up(many if amp.ASK in box else "no answer wanted")
            return Deferred()  # never fires: the connection is closed
        self.in_flight += 1
        if box[amp.COMMAND] in self._responders:
            answer = maybeDeferred(super().dispatchCommand, box)
        else:
            answer = fail(WireError("there is no such command"))

        def finished(result: Any) -> Any:
            self.in_flight -= 1
            if not isinstance(result, Failure):
                return result
            name = repr(box[amp.COMMAND])[:80]
            ours = result.check(amp.RemoteAmpError) is not None
            if not ours or result.value.errorCode not in WIRE_ERRORS.values():
                why = f"{name}: {result.type.__name__}: {result.value}"[:MAX_ERROR_CHARS]
                result = Failure(amp.RemoteAmpError(WireError.code.encode(), why, True))
            error = result.value
            self.refused(box, error.errorCode.decode(), error.description)
            if isinstance(result.value, _ErrorWithFields):
                self._sent_fields[box[amp.ASK]] = result.value.fields
            if result.value.fatal:  # AMP closes the connection behind this answer
                self.hang_up(result.value.description, close=False)
            return result

        return answer.addBoth(finished)


def _to_wire_error(failure: Failure) -> Failure:
    """Turn an error into AMP's form of one of the table, clipped.

    AMP itself would take the first class that fits, and then look for a fatal one.
    """
    error = failure.value
    if isinstance(error, CancelledError):
        error = ServerError("this server is stopping")
    elif not isinstance(error, ByzpyTwError):
        # A bug of this program or of a plugin: its traceback stays in this log.
        LimitedAMP.log.failure("answering a command failed", failure=failure)
        error = ServerError(f"{type(error).__name__}: {error}")
    text = " ".join(str(error).split())[:MAX_ERROR_CHARS]
    kind = next(e for e in WIRE_ERRORS if isinstance(error, e))
    fields = error_fields.encode_fields(error)
    return Failure(_ErrorWithFields(WIRE_ERRORS[kind], text, kind in FATAL, fields=fields))


class _ErrorWithFields(amp.RemoteAmpError):
    def __init__(self, *args: Any, fields: bytes) -> None:
        super().__init__(*args)
        self.fields = fields
