"""Cases for tests of rounds on a server in memory."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from byzpy_tw.testing.doubles import HandCrankedPool
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.spec import NodeSpec
from tests.server_harness import SPEC, D, ServerCase, registry

NONE = [{"failures": "{}"}]  # what a command answers that went well


def parameters(round: int) -> Tensor:
    return torch.sin(torch.arange(D) * (round + 1.0))


class RoundCase(ServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.trainer_, self.stream = self.running()
        self.got = self.stream.received

    def compute(self, round: int, nodes: list[int]) -> list[Any]:
        return self.trainer_.compute(round, nodes)

    def attack(self, round: int, *pieces: str, h: int = 3, nodes: tuple[int, ...] = (3,)) -> list:
        return self.trainer_.attack(round, list(nodes), h, *pieces)

    def settle(self) -> None:
        for end in (self.trainer_, self.stream, self.trainer_):
            end.pump.flush()

    def gradient(self, round: int, node: int, at: Tensor) -> Tensor:
        """What `node` must answer, computed on a host of our own."""
        host: NodeHost = build_host(SPEC, registry(), data_root=Path("/nonexistent"))
        host.spawn(NodeSpec(node=node, shard=node))
        host.parameters.copy_(at)
        answers: list[Any] = []
        pool: Executor = HandCrankedPool(eager=True)  # type: ignore[assignment]
        host.gradients(pool, [node], round, answers.extend)
        return answers[0].vector

    def assertAnswered(self, round: int, node: int, at: Tensor) -> None:
        self.assertIn((round, node), self.got.answered)
        self.assertTrue(torch.equal(self.got.vectors[node], self.gradient(round, node, at)))
