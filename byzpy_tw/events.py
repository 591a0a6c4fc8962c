"""Everything that can happen in a run, as values: names, numbers, and reasons in words.

A run tells of each event once, as it happens.  The terminal, JSON lines, the live page, a sweep,
the round's record and the observers' hook `run_event` are handlers of events.  Sentences for
people are made from them, by `describe` in `byzpy_tw.output.event_text`; nothing reads one back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any

from attrs import field, frozen

# -- the course of a run ------------------------------------------------------


@frozen(eq=False)
class RunConfigured:
    """A run begins or is resumed: its options, its folder, and the threads that it computes on."""

    config: Mapping[str, Any]  # as in config.json
    directory: str
    threads: int
    process: Mapping[str, Any] = field(factory=dict)  # its entry in config.json's `processes`


@frozen
class NodesPlaced:
    """All servers that take part have their nodes; those below `num_honest` are honest."""

    placement: Mapping[str, Sequence[int]]  # by the server's name
    num_honest: int


@frozen(eq=False)
class RunStarted:
    """The first round is next.  `records` are the earlier rounds of a resumed run."""

    description: Mapping[str, Any]  # the content of config.json
    records: Sequence[Mapping[str, Any]]


@frozen
class RoundBegun:
    """A round begins: its nodes are about to be asked."""

    round: int


@frozen
class Evaluated:
    """The model after a round was evaluated on the test data, just before the round's record."""

    round: int
    values: Mapping[str, float | None]  # ``test_loss`` and each metric, None if not finite


@frozen(eq=False)
class RoundCompleted:
    """A round is done, and its record is in rounds.jsonl."""

    record: Mapping[str, Any]
    elapsed: float  # seconds since the run began


@frozen
class CheckpointWritten:
    """A checkpoint of the state before `round` is on the disk."""

    round: int


@frozen(eq=False)
class RunEnded:
    """The last round is over, however the run ended, and its report is drawn."""

    result: Mapping[str, Any]


@frozen(eq=False)
class RunFinished:
    """The run has ended in order, and `result` is on disk in `directory`.

    That is empty where a mistake ended the run before round 0, and its folder is gone.
    """

    result: Mapping[str, Any]
    directory: str


# -- incidents ----------------------------------------------------------------


@frozen
class Incident:
    """Something out of the ordinary, which people are told of as it happens."""


@frozen
class ServerLost(Incident):
    """A server is gone, and its nodes with it; it is dialled again."""

    server: str
    why: str
    stopped: bool = False  # it was stopped in order, and said so


@frozen
class ServerBack(Incident):
    """A server that was lost, or late from the first, has joined."""

    server: str
    first: bool = False  # the run has never had it before


@frozen
class ServerExcluded(Incident):
    """A server does not take part for now: it was not reached, or refused the run."""

    server: str
    code: str  # of the error, as in `byzpy_tw.errors`
    why: str
    at_start: bool = False  # the run begins without it


@frozen
class ServersAwaited(Incident):
    """The start of the run waits for these servers."""

    servers: tuple[str, ...]


@frozen
class DifferenceFound(Incident):
    """A server differs from the trainer in something that may change the results' bits."""

    difference: str


@frozen
class NodesBack(Incident):
    """Nodes take part again, which no server had for some rounds."""

    nodes: tuple[int, ...]
    rounds: int  # that they missed: each of them, where all nodes take part in each round
    first: int  # the first of these rounds
    last: int
    joins: bool = False  # their server has never taken part before


@frozen
class ServersMissing(Incident):
    """Nodes of a round have no server, and the round waits up to `seconds` for one."""

    round: int
    absent: int
    n: int  # nodes that take part in the round
    f: int
    seconds: float


@frozen
class NodesMoved(Incident):
    """Nodes without a server live on another one now."""

    nodes: tuple[int, ...]
    server: str


@frozen
class NodesReturned(Incident):
    """Nodes are back on their own server, which had been lost."""

    nodes: tuple[int, ...]
    server: str


@frozen
class NodesRefused(Incident):
    """A server does not take nodes that were to move there: it has no room, say."""

    nodes: tuple[int, ...]
    server: str
    why: str


@frozen
class ReplacementsAwaited(Incident):
    """More nodes than the budget allows are late, and the round waits `seconds` for others."""

    round: int
    late: int
    n: int  # nodes that were asked
    f: int
    seconds: float


@frozen
class NodeOnProbation(Incident):
    """A node is asked, and no longer waited for, until it answers well and in time."""

    round: int
    node: int
    why: str


@frozen
class NodeReadmitted(Incident):
    """A node on probation answered well and in time: it counts again from the next round on."""

    round: int
    node: int


@frozen
class NodeRefused(Incident):
    """A node's vector is left out of a round, for the first time in the run for this reason.

    The loss of its server and probation have events of their own.
    """

    round: int
    node: int
    reason: str
    why: str


@frozen
class AttackCallFailed(Incident):
    """The attack raised for the first time in this run, at `node`."""

    round: int
    attack: str
    node: int
    why: str


@frozen
class CheckpointNotWritten(Incident):
    """The last checkpoint of a run that ends early could not be written."""

    newest: int  # the round before which the newest one on the disk was made
    why: str


@frozen
class LocalServerRestarted(Incident):
    """A server of ``--local`` ended by itself, and is started again."""

    server: str


# -- messages -----------------------------------------------------------------


class Kind(Enum):
    """The importance of a `Notice`."""

    INFO = auto()  # progress
    NOTICE = auto()  # something that the user should know
    WARNING = auto()
    ALWAYS = auto()  # shown even with ``--quiet``


@frozen
class Notice:
    """A sentence for people, about what is known before the first round or after the last."""

    kind: Kind
    text: str


Event = (
    RunConfigured | NodesPlaced | RunStarted | RoundBegun | Evaluated | RoundCompleted
    | CheckpointWritten | RunEnded | RunFinished | Incident | Notice
)  # fmt: skip
