"""Models are tried before round 0: wrong ones are refused, and right ones work."""

from __future__ import annotations

import math
import random
import threading
from typing import Any

import numpy as np
import torch
from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import BrokenPlugin, UnsuitableModel, WireError
from byzpy_tw.testing.doubles import HandCrankedPool
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.spec import NodeSpec
from byzpy_tw.workers.trial_digests import TrialDigests
from tests.trial_models import (
    COPIED,
    REFUSED,
    SHARED,
    SPEC,
    ConstantBuffer,
    DrawsByNumPy,
    Exits,
    KeepsOnItself,
    Lazy,
    Models,
    NotANumber,
    OfTwoExamples,
    Plain,
    named,
    names,
)


class ModelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.names = names(habits=Models())

    def host(self, model: Any, **changed: Any) -> Any:
        spec = evolve(SPEC, model=named("m", model), **changed)
        return build_host(spec, self.names, data_root=None)

    def test_sound_models(self) -> None:
        """They are shared between threads as they are."""
        for model in (Plain, *SHARED):
            self.assertFalse(self.host(model).trial_outcome.needs_copies, model)

    def test_not_a_number(self) -> None:
        """It is told as that, and not as randomness."""
        (warning,) = self.host(NotANumber).trial_outcome.warnings
        self.assertIn("not finite", warning)

    def test_models_that_keep_things(self) -> None:
        """They are copied for each call, and give the gradients that they should."""
        for model in COPIED:
            here = self.host(model)
            self.assertTrue(here.trial_outcome.needs_copies, model)
            here.spawn(NodeSpec(node=0, shard=0))
            pool, found = HandCrankedPool(), []
            here.gradients(pool, [0], 0, found.extend)
            here.gradients(pool, [0], 0, found.extend)
            pool.drain()
            self.assertTrue(torch.equal(found[0].vector, found[1].vector))
            self.assertFalse(getattr(here.model, "kept", None))

    def test_the_same_arithmetic(self) -> None:
        """Keeping activations changes no bit, with calls that overlap in every way."""
        expected = self.gradients(Plain)
        self.assertEqual(self.gradients(KeepsOnItself), expected)

    def gradients(self, model: Any) -> list[bytes]:
        here = self.host(model)
        for node in range(6):
            here.spawn(NodeSpec(node=node, shard=node))
        found: dict[int, bytes] = {}
        ready = threading.Barrier(6)

        def compute(node: int) -> None:
            ready.wait(30)
            for _ in range(20):
                here.gradients(
                    HandCrankedPool(eager=True), [node], 0,
                    lambda answers: found.__setitem__(node, answers[0].vector.numpy().tobytes()),
                )  # fmt: skip

        threads = [threading.Thread(target=compute, args=(node,)) for node in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return [found[node] for node in range(6)]

    def test_refused_models(self) -> None:
        """Each is one line with the model's name, its distribution, the reason and the cure."""
        for model, words in REFUSED.items():
            error = self.assertRaises(UnsuitableModel, self.host, model)
            for word in (repr(named("m", model)), "habits 0", *words):
                self.assertIn(word, str(error), model)

    def test_what_it_raises(self) -> None:
        """SystemExit in a forward pass is the plugin's error, with the line it came from."""
        error = self.assertRaises(BrokenPlugin, self.host, Exits)
        self.assertRegex(str(error), r"raised SystemExit: 3 \(trial_models.py, line \d+\)")

    def test_a_batch_of_a_run(self) -> None:
        """A model that takes batches of two alone fails now, and not in round 0."""
        error = self.assertRaises(BrokenPlugin, self.host, OfTwoExamples)
        self.assertIn("The size of tensor a (4) must match", str(error))

    def test_lazy_layers(self) -> None:
        """They are told apart from what cannot be trained for other reasons."""
        error = self.assertRaises(UnsuitableModel, self.host, Lazy)
        self.assertIn("has no size yet", str(error))

    def test_global_generators_are_left_alone(self) -> None:
        """The caller's generators are where they were."""
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)
        expected = (random.random(), np.random.rand(), float(torch.rand(())))
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)
        self.host(DrawsByNumPy)
        self.assertEqual((random.random(), np.random.rand(), float(torch.rand(()))), expected)

    def test_numpy_values_follow_the_seed(self) -> None:
        """Initial values from NumPy's global generator are those of the run's seed."""
        first, again, other = (
            self.host(DrawsByNumPy, seed=seed).parameters.clone() for seed in (1, 1, 2)
        )
        self.assertTrue(torch.equal(first, again))
        self.assertFalse(torch.equal(first, other))


class ComparedTests(SynchronousTestCase):
    """The digests that trainer and servers compare."""

    def setUp(self) -> None:
        self.names = names(habits=Models())

    def trial(self, model: Any = Plain, **changed: Any) -> TrialDigests:
        spec = evolve(SPEC, model=named("m", model), **changed)
        return build_host(spec, self.names, data_root=None).trial_outcome.trial

    def test_equal(self) -> None:
        """Two processes of one code agree, and the answer survives its way."""
        mine = self.trial()
        theirs = TrialDigests.from_json(self.trial().to_json())
        self.assertEqual(mine.differences(theirs, exact=True, local=False), [])

    def test_names_what_differs(self) -> None:
        """Shards, normalisation, classes and the model's own code, each by its name."""
        mine = self.trial()
        for theirs, word in (
            (self.trial(partition="iid"), "the partition's shards"),
            (evolve(mine, normalisation="0" * 64), "normalisation"),
            (evolve(mine, classes="0" * 64), "number or names of classes"),
            (self.trial(KeepsOnItself, seed=42), None),
            (self.trial(ConstantBuffer), "a gradient of the model"),
        ):
            found = mine.differences(theirs, exact=True, local=False)
            self.assertEqual(len(found), int(word is not None), found)
            self.assertIn(word or "", "".join(found))

    def test_other_machines(self) -> None:
        """Where bits may differ a thousandth is allowed, and no more."""
        mine = self.trial()

        def scaled(by: float) -> TrialDigests:
            norms = tuple(by * norm for norm in mine.norms)
            return evolve(mine, gradient="0" * 64, norms=norms, loss=by * mine.loss)

        for by, count in ((1.0, 0), (1.0005, 0), (1.01, 1), (math.nan, 1)):
            found = mine.differences(scaled(by), exact=False, local=False)
            self.assertEqual(len(found), count, by)
        self.assertEqual(len(mine.differences(scaled(1.0), exact=True, local=False)), 1)

    def test_local_data(self) -> None:
        """Only what does not depend on the data is compared."""
        mine = self.trial()
        theirs = evolve(mine, shards="0" * 64, gradient="0" * 64, normalisation="0" * 64)
        self.assertEqual(mine.differences(theirs, exact=True, local=True), [])
        other = evolve(theirs, classes="0" * 64)
        self.assertEqual(len(mine.differences(other, exact=True, local=True)), 1)

    def test_nonsense(self) -> None:
        """A server that answers with something else is told so."""
        good = self.trial().to_json()
        for text in ("", "[]", "{}", "null", good.replace("norms", "forms"), "[" * 5000,
                     good.replace('"loss": ', '"loss": "a", "x": ')):  # fmt: skip
            self.assertRaises(WireError, TrialDigests.from_json, text)
