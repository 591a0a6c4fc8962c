"""Attacks on a server, and frames that no honest trainer sends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from twisted.logger import LogLevel, capturedLogs

from byzpy_tw.errors import BadRequest, UnknownRun
from byzpy_tw.protocol.commands import _failures_to_json
from byzpy_tw.protocol.frames import FrameKind, Header
from byzpy_tw.testing.doubles import HandCrankedPool
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.spec import NodeSpec
from tests.round_harness import NONE, RoundCase, parameters
from tests.server_harness import SPEC, D, ServerCase, registry


class AttackTests(RoundCase):
    def setUp(self) -> None:
        super().setUp()
        self.mean = torch.linspace(-1, 1, D)
        self.stream.parameters(0, parameters(0))

    def assertEmpire(self, round: int = 0) -> None:
        self.assertEqual(self.got.answered, [(round, 3)])
        self.assertTrue(torch.equal(self.got.vectors[3], -2 * self.mean))

    def test_pieces_first(self) -> None:
        """The command finds what the attack is to be shown."""
        self.stream.piece("mean", 0, self.mean)
        self.assertEqual(self.attack(0, "mean"), NONE)
        self.settle()
        self.assertEmpire()

    def test_command_first(self) -> None:
        """The command waits for the pieces it announces."""
        outcome = self.attack(0, "mean")
        self.assertEqual(outcome, [])
        self.stream.piece("mean", 0, self.mean)
        self.settle()
        self.assertEqual(outcome, NONE)
        self.assertEmpire()

    def test_everything_in_reverse(self) -> None:
        """Even the round's parameters may come last."""
        outcome = self.attack(1, "mean")
        self.stream.piece("mean", 1, self.mean)
        self.assertEqual(outcome, [])
        self.stream.parameters(1, parameters(1))
        self.settle()
        self.assertEqual(outcome, NONE)
        self.assertEmpire(1)

    def test_pieces_of_another_round(self) -> None:
        """The knowledge of one round is not there in the next."""
        self.stream.piece("mean", 0, self.mean)
        self.stream.parameters(1, parameters(1))
        outcome = self.attack(1, "mean")
        self.stream.piece("mean", 0, self.mean)  # overtaken: read past
        self.settle()
        self.assertEqual(outcome, [])
        self.stream.piece("mean", 1, self.mean)
        self.settle()
        self.assertEmpire(1)

    def test_an_attack_from_its_own_gradient(self) -> None:
        """It is computed where the node is, from the round's parameters."""
        self.trainer_.spawn([NodeSpec(node=2, shard=1, attack="sign-flip:of=own,scale=1")])
        self.assertEqual(self.attack(0, nodes=(2,)), NONE)
        self.settle()
        host = build_host(SPEC, registry(), data_root=Path("/nonexistent"))
        host.spawn(NodeSpec(node=2, shard=1))
        host.parameters.copy_(parameters(0))
        answers: list[Any] = []
        host.gradients(HandCrankedPool(eager=True), [2], 0, answers.extend)
        self.assertTrue(torch.equal(self.got.vectors[2], answers[0].vector))

    def test_announcements_that_make_no_sense(self) -> None:
        """Unknown pieces, other nodes' attacks and impossible numbers are refused."""
        for arguments in (
            {"pieces": ("maen",)},
            {"pieces": ("own",)},
            {"pieces": ([],)},
            {"h": 0},
            {"h": -1},
            {"h": 4},
            {"h": 10**30},
            {"nodes": (0,)},
            {"nodes": (3, 3)},
        ):
            with self.subTest(arguments):
                arguments = {"pieces": (), **arguments}
                [failure] = self.attack(0, *arguments.pop("pieces"), **arguments)
                failure.trap(BadRequest)
        self.assertTrue(self.trainer_.open)

    def test_an_attack_that_was_not_shown_enough(self) -> None:
        """It fails by itself, in words."""
        [answer] = self.attack(0)
        self.assertIn("mean", json.loads(answer["failures"])["3"])

    def test_closing_releases_who_waits(self) -> None:
        """A command that waits for a piece ends with its run."""
        outcome = self.attack(0, "mean")
        self.stream.leave()
        self.settle()
        outcome[0].trap(UnknownRun)


class BreachTests(RoundCase):
    """A frame that was not agreed on costs the run its stream, with one line."""

    def assertCut(self, *frames: tuple[Header, Tensor]) -> None:
        with capturedLogs() as events:
            for header, tensor in frames:
                self.stream.send(header, tensor)
        warned = [e for e in events if e["log_level"] is LogLevel.warn]
        self.assertEqual(len(warned), 1, warned)
        self.assertFalse(self.stream.open)
        self.assertTrue(self.trainer_.open)
        self.assertEqual(self.trainer_.compute(9, [0])[0].type, BadRequest)

    def test_parameters_of_the_wrong_length(self) -> None:
        """They are not for this model."""
        self.assertCut((Header(FrameKind.PARAMETERS, 0, D + 1), torch.zeros(D + 1)))

    def test_parameters_of_the_wrong_type(self) -> None:
        """float64 is not what was agreed on."""
        header = Header(FrameKind.PARAMETERS, 0, D, dtype=torch.float64)
        self.assertCut((header, torch.zeros(D, dtype=torch.float64)))

    def test_a_vector_for_a_server(self) -> None:
        """Servers take no vectors."""
        self.assertCut((Header(FrameKind.VECTOR, 0, D), torch.zeros(D)))

    def test_a_piece_nobody_asked_for(self) -> None:
        """No attack here is shown a Gram matrix."""
        self.assertCut((Header(FrameKind.PIECE, 0, 9, 3, torch.float64), torch.zeros(9).double()))

    def test_parameters_twice(self) -> None:
        """Parameters in use are not changed by a second frame."""
        frame = (Header(FrameKind.PARAMETERS, 0, D), torch.zeros(D))
        self.assertCut(frame, frame)

    def test_a_piece_twice(self) -> None:
        """Memory that an attack may be reading is not handed out again."""
        frame = (Header(FrameKind.PIECE, 0, D), torch.zeros(D))
        self.assertCut(frame, frame)

    def test_an_enormous_frame(self) -> None:
        """It is refused by its header."""
        self.assertCut((Header(FrameKind.PARAMETERS, 0, 2**50), torch.zeros(1)))


class FailuresTests(ServerCase):
    def test_fit_into_an_answer(self) -> None:
        """Words of any kind are clipped to what AMP carries, but each node is named."""
        for word in ("x", "\x00", "\N{SNOWMAN}", "\U0001f600", "\udc80"):
            text = _failures_to_json(dict.fromkeys(range(400), word * 300))
            self.assertLess(len(text.encode()), 65_000)
            self.assertEqual(len(json.loads(text)), 400)
