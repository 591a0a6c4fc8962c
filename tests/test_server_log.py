"""The server's log: who used it, with which data, and how far."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial

import attrs
import torch
from twisted.internet.error import ConnectionLost
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.protocols import amp
from twisted.python.failure import Failure

from byzpy_tw import Registration, hookimpl
from byzpy_tw.datasets.synthetic import synthetic
from byzpy_tw.errors import DatasetUnavailable
from byzpy_tw.plugins import load
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.mtls import Peer
from byzpy_tw.server.log import open_log
from tests.key_files import ClusterKeys
from tests.server_harness import BYZANTINE, HONEST, SPEC, D, ServerCase
from tests.support import folder

PAIR = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')


def events_of(do: Callable[[], object]) -> dict[str, dict[str, str]]:
    """The tails of the lines that `do` causes, by the name of the event."""
    with capturedLogs() as logged:
        do()
    found = {}
    for line in filter(None, map(formatEvent, logged)):
        _, mark, tail = line.partition(" event=")
        if mark:
            pairs = {key: json.loads(value) if value[:1] == '"' else value
                     for key, value in PAIR.findall(f"event={tail}")}  # fmt: skip
            found[pairs.pop("event")] = pairs
    return found


class RunTests(ServerCase):
    """A run's lines in the log."""

    def test_opens(self) -> None:
        """The trainer that opened it, its data and its model are named."""
        trainer = self.trainer()
        answers = []
        found = events_of(lambda: answers.append(trainer.open_run()))["run-opened"]
        self.assertTrue(found.pop("peer").startswith("127.0.0.1:"))
        float(found.pop("trial_seconds"))
        self.assertEqual(found, {
            "run": "r", "model": "logreg", "dataset": SPEC.dataset, "partition": "iid",
            "digest": answers[0]["digest"], "honest": "3", "byzantine": "1", "d": str(D),
        })  # fmt: skip

    def test_with_keys(self) -> None:
        """Two trainers with the same name are told apart by their certificates' serials."""
        self.server.keys = ClusterKeys().server()
        for serial in ("AB01", "AB02"):
            trainer = self.dial()
            trainer.session.certificate = Peer("trainer", serial, serial)
            for event, do in (("trainer-connected", trainer.hello),
                              ("run-opened", lambda: trainer.open_run(serial))):  # fmt: skip
                found = events_of(do)[event]
                self.assertEqual((found["trainer"], found["serial"]), ("trainer", serial))

    def test_nodes(self) -> None:
        """The nodes that this server hosts, each time that some are placed here."""
        trainer = self.trainer()
        trainer.open_run()
        found = events_of(lambda: trainer.spawn(HONEST))["nodes-hosted"]
        self.assertEqual((found["nodes"], found["honest"], found["total"]), ("0,1", "2", "2"))
        found = events_of(lambda: trainer.spawn(BYZANTINE))["nodes-hosted"]
        self.assertEqual((found["nodes"], found["honest"], found["total"]), ("3", "0", "3"))

    def test_no_nodes(self) -> None:
        """A trainer that places none, again and again, fills no disk."""
        trainer = self.trainer()
        trainer.open_run()
        self.assertEqual(events_of(lambda: trainer.spawn([])), {})

    def test_closes(self) -> None:
        """Why, and how far it was served."""
        trainer, stream = self.running()
        for round in range(2):
            stream.parameters(round, torch.zeros(D))
            trainer.compute(round, [0, 1])
        self.reactor.advance(3)
        found = events_of(lambda: trainer.ask(commands.CloseRun, run="r"))["run-closed"]
        self.assertEqual(found["why"], "its trainer closed it")
        self.assertEqual((found["rounds"], found["vectors"], found["seconds"]), ("2", "4", "3"))
        self.assertGreater(int(found["bytes_received"]), 2 * 4 * D)
        self.assertGreater(int(found["bytes_sent"]), 4 * 4 * D)

    def test_ends_with_its_trainer(self) -> None:
        """The line says that nobody closed it."""
        trainer, _ = self.running()
        found = events_of(trainer.leave)["run-closed"]
        self.assertIn("the trainer's connection broke", found["why"])
        self.assertEqual(found["rounds"], "0")

    def test_ends(self) -> None:
        """The trainer's line is the last one, and both say why, as far as is known."""
        for stopping, why in (
            (False, "the trainer's connection broke, or it hung up at once"),
            (True, "this server was stopped"),
        ):
            trainer, _ = self.running()
            self.server.stopping = stopping
            found = events_of(partial(trainer.session.connectionLost, Failure(ConnectionLost())))
            self.assertEqual(list(found), ["run-closed", "trainer-gone"])
            self.assertEqual({tail["why"] for tail in found.values()}, {why})

    def test_ends_in_order(self) -> None:
        """A trainer that has closed its runs just hangs up, though TCP calls it an abort."""
        trainer, _ = self.running()
        trainer.ask(commands.CloseRun, run="r")
        lost = partial(trainer.session.connectionLost, Failure(ConnectionLost()))
        self.assertEqual(events_of(lost)["trainer-gone"]["why"], "the trainer hung up")

    def test_refused(self) -> None:
        """Once for a run and an error, with what the site must mend; its trainer asks again."""
        spec = attrs.evolve(SPEC, dataset="mnist", partition="local")

        def ask() -> None:
            self.assertRaises(DatasetUnavailable, self.trainer().open_run, "r", spec)

        found = events_of(ask)["refused"]
        self.assertTrue(found.pop("peer").startswith("127.0.0.1:"))
        self.assertEqual((found["run"], found["code"]), ("r", "DATASET_UNAVAILABLE"))
        self.assertIn("/nonexistent/MNIST/raw/: missing: train-images-idx3-ubyte", found["why"])
        self.assertNotIn("refused", events_of(ask))


class ForgeryTests(ServerCase):
    """Peers choose words of the log, and none of its events."""

    def written(self, do: Callable[[], object]) -> list[str]:
        """The lines that `do` causes in the log's file."""
        path = folder(self) / "server.log"
        options = {"syslog": False, "logger": None, "logfile": str(path), "nodaemon": False}
        observer, file = open_log(options) or self.fail()
        with capturedLogs() as logged:
            do()
        for event in logged:
            observer(event)
        file.close()
        return path.read_text().splitlines()

    def test_of_a_stranger(self) -> None:
        """Nonsense that is said before Hello is no line of an event."""
        box = amp.AmpBox({b"_answer": b"x event=run-closed run=other"})
        [line] = self.written(lambda: self.dial().session.ampBoxReceived(box))
        self.assertIn("hanging up", line)
        self.assertNotIn("event=", line)

    def test_of_a_name(self) -> None:
        """A line without a tail is none, though it has the name of a run."""
        name = "x event=run-closed run=other"
        lines = self.written(lambda: self.running(name)[1].leave())
        self.assertTrue(any("stream of run" in line for line in lines), lines)
        for line in lines:
            tail = line.partition("event=")[2]
            self.assertFalse(tail.startswith("run-closed run=other"), line)


class DataWarningsTests(ServerCase):
    def test_of_its_own_data(self) -> None:
        """The log of a server has the warnings of a dataset that it reads, once."""

        class Data:
            @hookimpl
            def register_datasets(self) -> list[Registration]:
                data = synthetic(n=200, classes=4, features=9)
                told = attrs.evolve(data, name="told", warnings=("2 files are no pictures\x1b[2J",))
                return [Registration("told", lambda: told)]

        self.server._registry = load(only=(), extra={"data": Data()})
        with capturedLogs() as logs:
            self.trainer().open_run("one", dataset="told")
            self.trainer().open_run("two", dataset="told")
        told = [e for e in logs if e["log_level"] is LogLevel.warn]
        self.assertEqual([formatEvent(e) for e in told], ["2 files are no pictures [2J"])
