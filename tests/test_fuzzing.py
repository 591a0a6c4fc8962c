"""Malicious peers in numbers: that they find nothing, and would find something."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from random import Random
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw.protocol.frames import FrameKind
from byzpy_tw.protocol.limited_amp import LimitedAMP
from byzpy_tw.server.session import Session
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.startup import Startup
from tests.fuzzing import real_processes, server_in_memory, trainer_in_memory
from tests.fuzzing.__main__ import main
from tests.fuzzing.malicious_server import BOXES, FRAMES, Corruptor
from tests.fuzzing.script import CONTROL, frame, valid
from tests.fuzzing.tally import FIRST, PAST, Tally, fuzz
from tests.support import folder

pytestmark = [pytest.mark.slow, pytest.mark.simulator]


def said(seed: int, rate: float) -> tuple[list[Any], Counter[str]]:
    """Pass 60 boxes, and a stream of 60 frames, through a `Corruptor`."""
    random, counts = Random(seed), Counter[str]()
    control = Corruptor(random, rate, counts)
    boxes = [s.part.render(b"t") for s in valid().steps if s.line == CONTROL]
    out = [one for box in boxes * 5 for one in control.from_server(box)]
    stream = Corruptor(random, rate, counts)
    stream.from_trainer(b"\0\x08_command\0\x0aOpenStream\0\x04_ask\0\x011\0\0")
    out += stream.from_server(b"\0\x07_answer\0\x011\0\0")
    for round in range(60):
        out += stream.from_server(frame(FrameKind.VECTOR, round, 40, index=round % 3).render(b""))
    return out, counts


class SpoilingTests(SynchronousTestCase):
    def test_nothing(self) -> None:
        """An honest server's words pass as they are."""
        out, counts = said(1, 0.0)
        frames = [frame(FrameKind.VECTOR, r, 40, index=r % 3).render(b"") for r in range(60)]
        self.assertEqual(b"".join(out[-60:]), b"".join(frames))
        self.assertEqual(counts[PAST], 0)

    def test_is_a_function_of_its_seed(self) -> None:
        for seed in range(10):
            self.assertEqual(said(seed, 0.5), said(seed, 0.5))

    def test_every_kind(self) -> None:
        """All that can be done to boxes and to frames is done, and differs from nothing."""
        total, honest = Counter[str](), said(0, 0.0)[0]
        for seed in range(200):
            out, counts = said(seed, 0.5)
            total += counts
            if counts[PAST] > 3:
                self.assertNotEqual(out, honest, seed)
        self.assertEqual(set(total) - {PAST, FIRST}, {*BOXES, *FRAMES})
        self.assertGreater(min(total[name] for name in (*BOXES, *FRAMES)), 20, total)


class VirtualTests(SynchronousTestCase):
    def fuzz(self, whom: Any, inputs: int, first: int = 0) -> Tally:
        return fuzz(whom.examine, inputs, first, 1, lambda line: None)

    def test_a_trainer(self) -> None:
        """Whatever malicious servers say, all that must hold of a run does."""
        tally = self.fuzz(trainer_in_memory, 200)
        self.assertEqual(tally.wrong, [])
        self.assertGreater(tally.counts[PAST], 0.9 * tally.inputs)
        # Most goes on to its end, and what was wrong was refused for a reason.
        self.assertGreater(tally.ends["finished"], 0.8 * tally.histories)
        self.assertGreater(len(tally.refused), 2, tally.refused)

    def test_a_server(self) -> None:
        """Whatever strangers say, the run beside comes to the bits that it has alone."""
        tally = self.fuzz(server_in_memory, 300)
        self.assertEqual(tally.wrong, [])
        self.assertGreater(tally.counts[PAST], 0.9 * tally.inputs)
        self.assertEqual(set(tally.ends), {"finished"})

    def test_what_looked_wrong(self) -> None:
        """Histories of long sieges that the checker told wrongly: a trainer that its own
        machine holds up, and a vector just before the bytes that ended its connection."""
        for seed in (1862, 2181):
            self.assertEqual(trainer_in_memory.examine(seed)[1], [], seed)

    def test_a_broken_trainer_is_found(self) -> None:
        """One that takes a node's vector from whoever sends it."""
        right = Collector.allocate

        def wrong(self: Any, host: Any, header: Any) -> Any:
            home = self._servers.get(header.index)
            return right(self, home or host, header)

        self.patch(Collector, "allocate", wrong)
        seeds = (9, *range(40))  # the first is known to find it
        self.assertTrue(any(trainer_in_memory.examine(seed)[1] for seed in seeds))

    def test_a_trainer_that_gives_up_is_found(self) -> None:
        """One that one bad server at the start keeps from beginning at all."""

        async def wrong(self: Any, jobs: Any) -> None:
            self.quorum, quorum = None, self.quorum
            await right(self, jobs)
            self.quorum = quorum

        right = Startup._run_all
        self.patch(Startup, "_run_all", wrong)
        tally = self.fuzz(trainer_in_memory, 250, 20)
        tally.judge()
        self.assertIn("runs finished that could have", " ".join(tally.wrong))

    def test_a_trusting_server_is_found(self) -> None:
        """One that answers whoever has not said Hello."""
        self.patch(Session, "check_command", lambda self, request: None)
        self.assertIn("before Hello", " ".join(self.fuzz(server_in_memory, 300).wrong))

    def test_a_silent_server_is_found(self) -> None:
        """One that sends a stranger away and does not say why, anywhere."""
        self.patch(LimitedAMP, "log", _Mute())
        words = " ".join(self.fuzz(server_in_memory, 300).wrong)
        self.assertIn("was sent away without a word", words)


class _Mute:
    def __getattr__(self, name: str) -> Any:
        return lambda *a, **kw: None


class CommandTests(SynchronousTestCase):
    def output(self, *arguments: str) -> tuple[int, str]:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            code = main(list(arguments))
        return code, out.getvalue()

    def test_counts(self) -> None:
        code, text = self.output("trainer", "--inputs", "60", "--first", "3")
        self.assertEqual(code, 0)
        self.assertRegex(text, r"\d+ hostile inputs in \d+ histories, \d+\.\d% past")
        self.assertIn("0 violations", text)

    def test_mistakes(self) -> None:
        for words, about in (
            (("trainer", "--inputs", "0"), "above 0"),
            (("server", "--processes", "none"), "above 0"),
            (("trainer", "--sockets", "--seed", "3"), "--sockets has real time"),
        ):
            with contextlib.redirect_stderr(io.StringIO()) as err:
                self.assertEqual(self.assertRaises(SystemExit, main, list(words)).code, 2)
            self.assertIn(about, err.getvalue())

    def test_tells_one(self) -> None:
        code, text = self.output("trainer", "--seed", "4")
        self.assertEqual(code, 0)
        self.assertEqual(text, self.output("trainer", "--seed", "4")[1])
        self.assertIn("all that must hold does", text)


class SocketsTests(TestCase):
    timeout = 240

    def siege(self, inputs: int) -> real_processes.FuzzSession:
        return real_processes.FuzzSession(reactor, folder(self), inputs, 1, lambda line: None)

    async def test_a_trainer(self) -> None:
        """Real processes: it ends in order, and a run on the same servers is undisturbed."""
        self.patch(real_processes, "BESIEGED", (*real_processes.BESIEGED, "--rounds", "15"))
        siege = self.siege(5)
        await Deferred.fromCoroutine(siege.trainer())
        self.assertEqual(siege.tally.wrong, [])
        self.assertGreater(siege.tally.counts[PAST], 2)
        self.assertEqual(siege.tally.ends["beside it, exit code 0"], siege.tally.histories / 2)
