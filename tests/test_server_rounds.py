"""Rounds on a server: frames and commands arrive on two connections, in no common order."""

from __future__ import annotations

import json

import torch

from byzpy_tw.errors import BadRequest, UnknownRun
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.frames import FrameKind, Header
from byzpy_tw.workers.gradients import MicroBatches
from byzpy_tw.workers.spec import NodeSpec
from tests.round_harness import NONE, RoundCase, parameters
from tests.server_harness import HONEST, D


class ComputeTests(RoundCase):
    def test_parameters_first(self) -> None:
        """The command finds the round's parameters there."""
        self.stream.parameters(0, parameters(0))
        self.assertEqual(self.compute(0, [0, 1]), NONE)
        self.settle()
        self.assertAnswered(0, 0, parameters(0))
        self.assertAnswered(0, 1, parameters(0))

    def test_command_first(self) -> None:
        """The command waits for the round's parameters."""
        outcome = self.compute(0, [1])
        self.assertEqual(outcome, [])
        self.stream.parameters(0, parameters(0))
        self.settle()
        self.assertEqual(outcome, NONE)
        self.assertAnswered(0, 1, parameters(0))

    def test_rounds_one_after_another(self) -> None:
        """Each round's vectors are of its own parameters and its own batch."""
        for round in range(4):
            self.stream.parameters(round, parameters(round))
            self.assertEqual(self.compute(round, [0, 1]), NONE)
            self.settle()
            self.assertAnswered(round, 0, parameters(round))
        self.assertEqual(len(self.got.answered), 8)

    def test_nodes_it_does_not_have(self) -> None:
        """Unknown, Byzantine and repeated nodes are refused by name."""
        self.stream.parameters(0, parameters(0))
        for nodes, said in (([2], "node 2"), ([3], "no honest node"), ([0, 0], "twice")):
            [failure] = self.compute(0, nodes)
            failure.trap(BadRequest)
            self.assertIn(said, str(failure.value))

    def test_absurd_rounds(self) -> None:
        """A round's number is bounded."""
        for round in (-1, 2**62, 10**100):
            [failure] = self.compute(round, [0])
            failure.trap(BadRequest)

    def test_before_the_stream(self) -> None:
        """A run without its stream has nowhere to answer to."""
        trainer = self.trainer()
        trainer.open_run("other")
        trainer.spawn(HONEST, "other")
        trainer.open_run("r")
        [failure] = trainer.compute(0, [0])
        failure.trap(BadRequest)


class StaleTests(RoundCase):
    def test_a_round_that_is_over(self) -> None:
        """Commands of an older round are refused; the present one is not disturbed."""
        self.stream.parameters(5, parameters(5))
        [failure] = self.compute(4, [0])
        failure.trap(BadRequest)
        self.assertIn("round 5 has begun", str(failure.value))
        self.assertEqual(self.compute(5, [0]), NONE)

    def test_whoever_waits_is_released_by_the_next_round(self) -> None:
        """A command whose parameters never came does not wait for good."""
        waiting = self.compute(0, [0])
        self.stream.parameters(1, parameters(1))
        self.settle()
        waiting[0].trap(BadRequest)
        self.assertEqual(self.compute(1, [0]), NONE)

    def test_frames_that_a_command_overtook(self) -> None:
        """A slow link is no fault: the last round's parameters are read past.

        They must not be taken for the next round's either.
        """
        waiting = self.compute(1, [0])
        self.stream.parameters(0, parameters(0))
        self.settle()
        self.assertEqual(waiting, [])
        self.stream.parameters(1, parameters(1))
        self.settle()
        self.assertEqual(waiting, NONE)
        self.assertAnswered(1, 0, parameters(1))

    def test_a_frame_that_is_overtaken_half_way(self) -> None:
        """Parameters whose round ended while they were on their way do not take effect either."""
        header = Header(FrameKind.PARAMETERS, 0, D).pack()
        elements = bytes(parameters(0).numpy().tobytes())
        raw = self.stream.pump.clientIO
        raw.write(header + elements[:50])
        self.settle()
        waiting = self.compute(1, [0])
        raw.write(elements[50:])
        self.settle()
        self.assertEqual(waiting, [])
        self.stream.parameters(1, parameters(1))
        self.settle()
        self.assertAnswered(1, 0, parameters(1))


class StagingTests(RoundCase):
    """An abandoned round may still be computing when the next parameters come."""

    def setUp(self) -> None:
        super().setUp()
        self.stream.parameters(0, parameters(0))
        self.pool.eager = False
        self.abandoned = self.compute(0, [0, 1])
        # Of two nodes' two micro-batches each, one a thread.
        self.assertEqual(len(self.pool.waiting), 2)

    def test_parameters_in_use_are_left_alone(self) -> None:
        """They are put aside, and take effect when nothing computes with the old."""
        self.pool.turn()
        self.stream.parameters(1, parameters(1))
        run = self.trainer_.session.runs["r"]
        self.assertTrue(torch.equal(run.host.parameters, parameters(0)))
        waiting = self.compute(1, [0])
        self.reactor.advance(1)
        self.assertTrue(torch.equal(run.host.parameters, parameters(0)))
        self.pool.drain()
        self.reactor.advance(1)
        self.pool.drain()
        self.assertTrue(torch.equal(run.host.parameters, parameters(1)))
        self.pool.drain()
        self.settle()
        self.assertEqual(waiting, NONE)
        self.assertEqual(self.got.answered, [(1, 0)])  # nothing of the abandoned round
        self.assertAnswered(1, 0, parameters(1))
        self.assertEqual(set(json.loads(self.abandoned[0]["failures"])), {"0", "1"})

    def test_the_newest_parameters_win(self) -> None:
        """Parameters of a round that was abandoned in its turn never take effect."""
        self.stream.parameters(1, parameters(1))
        self.stream.parameters(2, parameters(2))
        waiting = self.compute(2, [1])
        for _ in range(5):
            self.pool.drain()
            self.reactor.advance(0.01)
        self.settle()
        self.assertEqual(waiting, NONE)
        self.assertAnswered(2, 1, parameters(2))
        self.assertEqual(self.got.answered, [(2, 1)])

    def test_closing_meanwhile(self) -> None:
        """A run that is closed while parameters wait leaves nothing behind."""
        self.stream.parameters(1, parameters(1))
        self.trainer_.leave()
        self.pool.drain()
        self.reactor.advance(1)
        self.assertFree()
        self.assertEqual(
            [c for c in self.reactor.getDelayedCalls() if "_install" in repr(c.func)], []
        )

    def test_nothing_more_is_begun_for_an_abandoned_round(self) -> None:
        """Nodes that waited for their turn are not computed in vain."""
        self.pool.drain()
        self.pool.eager = True
        trainer, stream = self.trainer(), self.dial()
        stream.become_stream(trainer.open_run(shards=20, n=20, batch_size=4)["ticket"])
        trainer.spawn([NodeSpec(node=i, shard=i) for i in range(20)])
        stream.parameters(0, parameters(0))
        self.pool.eager = False
        trainer.compute(0, list(range(20)))
        self.assertLess(len(self.pool.waiting), 20)
        stream.parameters(1, parameters(1))
        computed: list[int] = []
        self.patch(MicroBatches, "run", lambda _, part: computed.append(part))
        self.pool.drain()
        self.assertEqual(computed, [])


class ClosingTests(RoundCase):
    def test_while_it_computes(self) -> None:
        """A waiting command is answered at once, and work that was not begun is not done."""
        self.stream.parameters(0, parameters(0))
        self.pool.eager = False
        outcome = self.compute(0, [0, 1])
        self.assertEqual(outcome, [])
        self.trainer_.ask(commands.CloseRun, run="r")
        outcome[0].trap(UnknownRun)  # that is no fault of its nodes
        begun = len(self.pool.waiting)
        self.pool.turn(begun)
        self.assertEqual(len(self.pool.waiting), 0)
        self.assertTrue(self.trainer_.open)
        self.assertFree()
