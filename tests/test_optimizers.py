"""Optimizers and schedules of the learning rate, against torch's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BadRuleOutput, BrokenPlugin
from byzpy_tw.optimizers import (
    SGD,
    Adam,
    AdamW,
    Cosine,
    FedAdagrad,
    FedAdam,
    FedYogi,
    InverseSquareRoot,
    Linear,
    Milestones,
)
from byzpy_tw.plugins import load
from byzpy_tw.rounds.optimizer_trial import try_optimizer
from tests.test_broken_plugins import offering

D, STEPS = 50, 100
Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]


def differences(ours: Any, theirs: Make, lr: float) -> list[float]:
    """Return the largest difference of a coordinate from torch's, step by step."""
    parameters = torch.linspace(-2, 2, D)
    leaf = torch.nn.Parameter(parameters.clone())
    optimizer, state = theirs([leaf]), ours.begin(parameters)
    found = []
    generator = torch.Generator().manual_seed(5)
    for round in range(STEPS):
        vector = torch.randn(D, generator=generator) + parameters
        kept = vector.clone()
        leaf.grad = vector.clone()
        optimizer.step()
        ours.step(parameters, vector, state, lr, round)
        assert torch.equal(vector, kept), "the vector was changed"
        found.append(float((parameters - leaf.detach()).abs().max()))
    return found


class AgreementTests(SynchronousTestCase):
    """Each optimizer takes torch's steps, to the bit."""

    def check(self, ours: Any, theirs: Make, lr: float = 0.01) -> None:
        self.assertEqual(set(differences(ours, theirs, lr)), {0.0})

    def test_sgd(self) -> None:
        for momentum, decay in ((0.0, 0.0), (0.9, 0.0), (0.9, 0.1)):
            self.check(
                SGD(momentum=momentum, weight_decay=decay),
                lambda p, m=momentum, w=decay: torch.optim.SGD(p, 0.01, momentum=m, weight_decay=w),
            )

    def test_adam(self) -> None:
        self.check(Adam(), lambda p: torch.optim.Adam(p, 0.01))
        self.check(
            Adam(beta1=0.8, beta2=0.95, eps=1e-4, weight_decay=0.1),
            lambda p: torch.optim.Adam(p, 0.03, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1),
            0.03,
        )

    def test_adamw(self) -> None:
        self.check(AdamW(), lambda p: torch.optim.AdamW(p, 0.01))
        self.check(
            AdamW(weight_decay=0.3), lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.3), 0.1
        )


def fed_reference(
    name: str, deltas: list[list[float]], lr: float, beta1: float, beta2: float, tau: float,
    v0: float,
) -> list[float]:  # fmt: skip
    """Return the parameters after the updates `deltas`, from zero, one number at a time.

    Reddi et al., Algorithm 2, and FedAvgM of Hsu et al. with momentum `beta1`.
    """
    found = []
    for column in zip(*deltas, strict=True):
        x, m, v = 0.0, 0.0, v0
        for delta in column:
            if name == "fedavgm":
                m = beta1 * m - delta
                x -= lr * m
                continue
            m = beta1 * m + (1 - beta1) * delta
            squared = delta * delta
            if name == "fed-adagrad":
                v += squared
            elif name == "fed-adam":
                v = beta2 * v + (1 - beta2) * squared
            else:
                v -= (1 - beta2) * squared * math.copysign(1.0, v - squared) * (v != squared)
            x += lr * m / (math.sqrt(v) + tau)
        found.append(x)
    return found


class FederatedTests(SynchronousTestCase):
    """The optimizers of federated averaging, against a reference in float64."""

    rounds = 50

    def check(self, name: str, ours: Any, lr: float, **values: float) -> None:
        generator = torch.Generator().manual_seed(9)
        deltas = [0.3 * torch.randn(D, generator=generator) for _ in range(self.rounds)]
        parameters = torch.zeros(D)
        state = ours.begin(parameters)
        for round, delta in enumerate(deltas):
            vector = -delta
            ours.step(parameters, vector, state, lr, round)
            self.assertTrue(torch.equal(vector, -delta), "the vector was changed")
        plain = [delta.tolist() for delta in deltas]
        expected = torch.tensor(fed_reference(name, plain, lr, **values), dtype=torch.float64)
        error = float((parameters.double() - expected).norm() / expected.norm())
        self.assertLess(error, 1e-6, name)

    def test_as_published(self) -> None:
        defaults = {"beta1": 0.9, "beta2": 0.99, "tau": 1e-3, "v0": 0.0}
        others = {"beta1": 0.7, "beta2": 0.9, "tau": 0.01, "v0": 1e-4}
        self.check("fed-adagrad", FedAdagrad(), 0.1, **{**defaults, "beta1": 0.0})
        self.check("fed-adam", FedAdam(), 0.01, **defaults)
        self.check("fed-yogi", FedYogi(), 0.01, **defaults)
        self.check("fed-adam", FedAdam(**others), 0.1, **others)
        self.check("fed-yogi", FedYogi(**others), 0.1, **others)
        self.check("fedavgm", SGD(momentum=0.9), 0.7, **defaults)
        del others["beta2"]
        self.check("fed-adagrad", FedAdagrad(**others), 0.1, beta2=0.0, **others)

    def test_by_name(self) -> None:
        """They are ready for a run of gradients too, where ``--lr`` is theirs."""
        for name in ("fed-adagrad", "fed-adam", "fed-yogi"):
            rules = resolve_rules(
                RunConfig(in_process=True, optimizer=f"{name}:tau=0.1", lr=0.3), load(only=())
            )
            self.assertEqual((rules.optimizer.tau, rules.learning_rate(0, 9)), (0.1, 0.3))
            rules = resolve_rules(
                RunConfig(
                    in_process=True, optimizer=name, algorithm="fedavg:steps=2,lr=0.1"
                ), load(only=()),
            )  # fmt: skip
            self.assertEqual(rules.learning_rate(0, 9), 0.01)


def torch_rates(schedule: Callable[[torch.optim.Optimizer], Any], rounds: int) -> Tensor:
    """Return the learning rates of a schedule of torch's, as multiples."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    made, found = schedule(optimizer), []
    for _ in range(rounds):
        found.append(made.get_last_lr()[0])
        optimizer.step()
        made.step()
    return torch.tensor(found, dtype=torch.float64)


class ScheduleTests(SynchronousTestCase):
    def factors(self, schedule: Any, rounds: int) -> Tensor:
        return torch.tensor(
            [schedule.factor(t, rounds) for t in range(rounds)], dtype=torch.float64
        )

    def test_milestones(self) -> None:
        ours = self.factors(Milestones(lr_milestones=(3, 7), lr_decay=0.1), 10)
        theirs = torch_rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [3, 7]), 10)
        torch.testing.assert_close(ours, theirs)
        self.assertEqual(set(self.factors(Milestones(), 5).tolist()), {1.0})

    def test_cosine(self) -> None:
        ours = self.factors(Cosine(final=0.2), 30)
        theirs = torch_rates(
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 30, eta_min=0.2), 30
        )
        torch.testing.assert_close(ours, theirs)

    def test_linear(self) -> None:
        ours = self.factors(Linear(final=0.1), 20)
        theirs = torch_rates(
            lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=20), 20
        )
        torch.testing.assert_close(ours, theirs)

    def test_inverse_square_root(self) -> None:
        """After k rounds of warm-up, the rate in round k + t is sqrt(k / (k + t))."""
        schedule = InverseSquareRoot(warmup=4)
        self.assertEqual(schedule.factor(4, 99), 1.0)
        self.assertEqual(schedule.factor(16, 99), 0.5)
        self.assertEqual(InverseSquareRoot().factor(3, 99), 0.5)

    @given(st.sampled_from((Cosine, Linear, InverseSquareRoot)), st.integers(0, 20))
    def test_warm_up(self, kind: Any, warmup: int) -> None:
        """The rate rises in equal steps to its highest, and never rises after that."""
        found = self.factors(kind(warmup=warmup), 40)
        rise = torch.arange(1, warmup + 1, dtype=torch.float64) / (warmup + 1)
        torch.testing.assert_close(found[:warmup], rise)
        self.assertEqual(float(found[warmup]), 1.0)
        self.assertTrue(bool((found[warmup:].diff() <= 1e-12).all()))
        self.assertTrue(all(map(math.isfinite, found.tolist())))


class Momentum:
    """A sound optimizer of a plugin."""

    def begin(self, parameters: Tensor) -> dict[str, Any]:
        return {"last": torch.zeros_like(parameters)}

    def step(
        self, parameters: Tensor, vector: Tensor, state: dict[str, Any], lr: float, round: int
    ) -> None:
        parameters.sub_(state["last"].mul_(0.5).add_(vector), alpha=lr)


class KeepsTheVector(Momentum):
    def step(
        self, parameters: Tensor, vector: Tensor, state: dict[str, Any], lr: float, round: int
    ) -> None:
        parameters.sub_(state["last"] + vector, alpha=lr)
        state["last"] = vector


class WritesToTheVector(Momentum):
    def step(
        self, parameters: Tensor, vector: Tensor, state: dict[str, Any], lr: float, round: int
    ) -> None:
        parameters.sub_(vector.clamp_(-1, 1), alpha=lr)


class CountsItsSteps(Momentum):
    steps = 0

    def step(
        self, parameters: Tensor, vector: Tensor, state: dict[str, Any], lr: float, round: int
    ) -> None:
        self.steps += 1
        parameters.sub_(vector, alpha=lr / self.steps)


class DrawsNoise(Momentum):
    def step(
        self, parameters: Tensor, vector: Tensor, state: dict[str, Any], lr: float, round: int
    ) -> None:
        parameters.sub_(vector + torch.randn(len(vector)), alpha=lr)


class HasNoState(Momentum):
    def begin(self, parameters: Tensor) -> Any:
        return None


class KeepsItself(Momentum):
    def begin(self, parameters: Tensor) -> Any:
        state: dict[str, Any] = {"last": torch.zeros_like(parameters)}
        state["again"] = state
        return state


class KeepsAFunction(Momentum):
    def begin(self, parameters: Tensor) -> Any:
        return {"last": torch.zeros_like(parameters), "factor": abs}


class Divides(Momentum):
    def step(
        self, parameters: Tensor, vector: Tensor, state: dict[str, Any], lr: float, round: int
    ) -> None:
        parameters.div_(0 * vector)


class Cuts(Momentum):
    def step(
        self, parameters: Tensor, vector: Tensor, state: dict[str, Any], lr: float, round: int
    ) -> None:
        if len(parameters) < 10:  # in no trial
            parameters.data = parameters.data[:2]


class Falling:
    """A schedule of a plugin that falls below zero."""

    def factor(self, round: int, rounds: int) -> float:
        return 1 - 2 * round / rounds


class TrialTests(SynchronousTestCase):
    """A plugin's optimizer and schedule are tried before round 0."""

    def check(self, kind: str, factory: Callable[..., Any]) -> None:
        registry = offering(kind, factory)
        chosen = {"optimizer": "optimizer", "schedule": "lr_schedule"}[kind]
        config = RunConfig(in_process=True, **{chosen: "x"})
        try_optimizer(config, registry, resolve_rules(config, registry))

    def test_sound(self) -> None:
        self.check("optimizer", Momentum)

    def test_unfit(self) -> None:
        """Each fault is named, with what to do."""
        for factory, words in (
            (KeepsTheVector, r"keep vector.clone\(\)"),
            (WritesToTheVector, "wrote to the vector.*copy"),
            (CountsItsSteps, "entries of state"),
            (DrawsNoise, "torch's global generator"),
            (HasNoState, "begin returned NoneType, expected a dict"),
            (KeepsItself, "RecursionError"),
            (KeepsAFunction, "no checkpoint can hold: a builtin_function_or_method"),
            (Divides, "steps to parameters that are not finite"),
        ):
            with self.assertRaisesRegex((BadRuleOutput, BrokenPlugin), words):
                self.check("optimizer", factory)

    def test_another_shape(self) -> None:
        """A step that leaves other parameters than it found is blamed on its optimizer."""
        registry = offering("optimizer", Cuts)
        config = RunConfig(in_process=True, optimizer="x", num_byz=0, f=0)
        rules = resolve_rules(config, registry)
        try_optimizer(config, registry, rules)
        algorithm, matrix = rules.make_algorithm(), torch.ones(config.n, 3)
        state, nodes = algorithm.begin(torch.zeros(3)), tuple(range(config.n))
        aggregated = algorithm.aggregate(state, nodes, 0, matrix)
        with self.assertRaisesRegex(BadRuleOutput, r"optimizer 'x' of .*\(2,\).*expected \(3,\)"):
            algorithm.advance(state, nodes, matrix, aggregated, {})

    def test_unfit_schedule(self) -> None:
        with self.assertRaisesRegex(BadRuleOutput, r"returned -0.04.* for round 26 of 50"):
            self.check("schedule", Falling)
