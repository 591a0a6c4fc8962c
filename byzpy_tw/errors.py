"""What can go wrong, in the caller's terms.

Each class has a `code` that never changes: it is printed before the message,
travels as the error code of an AMP answer, and is what documentation refers
to.  Errors that cross the wire are rebuilt on the far side from one string, so
none of these classes takes anything but a message.  `exit_code` is what the
commands exit with: 1 the run failed, 2 bad usage.  A run that has a checkpoint
exits with 3, paused, whatever stopped it, unless it diverged.
"""

from __future__ import annotations

from typing import ClassVar


class ByzpyTwError(Exception):
    """Base of every error this package raises on purpose."""

    code: ClassVar[str] = "BYZPY_TW"
    exit_code: ClassVar[int] = 1


# -- configuration and names ------------------------------------------------


class ConfigError(ByzpyTwError, ValueError):
    """An option or a combination of options makes no sense."""

    code = "BAD_CONFIG"
    exit_code = 2


class UnknownName(ConfigError):
    """No plugin offers anything under this name."""

    code = "UNKNOWN_NAME"


class BadParameter(ConfigError):
    """A rule was given a parameter it does not know, or a value out of range."""

    code = "BAD_PARAMETER"


class BadAddress(ConfigError):
    """A server's address cannot be used; the message says what is supported."""

    code = "BAD_ADDRESS"


class CannotListen(ConfigError):
    """A server cannot listen where it was told to."""

    code = "CANNOT_LISTEN"


class BadKeys(ConfigError):
    """A file of keys cannot be used, or not be made; the message says why."""

    code = "BAD_KEYS"


class RunDirectoryError(ConfigError):
    """The run directory cannot be written, or holds another run."""

    code = "RUN_DIRECTORY"


# -- plugins ----------------------------------------------------------------


class PluginError(ByzpyTwError):
    """A plugin, not the caller, is at fault; the message names it."""

    code = "PLUGIN"


class BrokenPlugin(PluginError):
    """A plugin failed to import, or one of its hooks raised."""

    code = "BROKEN_PLUGIN"


class DuplicateName(PluginError):
    """Two plugins offer the same name for one kind of thing."""

    code = "DUPLICATE_NAME"


class MisspeltHook(PluginError):
    """A plugin implements a hook that does not exist."""

    code = "MISSPELT_HOOK"


class BadRuleOutput(PluginError):
    """A rule returned something of the wrong shape or type, or not finite."""

    code = "BAD_RULE_OUTPUT"


class NeedsContext(PluginError, ValueError):
    """A rule needs something that its caller did not hand in, such as a seed."""

    code = "NEEDS_CONTEXT"


# -- rules ------------------------------------------------------------------


class BadVectors(ByzpyTwError, ValueError):
    """The vectors handed to a rule are not ``(n, d)`` floating point."""

    code = "BAD_VECTORS"


class TooManyByzantine(ByzpyTwError, ValueError):
    """More faulty nodes were declared than the rule can be computed with."""

    code = "TOO_MANY_BYZANTINE"


class TooManyRefused(TooManyByzantine):
    """More rows were not finite than the rule tolerates faulty nodes."""

    code = "TOO_MANY_REFUSED"


class SearchTooLarge(TooManyByzantine):
    """An exact subset search would not end in reasonable time."""

    code = "SEARCH_TOO_LARGE"


# -- data and models --------------------------------------------------------


class DatasetUnavailable(ByzpyTwError):
    """A dataset's files are missing and could not be downloaded."""

    code = "DATASET_UNAVAILABLE"


class ShardTooSmall(ConfigError):
    """A node's part of the data is smaller than one batch, or empty."""

    code = "SHARD_TOO_SMALL"


class UnsuitableModel(ByzpyTwError, ValueError):
    """The model cannot be trained by exchanging gradients; says why."""

    code = "UNSUITABLE_MODEL"


class LimitExceeded(ByzpyTwError):
    """What was asked for is larger than this process allows."""

    code = "LIMIT_EXCEEDED"


# -- servers and the wire ---------------------------------------------------


class WireError(ByzpyTwError):
    """The peer broke the protocol; its connection is closed."""

    code = "WIRE"


class BadFrame(WireError):
    """A tensor frame that was not agreed on, or does not parse."""

    code = "BAD_FRAME"


class BadRequest(WireError):
    """A command whose arguments make no sense, or in the wrong state."""

    code = "BAD_REQUEST"


class BadTicket(WireError):
    """The ticket for a tensor stream is unknown, used, or another peer's."""

    code = "BAD_TICKET"


class UnknownRun(WireError):
    """The server holds no such run for this trainer."""

    code = "UNKNOWN_RUN"


class VersionMismatch(ByzpyTwError):
    """The two sides speak different versions of the protocol."""

    code = "VERSION_MISMATCH"


class ProtectedMode(ByzpyTwError):
    """The server has no keys and serves its own machine only."""

    code = "PROTECTED_MODE"


class NotAuthenticated(ByzpyTwError):
    """A command on a connection whose other end has not shown its certificate."""

    code = "NOT_AUTHENTICATED"


class KeysRefused(ByzpyTwError):
    """One end of a connection does not accept what the other shows, or shows nothing."""

    code = "KEYS_REFUSED"


class ServerBusy(ByzpyTwError):
    """The server is at one of its limits."""

    code = "SERVER_BUSY"


class ServerError(ByzpyTwError):
    """Something failed on the server that is not the caller's fault."""

    code = "SERVER_ERROR"


class ServerUnreachable(ByzpyTwError):
    """No connection to a server could be made, or it did not answer."""

    code = "SERVER_UNREACHABLE"


class ServerDiffers(ByzpyTwError):
    """A server runs other software or holds other data than the run needs."""

    code = "SERVER_DIFFERS"


class MissingPlugin(ByzpyTwError):
    """A server lacks a plugin that the run needs."""

    code = "MISSING_PLUGIN"


# -- the run ----------------------------------------------------------------


class CannotRecord(ByzpyTwError):
    """A run under way cannot write its records, as on a full disk: it is paused."""

    code = "CANNOT_RECORD"
    exit_code = 3


class DamagedCheckpoint(ByzpyTwError):
    """A checkpoint is not what was written, or of another version."""

    code = "DAMAGED_CHECKPOINT"


class BudgetExceeded(ByzpyTwError):
    """More than `f` nodes failed in one round: the run is paused."""

    code = "BUDGET_EXCEEDED"
    exit_code = 3


class GuaranteeMissing(ConfigError):
    """`--strict`: the rule gives no guarantee for this n and f."""

    code = "GUARANTEE_MISSING"


class Diverged(ByzpyTwError):
    """The model's own gradients or parameters are no longer finite."""

    code = "DIVERGED"


class RunFailed(ByzpyTwError):
    """A run's process was stopped, was killed or met a bug; the message has its last words."""

    code = "RUN_FAILED"


def rebuilt(code: str, message: str) -> ByzpyTwError:
    """The error that had this code and message; `RunFailed` for a code of nobody's."""
    for kind in globals().values():
        if isinstance(kind, type) and vars(kind).get("code") == code:
            return kind(message)
    return RunFailed(f"{code}: {message}")


def message_of(error: BaseException) -> str:
    """One line for a user: the stable code, then the message."""
    code = getattr(error, "code", type(error).__name__)
    text = " ".join(str(error).split()) or "no further details"
    return f"{code}: {text}"
