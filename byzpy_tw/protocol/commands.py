"""What a trainer may ask of a server.

Direction: the trainer calls, the server answers.  A server never calls back,
so a Byzantine one can delay, refuse or lie in an answer, and do nothing else.
No argument here is large: tensors travel as frames on a connection of their
own (`OpenStream`), announced by the commands that need them.

The order: `Hello`; `OpenRun`; `OpenStream` on a second connection, with the
ticket; `SpawnNodes`; then, each round, a parameters frame and `Compute`, then
perhaps frames for the attacks' knowledge and `Attack`; `CloseRun`.  `Ping` at
any time after `Hello`.
"""

from __future__ import annotations

from twisted.protocols import amp

from byzpy_tw import errors

# Raised when the commands or the frames change incompatibly.
PROTOCOL = 2
MOST_IDENTITY = 64  # characters of a server's identity

# The first entry that an exception is an instance of is what travels, so the
# most derived come first.  Every command lists all of them: an error missing
# here would reach the peer as UNKNOWN and take the connection with it.
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

# After these the server hangs up: the peer broke the protocol, or is not welcome.
# (AMP's own `fatalErrors` come last in its table, where a base class has
# matched already, so `guarded` decides.)
FATAL: frozenset[type[Exception]] = frozenset(
    {
        errors.BadTicket,
        errors.VersionMismatch,
        errors.ProtectedMode,
        errors.NotAuthenticated,
    }
)


class _Command(amp.Command):
    """A command with the shared error table."""

    errors = WIRE_ERRORS


class Hello(_Command):
    """Introduce the trainer; learn what the server is.

    Arguments: ``protocol``, the trainer's `PROTOCOL`; ``version``, of its
    package, for the log.  Answers: the same of the server;
    ``environment``, a JSON object (see `runs.environment`); ``time``, its clock in
    seconds since 1970, which servers of before do not tell; and ``server``, its
    identity: printable, up to `MOST_IDENTITY` characters, drawn anew by each process.
    """

    arguments = [(b"protocol", amp.Integer()), (b"version", amp.Unicode())]
    response = [
        (b"protocol", amp.Integer()),
        (b"version", amp.Unicode()),
        (b"environment", amp.Unicode()),
        (b"time", amp.Float(optional=True)),
        (b"server", amp.Unicode()),
    ]


class OpenRun(_Command):
    """Build the model and read the data for a run.

    Arguments: ``run``, a name the trainer chose, hard to guess: a run of that name
    on another connection (of the same certificate, where there are keys) is closed
    first, as its trainer's old self; ``spec``, a `RunSpec` as JSON.  Answers:
    ``dimension``, the length of the model's vectors; ``digest``, of the data; ``trial``, a
    `TrialDigests` as JSON: digests of what else decides bits; ``ticket``, for `OpenStream`.
    """

    arguments = [(b"run", amp.Unicode()), (b"spec", amp.String())]
    response = [
        (b"dimension", amp.Integer()),
        (b"digest", amp.Unicode()),
        (b"trial", amp.Unicode()),
        (b"ticket", amp.String()),
    ]


class OpenStream(amp.ProtocolSwitchCommand):
    """Turn this connection into the tensor stream of a run.

    Sent on a second connection from the same address, with the same certificate
    where there are keys, as its first command.
    ``ticket`` is what `OpenRun` answered; it is good for one use.
    """

    arguments = [(b"ticket", amp.String())]
    response: list[tuple[bytes, amp.Argument]] = []
    errors = WIRE_ERRORS


class SpawnNodes(_Command):
    """Add nodes to a run.  ``nodes`` is JSON (see `nodes.spec`).

    Answers: ``count``, how many nodes the run now has on this server; ``attacks``, digests
    of the trials of plugins' attacks among them, with commas between.
    """

    arguments = [(b"run", amp.Unicode()), (b"nodes", amp.String())]
    response = [(b"count", amp.Integer()), (b"attacks", amp.Unicode(optional=True))]


class Compute(_Command):
    """Send the gradients of ``nodes`` in ``round``, each as it is ready.

    The round's parameters come on the stream, before or after this command.
    Answers when all have been sent: ``failures``, a JSON object from node to
    what went wrong, for those that have none.
    """

    arguments = [
        (b"run", amp.Unicode()),
        (b"round", amp.Integer()),
        (b"nodes", amp.ListOf(amp.Integer())),
    ]
    response = [(b"failures", amp.Unicode())]


class Attack(_Command):
    """Send the vectors of the Byzantine ``nodes`` in ``round``.

    ``honest`` is how many honest vectors were accepted; ``pieces`` a JSON list
    of names (`nodes.shown`): what the attacks are shown of them, each piece a
    frame on the stream.  Answers as `Compute` does.
    """

    arguments = [
        (b"run", amp.Unicode()),
        (b"round", amp.Integer()),
        (b"nodes", amp.ListOf(amp.Integer())),
        (b"honest", amp.Integer()),
        (b"pieces", amp.String()),
    ]
    response = [(b"failures", amp.Unicode())]


class CloseRun(_Command):
    """Forget a run: its nodes, model, data and stream."""

    arguments = [(b"run", amp.Unicode())]
    response: list[tuple[bytes, amp.Argument]] = []


class Ping(_Command):
    """Answer with the same ``token``.

    A trainer that has sent one is taken to send them as long as it lives.
    """

    arguments = [(b"token", amp.Integer())]
    response = [(b"token", amp.Integer())]


COMMANDS: tuple[type[amp.Command], ...] = (
    Hello,
    OpenRun,
    OpenStream,
    SpawnNodes,
    Compute,
    Attack,
    CloseRun,
    Ping,
)
