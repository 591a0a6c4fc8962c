"""What can go wrong, in the caller's terms.

Each class has a `code` that never changes: it is printed before the message,
travels as the error code of an AMP answer, and is what documentation refers
to.  Errors that cross the wire are rebuilt on the far side from one string, so
none of these classes takes anything but a message.  `exit_code` is what the
commands exit with; see `EXIT_CODES`.

Docstrings here are for users: `cause` and `cure` read them, ``python -m byzpy_tw
explain CODE`` prints them, and ``docs/reference/errors.md`` is made of them.  Each
begins with the cause and ends with a paragraph "What to do: ...".
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import ClassVar

EXIT_CODES: Mapping[int, str] = {
    0: "done",
    1: "the run failed, or what was to be checked did not hold",
    2: "bad usage: nothing was started",
    3: "the run is paused, and `--resume RUN_DIR` goes on with it: more than `f` nodes failed, "
    "or its records cannot be written, or another error stopped it once rounds had begun",
    74: "the answer could not be printed: the disk that it goes to is full, say",
    129: "ended by SIGHUP; `--resume RUN_DIR` goes on",
    130: "ended by Ctrl-C (SIGINT); `--resume RUN_DIR` goes on",
    141: "whoever read the answer, such as `head`, had enough",
    143: "ended by SIGTERM; `--resume RUN_DIR` goes on",
}
_CURE = "What to do: "


class ByzpyTwError(Exception):
    """Base of every error this package raises on purpose.

    Also what a server's error is called here that this version has no name for.

    What to do: read the message; where it names a server, that server's log has more.  Where
    both sides run the same version, it is worth reporting.
    """

    code: ClassVar[str] = "BYZPY_TW"
    exit_code: ClassVar[int] = 1


# -- configuration and names ------------------------------------------------


class ConfigError(ByzpyTwError, ValueError):
    """An option or a combination of options makes no sense.

    A value out of range, options that exclude one another or have no use here, a rule that
    cannot be computed for this n and f, a device that is not there.  Nothing was started.

    What to do: change the option that the message names; it says what is allowed.  ``--help``
    lists all options, ``docs/reference/train.md`` explains them.
    """

    code = "BAD_CONFIG"
    exit_code = 2


class UnknownName(ConfigError):
    """No plugin offers anything under this name.

    The message has the nearest name, and all that are known.

    What to do: correct the spelling, or install the package that offers the name, in the
    environment that this command runs in.  ``python -m byzpy_tw plugins`` lists what there is.
    """

    code = "UNKNOWN_NAME"


class BadParameter(ConfigError):
    """A rule was given a parameter it does not know, or a value out of range.

    What stands after a name's colon, ``NAME:key=value,...``, does not fit it.

    What to do: the message says what the rule takes, or what range a value must be in;
    ``python -m byzpy_tw plugins`` shows every name's parameters and their defaults.
    """

    code = "BAD_PARAMETER"


class BadAddress(ConfigError):
    """A server's address cannot be used; the message says what is supported.

    Addresses are written ``tcp://HOST:PORT``, IPv6 ones ``tcp://[fe80::1]:29000``, several
    of them with commas between; each server may be listed once, under one of its addresses:
    ``tcp://127.0.0.1:29000`` and ``tcp://localhost:29000`` are one server.

    What to do: write it like that, with the port that the server was started with (29000 by
    default), and leave out the second name of a server.
    """

    code = "BAD_ADDRESS"


class CannotListen(ConfigError):
    """A server cannot listen where it was told to.

    Mostly because another server has the port, sometimes because the address is none of
    this machine's, or because ports below 1024 are not for everyone.

    What to do: choose another ``--port`` (0 picks a free one) or ``--host``, or stop what
    listens there; ``ss -ltnp`` shows it.
    """

    code = "CANNOT_LISTEN"


class BadKeys(ConfigError):
    """A file of keys cannot be used, or not be made; the message says why.

    It is missing, cannot be read, lacks a part, has expired, is not valid yet, or is of the
    other role: a server needs its own file, the trainer ``trainer.pem``.

    What to do: give the file that ``python -m byzpy_tw keygen`` wrote for this machine, or
    make new ones with it; where a file is "not valid before", set this machine's clock.
    """

    code = "BAD_KEYS"


class RunDirectoryError(ConfigError):
    """The run directory cannot be written, or holds another run.

    Or it is in use by another process, or what is to be resumed in it is not there, is of
    another version, or is of other data or another model.

    What to do: to begin a run choose another ``--run-dir``; to go on with the one that is
    there, ``--resume DIR`` once no other trainer has it.
    """

    code = "RUN_DIRECTORY"


# -- plugins ----------------------------------------------------------------


class PluginError(ByzpyTwError):
    """A plugin, not the caller, is at fault; the message names it.

    Seen as one of the more particular errors below.

    What to do: upgrade, mend or uninstall the distribution that the message names.
    """

    code = "PLUGIN"


class BrokenPlugin(PluginError):
    """A plugin failed to import, or one of its hooks raised.

    Or it offered something else than the hook asks for, or its factory or attack raised.
    A distribution that cannot be loaded is left out with a warning, and only runs that name
    something which nobody else offers end with this error.

    What to do: upgrade, mend or uninstall the distribution that the message names; the
    message has what was raised.  ``--disable-plugin NAME`` does without a distribution, and
    without the warning; ``python -m byzpy_tw plugins`` lists those that are broken.
    """

    code = "BROKEN_PLUGIN"


class DuplicateName(PluginError):
    """Two plugins offer the same name for one kind of thing.

    A name belongs to one distribution, so that a configuration means one thing.

    What to do: uninstall one of the two that the message names, or rename in your own.
    """

    code = "DUPLICATE_NAME"


class MisspeltHook(PluginError):
    """A plugin implements a hook that does not exist.

    pluggy would take it in silence and never call it.

    What to do: in your own plugin, rename the function to the hook that the message
    suggests (``docs/hooks.md`` has them all); otherwise upgrade that distribution, or this
    package, whichever is older.
    """

    code = "MISSPELT_HOOK"


class BadRuleOutput(PluginError):
    """A rule returned something of the wrong shape or type, or not finite.

    Or it raised, or remembers something that no checkpoint can hold.  The run is paused:
    its state is that of before the round.

    What to do: mend the rule, or take another distribution's; then ``--resume``.
    `byzpy_tw.testing.properties` and ``python -m byzpy_tw conformance NAME`` find such faults
    outside of runs.
    """

    code = "BAD_RULE_OUTPUT"


class NeedsContext(PluginError, ValueError):
    """A rule needs something that its caller did not hand in, such as a seed.

    Runs hand everything in; this is met in scripts, as with ``alie`` without numbers of
    nodes.

    What to do: pass what the message names: a parameter, or ``context=byzpy_tw.Context(...)``.
    """

    code = "NEEDS_CONTEXT"


# -- rules ------------------------------------------------------------------


class BadVectors(ByzpyTwError, ValueError):
    """The vectors handed to a rule are not ``(n, d)`` floating point.

    Or they are of differing shapes, types or devices, masked, sparse, or there are none.
    Met in scripts; a run refuses such a vector as malformed.

    What to do: pass one ``(n, d)`` tensor or array of float16, bfloat16, float32 or float64,
    or a list of n such vectors of one shape; a node's layers are joined with
    ``torch.cat([t.reshape(-1) for t in layers])``.
    """

    code = "BAD_VECTORS"


class TooManyByzantine(ByzpyTwError, ValueError):
    """More faulty nodes were declared than the rule can be computed with.

    Each rule has a condition, such as n > 2f for the trimmed mean; the message has it with
    its numbers.

    What to do: a smaller f, more rows, or a rule that needs fewer of them (``median`` and
    ``geometric-median`` can always be computed).
    """

    code = "TOO_MANY_BYZANTINE"


class TooManyRefused(TooManyByzantine):
    """More rows were not finite than the rule tolerates faulty nodes.

    Rows with a NaN, an infinity or a norm above 1e18 are left out, f of them at most.

    What to do: look for the origin of the rows that the message lists; where that many
    rows may be bad, a larger f.
    """

    code = "TOO_MANY_REFUSED"


class SearchTooLarge(TooManyByzantine):
    """An exact subset search would not end in reasonable time.

    ``mda`` and ``smea`` look for the best subset of the rows; bounds cut that short, but
    not for every n, f and set of rows.

    What to do: a smaller n or f, or another rule: ``multi-krum`` chooses rows too, in
    polynomial time.
    """

    code = "SEARCH_TOO_LARGE"


# -- data and models --------------------------------------------------------


class DatasetUnavailable(ByzpyTwError):
    """A dataset's files are damaged, or missing and could not be downloaded.

    Raised on whichever machine lacks them; the message has the folder and the files' names,
    and says of each damaged one what it is instead: an HTML page, a byte short.

    What to do: replace a damaged file, or delete it so that it is downloaded anew; put
    missing ones where the message says, or point ``--data-root`` to them: the trainer's, and
    each server's own.  ``--dataset mnist5k`` needs no files.
    """

    code = "DATASET_UNAVAILABLE"


class ShardTooSmall(ConfigError):
    """A node's part of the data is smaller than one batch, or empty.

    Batches are drawn without replacement, so a shard must hold one.

    What to do: fewer nodes, a smaller ``--batch-size``, another ``--partition``, or
    ``--replacement``.
    """

    code = "SHARD_TOO_SMALL"


class UnsuitableModel(ByzpyTwError, ValueError):
    """The model cannot be trained by exchanging gradients; says why.

    Statistics outside of its parameters (BatchNorm), parameters that are not float32, a
    module that cannot be made on the meta device, or data of a shape that it does not take.

    What to do: GroupNorm or LayerNorm in BatchNorm's place, float32 parameters, no reading of
    values in the constructor; or another ``--model``.
    """

    code = "UNSUITABLE_MODEL"


class UnsuitableData(ByzpyTwError, ValueError):
    """The data cannot be trained on; says what is wrong with it, and where.

    Examples that are sparse or of a type that no model takes, labels that are out of range,
    no training examples at all, or, with ``--strict``, values that are not finite.

    What to do: mend the data, or the dataset's code, where the message says; or another
    ``--dataset``.
    """

    code = "UNSUITABLE_DATA"


class LimitExceeded(ByzpyTwError):
    """What was asked for is larger than this process allows.

    A model, data or a number of nodes over one of a server's limits.

    What to do: raise the limit that the message names where that server is started
    (``twistd byzpy-server --help``), if the machine has the memory; or ask for less.
    """

    code = "LIMIT_EXCEEDED"


# -- servers and the wire ---------------------------------------------------


class WireError(ByzpyTwError):
    """The peer broke the protocol; its connection is closed.

    Bytes that are no command, an answer that makes no sense, a model of another size than
    was agreed on.  A server that does it counts as lost.

    What to do: check that the address is a byzpy-server's and that both sides run the same
    version.  Otherwise that peer is broken or malicious: take it out of ``--remote-hosts``.
    """

    code = "WIRE"


class BadFrame(WireError):
    """A tensor frame that was not agreed on, or does not parse.

    Worse than a vector of a wrong size, which is charged to its node: of a kind, a length or
    a round that nobody announced.  The connection is closed.

    What to do: the same version on both sides; what is left then is a faulty or
    malicious peer.
    """

    code = "BAD_FRAME"


class BadRequest(WireError):
    """A command whose arguments make no sense, or in the wrong state.

    As when a trainer has gone on while a server was still at work on an older round.

    What to do: nothing, where a run goes on: the vector is charged to the budget or asked
    for again.  Where it ends a run, install the same version on both sides.
    """

    code = "BAD_REQUEST"


class BadTicket(WireError):
    """The ticket for a tensor stream is unknown, used, or another peer's.

    A ticket is good once, for 60 seconds, from the address and the certificate that asked
    for it.

    What to do: where the trainer's address changes between two connections (several
    addresses, or NAT with a pool of them), give it one way to the server.
    """

    code = "BAD_TICKET"


class UnknownRun(WireError):
    """The server holds no such run for this trainer.

    It was closed: the trainer was not heard of for ``--idle-timeout``, or another trainer
    went on with the run.

    What to do: let one trainer have a run; where the trainer's machine stalls for minutes,
    a longer ``--idle-timeout`` on the server.
    """

    code = "UNKNOWN_RUN"


class VersionMismatch(ByzpyTwError):
    """The two sides speak different versions of the protocol.

    The message has both versions.

    What to do: install the same version of byzpy_tw on both machines, and restart the server.
    """

    code = "VERSION_MISMATCH"


class ProtectedMode(ByzpyTwError):
    """The server has no keys and serves its own machine only.

    Without keys whoever reaches the port could use the machine, so peers from elsewhere are
    turned away, whatever address the server listens on.  A container's published port counts
    as elsewhere.

    What to do: make keys with ``python -m byzpy_tw keygen``, and give ``--keys`` to the
    server and to the trainer; or, on a network where everybody may use it, ``--insecure``.
    """

    code = "PROTECTED_MODE"


class NotAuthenticated(ByzpyTwError):
    """A command on a connection whose other end has not shown its certificate.

    The trainer spoke before the handshake was over, which ours does not do.

    What to do: use ``python -m byzpy_tw.train --keys``; a program of your own must wait
    for the TLS handshake.
    """

    code = "NOT_AUTHENTICATED"


class KeysRefused(ByzpyTwError):
    """One end of a connection does not accept what the other shows, or shows nothing.

    Other clusters' keys, the wrong role's, expired ones, none at all, or another program; the
    message says which, and the server's log says the same from its side.

    What to do: give both sides files that one ``keygen`` folder made; the table in
    ``docs/security.md`` goes through the cases.
    """

    code = "KEYS_REFUSED"


class ServerBusy(ByzpyTwError):
    """The server is at one of its limits.

    Runs, nodes or work in hand; the message names the limit's option.

    What to do: wait for other runs to end, use another server, or raise the limit where
    that server is started.
    """

    code = "SERVER_BUSY"


class ServerError(ByzpyTwError):
    """Something failed on the server that is not the caller's fault.

    Its log has a traceback: a bug of ours or of a plugin's, or the machine's memory.

    What to do: look into that server's log for the same moment.  With failover the nodes
    are asked of other servers meanwhile.
    """

    code = "SERVER_ERROR"


class ServerUnreachable(ByzpyTwError):
    """No connection to a server could be made, or it did not answer.

    Refused: nothing listens there.  No answer: a firewall, a wrong address, or a server
    that hangs.

    What to do: start ``twistd -n byzpy-server --port PORT`` there, check address, port and
    firewall; ``--min-servers K`` begins without the missing ones.
    """

    code = "SERVER_UNREACHABLE"


class ServerDiffers(ByzpyTwError):
    """A server runs other software or holds other data than the run needs.

    Other data, or a model of another size, cannot work.  Other versions or instruction sets
    may change last bits: a warning, and this error with ``--strict``.

    What to do: for data, the same files under each ``--data-root``, or ``--partition local``
    for data that is meant to differ; for software, the versions that the message names, or
    no ``--strict``.
    """

    code = "SERVER_DIFFERS"


class MissingPlugin(ByzpyTwError):
    """A server lacks a plugin that the run needs.

    Attacks, datasets, models and partitions are made on servers, which take names and
    never code.

    What to do: run the ``pip install`` of the message in that server's environment, and
    restart the server.
    """

    code = "MISSING_PLUGIN"


# -- the run ----------------------------------------------------------------


class CannotRecord(ByzpyTwError):
    """A run under way cannot write its records, as on a full disk: it is paused.

    The run's state is that of the last checkpoint, and what was written before is good.

    What to do: free some space, or mend the disk, then ``--resume RUN_DIR``.
    """

    code = "CANNOT_RECORD"
    exit_code = 3


class DamagedCheckpoint(ByzpyTwError):
    """A checkpoint is not what was written, or of another version.

    The one before it is used, with a warning.

    What to do: nothing, while an older one is there; look after the disk.  Keep more of
    them with ``--keep-checkpoints``.
    """

    code = "DAMAGED_CHECKPOINT"


class BudgetExceeded(ByzpyTwError):
    """More than `f` nodes failed in one round: the run is paused.

    Late, lost, malformed, not finite and failed all count.  The message lists the nodes and
    reasons and has the first cause, ``result.json`` has all (``halted``); a checkpoint of
    before the round is on disk.

    What to do: what the message ends with: mend the model or the attack that raised (the log
    of its machine has the traceback), bring servers back, or give slow ones a larger
    ``--round-timeout``; then ``--resume RUN_DIR``.  More faults than f can only be tolerated
    by a new run with a larger ``--f``, and more nodes.
    """

    code = "BUDGET_EXCEEDED"
    exit_code = 3


class GuaranteeMissing(ConfigError):
    """`--strict`: the rule gives no guarantee for this n and f.

    Without ``--strict`` that is a notice at the start, and the run goes ahead.

    What to do: more nodes, a smaller ``--f``, a rule whose condition holds (the message has
    it with its numbers), or no ``--strict``.
    """

    code = "GUARANTEE_MISSING"


class Diverged(ByzpyTwError):
    """The model's own gradients or parameters are no longer finite.

    Where over half of the honest nodes' vectors are not finite, that is the model's doing:
    no node is charged, and no checkpoint is kept of it.

    What to do: a smaller ``--lr``, or a stronger aggregator if an attack drove it there;
    ``rounds.jsonl`` shows since when losses and norms grow.
    """

    code = "DIVERGED"


class AttackFailed(PluginError):
    """Not one of the run's attack vectors could be computed.

    The run went on as without attackers, so its result says nothing about its rules.  The
    message has the first cause; the log of the machine that the node lives on has the
    traceback.

    What to do: mend the attack's code, or choose another ``--attack``; ``--attack none`` is a
    run without one.
    """

    code = "ATTACK_FAILED"


class RunFailed(ByzpyTwError):
    """A run's process was stopped, was killed or met a bug; the message has its last words.

    Met in scripts, by whoever called `byzpy_tw.run`.

    What to do: look into ``trainer.log`` in the run's folder, and at what the machine says of
    its memory; where the folder has a checkpoint, ``python -m byzpy_tw.train --resume RUN_DIR``
    goes on from it.
    """

    code = "RUN_FAILED"


def error_from_code(code: str, message: str) -> ByzpyTwError:
    """The error that had this code and message; `RunFailed` for a code of nobody's."""
    kind = errors_by_code().get(code)
    return RunFailed(f"{code}: {message}") if kind is None else kind(message)


def errors_by_code() -> Mapping[str, type[ByzpyTwError]]:
    """Every error of this package under its code, in the order in which they stand here."""
    kinds = [kind for kind in globals().values() if isinstance(kind, type)]
    return {kind.code: kind for kind in kinds if issubclass(kind, ByzpyTwError)}


def cause(kind: type[ByzpyTwError]) -> str:
    """What an error of this kind means: paragraphs of text, the first one a line."""
    return _halves(kind)[0]


def cure(kind: type[ByzpyTwError]) -> str:
    """What to do about an error of this kind: a paragraph."""
    return _halves(kind)[1]


def _halves(kind: type[ByzpyTwError]) -> tuple[str, str]:
    text = inspect.cleandoc(vars(kind).get("__doc__") or "")
    before, _, after = text.partition(_CURE)
    return before.strip(), after.strip()


def format_error(error: BaseException) -> str:
    """One line for a user: the stable code, then the message."""
    code = getattr(error, "code", type(error).__name__)
    text = " ".join(str(error).split()) or "no further details"
    return f"{code}: {text}"
