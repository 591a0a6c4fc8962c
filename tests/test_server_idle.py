"""Trainers that are gone without a word, and peers that never get to the point."""

from __future__ import annotations

from typing import Any

import torch

from byzpy_tw.protocol import commands
from byzpy_tw.protocol.frames import HEADER_SIZE, FrameKind, Header
from byzpy_tw.server.idle import CHECKS_PER_TIMEOUT, GRACE_FACTOR
from tests.server_harness import D, ServerCase, Trainer


class IdleCase(ServerCase):
    def pass_time(self, share: float, *trainers: Trainer, then: Any = lambda: None) -> None:
        """Let `share` of the idle time pass, a look at a time; after each do `then`."""
        for _ in range(round(share * CHECKS_PER_TIMEOUT)):
            self.reactor.advance(self.limits.idle_seconds / CHECKS_PER_TIMEOUT)
            then()
            for trainer in trainers:
                trainer.pump.flush()


class HeartbeatTests(IdleCase):
    """A trainer that has pinged."""

    def test_silence_ends_its_runs(self) -> None:
        """Its connection and all that it held are gone a quarter after the time."""
        trainer, stream = self.running()
        trainer.ask(commands.Ping, token=1)
        self.pass_time(1, trainer)
        self.assertTrue(trainer.open)
        self.pass_time(0.5, trainer, stream)
        self.assertFalse(trainer.open or stream.open)
        self.assertFree()
        self.assertEqual(list(self.server._sessions), [])

    def test_whatever_it_waits_for(self) -> None:
        """A command that waits for frames from a network that was cut keeps nothing."""
        trainer, _ = self.running()
        trainer.ask(commands.Ping, token=1)
        trainer.compute(0, [0])
        self.assertEqual(trainer.session.in_flight, 1)
        self.pass_time(1.5, trainer)
        self.assertFalse(trainer.open)
        self.assertFree()

    def test_each_ping_counts(self) -> None:
        """One that goes on may wait for other servers as long as it takes."""
        trainer, stream = self.running()
        for token in range(20):
            trainer.ask(commands.Ping, token=token)
            self.pass_time(0.75, trainer)
        self.assertTrue(trainer.open and stream.open)

    def test_frames_count(self) -> None:
        """So do frames that come in."""
        trainer, stream = self.running()
        trainer.ask(commands.Ping, token=1)
        for round in range(10):
            stream.parameters(round, torch.zeros(D))
            self.pass_time(0.75, trainer, stream)
        self.assertTrue(trainer.open)

    def test_a_machine_that_slept(self) -> None:
        """Time in which nobody could look is not held against the trainer."""
        trainer, _ = self.running()
        trainer.ask(commands.Ping, token=1)
        self.reactor.advance(100 * self.limits.idle_seconds)
        self.assertTrue(trainer.open)


class NoHeartbeatTests(IdleCase):
    """A trainer that never pings."""

    def test_without_runs(self) -> None:
        """There is nothing that it could be waiting for."""
        trainer = self.trainer()
        self.pass_time(1.5, trainer)
        self.assertFalse(trainer.open)

    def test_with_runs(self) -> None:
        """It may be waiting for other servers, but not for ever."""
        trainer, stream = self.running()
        self.pass_time(GRACE_FACTOR, trainer, stream)
        self.assertTrue(trainer.open)
        self.pass_time(0.5, trainer, stream)
        self.assertFalse(trainer.open or stream.open)
        self.assertFree()

    def test_with_a_command_in_flight(self) -> None:
        """It waits for us, or for a frame that is on its way."""
        trainer, stream = self.running()
        answer = trainer.compute(0, [0])
        self.pass_time(3 * GRACE_FACTOR, trainer, stream)
        stream.parameters(0, torch.zeros(D))
        trainer.pump.flush()
        self.assertEqual(answer, [{"failures": "{}"}])


class StandstillTests(IdleCase):
    """Peers that begin something and do not finish it."""

    def test_a_box(self) -> None:
        """Bytes that never make a command are no sign of life."""
        trainer = self.trainer()

        def one_byte() -> None:
            if trainer.open:
                trainer.pump.clientIO.write(b"\0" if trainer.session.in_flight else b"\x01")

        trainer.pump.clientIO.write(b"\0\x01a\xff\xff")
        self.pass_time(1.5, trainer, then=one_byte)
        self.assertFalse(trainer.open)

    def test_a_first_box(self) -> None:
        """Before Hello there is less time."""
        slow = self.dial()
        for _ in range(10):
            slow.pump.clientIO.write(b"\0")
            slow.pump.flush()
            self.reactor.advance(self.limits.hello_seconds / 10)
        slow.pump.flush()
        self.assertFalse(slow.open)

    def test_a_frame(self) -> None:
        """One that stands still ends its run, and no other; one that grows is waited for."""
        trainer, stream = self.running()
        other, other_stream = self.running("other")
        data = Header(FrameKind.PARAMETERS, 0, D).pack() + bytes(D)
        for end, size in ((stream, HEADER_SIZE + 7), (other_stream, HEADER_SIZE)):
            end.pump.clientIO.write(data[:size])
            end.pump.flush()

        def more() -> None:
            other_stream.pump.clientIO.write(b"\0")
            for alive in (trainer, other):
                alive.ask(commands.Ping, token=1)

        self.pass_time(1.5, trainer, stream, other, other_stream, then=more)
        self.assertFalse(stream.open)
        self.assertTrue(other_stream.open and trainer.open and other.open)
        trainer.ask(commands.CloseRun, run="r")
        self.assertEqual(self.server.runs, 1)

    def test_frames_that_are_not_taken(self) -> None:
        """A trainer that does not read loses its run in the end."""
        trainer, stream = self.running()
        run = trainer.session.runs["r"]
        assert run.stream is not None
        run.stream.pauseProducing()  # as the transport of such a peer does
        stream.parameters(0, torch.zeros(D))
        trainer.compute(0, [0, 1])
        self.assertTrue(run.mid_frame)
        self.pass_time(1.5, trainer, stream, then=lambda: trainer.ask(commands.Ping, token=1))
        self.assertFalse(stream.open)
        self.assertTrue(trainer.open)
