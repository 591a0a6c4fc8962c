"""The errors that a server may answer with."""

from __future__ import annotations

from byzpy_tw import errors

# The first entry that an exception is an instance of is what travels, so the most derived, with
# the most bases, come first.  An error missing here would reach the peer as UNKNOWN and close
# the connection.
WIRE_ERRORS: dict[type[Exception], bytes] = {
    error: error.code.encode()
    for error in sorted(errors.errors_by_code().values(), key=lambda e: -len(e.mro()))
    if error.wire
}

# After these the server closes the connection.  (AMP's own `fatalErrors` come last in its
# table, where a base class has matched already, so `limited_amp` decides.)
FATAL: frozenset[type[Exception]] = frozenset(
    {errors.BadTicket, errors.VersionMismatch, errors.ProtectedMode, errors.NotAuthenticated}
)
