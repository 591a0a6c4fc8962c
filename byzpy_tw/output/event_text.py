"""Sentences for people, made from events."""

from __future__ import annotations

from collections.abc import Sequence

from byzpy_tw import events
from byzpy_tw.errors import ServerUnreachable, format_coded
from byzpy_tw.events import Incident, Kind, Notice

# The round stands in front of these; others belong to no single one, or name it themselves.
OF_ONE_ROUND = (
    events.NodeOnProbation, events.NodeReadmitted, events.NodeRefused, events.AttackCallFailed,
)  # fmt: skip


def describe(event: Incident) -> str:
    """Return `event` in words, as a round's record has it."""
    match event:
        case events.ServerLost(stopped=True):
            return f"{event.server} has left: {event.why}"
        case events.ServerLost():
            return f"{event.server} is lost: {event.why}"
        case events.ServerBack():
            return f"{event.server} {'joins' if event.first else 'is back'}"
        case events.ServerExcluded():
            return _exclusion(event) + event.at_start * "; going on without it for now"
        case events.ServersAwaited():
            return f"waiting for {', '.join(event.servers)}"
        case events.DifferenceFound():
            return f"warning: {event.difference}"
        case events.NodesBack():
            return _return(event)
        case events.NodesMoved():
            return f"{_live(event.nodes)} on {event.server} now"
        case events.NodesReturned():
            return f"{_live(event.nodes)} on {event.server} again"
        case events.NodesRefused():
            return f"{event.server} does not take {_listed(event.nodes)}: {event.why}"
        case events.LocalServerRestarted():
            return f"local server {event.server} ended: starting it again"
        case _:
            return _describe_round(event)


def _describe_round(event: Incident) -> str:
    """Return an incident of a round, or of its state, in words."""
    match event:
        case events.ReplacementsAwaited():
            return (
                f"round {event.round}: {event.late} of n = {event.n} nodes have not answered in "
                f"time, f = {event.f}: waiting up to {event.seconds:g} s for replacements"
            )
        case events.ServersMissing():
            return (
                f"round {event.round} waits up to {event.seconds:.3g} s for a server: "
                f"{event.absent} of {event.n} nodes have none, f = {event.f}"
            )
        case events.NodeOnProbation():
            return (
                f"node {event.node} is on probation: {event.why}; it is asked but not "
                "waited for, until it answers well and in time"
            )
        case events.NodeReadmitted():
            return f"node {event.node} is readmitted: it answered well and in time"
        case events.NodeRefused():
            return f"node {event.node} refused: {event.reason}: {event.why}"
        case events.AttackCallFailed():
            return (
                f"the attack {event.attack!r} failed at node {event.node}: {event.why}; its "
                "nodes count as refused"
            )
        case events.CheckpointNotWritten():
            return f"no newer checkpoint than of round {event.newest}: {event.why}"
    raise TypeError(f"no sentence for {type(event).__name__}")


def shown_line(event: Incident | Notice) -> str:
    """Return the line for `event`: behind its round, or behind ``warning:``."""
    if isinstance(event, Notice):
        return f"warning: {event.text}" if event.kind is Kind.WARNING else event.text
    text = describe(event)
    return f"round {event.round}: {text}" if isinstance(event, OF_ONE_ROUND) else text


def _exclusion(event: events.ServerExcluded) -> str:
    if event.code == ServerUnreachable.code:
        return event.why
    return f"{event.server} cannot take part: {format_coded(event.code, event.why)}"


def _return(event: events.NodesBack) -> str:
    one = len(event.nodes) == 1
    verb = f"join{'s' * one}" if event.joins else f"{'is' if one else 'are'} back"
    span = event.last - event.first + 1
    missed = f"{event.rounds} rounds, {event.first} to {event.last}"
    if event.rounds < span:  # they were not asked in each
        missed = f"{event.rounds} of the rounds {event.first} to {event.last}"
    elif span == 1:
        missed = f"round {event.first}"
    return f"{_listed(event.nodes)} {verb}: {'it' if one else 'they'} missed {missed}"


def _live(nodes: Sequence[int]) -> str:
    return f"{_listed(nodes)} live{'s' * (len(nodes) == 1)}"


def _listed(nodes: Sequence[int]) -> str:
    if len(nodes) == 1:
        return f"node {nodes[0]}"
    shown = ", ".join(map(str, nodes[:10]))
    return f"nodes {shown}" + (f" and {len(nodes) - 10} more" if len(nodes) > 10 else "")
