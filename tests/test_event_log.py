"""A run's story in the log: each event once, with its fields."""

from __future__ import annotations

import json
import re
from typing import Any

import attrs
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import events
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.events import Kind, Notice
from byzpy_tw.output.event_log import UNTOLD, EventLog
from byzpy_tw.output.event_text import shown_line
from byzpy_tw.output.program import _text
from byzpy_tw.output.view import ServersKnown
from tests.test_events import SENTENCES, kinds

CONFIG = RunConfig(in_process=True, lr=0.5, quiet=True, disable_plugin=("a", "b")).to_dict()

# The other events, and the tail of the line of each.
TAILS: list[tuple[Any, str]] = [
    (events.RunConfigured(CONFIG, "runs/x", 2, {"host": "h", "user": "u", "certificate": None}),
     "event=run_configured host=h user=u directory=runs/x threads=2 in_process=true "
     "batches=epochs lr=0.5 disable_plugin=a,b quiet=true"),
    (events.NodesPlaced({"tcp://a:1": [0, 3], "tcp://b:1": [1]}, 3),
     'event=nodes_placed placement="tcp://a:1=0,3 tcp://b:1=1" num_honest=3'),
    (events.RunStarted({"bits": "ab", "dimension": 9, "run": "secret"}, [{}, {}]),
     "event=run_started round=2 bits=ab dimension=9"),
    (events.Evaluated(9, {"test_loss": 0.25, "accuracy": None}),
     "event=evaluated round=9 test_loss=0.25"),
    (events.CheckpointWritten(10), "event=checkpoint_written round=10"),
    (events.RunEnded({"status": "diverged", "error": "too\nfar", "rounds": 4, "refused": {}}),
     "event=run_ended status=diverged rounds=4"),
    (Notice(Kind.WARNING, "take care"), "event=notice kind=warning"),
]  # fmt: skip


class EventLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.logged: list[LogEvent] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def lines(self, *told: Any) -> list[str]:
        """The lines that these events leave."""
        self.logged.clear()
        log = EventLog()
        for event in told:
            log.handle(event)
        return [formatEvent(each) for each in self.logged]

    def test_tails(self) -> None:
        """Fields are pairs; of what is large, those that tell of the run."""
        for event, tail in TAILS:
            [line] = self.lines(event)
            self.assertTrue(line.endswith(f" {tail}"), line)
            self.assertTrue(line.isprintable(), line)

    def test_each_incident(self) -> None:
        """A sentence, and all fields of the class, each by its name."""
        for event in SENTENCES:
            [line] = self.lines(event)
            sentence = " ".join(shown_line(event).split())
            self.assertTrue(line.startswith(sentence), line)
            names = re.findall(r"(?:^| )(\w+)=", line[len(sentence) :])
            self.assertEqual(names, ["event", *(f.name for f in attrs.fields(type(event)))])

    def test_none_is_missing(self) -> None:
        """Every kind of event has a line here, or is left out on purpose."""
        told = {type(event) for event in (*SENTENCES, *(event for event, _ in TAILS))}
        self.assertEqual(told | set(UNTOLD), set(kinds()))
        self.assertEqual(self.lines(events.RoundBegun(3), ServersKnown(lambda: [])), [])

    def test_a_new_kind(self) -> None:
        """An event that nobody has thought of here is told with its fields."""

        @attrs.frozen
        class RuleChanged:
            """The rule is another one from now on.

            So it is.
            """

            round: int
            rule: str

        self.assertEqual(
            self.lines(RuleChanged(3, "a b")),
            ['The rule is another one from now on. event=rule_changed round=3 rule="a b"'],
        )

    def test_warnings(self) -> None:
        """Only they have a level of their own."""
        self.lines(Notice(Kind.WARNING, "a"), Notice(Kind.NOTICE, "b"), events.ServerBack("c"))
        levels = [each["log_level"] for each in self.logged]
        self.assertEqual(levels, [LogLevel.warn, LogLevel.info, LogLevel.info])

    def test_a_foreign_text(self) -> None:
        """Braces and newlines of a peer's words are but characters of one line with one tail."""
        [line] = self.lines(events.ServerLost("a", "{x}\n event=forged"))
        self.assertTrue(line.startswith("a is lost: {x} event:forged event=server_lost "), line)
        self.assertIn(f"why={json.dumps('{x}? event=forged')}", line)

    def test_other_lines(self) -> None:
        """In trainer.log only a line of an event looks like one, and controls are escapes."""
        event = {"log_level": LogLevel.warn, "log_format": "{what}", "log_time": 0.0,
                 "what": "hanging up: \x1b event=run_ended status=finished"}  # fmt: skip
        line = _text(event) or ""
        self.assertIn("hanging up: \\x1b event:run_ended status=finished", line)
        EventLog().handle(events.ServerBack("a"))
        self.assertIn(" event=server_back server=a", _text(self.logged[-1]) or "")
