"""The errors that a server may answer with."""

from __future__ import annotations

from byzpy_tw import errors

# The first entry that an exception is an instance of is what travels, so the most derived
# come first.  An error missing here would reach the peer as UNKNOWN and close the connection.
WIRE_ERRORS: dict[type[Exception], bytes] = {
    error: error.code.encode()
    for error in (
        errors.BadTicket,
        errors.BadFrame,
        errors.UnknownRun,
        errors.BadRequest,
        errors.WireError,
        errors.UnknownName,
        errors.BadParameter,
        errors.ShardTooSmall,
        errors.ConfigError,
        errors.BrokenPlugin,
        errors.DuplicateName,
        errors.MisspeltHook,
        errors.BadRuleOutput,
        errors.NeedsContext,
        errors.PluginError,
        errors.DatasetUnavailable,
        errors.UnsuitableModel,
        errors.UnsuitableData,
        errors.LimitExceeded,
        errors.VersionMismatch,
        errors.ProtectedMode,
        errors.NotAuthenticated,
        errors.ServerBusy,
        errors.ServerError,
        errors.ByzpyTwError,
    )
}

# After these the server closes the connection.  (AMP's own `fatalErrors` come last in its
# table, where a base class has matched already, so `limited_amp` decides.)
FATAL: frozenset[type[Exception]] = frozenset(
    {errors.BadTicket, errors.VersionMismatch, errors.ProtectedMode, errors.NotAuthenticated}
)
