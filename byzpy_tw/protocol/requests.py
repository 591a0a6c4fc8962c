"""The encoding of commands, from attrs classes to AMP's boxes and back.

A request is an attrs class with `wire` fields, registered by `command`.  Each field says how
it travels in an AMP box, how it is encoded and decoded, and by its validators which values
are allowed.  `LimitedAMP.ask` sends a request and returns the decoded answer; responders of a
`LimitedAMP` take a decoded request and return an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar, cast

import attrs
from attrs import field
from twisted.protocols import amp

from byzpy_tw.errors import WireError, errors_by_code

A = TypeVar("A")
T = TypeVar("T")

# The errors that a server may answer with.  The first entry that an exception is an instance of
# is what travels, so the most derived, with the most bases, come first.  An error missing here
# would reach the peer as UNKNOWN and close the connection.
WIRE_ERRORS: dict[type[Exception], bytes] = {
    error: error.code.encode()
    for error in sorted(errors_by_code().values(), key=lambda e: -len(e.mro()))
    if error.wire
}


class CommandRequest(Generic[A]):
    """Base of all requests; ``A`` is the class of the answer."""

    __slots__ = ()

    wire_command: ClassVar[type[amp.Command]]
    answer: ClassVar[type | None]  # None: the responder returns the protocol to switch to


R = TypeVar("R", bound=type[CommandRequest[Any]])


def wire(
    argument: amp.Argument,
    encode: Callable[[Any], Any] = lambda value: value,
    decode: Callable[[Any], Any] = lambda value: value,
    **options: Any,
) -> Any:
    """Return an attrs field that travels as `argument`, between `encode` and `decode`."""
    return field(metadata=dict(argument=argument, encode=encode, decode=decode), **options)


COMMANDS: list[type[CommandRequest[Any]]] = []


def command(answer: type | None, base: type[amp.Command] = amp.Command) -> Callable[[R], R]:
    """Register the decorated class as the request of a command of its name."""

    def register(request: R) -> R:
        request.answer = answer
        body = {"errors": WIRE_ERRORS, "arguments": _schema(request), "response": _schema(answer)}
        meta: Any = type(base)  # AMP's own, which checks the names and gathers the errors
        request.wire_command = meta(request.__name__, (base,), body)
        COMMANDS.append(request)
        return request

    return register


def _schema(kind: type | None) -> list[tuple[bytes, amp.Argument]]:
    fields = attrs.fields(kind) if kind is not None else ()
    return [(f.name.encode(), f.metadata["argument"]) for f in fields]


def encode(value: Any) -> dict[str, Any]:
    """Return the AMP arguments of a request, or the AMP response of an answer."""
    fields = attrs.fields(type(value))
    return {f.name: f.metadata["encode"](getattr(value, f.name)) for f in fields}


def decode(kind: type[T], found: Mapping[str, Any], error: type[WireError]) -> T:
    """Return the request or answer in `found`; raises `error` for a value that is not allowed."""
    fields = attrs.fields(cast(Any, kind))
    try:
        return kind(**{f.name: f.metadata["decode"](found[f.name]) for f in fields})
    except (TypeError, ValueError, RecursionError) as e:
        why = str(e.args[0] if e.args else e)[:300]
        raise error(f"{why} ({kind.__name__})") from e
