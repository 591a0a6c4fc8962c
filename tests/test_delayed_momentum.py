"""Delayed momentum: the last momenta of all nodes are aggregated, also of those not asked."""

from __future__ import annotations

import json
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl
from byzpy_tw.algorithms import DelayedMomentum, Dsgd, State
from byzpy_tw.algorithms.participation import bare_state
from byzpy_tw.algorithms.rules import ResolvedRules, resolve_rules
from byzpy_tw.algorithms.sampling import Sampling
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError
from byzpy_tw.plugins import load
from byzpy_tw.records.folder import RESULT, read_run
from byzpy_tw.rounds.round import Halt, Proceed, Reason, Round
from byzpy_tw.trainer.preparation import guarantee_notices
from tests.test_sampled_runs import RunCase

D, HONEST, BYZANTINE = 6, 8, 2
N = HONEST + BYZANTINE


def options(**more: Any) -> RunConfig:
    return RunConfig(**{
        "in_process": True, "num_honest": HONEST, "num_byz": BYZANTINE, "f": BYZANTINE,
        "participants": 3, "algorithm": "delayed-momentum:momentum=0.8", "rounds": 30,
        "aggregator": "trimmed-mean", "attack": "ipm:tau=0.5", **more,
    })  # fmt: skip


def algorithm(**more: Any) -> DelayedMomentum:
    made = resolve_rules(options(**more), load(only=())).make_algorithm()
    assert isinstance(made, DelayedMomentum)
    return made


def play(made: DelayedMomentum, sent: Tensor, *, reuse: bool) -> list[State]:
    """Return copies of the states of a run in which node i sends ``sent[round, i]``."""
    state, memory = made.begin(torch.linspace(-1, 1, D)), torch.zeros(N, D)
    kept = [state.snapshot()]
    for vectors in sent:
        asked = made.participants(state)
        rows = memory[: len(asked.nodes)]
        for node, row in zip(asked.nodes, rows, strict=True):
            row.copy_(made.receive(state, node, vectors[node]))
        before = _rows(state).clone()
        aggregated = made.aggregate(state, asked.nodes, asked.f, rows)
        assert torch.equal(before, _rows(state)), "aggregate changed the rows"
        state = made.advance(state, asked.nodes, rows, aggregated, {}, reuse=reuse)
        memory.fill_(float("nan"))
        kept.append(state.snapshot())
    return kept


def _rows(state: State) -> Tensor:
    assert state.rows is not None
    return state.rows


class ArithmeticTests(SynchronousTestCase):
    def sent(self, rounds: int = 20) -> Tensor:
        return torch.randn(rounds, N, D, generator=torch.Generator().manual_seed(3))

    def test_reference(self) -> None:
        """It is the published algorithm, node by node, in float64."""
        made = algorithm(lr=0.1, momentum=0.0)
        sampling = Sampling.of(made.config)
        assert sampling is not None
        sent = self.sent()
        rows = [[0.0] * D for _ in range(N)]
        parameters = torch.linspace(-1, 1, D).double()
        states = play(made, sent, reuse=True)
        for round, state in enumerate(states[1:]):
            for node in sampling.draw(round)[0]:
                for i in range(D):
                    g = float(sent[round, node, i])
                    rows[node][i] = g if node >= HONEST else 0.8 * rows[node][i] + 0.2 * g
            for i in range(D):
                column = sorted(row[i] for row in rows)[BYZANTINE : N - BYZANTINE]
                parameters[i] -= 0.1 * sum(column) / len(column)
            self.assertLess(float((_rows(state).double() - torch.tensor(rows)).abs().max()), 1e-6)
            self.assertLess(float((state.parameters - parameters).abs().max()), 1e-5)

    @given(st.sampled_from(("trimmed-mean", "krum", "multi-krum", "mean", "centered-clipping")))
    def test_in_place(self, aggregator: str) -> None:
        """A run that reuses its memory has the same states, to the bit; rules may return a row."""
        made = algorithm(aggregator=aggregator)
        one, other = (play(made, self.sent(5), reuse=reuse) for reuse in (True, False))
        for a, b in zip(one, other, strict=True):
            self.assertTrue(torch.equal(_rows(a), _rows(b)))
            self.assertTrue(torch.equal(a.parameters, b.parameters))

    def test_everyone(self) -> None:
        """Where all take part and answer, it is worker momentum."""
        made = algorithm(participants=None, aggregator="median")
        config = options(participants=None, aggregator="median", algorithm="dsgd",
                         worker_momentum=0.8)  # fmt: skip
        plain = Dsgd(config, resolve_rules(config, load(only=())))
        sent = self.sent(6)
        states = play(made, sent, reuse=True)
        state = plain.begin(torch.linspace(-1, 1, D))
        for vectors, expected in zip(sent, states[1:], strict=True):
            rows = torch.stack([plain.receive(state, n, v.clone()) for n, v in enumerate(vectors)])
            found = plain.aggregate(state, tuple(range(N)), BYZANTINE, rows)
            state = plain.advance(state, range(N), rows, found, {})
            self.assertTrue(torch.equal(state.parameters, expected.parameters))

    def test_selected(self) -> None:
        """The nodes selected are those of the round; the Byzantine weight is of all rows."""
        made = algorithm(aggregator="multi-krum:q=6")
        state = made.begin(torch.zeros(D))
        _rows(state)[:] = torch.randn(N, D, generator=torch.Generator().manual_seed(1))
        _rows(state)[9] = 0
        rows = torch.stack([torch.zeros(D), torch.full((D,), 50.0)])
        found = made.aggregate(state, (2, 8), 2, rows)
        self.assertEqual(found.selected, (2,))
        self.assertIsNotNone(found.byzantine_weight)

    def test_knowledge(self) -> None:
        """An attack is shown the rows of all honest nodes, those of the round being new."""
        made = algorithm(attack="mimic")
        state = made.begin(torch.zeros(D))
        _rows(state)[:] = 1.0
        shown = made.reveal(state, [2], torch.full((1, D), 9.0), 2)
        self.assertEqual(shown.honest, HONEST)
        made = algorithm()
        shown = made.reveal(state, [2], torch.full((1, D), 9.0), 2)
        self.assertTrue(torch.equal(shown.pieces["mean"], torch.full((D,), 2.0)))
        shown = made.reveal(state, [], torch.zeros(0, D), 2)
        self.assertTrue(torch.equal(shown.pieces["mean"], torch.ones(D)))


class BudgetTests(SynchronousTestCase):
    """f is as with everyone present, and absent nodes cost nothing."""

    def test_participants(self) -> None:
        made = algorithm()
        sampling = Sampling.of(made.config)
        assert sampling is not None
        asked = made.participants(bare_state(5))
        self.assertEqual((asked.nodes, asked.f, asked.rows), (sampling.draw(5)[0], BYZANTINE, N))

    def test_verdict(self) -> None:
        """The rule has its f while one node answers; proof of fault leaves it: a row stays."""
        made = Round(0, HONEST, BYZANTINE, BYZANTINE, participants=(1, 4, 9), rows=N)
        made.refuse(4, Reason.LATE)
        made.refuse(9, Reason.MALFORMED)
        made.accept(1)
        self.assertEqual(made.verdict(lambda n, f: None), Proceed((1,), BYZANTINE))
        self.assertEqual(made.told_f(lambda n, f: None), BYZANTINE)
        made = Round(0, HONEST, BYZANTINE, BYZANTINE, participants=(1, 4), rows=N)
        made.refuse(1, Reason.LATE)
        made.refuse(4, Reason.LATE)
        self.assertIsInstance(made.verdict(lambda n, f: None), Halt)

    def test_told(self) -> None:
        """Rules are checked with all nodes and --f, so a small sample gives a guarantee."""
        told = guarantee_notices(resolve_rules(options(strict=True), load(only=())))
        self.assertEqual(
            told,
            [
                "--participants 3: 3 of 10 nodes are asked in a round, and the last "
                "vectors of all are aggregated, with f = 2"
            ],
        )
        everyone = options(participants=None)
        self.assertEqual(guarantee_notices(resolve_rules(everyone, load(only=()))), [])

    def test_no_use(self) -> None:
        for more, words in (
            ({"worker_momentum": 0.9}, "--worker-momentum has no use with --algorithm delayed"),
            ({"over_sample": 2}, "--over-sample has no use with --algorithm delayed"),
        ):
            with self.assertRaisesRegex(ConfigError, words):
                algorithm(**more)

    def test_memory(self) -> None:
        """Refused with the arithmetic where a vector of each node does not fit."""
        rules = resolve_rules(options(), load(only=()))
        assert isinstance(rules, ResolvedRules)
        rules.check_memory(1000)
        words = "10 nodes x 1,000,000,000,000 parameters x 4 bytes are .* GiB, and this machine has"
        self.assertRaisesRegex(ConfigError, words, rules.check_memory, 10**12)
        plain = resolve_rules(options(algorithm="dsgd"), load(only=()))
        plain.check_memory(10**12)


class Slower(DelayedMomentum):
    """A plugin's algorithm, of which the momentum alone differs."""

    def receive(self, state: State, node: int, sent: Tensor) -> Tensor:
        if node >= self.config.num_honest:
            return sent
        return 0.99 * _rows(state)[node] + 0.01 * sent


class SlowerPlugin:
    @hookimpl
    def register_algorithms(self) -> list[Registration]:
        return [Registration("slower", Slower)]


class RunTests(RunCase):
    async def test_plugin(self) -> None:
        """A plugin may build on it: its calls are guarded, and it is tried before round 0."""
        self.registry = load(only=(), extra={"slower": SlowerPlugin()})
        more = {"algorithm": "slower", "participants": 2, "num_honest": 6, "num_byz": 4,
                "aggregator": "multi-krum", "rounds": 6}  # fmt: skip
        path = await self.train("one", **more)
        self.assertTrue(any(min(r["participants"]) >= 6 for r in read_run(path).rounds))
        self.assert_verified(path)

    async def test_run(self) -> None:
        """Samples of Byzantine nodes alone are played; a kill changes no bit; verified."""
        more = {"algorithm": "delayed-momentum", "participants": 2, "num_honest": 6, "num_byz": 4,
                "aggregator": "multi-krum", "attack": "alie:tau=1.0"}  # fmt: skip
        path = await self.train("one", **more)
        records = read_run(path).rounds
        for record in records:
            self.assertEqual((record["f"], record["refused"]), (4, []))
            self.assertEqual(set(record["norms"]), {str(n) for n in record["participants"]})
        self.assertTrue(any(min(record["participants"]) >= 6 for record in records))
        cut = self.cut(path, 8, 5)
        await self.resume(cut)
        self.assertEqual(self.digest(cut), self.digest(path))
        self.assert_verified(path)
        self.assertEqual(json.loads((path / RESULT).read_text())["status"], "finished")
