"""Vectors and parameters that are rounded on their way."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw.protocol.frames import FrameKind, FrameReader, Header, bytes_of
from byzpy_tw.rounds.round import Reason, Round
from byzpy_tw.rounds.round_rows import RoundRows
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.trainer import collector
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.vectors import round_to_dtype
from byzpy_tw.workers.spec import WIRE_DTYPES
from tests.support import run_all, servers

NARROW = ("bfloat16", "float16")


class NarrowedTests(SynchronousTestCase):
    @given(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1),
        st.sampled_from(NARROW),
    )
    def test_what_is_finite_stays_finite(self, values: list[float], name: str) -> None:
        """And is the nearest number there is, or the largest."""
        dtype = getattr(torch, name)
        tensor = torch.tensor(values)
        rounded = round_to_dtype(tensor, dtype)
        self.assertIs(rounded.dtype, dtype)
        self.assertTrue(torch.isfinite(rounded).all())
        most = torch.finfo(dtype).max
        self.assertTrue(torch.equal(rounded, tensor.clamp(-most, most).to(dtype)))

    def test_what_is_not_finite_stays_so(self) -> None:
        """A node whose numbers are not finite is found out all the same."""
        for name in NARROW:
            rounded = round_to_dtype(torch.tensor([math.inf, -math.inf, math.nan, 3e38, 1.0]),
                               getattr(torch, name)).tolist()  # fmt: skip
            self.assertEqual(rounded[:2], [math.inf, -math.inf])
            self.assertTrue(math.isnan(rounded[2]))
            self.assertTrue(math.isfinite(rounded[3]))
            self.assertEqual(rounded[4], 1.0)

    def test_nothing_to_do(self) -> None:
        """A float32 vector that travels as such is not copied."""
        tensor = torch.randn(5)
        self.assertIs(round_to_dtype(tensor, torch.float32), tensor)

    def test_frames(self) -> None:
        """Elements of each type arrive as they were."""
        for dtype in (getattr(torch, name) for name in WIRE_DTYPES):
            sent = torch.randn(7).to(dtype)
            allocate = torch.empty(7, dtype=dtype)

            class Receiver:
                def frame_started(self, header: Header) -> torch.Tensor:
                    return allocate

                def frame_received(self, header: Header) -> None: ...

            header = Header(FrameKind.VECTOR, 1, 7, dtype=dtype)
            self.assertEqual(header.size, 7 * dtype.itemsize)
            FrameReader(Receiver(), 100).feed(header.pack() + bytes(bytes_of(sent)))
            self.assertTrue(torch.equal(allocate, sent))


class CollectorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pool = HandCrankedPool()
        self.collector = Collector(
            RoundRows(torch.zeros(2, 4)), ClockReactor(), self.pool, torch.float16
        )
        self.server = object()
        for node in range(2):
            self.collector.assign(node, self.server)
        self.round = self.begin(0)

    def begin(self, number: int) -> Round:
        round = Round(number, 1, 1, 1)
        self.collector.begin(round)
        return round

    def deliver(self, round: int, value: float, dtype: torch.dtype = torch.float16) -> None:
        header = Header(FrameKind.VECTOR, round, 4, 0, dtype)
        allocate = self.collector.allocate(self.server, header)
        if allocate is not None:
            self.assertIs(allocate.dtype, torch.float16)
            allocate.fill_(value)
            self.collector.vector_received(self.server, header)

    def test_into_its_row(self) -> None:
        """Short ones at once, others by way of the pool."""
        self.deliver(0, 1.5)
        self.assertEqual(self.collector.rows.row(0).tolist(), [1.5] * 4)
        self.assertEqual(self.round.honest_accepted, (0,))

    def test_one_that_is_too_late(self) -> None:
        """It does not end up in the next round's row."""
        self.patch(collector, "MAX_INLINE_ELEMENTS", 0)
        self.deliver(0, 1.0)
        self.round = self.begin(1)
        self.deliver(1, 2.0)
        self.pool.turn()
        self.assertEqual(self.collector.rows.row(0).tolist(), [0.0] * 4)
        self.pool.turn()
        self.assertEqual(self.collector.rows.row(0).tolist(), [2.0] * 4)
        self.assertEqual(self.round.honest_accepted, (0,))

    def test_another_type(self) -> None:
        """A frame that is not as agreed on is malformed."""
        self.deliver(0, 1.0, torch.float32)
        self.assertIs(self.round.refusals[0].reason, Reason.MALFORMED)


@pytest.mark.slow
class SameBitsTests(TestCase):
    """The contract holds for each setting, and half the bytes travel."""

    def test_wherever_the_nodes_run(self) -> None:
        """In-process, on two servers; with an attack that is shown pieces, and one that
        replays its past."""
        hosts = f"--remote-hosts {','.join(servers(self, 2))}"
        replay = "replay:age=2 --round-timeout 1"
        cases = [("alie:tau=1.5", name) for name in WIRE_DTYPES] + [(replay, "bfloat16")]
        options = [
            f"{where} --dataset mnist5k --rounds 4 --batch-size 8 --model logreg "
            f"--attack {attack} --wire-dtype {name}"
            for attack, name in cases
            for where in ("--in-process", hosts)
        ]
        done = iter(run_all(self, options))
        digests, moved = set(), {}
        for case in cases:
            here, there = next(done)["result"], next(done)["result"]
            self.assertEqual((here["status"], there["status"]), ("finished", "finished"))
            self.assertEqual(here["parameters_sha256"], there["parameters_sha256"])
            digests.add(here["parameters_sha256"])
            moved[case] = there["bytes_sent"] + there["bytes_received"]
        self.assertEqual(len(digests), len(cases))
        for name in NARROW:
            share = moved["alie:tau=1.5", name] / moved["alie:tau=1.5", "float32"]
            self.assertTrue(0.5 <= share <= 0.51, share)
