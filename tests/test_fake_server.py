"""The fake server answers as real ones do: the same assertions for both."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from attrs import define, field
from torch import Tensor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.plugins import load
from byzpy_tw.protocol.frames import Header
from byzpy_tw.testing import FakeServer
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.trainer.in_process_server import InProcessServer
from byzpy_tw.trainer.server_client import RemoteServer
from byzpy_tw.trainer.server_interface import AttackInput, RunFingerprint, Server
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.environment import Environment, environment
from byzpy_tw.workers.spec import NodeSpec, RunSpec

SPEC = RunSpec(
    model="logreg", dataset="synthetic:n=100,features=4", partition="stride", n=4, shards=3, f=1,
    seed=0, batch_size=4, micro_batch_size=4,
)  # fmt: skip
REGISTRY = load(only=())


@define(eq=False)
class Received:
    """A sink that takes every vector of the current round."""

    dimension: int
    round: int = 0
    rows: dict[int, Tensor] = field(factory=dict)
    headers: list[Header] = field(factory=list)

    def allocate(self, server: Server, header: Header) -> Tensor | None:
        if header.round != self.round:
            return None
        return self.rows.setdefault(header.index, torch.full((self.dimension,), torch.nan))

    def vector_received(self, server: Server, header: Header) -> None:
        self.headers.append(header)


class ServerContract:
    """The interface of a server, as the trainer's rounds use it."""

    def make(self) -> Any:
        """Return a server whose run has vectors of `self.dimension`."""
        raise NotImplementedError

    def setUp(self) -> None:
        self.server = self.make()
        self.sink = Received(self.dimension)
        self.result(self.server.hello())
        self.opened = self.result(self.server.open("run", SPEC, self.sink))
        nodes = [NodeSpec(node=i, shard=i) for i in range(3)]
        self.result(self.server.spawn([*nodes, NodeSpec(node=3, shard=0, attack="empire")]))

    def result(self, work: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def begin(self, number: int) -> None:
        self.sink.round = number
        self.successResultOf(self.server.parameters(number, torch.zeros(self.dimension)))

    def test_says_hello(self) -> None:
        """The environment is the answer to Hello."""
        self.assertIsInstance(self.result(self.server.hello()), Environment)

    def test_opens_a_run(self) -> None:
        """The answer has the length of vectors and the digest of the data."""
        self.assertIsInstance(self.opened, RunFingerprint)
        self.assertEqual(self.opened.dimension, self.dimension)
        self.assertTrue(self.opened.digest)

    def test_attributes(self) -> None:
        """A server that is there is not gone, and tells its bytes."""
        self.assertEqual((self.server.lost, self.server.suspect), ("", False))
        self.assertIsInstance(self.server.name, str)
        self.assertIsInstance(self.server.bytes_sent + self.server.bytes_received, int)

    def test_vectors_of_the_round(self) -> None:
        """Each node that is asked sends one vector of the round, of the right length."""
        self.begin(0)
        self.assertEqual(dict(self.successResultOf(self.server.compute(0, [0, 2]))), {})
        self.assertEqual(sorted(h.index for h in self.sink.headers), [0, 2])
        for header in self.sink.headers:
            self.assertEqual((header.round, header.elements), (0, self.dimension))
            self.assertTrue(bool(torch.isfinite(self.sink.rows[header.index]).all()))

    def test_byzantine_vectors(self) -> None:
        """Byzantine nodes are asked apart, with what their attack is shown."""
        self.begin(0)
        shown = {"mean": torch.ones(self.dimension)}
        self.assertEqual(
            dict(self.successResultOf(self.server.attack(0, [3], AttackInput(3, shown, {})))), {}
        )
        self.assertEqual([h.index for h in self.sink.headers], [3])

    def test_vectors_that_nobody_takes(self) -> None:
        """A vector without memory is dropped."""
        self.begin(0)
        self.sink.round = 1
        self.successResultOf(self.server.compute(0, [0]))
        self.assertEqual(self.sink.headers, [])

    def test_closes(self) -> None:
        """Closing never fails, nor does dropping it then."""
        self.result(self.server.close())
        self.server.drop("over")


class FakeServerTests(ServerContract, SynchronousTestCase):
    dimension = 5

    def make(self) -> FakeServer:
        return FakeServer("fake", 5)

    def test_has_every_member(self) -> None:
        """All that the interface has, and all that real servers have in public."""
        wanted = {name for name in dir(Server) if not name.startswith("_")}
        wanted |= set(Server.__annotations__)
        for real in (InProcessServer, RemoteServer):
            wanted &= set(dir(real))  # the interface is not wider than the real ones
        self.assertLessEqual(wanted, set(dir(self.server)))

    def test_is_lost(self) -> None:
        """The loss is told once, with the reason; nothing comes afterwards."""
        lost: list[str] = []
        self.server.on_lost = lambda server, why: lost.append(why)
        self.server.lose("cut off")
        self.assertEqual((lost, self.server.lost), (["cut off"], "cut off"))
        self.begin(0)
        self.assertNoResult(self.server.compute(0, [0]))
        self.assertEqual(self.sink.headers, [])


class InProcessServerTests(ServerContract, SynchronousTestCase):
    dimension = 50  # 4 features, 10 classes

    def make(self) -> InProcessServer:
        built = build_host(SPEC, REGISTRY, data_root=Path("/nonexistent"))
        here = environment(REGISTRY, probe="p", device="cpu", threads=1)
        pool = HandCrankedPool(eager=True)
        prepared: Any = SimpleNamespace(
            data_root=None,
            dataset=built.dataset,
            trial_outcome=built.trial_outcome,
            environment=here,
        )
        return InProcessServer(ClockReactor(), pool, 1, REGISTRY, prepared)
