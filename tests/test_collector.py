"""Vectors go into their own rows; anything else that servers send costs them, not the round."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import (
    BadFrame,
)
from byzpy_tw.protocol.frames import FrameKind, Header
from byzpy_tw.rounds.round import Reason, Round
from byzpy_tw.rounds.round_rows import RoundRows
from byzpy_tw.testing import FakeServer
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.trainer import collector
from byzpy_tw.trainer.collector import UNREQUESTED_BASE, Collector
from byzpy_tw.trainer.server_client import RemoteServer
from byzpy_tw.transports import Address

D = 4


def vector(node: int, round: int = 0, elements: int = D, **more: object) -> Header:
    return Header(FrameKind.VECTOR, round, elements, node, **more)


class CollectorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(collector, "MAX_INLINE_ELEMENTS", 0)  # short vectors stand for long ones
        self.reactor, self.pool = ClockReactor(), HandCrankedPool(eager=True)
        self.collector = Collector(RoundRows(torch.zeros(4, D)), self.reactor, self.pool)
        self.a, self.b = FakeServer("tcp://a:1", D), FakeServer("tcp://b:2", D)
        for node in range(4):
            self.collector.assign(node, self.a if node % 2 == 0 else self.b)
        self.round = self.begin(0)

    def begin(self, number: int) -> Round:
        round = Round(number, 3, 1, 1)
        self.collector.begin(round)
        return round

    def deliver(self, server: FakeServer, header: Header, values: object = 1.0) -> Tensor | None:
        """A whole frame, as a stream would hand it over."""
        allocate = self.collector.allocate(server, header)
        if allocate is not None:
            allocate.copy_(torch.as_tensor(values, dtype=torch.float32).expand(D))
            self.collector.vector_received(server, header)
        return allocate

    def refusal(self, node: int, round: Round | None = None) -> Reason | None:
        found = (round or self.round).refusals.get(node)
        return found.reason if found else None

    def test_each_vector_in_its_row(self) -> None:
        """Order of arrival does not matter; norm and loss are noted."""
        for node in (3, 0, 2, 1):
            server = self.a if node % 2 == 0 else self.b
            self.deliver(server, vector(node, loss=float(node)), float(node))
        self.assertEqual(self.collector.rows.memory[:, 0].tolist(), [0.0, 1.0, 2.0, 3.0])
        self.assertTrue(self.round.complete)
        self.assertEqual(self.collector.losses, {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0})
        self.assertEqual(self.collector.norms[2], 4.0)

    def test_waiting_ends_when_enough_is_there(self) -> None:
        """A wait fires with the outcome that completes it, and at once if it is there."""
        done = self.collector.wait_until(lambda r: r.honest_complete)
        self.deliver(self.a, vector(0))
        self.deliver(self.a, vector(2))
        self.assertNoResult(done)
        self.deliver(self.b, vector(1))
        self.successResultOf(done)
        self.successResultOf(self.collector.wait_until(lambda r: r.honest_complete))

    def test_a_vector_is_judged_before_it_counts(self) -> None:
        """Its norm is worked out in the pool, not while the reactor waits."""
        self.pool.eager = False
        self.deliver(self.a, vector(0))
        self.assertTrue(self.round.is_awaited(0))
        self.pool.drain()
        self.assertEqual(self.round.honest_accepted, (0,))

    def test_a_short_vector_is_judged_at_once(self) -> None:
        """Going to the pool and back would take longer than its norm."""
        self.patch(collector, "MAX_INLINE_ELEMENTS", D)
        self.pool.eager = False
        self.deliver(self.a, vector(0))
        self.deliver(self.a, vector(2), math.nan)
        self.assertEqual(self.round.honest_accepted, (0,))
        self.assertIs(self.refusal(2), Reason.NOT_FINITE)

    def test_judged_too_late(self) -> None:
        """A norm that comes out after its round has ended changes nothing in the next."""
        self.pool.eager = False
        self.deliver(self.a, vector(0), math.nan)
        following = self.begin(1)
        self.pool.drain()
        self.assertTrue(following.is_awaited(0))
        self.assertEqual(self.collector.norms, {})

    def test_not_finite(self) -> None:
        """NaN, infinity and absurd norms are refused by their value."""
        for node, values in ((0, math.nan), (1, [0.0, 1.0, -math.inf, 0.0]), (2, 1e19)):
            self.deliver(self.a if node % 2 == 0 else self.b, vector(node), values)
            self.assertIs(self.refusal(node), Reason.NOT_FINITE)

    def test_wrong_size_or_type(self) -> None:
        """A malformed vector is refused, read past, and told to whoever waits."""
        done = self.collector.wait_until(lambda r: not r.is_awaited(0) and not r.is_awaited(1))
        self.assertIsNone(self.deliver(self.a, vector(0, elements=D + 1)))
        self.assertIsNone(self.deliver(self.b, vector(1, dtype=torch.float64)))
        self.assertNoResult(done)  # not from inside a frame that has only begun
        self.reactor.advance(0)
        self.successResultOf(done)
        self.assertIs(self.refusal(0), Reason.MALFORMED)
        self.assertIn("5 elements", self.round.refusals[0].detail)
        self.assertIs(self.refusal(1), Reason.MALFORMED)

    def test_nodes_of_others(self) -> None:
        """A server cannot speak for a node that is elsewhere, or nowhere."""
        for server, node in ((self.a, 1), (self.b, 0), (self.a, 4), (self.a, 2**31)):
            self.assertRaises(BadFrame, self.collector.allocate, server, vector(node))
        self.assertEqual(self.round.refusals, {})

    def test_a_round_that_has_not_begun(self) -> None:
        """A vector from the future is a lie, since the parameters are not out."""
        self.assertRaises(BadFrame, self.collector.allocate, self.a, vector(0, round=1))
        empty = Collector(RoundRows(torch.zeros(1, D)), self.reactor, self.pool)
        empty.assign(0, self.a)
        self.assertRaises(BadFrame, empty.allocate, self.a, vector(0))

    def test_stale_vectors_are_dropped(self) -> None:
        """A late answer is normal, and touches no row."""
        following = self.begin(1)
        self.assertIsNone(self.deliver(self.a, vector(0, round=0), 9.0))
        self.assertTrue(following.is_awaited(0))
        self.assertEqual(self.collector.rows.memory.sum(), 0)

    def test_a_vector_that_is_on_its_way_when_its_round_ends(self) -> None:
        """Its bytes may still fall into the row, but it does not count."""
        allocate = self.collector.allocate(self.a, vector(0))
        following = self.begin(1)
        allocate.fill_(5.0)
        self.collector.vector_received(self.a, vector(0))
        self.assertTrue(following.is_awaited(0))
        self.deliver(self.a, vector(0, round=1), 2.0)
        self.assertEqual(following.honest_accepted, (0,))
        self.assertEqual(self.collector.rows.row(0).tolist(), [2.0] * D)

    def test_only_the_first_answer_counts(self) -> None:
        """A second vector is dropped: while the first arrives, and after it."""
        allocate = self.collector.allocate(self.a, vector(0))
        self.assertIsNone(self.collector.allocate(self.a, vector(0)))
        allocate.fill_(3.0)
        self.collector.vector_received(self.a, vector(0))
        self.assertIsNone(self.deliver(self.a, vector(0), 7.0))
        self.assertEqual(self.collector.rows.row(0).tolist(), [3.0] * D)

    def test_failures(self) -> None:
        """A vector that a server could not compute is refused, unless the vector came after all."""
        self.deliver(self.a, vector(0))
        self.collector.record_failures(self.a, 0, {0: "no", 2: "out of memory"})
        self.collector.record_failures(self.b, 5, {1: "of another round"})
        self.collector.record_failures(self.a, 0, {1: "of somebody else's node"})
        self.assertEqual(self.round.honest_accepted, (0,))
        self.assertIs(self.refusal(2), Reason.FAILED)
        self.assertTrue(self.round.is_awaited(1))

    def test_time_is_up(self) -> None:
        """A node that is still awaited is late, and the wait ends."""
        self.deliver(self.a, vector(0))
        done = self.collector.wait_until(lambda r: r.honest_complete)
        self.collector.expire(range(3))
        self.successResultOf(done)
        self.assertIs(self.refusal(1), Reason.LATE)
        self.assertTrue(self.round.is_awaited(3))

    def test_a_node_that_moves(self) -> None:
        """A vector that its last server had not sent completely counts for nothing."""
        self.collector.allocate(self.b, vector(1))  # half of it comes, and then no more
        self.collector.assign(1, None)
        self.assertRaises(BadFrame, self.collector.allocate, self.b, vector(1))
        self.collector.assign(1, self.a)
        self.collector.record_failures(self.b, 0, {1: "its connection was lost"})
        self.assertTrue(self.round.is_awaited(1))
        self.deliver(self.a, vector(1), 2.0)
        self.assertEqual(self.round.honest_accepted, (1,))

    def test_a_whole_vector_of_a_host_that_is_lost(self) -> None:
        """It is as good as any other, also where it is judged later."""
        self.pool.eager = False
        self.deliver(self.b, vector(1), 3.0)
        self.collector.assign(1, None)
        self.assertTrue(self.collector.has_vector(1))
        self.pool.drain()
        self.assertEqual(self.round.honest_accepted, (1,))

    def test_late_vectors_of_a_former_home(self) -> None:
        """A server that had the node before may be late with it, and nobody minds."""
        self.begin(1)
        self.collector.assign(1, self.a)
        self.assertIsNone(self.collector.allocate(self.b, vector(1, round=0)))
        self.assertRaises(BadFrame, self.collector.allocate, self.b, vector(1, round=1))
        self.assertIsNone(self.refusal(1))

    def test_a_row_that_bytes_may_still_fall_into(self) -> None:
        """Is not lent to another server before the frame has ended."""
        self.collector.allocate(self.b, vector(1))
        self.assertFalse(self.collector.row_is_free(1))
        self.assertTrue(self.collector.row_is_free(0))
        self.begin(1)
        self.assertFalse(self.collector.row_is_free(1))
        self.collector.vector_received(self.b, vector(1))
        self.assertTrue(self.collector.row_is_free(1))

    def test_probation(self) -> None:
        """A node on probation is not waited for; a good vector in time is noted."""
        for number, seconds, answered_on_probation in ((1, 1.0, True), (2, 100.0, False)):
            with self.subTest(seconds):
                self.collector.late_answer_seconds = 10.0
                self.collector.begin(Round(number - 1, 3, 1, 1))
                self.reactor.advance(seconds)
                now = Round(number, 3, 1, 1, frozenset({2}))
                self.collector.begin(now)
                self.assertIs(self.refusal(2, now), Reason.PROBATION)
                self.deliver(self.a, vector(2, round=number - 1))
                self.assertEqual(now.answered_on_probation, {2} if answered_on_probation else set())
        now = Round(3, 3, 1, 1, frozenset({2}))
        self.collector.begin(now)
        self.deliver(self.a, vector(2, round=3), math.nan)
        self.assertEqual(now.answered_on_probation, set())

    def test_a_late_vector_is_looked_at(self) -> None:
        """A node on probation is not readmitted by one that is not finite."""
        self.collector.begin(Round(0, 3, 1, 1))
        now = Round(1, 3, 1, 1, frozenset({2}))
        self.collector.begin(now)
        self.deliver(self.a, vector(2, round=0), math.nan)
        self.assertEqual(now.answered_on_probation, set())
        self.deliver(self.a, vector(2, round=0))
        self.assertEqual(now.answered_on_probation, {2})

    def test_nodes_on(self) -> None:
        """The nodes of a server, in order."""
        self.assertEqual(self.collector.nodes_on(self.a, range(4)), [0, 2])
        self.assertEqual(self.collector.nodes_on(self.b, range(3)), [1])

    def test_a_loss_is_only_a_word(self) -> None:
        """Absurd losses cannot raise out of the round that sums them."""
        for node, loss in ((0, math.inf), (2, -math.inf)):
            self.deliver(self.a, vector(node, loss=loss))
        self.deliver(self.b, vector(1, loss=1e308))
        self.assertEqual(self.round.honest_accepted, (0, 1, 2))
        self.assertTrue(math.isnan(math.fsum(self.collector.losses.values())))

    def test_a_pool_that_was_shut_down(self) -> None:
        """A vector that arrives while the trainer stops is of no interest."""
        self.pool.shutdown()
        self.deliver(self.a, vector(0))
        self.assertTrue(self.round.is_awaited(0))


class SampledTests(SynchronousTestCase):
    """Rounds that ask some of a thousand nodes: a row for each that is asked."""

    def setUp(self) -> None:
        self.rows = RoundRows(torch.zeros(3, D))
        self.collector = Collector(self.rows, ClockReactor(), HandCrankedPool(eager=True))
        self.a, self.b = FakeServer("tcp://a:1", D), FakeServer("tcp://b:2", D)
        self.number = -1

    def begin(self, *nodes: int, on: Any = None) -> Round:
        """Begin a round of `nodes`, of which the even ones are on a server, the odd on another."""
        for node in nodes:
            self.collector.assign(node, on or (self.b if node % 2 else self.a))
        self.number += 1
        round = Round(self.number, 998, 2, 1, participants=nodes)
        self.collector.begin(round)
        return round

    def send(self, node: int, number: int, *, server: Any = None) -> None:
        server = server or (self.b if node % 2 else self.a)
        memory = self.collector.allocate(server, vector(node, number))
        if memory is not None:
            memory.fill_(node)
            self.collector.vector_received(server, vector(node, number))

    def test_by_position(self) -> None:
        """A node's row is its place among those asked; the memory stays the same."""
        for nodes in ((3, 500, 999), (0, 4, 8), (1, 997)):
            where = self.rows.memory.data_ptr()
            self.begin(*nodes)
            for node in reversed(nodes):
                self.send(node, self.number)
            self.assertEqual(self.rows.of(nodes)[:, 0].tolist(), list(nodes))
            self.assertEqual(self.rows.of(nodes).data_ptr(), where)
            self.assertEqual(self.rows.of(nodes[1:])[:, 0].tolist(), list(nodes[1:]))
            self.assertEqual(self.rows.memory.data_ptr(), where)

    def test_others(self) -> None:
        """A vector of a node that is not asked is none of this round's; a late one is passed by."""
        self.begin(2, 4)
        self.begin(1, 3)
        self.send(2, 0)
        self.assertRaises(BadFrame, self.send, 5, 1, server=self.a)
        self.assertRaises(BadFrame, self.send, 1000, 0)
        self.assertEqual(self.rows.memory.sum(), 0)

    def test_a_late_vector_in_another_row(self) -> None:
        """Bytes of a node that was late do not fall into the row of another server's node."""
        self.begin(2, 4, 6)
        late = self.collector.allocate(self.a, vector(4, 0))
        assert late is not None
        nodes = 5, 7, 9
        self.begin(*nodes)
        for node in nodes:
            self.send(node, 1)
        late.fill_(-1.0)
        self.assertEqual(self.rows.of(nodes)[:, 0].tolist(), list(nodes))
        self.collector.vector_received(self.a, vector(4, 0))
        where = self.rows.memory.data_ptr()
        self.begin(1, 3, 5)
        self.assertEqual(self.rows.of((1, 3, 5)).data_ptr(), where)

    def test_a_late_vector_in_its_own_row(self) -> None:
        """The row of a node on the same server may be the one: its vector comes after that."""
        where = self.rows.memory.data_ptr()
        self.begin(2, 4, 6)
        late = self.collector.allocate(self.a, vector(4, 0))
        assert late is not None
        self.begin(3, 8, 9)
        late.fill_(-1.0)
        self.collector.vector_received(self.a, vector(4, 0))
        for node in (3, 8, 9):
            self.send(node, 1)
        self.assertEqual(self.rows.of((3, 8, 9))[:, 0].tolist(), [3, 8, 9])
        self.assertEqual(self.rows.memory.data_ptr(), where)

    @given(st.data())
    def test_rows_of_their_own(self, data: st.DataObject) -> None:
        """No two nodes whose vectors may be received at once share a row."""
        self.setUp()
        servers = [FakeServer(f"tcp://{i}:1", D) for i in range(3)]
        open_frames: dict[Any, Tensor] = {}
        for number in range(data.draw(st.integers(1, 6))):
            asked = sorted(data.draw(st.sets(st.integers(0, 997), min_size=1, max_size=5)))
            home = {node: data.draw(st.sampled_from(servers)) for node in asked}
            for node, server in home.items():
                self.collector.assign(node, server)
            self.collector.begin(Round(number, 998, 2, 1, participants=tuple(asked)))
            for node, server in home.items():
                mine = self.rows.row(node).data_ptr()
                others = [m for s, m in open_frames.items() if s is not server]
                self.assertNotIn(mine, [memory.data_ptr() for memory in others])
            self.assertLessEqual(len(self.rows.memory), 5 + len(servers))
            for server in servers:  # some frames end, and others begin
                if data.draw(st.booleans()):
                    open_frames.pop(server, None)
                    self.collector.forget(server)
                    if (node := next((n for n in asked if home[n] is server), None)) is not None:
                        memory = self.collector.allocate(server, vector(node, number))
                        assert memory is not None
                        open_frames[server] = memory


class FloodTests(SynchronousTestCase):
    def test_frames_without_end(self) -> None:
        """A server that floods the trainer with frames nobody asked for is cut off."""
        collector = Collector(
            RoundRows(torch.zeros(2, 3)), ClockReactor(), HandCrankedPool(eager=True)
        )
        server: Any = RemoteServer(Address("h", 1), ClockReactor())
        collector.assign(0, server)
        stale = Header(FrameKind.VECTOR, 0, 3, 0)
        for number in (1, 2):  # each round anew
            collector.begin(Round(number, 1, 1, 1))
            for _ in range(UNREQUESTED_BASE):
                self.assertIsNone(collector.allocate(server, stale))
        with self.assertRaises(BadFrame):
            for _ in range(UNREQUESTED_BASE):
                collector.allocate(server, stale)
