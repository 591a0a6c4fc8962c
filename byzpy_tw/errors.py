"""Every error: its code, its exit code, its cause and its cure.

Each class has a `code` that never changes: it is printed before the message, is the error code of
an AMP answer, and documentation refers to it.  `exit_code` is that of commands; see `EXIT_CODES`.
Errors that cross the wire are rebuilt on the far side from one string, so these classes take a
message and nothing else but optional `fields`: what the message says, for programs to decide by.
One that is not ``wire`` crosses it as its nearest base that is.

Docstrings here are for users: `explanation` reads them for ``python -m byzpy_tw explain CODE`` and
``docs/reference/errors.md``.  Each begins with the cause and ends with "What to do: ...".
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Self

EXIT_CODES: Mapping[int, str] = {
    0: "done",
    1: "the run failed, or a check did not hold",
    2: "bad usage: nothing was started",
    3: "the run is paused, and `--resume RUN_DIR` goes on with it: more than `f` nodes failed, "
    "or its records cannot be written, or another error stopped it once rounds had begun",
    74: "the answer could not be printed, as on a full disk",
    129: "ended by SIGHUP; `--resume RUN_DIR` goes on",
    130: "ended by Ctrl-C (SIGINT); `--resume RUN_DIR` goes on",
    141: "the reader of the answer, such as `head`, closed the pipe",
    143: "ended by SIGTERM; `--resume RUN_DIR` goes on",
}
_CURE = "What to do: "


class ByzpyTwError(Exception):
    """Base of every error this package raises on purpose.

    Also stands for a server's error that this version has no class for.

    What to do: read the message; where it names a server, that server's log has more.  Where
    both sides run the same version, it is worth reporting.
    """

    code: ClassVar[str] = "BYZPY_TW"
    exit_code: ClassVar[int] = 1
    wire: ClassVar[bool] = True
    field_names: ClassVar[frozenset[str]] = frozenset()
    fields: Mapping[str, str] = MappingProxyType({})  # by names of `field_names`, if any is known

    def __init_subclass__(
        cls,
        code: str | None = None,
        exit_code: int | None = None,
        wire: bool = False,
        fields: tuple[str, ...] = (),
    ) -> None:
        super().__init_subclass__()
        cls.code = code or cls.code
        cls.exit_code = cls.exit_code if exit_code is None else exit_code
        cls.wire, cls.field_names = wire, cls.field_names | set(fields)

    def with_fields(self, **fields: str) -> Self:
        """Set `fields`, and return this error."""
        if unknown := fields.keys() - self.field_names:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}")
        self.fields = MappingProxyType(fields)
        return self

    def with_text(self, text: str) -> Self:
        """Return another error of this class with `text` and the same fields."""
        return type(self)(text).with_fields(**self.fields)


# -- configuration and names ------------------------------------------------


class ConfigError(ByzpyTwError, ValueError, code="BAD_CONFIG", exit_code=2, wire=True):
    """An option or a combination of options makes no sense.

    A value out of range, options that exclude one another or have no use here, a rule that
    cannot be computed for this n and f, a device that is not there.  Nothing was started.

    What to do: change the option that the message names; it says what is allowed.  ``--help``
    lists all options, ``docs/reference/train.md`` explains them.
    """


class UnknownName(ConfigError, code="UNKNOWN_NAME", wire=True, fields=("kind", "name")):
    """No plugin offers anything under this name.

    The message has the nearest name, and all that are known.

    What to do: correct the spelling, or install the package that offers the name, in the
    environment that this command runs in.  ``python -m byzpy_tw plugins`` lists all names.
    """


class BadParameter(ConfigError, code="BAD_PARAMETER", wire=True):
    """A rule was given a parameter it does not know, or a value out of range.

    The text after a name's colon, ``NAME:key=value,...``, does not fit it.

    What to do: the message has the rule's parameters, or the range of a value;
    ``python -m byzpy_tw plugins`` shows every name's parameters and their defaults.
    """


class BadAddress(ConfigError, code="BAD_ADDRESS"):
    """A server's address cannot be used; the message says what is supported.

    Addresses are written ``tcp://HOST:PORT``, IPv6 ones ``tcp://[fe80::1]:29000``, several
    of them with commas between.  ``tls://`` is for servers with keys; other schemes come from
    plugins.  Each server may be listed once, under one of its addresses:
    ``tcp://127.0.0.1:29000`` and ``tcp://localhost:29000`` are one server.

    What to do: write it like that, with the port that the server was started with (29000 by
    default), and leave out the second name of a server.
    """


class CannotListen(ConfigError, code="CANNOT_LISTEN"):
    """A server cannot listen where it was told to.

    Something else has it, the address is another machine's, ports below 1024 need privileges, or
    a socket's folder is missing. A server then ends with twistd's exit code, 1, and not with 2.

    What to do: another ``--port`` (0: any free one), ``--host``, ``--metrics`` or ``--web``, or
    stop what ``ss -ltnp`` shows.
    """


class BadKeys(ConfigError, code="BAD_KEYS"):
    """A file of keys cannot be used, or not be made; the message says why.

    It is missing, cannot be read, lacks a part, has expired, is not valid yet, or is of the
    other role: a server needs its own file, the trainer ``trainer.pem``.

    What to do: give the file that ``python -m byzpy_tw keygen`` wrote for this machine, or
    make new ones with it; where a file is "not valid before", set this machine's clock.
    """


class RunDirectoryError(ConfigError, code="RUN_DIRECTORY"):
    """The run directory cannot be written, or holds another run.

    Or it is in use, or the run to resume in it is missing, or of another version, data or model.

    What to do: to begin a run choose another ``--run-dir``; to go on with the run in it,
    ``--resume DIR`` once no other trainer has it.
    """


# -- plugins ----------------------------------------------------------------


class PluginError(ByzpyTwError, code="PLUGIN", wire=True):
    """A plugin, not the caller, is at fault; the message names it.

    Raised as one of the classes below.

    What to do: upgrade, mend or uninstall the distribution that the message names.
    """


class BrokenPlugin(PluginError, code="BROKEN_PLUGIN", wire=True, fields=("why",)):
    """A plugin failed to import, or one of its hooks raised.

    Or it offered something else than the hook asks for, or its factory or attack raised. A broken
    distribution is left out with a warning; only runs that need its names end with this error.

    What to do: upgrade, mend or uninstall the distribution that the message names; the
    message has the error.  ``--disable-plugin NAME`` does without a distribution, and
    without the warning; ``python -m byzpy_tw plugins`` lists the broken ones.
    """


class DuplicateName(PluginError, code="DUPLICATE_NAME", wire=True):
    """Two plugins offer the same name for one kind of thing.

    A name belongs to one distribution, so that a configuration means one thing.

    What to do: uninstall one of the two that the message names, or rename in your own.
    """


class MisspeltHook(PluginError, code="MISSPELT_HOOK", wire=True):
    """A plugin implements a hook that does not exist.

    pluggy would accept it silently and never call it.

    What to do: in your own plugin, rename the function as the message suggests (``docs/hooks.md``
    has all hooks); otherwise upgrade that distribution, or this package, whichever is older.
    """


class BadRuleOutput(PluginError, code="BAD_RULE_OUTPUT", wire=True):
    """A rule or a task returned something of the wrong shape or type, or not finite.

    Or it raised, or remembers what no checkpoint can hold, or a task's losses of two halves of a
    batch do not add up.  The run is paused before the round.

    What to do: mend the rule or the task, or take another distribution's; then ``--resume``.
    Outside of runs `byzpy_tw.testing.properties` and ``python -m byzpy_tw conformance NAME`` find
    such faults of rules.
    """


class NeedsContext(PluginError, ValueError, code="NEEDS_CONTEXT", wire=True):
    """A rule needs something that its caller did not pass, such as a seed.

    Runs pass everything; scripts meet this, as with ``alie`` without numbers of nodes.

    What to do: pass what the message names: a parameter, or ``context=byzpy_tw.Context(...)``.
    """


# -- rules ------------------------------------------------------------------


class BadVectors(ByzpyTwError, ValueError, code="BAD_VECTORS"):
    """The vectors handed to a rule are not ``(n, d)`` floating point.

    Or they are of differing shapes, types or devices, masked, sparse, or there are none.
    Scripts meet this; a run refuses such a vector as malformed.

    What to do: pass one ``(n, d)`` tensor or array of float16, bfloat16, float32 or float64,
    or a list of n such vectors of one shape; a node's layers are joined with
    ``torch.cat([t.reshape(-1) for t in layers])``.
    """


class TooManyByzantine(ByzpyTwError, ValueError, code="TOO_MANY_BYZANTINE"):
    """More faulty nodes were declared than the rule can be computed with.

    Each rule has a condition, such as n > 2f for the trimmed mean; the message has its numbers.

    What to do: a smaller f, more rows, or a rule that needs fewer of them (``median`` and
    ``geometric-median`` can always be computed).
    """


class TooManyRefused(TooManyByzantine, code="TOO_MANY_REFUSED"):
    """More rows were not finite than the rule tolerates faulty nodes.

    Rows with a NaN, an infinity or a norm above 1e18 are left out, f of them at most.

    What to do: look for the origin of the rows in the message; a larger f if so many may be bad.
    """


class SearchTooLarge(TooManyByzantine, code="SEARCH_TOO_LARGE"):
    """An exact subset search would not end in reasonable time.

    ``mda`` and ``smea`` search for the best subset of rows; bounds shorten that, but not always.

    What to do: a smaller n or f, or another rule: ``multi-krum`` chooses rows in polynomial time.
    """


# -- data and models --------------------------------------------------------


class DatasetUnavailable(ByzpyTwError, code="DATASET_UNAVAILABLE", wire=True):
    """A dataset's files are damaged, or missing and could not be downloaded.

    Raised on whichever machine lacks them; the message has the folder and the files' names,
    and says of each damaged one what it is instead: an HTML page, a byte short.

    What to do: replace a damaged file, or delete it so that it is downloaded anew; put
    missing ones where the message says, or point ``--data-root`` to them: the trainer's, and
    each server's own.  ``--dataset mnist5k`` needs no files.
    """


class ShardTooSmall(ConfigError, code="SHARD_TOO_SMALL", wire=True):
    """A node's part of the data is smaller than one batch, or empty.

    A batch has no example twice, so a shard must hold one.

    What to do: fewer nodes, smaller ``--batch-size``, another ``--partition``; or ``--batches
    epochs:keep``, which makes a batch of a small shard, or ``--replacement``.
    """


class UnsuitableModel(ByzpyTwError, ValueError, code="UNSUITABLE_MODEL", wire=True):
    """The model cannot be trained by exchanging gradients; says why.

    Trained parameters that are not float32, BatchNorm where its statistics would mean nothing,
    buffers that change, a module that cannot be made on the meta device, data of a shape that it
    does not take, or a missing or unfit file for ``init=NAME``.

    What to do: float32 parameters, or frozen ones; GroupNorm or LayerNorm in BatchNorm's place;
    no reading of values in the constructor; or another ``--model``.
    """


class UnsuitableData(ByzpyTwError, ValueError, code="UNSUITABLE_DATA", wire=True):
    """The data cannot be trained on; the message has the reason and the place.

    Examples that are sparse or of a type that no model takes, labels that are out of range, no
    training examples at all, targets that the run's task or its partition cannot use, or, with
    ``--strict``, values that are not finite.

    What to do: mend the data, or the dataset's code, as the message says; or use another
    ``--dataset``, ``--task`` or ``--partition``.
    """


class LimitExceeded(ByzpyTwError, code="LIMIT_EXCEEDED", wire=True):
    """A request is larger than this process allows.

    A model, data or a number of nodes over one of a server's limits, or a micro-batch that does
    not fit in memory.

    What to do: raise the limit that the message names where that server is started
    (``twistd byzpy-server --help``), if the machine has the memory; or ask for less, such as a
    smaller ``--micro-batch-size``.
    """


# -- servers and the wire ---------------------------------------------------


class WireError(ByzpyTwError, code="WIRE", wire=True):
    """The peer broke the protocol; its connection is closed.

    Bytes that are no command, a senseless answer, a model of another size: a server counts as lost.

    What to do: check that the address is a byzpy-server's and that both sides run the same
    version.  Otherwise that peer is broken or malicious: take it out of ``--remote-hosts``.
    """


class BadFrame(WireError, code="BAD_FRAME", wire=True):
    """A tensor frame that was not announced, or does not parse.

    Its kind, length or round is unexpected, and the connection is closed.  (A vector of a wrong
    size is charged to its node instead.)

    What to do: install the same version on both sides; otherwise that peer is faulty or malicious.
    """


class BadRequest(WireError, code="BAD_REQUEST", wire=True):
    """A command whose arguments make no sense, or in the wrong state.

    For instance, a trainer went on while a server was still working on an older round.

    What to do: nothing, where a run goes on: the vector is charged to the budget or asked
    for again.  Where it ends a run, install the same version on both sides.
    """


class BadTicket(WireError, code="BAD_TICKET", wire=True):
    """The ticket for a tensor stream is unknown, used, or another peer's.

    A ticket is good once, for 60 seconds, from the address and the certificate that asked for it.

    What to do: where the trainer's address changes between two connections (several
    addresses, or NAT with a pool of them), give it one way to the server.
    """


class UnknownRun(WireError, code="UNKNOWN_RUN", wire=True):
    """The server holds no such run for this trainer.

    It was closed: the trainer was silent for ``--idle-timeout``, or another one went on with it.

    What to do: let one trainer have a run; where the trainer's machine stalls for minutes, set a
    longer ``--idle-timeout`` on the server.
    """


class VersionMismatch(ByzpyTwError, code="VERSION_MISMATCH", wire=True):
    """The two sides speak different versions of the protocol.

    The message has both versions.

    What to do: install the same version of byzpy_tw on both machines, and restart the server.
    """


class ProtectedMode(ByzpyTwError, code="PROTECTED_MODE", wire=True):
    """The server has no keys and serves its own machine only.

    Without keys anyone who reaches the port could use the machine, so peers from other machines are
    refused on every address.  A container's published port counts as another machine.

    What to do: make keys with ``python -m byzpy_tw keygen``, and give ``--keys`` to the server and
    to the trainer; or, on a network where anyone may use it, ``--insecure``.
    """


class NotAuthenticated(ByzpyTwError, code="NOT_AUTHENTICATED", wire=True):
    """A command on a connection whose other end has not shown its certificate.

    A trainer, not this package's, spoke before the handshake was over.

    What to do: ``python -m byzpy_tw.train --keys``; a program of your own must await the handshake.
    """


class KeysRefused(ByzpyTwError, code="KEYS_REFUSED"):
    """One end of a connection refused the other's certificate, or did not get one.

    It is of another cluster, of the wrong role or expired, or the peer is another program.
    The message says which, and the server's log says the same from its side.

    What to do: give both sides files of one ``keygen`` folder; ``docs/security.md`` has the cases.
    """


class ServerBusy(ByzpyTwError, code="SERVER_BUSY", wire=True):
    """The server is at one of its limits.

    Of runs, nodes or commands; the message names the limit's option.

    What to do: wait for other runs to end, use another server, or raise that server's limit.
    """


class ServerError(ByzpyTwError, code="SERVER_ERROR", wire=True):
    """Something failed on the server that is not the caller's fault.

    Its log has a traceback: a bug of this package or of a plugin, or lack of memory.

    What to do: see that server's log of that moment.  With failover, others take over its nodes.
    """


class ServerUnreachable(ByzpyTwError, code="SERVER_UNREACHABLE"):
    """No connection to a server could be made, or it did not answer.

    Refused: nothing listens there.  No answer: a firewall, a wrong address, or a server that hangs.

    What to do: start ``twistd -n byzpy-server --port PORT`` there, check address, port and
    firewall; ``--min-servers K`` begins without the missing ones.
    """


class ServerDiffers(ByzpyTwError, code="SERVER_DIFFERS"):
    """A server runs other software or holds other data than the run needs.

    Other data, or a model of another size, cannot work.  Other versions or instruction sets
    may change last bits: a warning, and this error with ``--strict``.

    What to do: for data, the same files under each ``--data-root``, or ``--partition local`` for
    data that is meant to differ; for software, the versions in the message, or no ``--strict``;
    for a file of ``--plugin``, the trainer's copy on each server.
    """


class MissingPlugin(ByzpyTwError, code="MISSING_PLUGIN"):
    """A server lacks a plugin that the run needs.

    Attacks, datasets, models and partitions are made on servers, which take names and never code.

    What to do: run the message's ``pip install`` in that server's environment, and restart it;
    a file of ``--plugin`` is copied to that machine, and named by the server's ``--plugin``.
    """


# -- the run ----------------------------------------------------------------


class CannotRecord(ByzpyTwError, code="CANNOT_RECORD", exit_code=3):
    """A run under way cannot write its records, as on a full disk: it is paused.

    The run's state is that of the last checkpoint, and earlier records are good.

    What to do: free some space, or mend the disk, then ``--resume RUN_DIR``.
    """


class DamagedCheckpoint(ByzpyTwError, code="DAMAGED_CHECKPOINT"):
    """A checkpoint was changed after it was written, or is of another version.

    The one before it is used, with a warning.

    What to do: nothing, while there is an older one (more: ``--keep-checkpoints``); check the disk.
    """


class BudgetExceeded(ByzpyTwError, code="BUDGET_EXCEEDED", exit_code=3):
    """More than `f` nodes failed in one round: the run is paused.

    Late, lost, malformed, not finite and failed count.  The message lists nodes, reasons and the
    first cause, ``result.json`` has all (``halted``).  A checkpoint of the state before is on disk.

    What to do: as the message advises, mend the model or attack that raised (its machine's log has
    the traceback), bring servers back, or give slow ones a larger ``--round-timeout``; then
    ``--resume RUN_DIR``.  More faults than f need a new run with a larger ``--f`` and more nodes.
    """


class GuaranteeMissing(ConfigError, code="GUARANTEE_MISSING"):
    """`--strict`: the rule gives no guarantee for this n and f.

    The message has the condition.  Without ``--strict`` it is a notice, and the run goes ahead.

    What to do: more nodes, a smaller ``--f``, a rule whose condition holds, or no ``--strict``.
    """


class Diverged(ByzpyTwError, code="DIVERGED"):
    """The model's own gradients or parameters are no longer finite.

    Where over half of the honest nodes' vectors are not finite, the model is the cause: no
    node is charged, and no checkpoint of it is kept.

    What to do: a smaller learning rate (``--lr``, or that of ``fedavg``), or a stronger
    aggregator if an attack is the cause; ``rounds.jsonl`` shows since when losses and norms grow.
    """


class AttackFailed(PluginError, code="ATTACK_FAILED"):
    """None of the run's attack vectors could be computed.

    The run went on as without attackers, so its result says nothing about its rules.  The message
    has the first cause, and the log of the node's machine has the traceback.

    What to do: mend the attack's code, or choose another (``--attack none`` is a run without one).
    """


class RunFailed(ByzpyTwError, code="RUN_FAILED"):
    """A run's process was stopped, was killed or met a bug; the message has its last output.

    Scripts that call `byzpy_tw.run` meet this.

    What to do: look into ``trainer.log`` in the run's folder, and at the machine's memory; where
    the folder has a checkpoint, ``python -m byzpy_tw.train --resume RUN_DIR`` goes on from it.
    """


def error_from_code(code: str, message: str) -> ByzpyTwError:
    """The error that had this code and message; `RunFailed` for an unknown code."""
    kind = errors_by_code().get(code)
    return RunFailed(f"{code}: {message}") if kind is None else kind(message)


def errors_by_code() -> Mapping[str, type[ByzpyTwError]]:
    """Every error of this package by its code, in the order of their definitions."""
    kinds = [kind for kind in globals().values() if isinstance(kind, type)]
    return {kind.code: kind for kind in kinds if issubclass(kind, ByzpyTwError)}


def explanation(kind: type[ByzpyTwError]) -> tuple[str, str]:
    """Return the cause of such an error, in paragraphs whose first is one line, and its cure."""
    before, _, after = inspect.cleandoc(vars(kind).get("__doc__") or "").partition(_CURE)
    return before.strip(), after.strip()


def format_error(error: BaseException) -> str:
    """One line for a user: the stable code, then the message."""
    return format_coded(getattr(error, "code", type(error).__name__), str(error))


def format_coded(code: str, text: str) -> str:
    """One line for a user, from an error's code and its text."""
    return f"{code}: {one_line(text)}"


def one_line(text: str) -> str:
    """The text of an error in one line without control characters, which is never empty."""
    words = "".join(c if c.isprintable() else " " for c in text).split()
    return " ".join(words) or "no further details"
