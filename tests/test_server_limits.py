"""Limits of a server: nodes, what attacks are shown, data, memory and connections."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from attrs import evolve

from byzpy_tw import Registration, hookimpl
from byzpy_tw.config.server import Limits
from byzpy_tw.errors import (
    BadParameter,
    LimitExceeded,
    ServerBusy,
    UnknownRun,
)
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.frames import FrameKind, Header
from byzpy_tw.workers.spec import NodeSpec
from tests.server_harness import D, ServerCase
from tests.support import folder
from tests.trial_models import Plain, names

MANY = 1200


class WithTable(Plain):
    """A model with 0.6 MiB of constants."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.register_buffer("table", torch.zeros(160_000))


class Tables:
    @hookimpl
    def register_models(self) -> list[Registration]:
        return [Registration("with-table", WithTable)]


class ManyNodesTests(ServerCase):
    limits = Limits(nodes=10_000, knowledge_mib=1)

    def computing(self) -> tuple[Any, Any, list[Any]]:
        """Over a thousand nodes, all asked for and none computed yet."""
        trainer, stream = self.trainer(), self.dial()
        stream.become_stream(trainer.open_run(n=MANY)["ticket"])
        trainer.spawn([NodeSpec(node=i, shard=0) for i in range(MANY)])
        stream.parameters(0, torch.zeros(D))
        self.pool.eager = False
        return trainer, stream, trainer.compute(0, list(range(MANY)))

    def test_all_fail_at_once(self) -> None:
        """However many nodes wait for their turn, the command is answered when a round ends."""
        trainer, stream, answer = self.computing()
        stream.parameters(1, torch.zeros(D))
        self.pool.drain()
        trainer.pump.flush()
        self.assertEqual(len(json.loads(answer[0]["failures"])), MANY)

    def test_the_run_is_closed(self) -> None:
        """And when the run does."""
        trainer, _, answer = self.computing()
        trainer.ask(commands.CloseRun, run="r")
        self.pool.drain()
        trainer.pump.flush()
        answer[0].trap(UnknownRun)
        self.assertFree()


class ShownTests(ServerCase):
    limits = Limits(knowledge_mib=1)

    def test_what_a_round_is_shown_in_all(self) -> None:
        """The limit holds for all frames of a round together, one a node included."""
        trainer, stream = self.trainer(), self.dial()
        # Three of this model's vectors are less than 1 MiB, and four are more.
        opened = trainer.open_run(n=8, dataset="synthetic:n=100,classes=4,features=20000")
        stream.become_stream(opened["ticket"])
        d = opened["dimension"]
        trainer.spawn([NodeSpec(node=i, shard=0, attack="replay:relabel=yes") for i in range(3, 8)])
        run = trainer.session.runs["r"]
        for node in range(3, 6):
            stream.send(Header(FrameKind.PAST, 0, d, node), torch.zeros(d))
        for node in range(3, 6):  # another round is another account
            stream.send(Header(FrameKind.PAST, 1, d, node), torch.zeros(d))
        self.assertFalse(run.closed)
        taken: list[Any] = []
        self.patch(torch, "empty", lambda *size, **_: taken.append(size))
        stream.send(Header(FrameKind.PAST, 1, d, 6), torch.zeros(d))
        self.assertTrue(run.closed)
        self.assertEqual(taken, [])  # no memory for it

    def test_attacks_of_old_rounds(self) -> None:
        """They keep what they were shown, so those of a fourth round are refused."""
        trainer, stream = self.running()
        self.pool.eager, answers = False, []
        for round in range(4):
            stream.parameters(round, torch.zeros(D))
            stream.piece("mean", round, torch.zeros(D))
            answers.append(trainer.attack(round, [3], 2, "mean"))
        self.assertEqual(answers[:3], [[], [], []])
        self.assertIs(answers[3][0].check(ServerBusy), ServerBusy)


class LimitTests(ServerCase):
    limits = Limits(data_mib=1, pieces=3000, working_mib=1, unauthenticated=2, connections=3)

    def test_data(self) -> None:
        """All datasets of a server together are bounded, and shared ones count once."""
        one = "synthetic:n=500,classes=2,features=300"
        trainer = self.trainer()
        trainer.open_run("a", dataset=one)
        trainer.open_run("b", dataset=one)
        self.assertRaises(LimitExceeded, trainer.open_run, "c", dataset=one + ",seed=1")
        for name in "ab":
            trainer.ask(commands.CloseRun, run=name)
        self.assertFree()

    def test_mapped_data(self) -> None:
        """Arrays that are mapped from files do not count, those that are read do."""
        root = folder(self)
        self.server.config = evolve(self.server.config, data_root=str(root))
        x, y = np.zeros((500, 1024), np.float32), np.arange(500) % 2
        content = {"x_train": x, "y_train": y, "x_test": x[:2], "y_test": y[:2]}
        np.savez(root / "whole.npz", **content)
        (root / "mapped").mkdir()
        for name, array in content.items():
            np.save(root / "mapped" / f"{name}.npy", array)
        trainer = self.trainer()
        trainer.open_run("a", dataset="arrays:name=mapped", model="logreg")
        error = self.assertRaises(
            LimitExceeded, trainer.open_run, "b", dataset="arrays:name=whole", model="logreg"
        )
        self.assertIn("data of 2 MiB beside 0 MiB of other runs", str(error))
        for name in ("../whole", "mapped/x_train", ".", "/etc/passwd"):
            self.assertRaises(BadParameter, trainer.open_run, "c", dataset=f"arrays:name={name}")
        trainer.ask(commands.CloseRun, run="a")
        self.assertFree()

    def test_frozen_parameters_and_buffers(self) -> None:
        """All open runs together share a limit for these; a run that is closed makes room."""
        self.server._registry = names(tables=Tables())
        trainer = self.trainer()
        trainer.open_run("a", model="with-table")
        trainer.open_run("b", model="logreg")
        error = self.assertRaises(LimitExceeded, trainer.open_run, "c", model="with-table")
        self.assertIn("1 MiB of frozen parameters and buffers beside 1 MiB of other", str(error))
        trainer.ask(commands.CloseRun, run="a")
        trainer.open_run("c", model="with-table")
        for name in "bc":
            trainer.ask(commands.CloseRun, run=name)
        self.assertFree()

    def test_pieces_of_data(self) -> None:
        """A partition that deals out single examples, or labels to each shard, is bounded."""
        trainer = self.trainer()
        for changes in (
            {"dataset": "synthetic:n=5000,classes=2,features=1"},
            {"dataset": "synthetic:n=500,classes=100,features=1", "shards": 50, "n": 50},
        ):
            self.assertRaises(LimitExceeded, trainer.open_run, **changes)
        self.assertFree()

    def test_what_a_micro_batch_takes(self) -> None:
        """A small model of large batches is refused before it takes the memory."""
        changes = {"model": "mlp:hidden=2000", "batch_size": 200}
        trainer = self.trainer()
        trainer.open_run("small", micro_batch_size=10, **changes)
        self.assertRaises(LimitExceeded, trainer.open_run, "large", micro_batch_size=100, **changes)

    def test_strangers_take_no_room(self) -> None:
        """Peers that protected mode turns away cannot keep the others out."""
        unauthenticated = [self.dial("10.0.0.9", "10.0.0.1") for _ in range(4)]
        self.assertEqual([s.open for s in unauthenticated], [True, True, False, False])
        self.assertEqual([self.dial().open for _ in range(4)], [True] * 3 + [False])
