"""Events, and the sentences made from them."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import typing

import attrs
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import events
from byzpy_tw.events import Incident
from byzpy_tw.output.event_text import describe, shown_line
from byzpy_tw.output.jsonl import JsonLines
from byzpy_tw.trainer.recorded_events import RecordedEvents
from tests.support import environment

MANY = tuple(range(12))

# Every incident, and the sentence that records of earlier versions have for it.
SENTENCES: dict[Incident, str] = {
    events.ServerLost("tcp://a:1", "hung up"): "tcp://a:1 is lost: hung up",
    events.ServerLost("tcp://a:1", "it was stopped", stopped=True):
        "tcp://a:1 has left: it was stopped",
    events.ServerBack("tcp://a:1"): "tcp://a:1 is back",
    events.ServerExcluded("tcp://a:1", "SERVER_DIFFERS", "other\ndata"):
        "tcp://a:1 cannot take part: SERVER_DIFFERS: other data",
    events.ServerExcluded("tcp://a:1", "SERVER_UNREACHABLE", "tcp://a:1: refused", at_start=True):
        "tcp://a:1: refused; going on without it for now",
    events.ServersAwaited(("a", "b")): "waiting for a, b",
    events.DifferenceFound("a has torch 1"): "warning: a has torch 1",
    events.ServerBack("tcp://a:1", first=True): "tcp://a:1 joins",
    events.NodesBack((3,), 1, 7, 7): "node 3 is back: it missed round 7",
    events.NodesBack((3, 4), 20, 7, 26): "nodes 3, 4 are back: they missed 20 rounds, 7 to 26",
    events.NodesBack((3, 4), 12, 7, 26):
        "nodes 3, 4 are back: they missed 12 of the rounds 7 to 26",
    events.NodesBack((3, 4), 8, 0, 7, joins=True): "nodes 3, 4 join: they missed 8 rounds, 0 to 7",
    events.NodesBack((3,), 8, 0, 7, joins=True): "node 3 joins: it missed 8 rounds, 0 to 7",
    events.ServersMissing(86, 4, 6, 2, 12.0):
        "round 86 waits up to 12 s for a server: 4 of 6 nodes have none, f = 2",
    events.NodesMoved((3,), "a"): "node 3 lives on a now",
    events.NodesMoved(MANY, "a"):
        "nodes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more live on a now",
    events.NodesReturned((1, 2), "a"): "nodes 1, 2 live on a again",
    events.NodesRefused((1, 2), "a", "no room"): "a does not take nodes 1, 2: no room",
    events.ReplacementsAwaited(4, 2, 7, 1, 30.0):
        "round 4: 2 of n = 7 nodes have not answered in time, f = 1: waiting up to 30 s for "
        "replacements",
    events.NodeOnProbation(4, 2, "it failed 3 rounds in a row"):
        "node 2 is on probation: it failed 3 rounds in a row; it is asked but not waited for, "
        "until it answers well and in time",
    events.NodeReadmitted(4, 2): "node 2 is readmitted: it answered well and in time",
    events.NodeRefused(4, 2, "not-finite", "3 of 9 numbers are nan"):
        "node 2 refused: not-finite: 3 of 9 numbers are nan",
    events.AttackCallFailed(4, "lie", 2, "it raised"):
        "the attack 'lie' failed at node 2: it raised; its nodes count as refused",
    events.CheckpointNotWritten(4, "the disk is full"):
        "no newer checkpoint than of round 4: the disk is full",
    events.LocalServerRestarted("tcp://a:1"): "local server tcp://a:1 ended: starting it again",
}  # fmt: skip


def kinds() -> list[type]:
    """Every class of events."""
    found = [kind for kind in vars(events).values() if attrs.has(kind)]
    return [kind for kind in found if kind is not Incident]


class EventTests(SynchronousTestCase):
    def test_values(self) -> None:
        """Each is frozen, in the union of all, and says what it is."""
        for kind in kinds():
            self.assertTrue(issubclass(kind, typing.get_args(events.Event)), kind)
            self.assertTrue(inspect.getdoc(kind), kind)
            example = kind.__new__(kind)
            name = attrs.fields(kind)[0].name
            with self.assertRaises(attrs.exceptions.FrozenInstanceError):
                setattr(example, name, 1)

    def test_no_torch(self) -> None:
        """An observer, or a reader of events elsewhere, needs neither torch nor Twisted."""
        program = "import sys, byzpy_tw.events; print({'torch', 'twisted'} & set(sys.modules))"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment()
        )
        self.assertEqual(done.stdout, "set()\n", done.stderr)


class SentenceTests(SynchronousTestCase):
    def test_each_incident(self) -> None:
        """Records and terminals have the sentences that they always had."""
        for event, sentence in SENTENCES.items():
            self.assertEqual(describe(event), sentence)

    def test_none_is_missing(self) -> None:
        incidents = {kind for kind in kinds() if issubclass(kind, Incident)}
        self.assertEqual({type(event) for event in SENTENCES}, incidents)

    def test_without_a_sentence(self) -> None:
        """A new incident without one fails, and is not shown as nothing."""
        self.assertRaises(TypeError, describe, Incident())

    def test_rounds(self) -> None:
        """A line names the round once, where the incident belongs to one."""
        lines = {type(e): shown_line(e) for e in SENTENCES}
        self.assertIn("round 4: node 2 is readmitted", lines[events.NodeReadmitted])
        self.assertEqual(lines[events.ReplacementsAwaited].count("round 4"), 1)
        self.assertNotIn("round", lines[events.ServerLost])

    def test_as_json(self) -> None:
        """Each incident is one line with its fields, which do not hide the line's own."""
        for event in SENTENCES:
            lines: list[str] = []
            JsonLines(lines.append).handle(event)
            told = json.loads(lines[0])
            self.assertEqual(
                (told.pop("event"), told.pop("type")), ("happened", type(event).__name__)
            )
            self.assertEqual(told.pop("text"), shown_line(event))
            self.assertEqual(set(told), {f.name for f in attrs.fields(type(event))})


class RecordTests(SynchronousTestCase):
    def test_once(self) -> None:
        """A record has the servers' events since the one before; a round adds its own."""
        recorded = RecordedEvents()
        lost, moved = events.ServerLost("a", "cut off"), events.NodesMoved((1,), "b")
        for event in (lost, events.NodeReadmitted(1, 2), moved, events.RoundBegun(2)):
            recorded.handle(event)
        self.assertEqual(recorded.take(), [lost, moved])
        self.assertEqual(recorded.take(), [])
