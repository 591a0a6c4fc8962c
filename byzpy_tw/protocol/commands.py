"""The commands that a trainer sends to a server, and the one that a server sends.

The trainer asks, the server answers.  A server never asks back, so a Byzantine one can delay,
refuse or lie in an answer, or hang up, and do nothing else: with `Leave` it only says why.
No argument is large: tensors travel as frames on a connection of their own (`OpenStream`),
announced by the commands that need them.

The order: `Hello`; `OpenRun`; `OpenStream` on a second connection, with the ticket;
`SpawnNodes`, or `RegisterNodes` where rounds ask some nodes only; then, each round, a parameters
frame and `Compute`, then perhaps frames for the attacks' knowledge and `Attack`; `CloseRun`.
`Ping` at any time after `Hello`.  `Leave` when a server is stopped.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import attrs
from attrs import frozen
from attrs.validators import ge, lt
from twisted.internet.protocol import Protocol
from twisted.protocols import amp

from byzpy_tw.attacks.knowledge.codec import PAST, PIECES
from byzpy_tw.protocol.requests import COMMANDS as COMMANDS
from byzpy_tw.protocol.requests import CommandRequest, command, wire
from byzpy_tw.workers.spec import NodeSpec, RunSpec, nodes_from_json, nodes_to_json
from byzpy_tw.workers.trial_digests import OPTIONAL_HEX, TrialDigests

# Increased when the commands or the frames change incompatibly.
PROTOCOL = 2
MAX_IDENTITY_CHARS = 64  # of a server
MAX_DIGESTS = 100  # of attacks, in one answer
_MOST_TIME = 1e12  # seconds since 1970
_MAX_NAME_CHARS = 100  # of a run
_MAX_FAILURE_BYTES = 50_000  # of the reasons in an answer


def _printable(most: int, what: str) -> Any:
    """Return a field for a text of 1 to `most` printable characters; errors name it `what`."""

    def check(_: object, attribute: attrs.Attribute[str], text: str) -> None:
        if not (1 <= len(text) <= most and text.isprintable()):
            raise ValueError(f"{what} is 1 to {most} printable characters, not {text[:65]!r}")

    return wire(amp.Unicode(), validator=check)


_PROTOCOLS = [ge(0), lt(2**31)]


def _time(_: object, __: object, seconds: float | None) -> None:
    if seconds is not None and not abs(seconds) < _MOST_TIME:  # NaN, too
        raise ValueError(f"a time is seconds since 1970, not {seconds:g}")


def _pieces_from_json(data: bytes) -> list[str]:
    pieces = json.loads(data)
    if not isinstance(pieces, list) or not all(p in PIECES or p == PAST for p in pieces):
        raise ValueError(f"pieces must be a list of {', '.join(PIECES)}")
    return pieces


def _failures_to_json(failures: dict[int, str]) -> str:
    """Encode `failures`, without the reasons of the later ones where they are too many."""
    sent, room = {}, _MAX_FAILURE_BYTES
    for node, why in failures.items():
        room -= len(json.dumps(why)) + 12
        sent[str(node)] = why if room > 0 else "failed"
    return json.dumps(sent)


def _failures_from_json(text: str) -> dict[int, str]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("failures must be an object")
    return {int(node): str(why) for node, why in found.items() if node.isdecimal()}


@frozen
class HelloAnswer:
    """``protocol`` and ``version`` of the server, and its environment.

    ``time`` is its clock in seconds since 1970, None from older servers; ``server`` its
    identity, drawn anew by each process.
    """

    protocol: int = wire(amp.Integer(), validator=_PROTOCOLS)
    version: str = wire(amp.Unicode())
    environment: str = wire(amp.Unicode())  # of `Environment.to_json`; read after `protocol`
    time: float | None = wire(amp.Float(optional=True), validator=_time)
    server: str = _printable(MAX_IDENTITY_CHARS, "a server's identity")


@command(HelloAnswer)
@frozen
class Hello(CommandRequest[HelloAnswer]):
    """Introduce the trainer, by its `PROTOCOL` and, for the log, its version."""

    protocol: int = wire(amp.Integer(), validator=_PROTOCOLS)
    version: str = wire(amp.Unicode())


@frozen
class OpenRunAnswer:
    """The number of parameters, digests of all that a run's bits depend on, a stream's ticket.

    ``frozen`` and ``buffers`` are those of the trial, which a trainer of 0.1 would refuse there;
    arguments that it does not know it passes over.
    """

    dimension: int = wire(amp.Integer(), validator=[ge(1), lt(2**40)])
    digest: str = wire(amp.Unicode())  # of the data
    trial: TrialDigests = wire(amp.Unicode(), TrialDigests.to_json, TrialDigests.from_json)
    ticket: bytes = wire(amp.String())
    frozen: str | None = wire(amp.Unicode(optional=True), validator=OPTIONAL_HEX, default=None)
    buffers: str | None = wire(amp.Unicode(optional=True), validator=OPTIONAL_HEX, default=None)


@command(OpenRunAnswer)
@frozen
class OpenRun(CommandRequest[OpenRunAnswer]):
    """Build the model and read the data for a run.

    The trainer chose the name ``run``, hard to guess.  A run of that name on another
    connection, of the same certificate where there are keys, is closed first: its trainer
    has come back.
    """

    run: str = _printable(_MAX_NAME_CHARS, "a new run's name")
    spec: RunSpec = wire(amp.String(), RunSpec.to_json, RunSpec.from_json)


@command(None, amp.ProtocolSwitchCommand)
@frozen
class OpenStream(CommandRequest[Protocol]):
    """Turn this connection into the tensor stream of a run.

    The first command on a second connection from the same address, with the same
    certificate where there are keys.  ``ticket``, from `OpenRunAnswer`, is good for one use.
    """

    ticket: bytes = wire(amp.String())


@frozen
class SpawnNodesAnswer:
    """The number of the run's nodes on this server, and digests of trials of plugins' attacks."""

    count: int = wire(amp.Integer())
    attacks: Collection[str] = wire(
        amp.Unicode(optional=True),
        lambda digests: ",".join(sorted(digests)[:MAX_DIGESTS]),
        lambda text: set((text or "").split(",")) - {""},
    )


@command(SpawnNodesAnswer)
@frozen
class SpawnNodes(CommandRequest[SpawnNodesAnswer]):
    """Add nodes to a run."""

    run: str = wire(amp.Unicode())
    nodes: list[NodeSpec] = wire(amp.String(), nodes_to_json, nodes_from_json)


@frozen
class RegisterNodesAnswer:
    """The digests of trials of plugins' attacks."""

    attacks: Collection[str] = wire(
        amp.Unicode(optional=True),
        lambda digests: ",".join(sorted(digests)[:MAX_DIGESTS]),
        lambda text: set((text or "").split(",")) - {""},
    )


@command(RegisterNodesAnswer)
@frozen
class RegisterNodes(CommandRequest[RegisterNodesAnswer]):
    """Let any node of a run be asked here, at most ``most`` of them in a round.

    For runs of many nodes, whose rounds ask a few: nothing is kept of a node until it is asked.
    Byzantine ones have ``attack``.  Once more, it changes ``most``.
    """

    run: str = wire(amp.Unicode())
    most: int = wire(amp.Integer(), validator=[ge(1), lt(2**31)])
    attack: str | None = wire(amp.Unicode(optional=True), default=None)


@frozen
class RoundAnswer:
    """The nodes whose vectors could not be sent, with the reason of each."""

    failures: dict[int, str] = wire(amp.Unicode(), _failures_to_json, _failures_from_json)


@command(RoundAnswer)
@frozen
class Compute(CommandRequest[RoundAnswer]):
    """Send the gradients of ``nodes`` in ``round``, each as it is ready.

    The round's parameters come on the stream, before or after this command.  The answer
    comes when all vectors have been sent.
    """

    run: str = wire(amp.Unicode())
    round: int = wire(amp.Integer(), validator=[ge(0), lt(2**62)])
    nodes: list[int] = wire(amp.ListOf(amp.Integer()))


@command(RoundAnswer)
@frozen
class Attack(CommandRequest[RoundAnswer]):
    """Send the vectors of the Byzantine ``nodes`` in ``round``.

    ``honest`` is the number of accepted honest vectors.  ``pieces`` names the attack's
    knowledge of them; each piece is a frame on the stream.
    """

    run: str = wire(amp.Unicode())
    round: int = wire(amp.Integer(), validator=[ge(0), lt(2**62)])
    nodes: list[int] = wire(amp.ListOf(amp.Integer()))
    honest: int = wire(amp.Integer())
    pieces: list[str] = wire(
        amp.String(), lambda pieces: json.dumps(pieces).encode(), _pieces_from_json
    )


@frozen
class CloseRunAnswer:
    """Nothing: the run is closed."""


@command(CloseRunAnswer)
@frozen
class CloseRun(CommandRequest[CloseRunAnswer]):
    """Forget a run: its nodes, model, data and stream."""

    run: str = wire(amp.Unicode())


@frozen
class Pong:
    """The token of the `Ping`."""

    token: int = wire(amp.Integer())


@command(Pong)
@frozen
class Ping(CommandRequest[Pong]):
    """Ask for a sign of life.

    After the first one the server expects more for as long as the trainer lives.
    """

    token: int = wire(amp.Integer())


@frozen
class LeaveAnswer:
    """Nothing: the trainer hangs up."""


@command(LeaveAnswer)
@frozen
class Leave(CommandRequest[LeaveAnswer]):
    """Tell a trainer that this server is stopped, in order: the one command of a server's.

    A trainer of an older version takes it for nonsense, and hangs up too.
    """
