"""The search of `opt-alie` and `opt-ipm` on a sample of the coordinates."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

import byzpy_tw
from byzpy_tw.aggregators import Pipeline
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.attacks import target
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.attacks.sample import MOST_EXACT, SIZE, Sample
from byzpy_tw.attacks.target import Target
from byzpy_tw.config.run_config import RunConfig, from_dict
from byzpy_tw.kernels.parallel import thread_limit
from byzpy_tw.plugins import load
from byzpy_tw.plugins.shorthand import pipeline
from byzpy_tw.seeds import Context
from tests.support import folder

NAMES = {
    name: load().entry("attack", name).factory for name in ("opt-alie", "opt-ipm")
}  # fmt: skip
CONTEXT = Context(n=12, f=2, byzantine=2, nodes=tuple(range(10)))
WIDE = MOST_EXACT + 5_000


def layers(d: int = WIDE, h: int = 10) -> Tensor:
    """Honest vectors whose last coordinates are larger by far, as a network's last layer is."""
    generator = torch.Generator().manual_seed(3)
    scale = torch.full((d,), 1e-4)
    scale[-d // 3 :] = 3e-3
    scale[-500:] = 0.3
    mean = torch.randn(d, generator=generator)
    return scale * (torch.randn(h, d, generator=generator) + 0.5 * mean)


def found(name: str, chain: Pipeline, vectors: Tensor, **parameters: Any) -> float:
    attack = NAMES[name](**parameters).aimed_at(chain)
    return float(Knowledge.for_attack(attack, vectors, context=CONTEXT).strength)


def watch_samples(case: SynchronousTestCase) -> list[Sample]:
    """The samples that searches take from now on."""
    samples: list[Sample] = []

    class Watched(Sample):
        @classmethod
        def of(cls, vectors: Tensor, size: int = SIZE) -> Sample:
            samples.append(Sample.of(vectors, size))
            return samples[-1]

    case.patch(target, "Sample", Watched)
    return samples


class SampleTests(SynchronousTestCase):
    """The coordinates that are picked, and what they count."""

    def test_squared_distances(self) -> None:
        """They are estimated to a hundredth though most of them is in one coordinate of 140;
        a stride of that size would be off by more."""
        vectors = layers()
        sample = Sample.of(vectors)
        for a, b in ((0, 1), (2, 7)):
            exact = float((vectors[a].double() - vectors[b]).square().sum())
            some = vectors.index_select(1, sample.index)
            self.assertApproximates(sample.squared_distance(some[a], some[b]) / exact, 1, 0.01)
        self.assertApproximates(float(sample.weights.sum()) / WIDE, 1, 0.01)
        largest = 2 * WIDE / len(sample.index)
        self.assertLessEqual(float(sample.weights.max()), largest * (1 + 1e-9))

    def test_vectors_of_zeros(self) -> None:
        """Every coordinate has the same chance."""
        sample = Sample.of(torch.zeros(3, WIDE), size=1000)
        self.assertEqual(len(sample.index.unique()), 1000)
        self.assertAlmostEqual(float(sample.weights.sum()), WIDE, places=6)


class SearchTests(SynchronousTestCase):
    """Strengths that are found."""

    def moved(self, name: str, chain: Pipeline, vectors: Tensor, strength: float) -> float:
        """Return how far all coordinates move, as the exact search scores it."""
        attack = NAMES[name](f=2)
        known = Knowledge.of(vectors, "all", needs=("mean", "std", "vectors"))
        aim = Target(pipeline=chain, copies=2, known=known, context=CONTEXT)
        return aim.score_from_vectors(partial(attack.at, known))(strength) ** 0.5

    def test_damage(self) -> None:
        """A sample does 99 % of the damage, for coordinate-wise rules behind geometric ones."""
        vectors = layers()
        for text in ("clipping:c=2 | nnm | trimmed-mean", "bucketing | median", "arc | meamed"):
            chain = pipeline(text, f=1 if "bucketing" in text else 2)
            for name in NAMES:
                damage = [
                    self.moved(name, chain, vectors, found(name, chain, vectors, exact=exact))
                    for exact in (False, True)
                ]
                self.assertGreater(damage[0], 0.99 * damage[1], (text, name))

    def test_the_score_is_an_estimate(self) -> None:
        """It is near that of all coordinates for weak and strong vectors, and not equal to it:
        the search looks at other numbers."""
        vectors, chain = layers(), pipeline("nnm | trimmed-mean", f=2)
        attack = NAMES["opt-alie"](f=2)
        known = Knowledge.of(vectors, "all", needs=("mean", "std", "vectors"))
        aim = Target(pipeline=chain, copies=2, known=known, context=CONTEXT)
        exact = aim.score_from_vectors(partial(attack.at, known))
        coefficients = partial(attack.coefficients, known)
        sampled = aim.score_from_sample("std", coefficients, attack.at)
        for strength in (0.0, 0.5, 1.5, 4.0, 20.0):
            self.assertApproximates(sampled(strength) / exact(strength), 1, 0.03)
            self.assertNotEqual(sampled(strength), exact(strength))

    def test_threads(self) -> None:
        """Any number of them finds the same strength to the bit."""
        vectors, chain = layers(), pipeline("nnm | trimmed-mean", f=2)
        strengths = []
        for threads in (1, 2, 3):
            with thread_limit(threads):
                strengths.append(found("opt-alie", chain, vectors, exact=False))
        self.assertEqual(len(set(strengths)), 1, strengths)

    def test_few_coordinates(self) -> None:
        """Up to 65,536 a sample is not taken: the same strength to the bit as by an exact search.

        So it is outside a run, and for rules that read all coordinates."""
        chain = pipeline("nnm | trimmed-mean", f=2)
        few = layers(MOST_EXACT)
        self.assertEqual(
            found("opt-alie", chain, few, exact=False), found("opt-alie", chain, few, exact=True)
        )
        wide = layers()
        samples = watch_samples(self)
        for exact, count in ((True, 0), (None, 0), (False, 1)):
            found("opt-alie", chain, wide, exact=exact)
            self.assertEqual(len(samples), count)
        for text in ("bulyan", "dnc"):
            chain = pipeline(text, f=1)
            self.assertEqual(
                found("opt-ipm", chain, wide, exact=False, evals=6),
                found("opt-ipm", chain, wide, exact=True, evals=6),
            )
        self.assertEqual(len(samples), 1)


class OptionTests(SynchronousTestCase):
    """The option ``--search``, which is resolved as the configuration is made."""

    def exact(self, **options: Any) -> bool | None:
        options = {"aggregator": "median", "num_honest": 6, "num_byz": 1, **options}
        config = RunConfig(in_process=True, **options)
        made: bool | None = resolve_rules(config, load()).attack.exact
        return made

    def test_resolved(self) -> None:
        """A sample is the default of attacks that search; others leave the option empty; the
        attack's own text goes before."""
        config = RunConfig(in_process=True)
        self.assertIsNone(config.search)
        self.assertEqual(attrs.evolve(config, attack="opt-ipm").search, "sample")
        self.assertIsNone(attrs.evolve(config, attack="opt-ipm:exact=true").search)
        self.assertIsNone(RunConfig(in_process=True, search="exact").search)
        self.assertIs(self.exact(attack="opt-alie"), False)
        self.assertIs(self.exact(attack="opt-alie", search="exact"), True)
        self.assertIs(self.exact(attack="opt-ipm:exact=true"), True)
        self.assertIs(self.exact(attack="opt-ipm:exact=false", search="exact"), False)

    def test_older_records(self) -> None:
        """Without the option on record the search was exact, and the digest is that of then."""
        new = RunConfig(in_process=True, attack="opt-alie")
        old = {name: value for name, value in new.to_dict().items() if name != "search"}
        self.assertEqual(from_dict(old).search, "exact")
        self.assertNotIn("search", from_dict(old).result_options)
        self.assertEqual(new.result_options["search"], "sample")
        other = RunConfig(in_process=True, attack="alie")
        self.assertNotIn("search", other.result_options)
        self.assertEqual(from_dict(other.to_dict()), other)


def hashes(run: byzpy_tw.Result) -> list[str]:
    lines = (run.path / "rounds.jsonl").read_text().splitlines()
    return [json.loads(line)["parameters_sha256"] for line in lines]


@pytest.mark.slow
class RecordTests(TestCase):
    """Folders of runs with more coordinates than are searched whole."""

    OPTIONS: dict[str, Any] = {
        "dataset": "synthetic:n=120,features=256", "model": "mlp:hidden=270", "batch_size": 8,
        "num_honest": 4, "num_byz": 1, "aggregator": "trimmed-mean", "attack": "opt-alie:evals=12",
        "eval_interval": 0, "threads": 1, "show": None,
    }  # fmt: skip

    async def test_an_older_folder(self) -> None:
        """One without the option is verified and resumed to its own hashes, without a
        sample."""
        where = folder(self)
        run = partial(byzpy_tw.run_async, reactor=reactor, **self.OPTIONS)
        samples = watch_samples(self)
        whole = await run(run_dir=where / "whole", rounds=6, search="exact")
        old = await run(run_dir=where / "old", rounds=3, search="exact")
        path = old.path / "config.json"
        description = json.loads(path.read_text())
        self.assertGreater(description["dimension"], MOST_EXACT)
        self.assertEqual(description["config"].pop("search"), "exact")
        self.assertNotIn("search", (old.path / "rounds.jsonl").read_text())
        path.write_text(json.dumps(description))
        self.assertTrue(byzpy_tw.verify(old.path).confirmed)
        longer = await byzpy_tw.run_async(resume=old.path, rounds=6, show=None, reactor=reactor)
        self.assertEqual(hashes(longer), hashes(whole))
        self.assertEqual(samples, [])

    async def test_a_new_folder(self) -> None:
        """A sample is taken in each round, and in each that is verified or comes after a resume;
        its record says so."""
        where, samples = folder(self), watch_samples(self)
        run = partial(byzpy_tw.run_async, reactor=reactor, **self.OPTIONS)
        new = await run(run_dir=where / "new", rounds=2)
        self.assertEqual(len(samples), 2)
        description = json.loads((new.path / "config.json").read_text())
        self.assertEqual(description["config"]["search"], "sample")
        self.assertTrue(byzpy_tw.verify(new.path).confirmed)
        self.assertEqual(len(samples), 4)
        await byzpy_tw.run_async(resume=new.path, rounds=3, show=None, reactor=reactor)
        self.assertEqual(len(samples), 5)
