"""Federated averaging: its rounds beside those of distributed SGD, and its options."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from attrs import evolve
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl
from byzpy_tw.algorithms import Dsgd, Fedavg
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.cli.train import parse_invocation
from byzpy_tw.config.merge import drop_unused
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BadParameter, BadRequest, ConfigError
from byzpy_tw.plugins import load
from byzpy_tw.sweep.default_study import default_study
from byzpy_tw.workers.local_steps import LocalSteps
from byzpy_tw.workers.spec import RunSpec
from tests.local_hosts import (
    SPEC,
    STEPS,
    SingleThreadedTestCase,
    host_of,
    registry,
    state_of,
    vectors,
)


class OneStepTests(SingleThreadedTestCase):
    """One plain step on both sides is a step of distributed SGD."""

    states = 50
    rules = ("mean", "median", "trimmed-mean", "multi-krum", "krum", "centered-clipping:tau=1e9")

    def algorithm(self, kind: Any, text: str, rule: str, **options: Any) -> Any:
        config = RunConfig(
            in_process=True, num_honest=4, num_byz=1, f=1, aggregator=rule, algorithm=text,
            **options,
        )  # fmt: skip
        return resolve_rules(config, registry()).make_algorithm()

    def test_equal_to_dsgd(self) -> None:
        """From 50 states one round each: parameters within 1e-6, and the same rows chosen."""
        lr = 0.25
        nodes, honest = tuple(range(5)), host_of(SPEC)
        local = host_of(evolve(SPEC, local_steps=f"steps=1,lr={lr}"))
        pairs = [
            (
                self.algorithm(Dsgd, "dsgd", rule, lr=lr, momentum=0.0),
                self.algorithm(Fedavg, f"fedavg:steps=1,lr={lr}", rule),
            )
            for rule in self.rules
        ]
        for number in range(self.states):
            start = state_of(honest, number)
            rows = []
            for host in (honest, local):
                host.load(start)
                rows.append(vectors(host, number, nodes))
            for one, other in pairs:
                after = []
                for algorithm, matrix in zip((one, other), rows):
                    state = evolve(algorithm.begin(start.clone()), round=number)
                    aggregated = algorithm.aggregate(state, nodes, 1, matrix)
                    next_one = algorithm.advance(state, nodes, matrix, aggregated, {})
                    after.append((next_one.parameters, aggregated.selected))
                (p, chosen), (q, again) = after
                self.assertLess(float((p - q).norm() / p.norm()), 1e-6)
                self.assertEqual(chosen, again)

    def test_same_draws(self) -> None:
        """Its dropout, batch and false labels are those of a node that sends a gradient."""
        for model in ("thinned", "mlp:hidden=8"):
            spec = evolve(SPEC, model=model, micro_batch_size=3)
            for round in (0, 9):
                gradients = vectors(host_of(spec), round, (0, 3, 4))
                updates = vectors(
                    host_of(evolve(spec, local_steps="steps=1,lr=1")), round, (0, 3, 4)
                )
                torch.testing.assert_close(updates, -gradients, rtol=1e-4, atol=1e-6)


class TrainersStepTests(SynchronousTestCase):
    """The negated aggregate goes to the optimizer."""

    def advance(self, rounds: int, **options: Any) -> Tensor:
        config = RunConfig(
            in_process=True, num_honest=3, num_byz=0, f=0, aggregator="mean", rounds=10, **options
        )
        algorithm = resolve_rules(config, registry()).make_algorithm()
        state = algorithm.begin(torch.zeros(2))
        for _ in range(rounds):
            matrix = torch.tensor([[1.0, -2.0]] * 3)
            aggregated = algorithm.aggregate(state, (0, 1, 2), 0, matrix)
            state = algorithm.advance(state, (0, 1, 2), matrix, aggregated, {})
        found: Tensor = state.parameters
        return found

    def test_defaults(self) -> None:
        """The aggregate is added, whatever ``--momentum`` and ``--lr`` are by default."""
        text = f"fedavg:{STEPS}"
        self.assertEqual(self.advance(3, algorithm=text).tolist(), [3.0, -6.0])
        self.assertEqual(
            self.advance(2, algorithm=text, optimizer="sgd:lr=0.5").tolist(), [1.0, -2.0]
        )
        self.assertEqual(
            self.advance(2, algorithm=text, optimizer="sgd:momentum=0.5").tolist(), [2.5, -5.0]
        )

    def test_schedule(self) -> None:
        """It multiplies the trainer's learning rate."""
        found = self.advance(
            3, algorithm=f"fedavg:{STEPS}", lr_milestones=(1, 2), lr_decay=0.5
        )  # fmt: skip
        self.assertEqual(found.tolist(), [1.75, -3.5])

    def test_rate_in_the_optimizers_text(self) -> None:
        """It goes before ``--lr``, with any algorithm and any optimizer."""
        self.assertEqual(self.advance(1, optimizer="sgd:lr=0.5,momentum=0").tolist(), [-0.5, 1.0])
        self.assertEqual(self.advance(1, optimizer="sgd", lr=0.25).tolist(), [-0.25, 0.5])
        adam = self.advance(1, optimizer="adam:lr=0.5")
        torch.testing.assert_close(adam, torch.tensor([-0.5, 0.5]))

    def test_errors(self) -> None:
        for optimizer, words in (
            ("adam", "needs a learning rate.*write --optimizer adam:lr=RATE"),
            ("adam:beta1=0.5", "write --optimizer adam:beta1=0.5,lr=RATE"),
            ("sgd:lr=0", "sgd: lr must be above 0, got 0.0"),
            ("sgd:lr=nan", "sgd: lr must be above 0, got nan"),
            ("sgd:lr=fast", "sgd: lr='fast' is not"),
        ):
            with self.assertRaisesRegex((ConfigError, BadParameter), words):
                self.advance(1, algorithm=f"fedavg:{STEPS}", optimizer=optimizer)


class OptionTests(SynchronousTestCase):
    def begun(self, words: str) -> RunConfig:
        found = parse_invocation(["--in-process", *words.split()])
        return drop_unused(found.configuration(), registry(), found.beneath)

    def test_of_gradients(self) -> None:
        """They are refused, in a sentence that says where each is set."""
        for words in ("--lr 0.1", "--momentum 0.5", "--weight-decay 0.1", "--clip-norm 1"):
            with self.assertRaisesRegex(ConfigError, (
                rf"^{words.split()[0]} has no use with --algorithm fedavg, whose parameters are "
                r"the nodes' .*; the trainer's are those of --optimizer, by default sgd:lr=1,"
            )):  # fmt: skip
                self.begun(f"--algorithm fedavg:{STEPS} {words}")
        self.begun(f"--algorithm fedavg:{STEPS} --worker-momentum 0.5 --optimizer fed-yogi")

    def test_rate_given_twice(self) -> None:
        with self.assertRaisesRegex(ConfigError, "--lr has no use with --optimizer sgd:lr=0.1"):
            self.begun("--optimizer sgd:lr=0.1 --lr 0.2")

    def test_parameters(self) -> None:
        for text, words in (
            ("fedavg", "'fedavg' needs lr: write fedavg:lr=VALUE"),
            ("fedavg:lr=0.1", "takes steps=K or epochs=E, one of them; got neither"),
            ("fedavg:lr=0.1,steps=2,epochs=1", "one of them; got both"),
            ("fedavg:lr=0.1,steps=0", "steps must be a whole number of at least 1"),
            ("fedavg:lr=0,steps=2", "lr must be above 0"),
            ("fedavg:lr=0.1,steps=2,mu=-1", "mu must be at least 0"),
            ("fedavg:lr=0.1,step=2", "no parameter 'step'; did you mean 'steps'"),
        ):
            with self.assertRaisesRegex((BadParameter, ConfigError), words):
                resolve_rules(RunConfig(in_process=True, algorithm=text), registry())

    def test_told_to_nodes(self) -> None:
        """In one spelling, and only with this algorithm; a server checks it."""
        config = RunConfig(in_process=True, algorithm="fedavg:steps=3, lr=0.1")
        spec = config.spec()
        self.assertEqual(spec.local_steps, "lr=0.1,steps=3")
        self.assertEqual(RunSpec.from_json(spec.to_json()), spec)
        self.assertNotIn(b"local_steps", RunConfig(in_process=True).spec().to_json())
        told = json.loads(spec.to_json())
        for changed, words in (
            ({"local_steps": "steps=3"}, "local_steps: 'fedavg' needs lr"),
            ({"local_steps": "steps=3,lr=1e999"}, "local_steps: lr must be"),
            ({"local_steps": "rm -rf"}, "local_steps: .*not key=value"),
            ({"local_steps": "lr=1,steps=2,x=1"}, "local_steps: .*no parameter 'x'"),
            ({"clip_norm": 1.0}, "local steps have their own clip"),
        ):
            with self.assertRaisesRegex(BadRequest, words):
                RunSpec.from_json(json.dumps({**told, **changed}).encode())

    def test_default_study(self) -> None:
        """A sweep's own learning rate is left out where it has no use."""
        for given, known in (
            ({}, True), ({"algorithm": f"fedavg:{STEPS}"}, False), ({"optimizer": "adam"}, True),
            ({"optimizer": "adam:lr=0.1"}, False),
        ):  # fmt: skip
            study = default_study(given, ["none"], ["mean"], [1])
            self.assertEqual("lr" in study.options, known, given)

    def test_under_another_name(self) -> None:
        """A subclass of another name is refused: its nodes would send gradients."""

        class Other:
            @hookimpl
            def register_algorithms(self) -> list[Registration]:
                return [Registration("other", Fedavg)]

        names = load(only=(), extra={"other": Other()})
        with self.assertRaisesRegex(ConfigError, "for the algorithm called 'fedavg' alone"):
            resolve_rules(RunConfig(in_process=True, algorithm=f"other:{STEPS}"), names)

    def test_numbers_of_batches(self) -> None:
        """Each batch of a run has one number."""
        steps = LocalSteps.parse("steps=4,lr=1")
        numbers = [n for round in range(5) for n in steps.batches(round, 7)]
        self.assertEqual(numbers, list(range(20)))
        epochs = LocalSteps.parse("epochs=2,lr=1")
        self.assertEqual(epochs.batches(3, 7), range(42, 56))
        self.assertTrue(math.isclose(epochs.lr, 1))
