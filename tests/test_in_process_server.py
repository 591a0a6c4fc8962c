"""The nodes of a run in the trainer's own process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.rounds.round import Round
from byzpy_tw.rounds.round_rows import RoundRows
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.in_process_server import InProcessServer
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.spec import NodeSpec
from tests.server_harness import SPEC, D, registry


class InProcessTests(SynchronousTestCase):
    def test_rounds_that_are_over(self) -> None:
        """Late nodes are given up as on a server, and write into no row afterwards."""
        pool = HandCrankedPool(eager=True)
        built = build_host(SPEC, registry(), data_root=Path("/nonexistent"))
        prepared: Any = SimpleNamespace(
            dataset=built.dataset, trial_outcome=built.trial_outcome, data_root=None
        )
        host = InProcessServer(ClockReactor(), pool, 1, registry(), prepared)
        sink: Any = Collector(RoundRows(torch.zeros(4, D)), ClockReactor(), pool)
        self.successResultOf(Deferred.fromCoroutine(host.open("r", SPEC, sink)))
        self.successResultOf(Deferred.fromCoroutine(host.spawn([NodeSpec(node=0, shard=0)])))
        sink.assign(0, host)
        pool.eager = False
        sink.begin(Round(0, 3, 1, 1))
        host.parameters(0, torch.zeros(D))
        late = host.compute(0, [0])
        sink.begin(Round(1, 3, 1, 1))
        host.parameters(1, torch.ones(D))
        pool.drain()
        self.assertEqual(list(self.successResultOf(late)), [0])
        self.assertEqual(float(sink.rows.memory.abs().sum()), 0.0)
