"""Names that plugins register, and wrong things that they offer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

import byzpy_tw
from byzpy_tw import Context, Registration, hookimpl
from byzpy_tw.attacks import Knowledge
from byzpy_tw.errors import (
    BadParameter,
    BadRuleOutput,
    BrokenPlugin,
    DuplicateName,
    MisspeltHook,
    UnknownName,
    UnsuitableModel,
)
from byzpy_tw.plugins import KINDS, Registry, load
from byzpy_tw.plugins.shorthand import build_attack, build_pipeline
from tests.plugin_harness import Rule


class Offers:
    """A plugin that offers what it was made with, as one kind."""

    def __init__(self, kind: str, *registrations: Any) -> None:
        @hookimpl
        def offer() -> list[Any]:
            return list(registrations)

        setattr(self, KINDS[kind], offer)


def registry(**plugins: object) -> Registry:
    """The built-ins and `plugins`, whatever is installed."""
    return load(only=(), extra=plugins)


class RegistryTests(SynchronousTestCase):
    def test_unknown_names(self) -> None:
        """The nearest name is suggested, and all of them are listed, aliases included."""
        names = registry(mine=Offers("aggregator", Registration("widest", Rule, ["broadest"])))
        for typed, meant in {
            "multikrum": "multi-krum",
            "Multi-Krum": "multi-krum",
            "wydest": "widest",
            "brodest": "broadest",
        }.items():
            with self.assertRaisesRegex(UnknownName, f"did you mean '{meant}'") as caught:
                names.make("aggregator", typed)
            self.assertIn("broadest", str(caught.exception))
        with self.assertRaisesRegex(UnknownName, r"no attack is called 'zzzz' \(known: alie"):
            names.make("attack", "zzzz")
        with self.assertRaisesRegex(UnknownName, "others come by --plugin FILE.py"):
            names.make("attack", "zzzz")
        with self.assertRaisesRegex(UnknownName, "did you mean 'regression:loss=mse'"):
            names.make("task", "MSELoss")

    def test_unknown_parameters(self) -> None:
        """The nearest parameter is suggested, and all of them are listed."""
        names = registry(mine=Offers("aggregator", Registration("widest", Rule)))
        with self.assertRaises(BadParameter) as caught:
            names.make("aggregator", "widest:widht=2")
        self.assertEqual(
            str(caught.exception),
            "'widest' has no parameter 'widht'; did you mean 'width'? (it takes: f, width)",
        )

    def test_values_out_of_range(self) -> None:
        """A value that the factory refuses is the user's mistake, in the factory's words."""
        names = registry(mine=Offers("aggregator", Registration("widest", Rule)))
        with self.assertRaisesRegex(BadParameter, "aggregator 'widest:f=-1': .*f.*>= 0"):
            names.make("aggregator", "widest:f=-1")

    def test_aliases(self) -> None:
        """An alias makes the same thing, and is listed with its name."""
        names = registry(mine=Offers("aggregator", Registration("widest", Rule, ["broadest"])))
        self.assertEqual(names.make("aggregator", "broadest:width=2"), Rule(width=2.0))
        [entry] = [e for e in names.entries() if e.distribution == "mine"]
        self.assertEqual((entry.name, entry.aliases), ("widest", ("broadest",)))

    def test_check_makes_nothing(self) -> None:
        """Names and parameters can be checked without making the thing."""
        names = registry(mine=Offers("dataset", Registration("endless", lambda size=1: 1 / 0)))
        self.assertEqual(names.check("dataset", "endless:size=3").distribution, "mine")
        with self.assertRaises(BadParameter):
            names.check("dataset", "endless:size=x")

    def test_check_fills_in_as_make_does(self) -> None:
        """A parameter that the run fills in may be without a default."""
        names = registry(mine=Offers("attack", Registration("needy", lambda *, f: None)))
        names.check("attack", "needy", f=1)
        self.assertRaises(BadParameter, names.check, "attack", "needy")

    def test_kinds_do_not_clash(self) -> None:
        """One name may stand for an aggregator and for an attack."""
        both = registry(
            one=Offers("aggregator", Registration("widest", Rule)),
            two=Offers("attack", Registration("widest", Rule)),
        )
        self.assertEqual(sum(e.name == "widest" for e in both.entries()), 2)

    def test_duplicate_names(self) -> None:
        """Two plugins with one name: both are named."""
        with self.assertRaisesRegex(DuplicateName, "'widest' comes from both one and two"):
            registry(
                one=Offers("aggregator", Registration("widest", Rule)),
                two=Offers("aggregator", Registration("other", Rule, ["widest"])),
            )
        with self.assertRaisesRegex(DuplicateName, "'mean' of one is a name of byzpy-tw's own"):
            registry(one=Offers("aggregator", Registration("mean", Rule)))
        with self.assertRaisesRegex(DuplicateName, "'widest' is offered twice by one"):
            registry(one=Offers("aggregator", Registration("widest", Rule, ["widest"])))

    def test_misspelt_hooks(self) -> None:
        """A hook that does not exist is not passed over in silence."""

        class Misspelt:
            @hookimpl
            def register_agregators(self) -> list[Registration]:
                return []

        with self.assertRaisesRegex(
            MisspeltHook,
            "mine: there is no hook 'register_agregators'; did you mean 'register_aggregators'?",
        ):
            registry(mine=Misspelt())

    def test_hooks_with_arguments_that_do_not_exist(self) -> None:
        """An argument that no hook hands over is an error at the start."""

        class Curious:
            @hookimpl
            def run_started(self, config: Any, secrets: Any) -> None: ...

        with self.assertRaisesRegex(BrokenPlugin, "(?s)mine: .*secrets"):
            registry(mine=Curious())

    def test_hooks_that_raise(self) -> None:
        """The distribution, the hook and the error are named."""

        class Raising:
            @hookimpl
            def register_models(self) -> list[Registration]:
                raise ZeroDivisionError("oh")

        with self.assertRaisesRegex(
            BrokenPlugin, r"mine: register_models\(\) raised ZeroDivisionError: oh"
        ):
            registry(mine=Raising())

    def test_hooks_that_offer_something_else(self) -> None:
        """Only registrations will do."""
        for offered, kind in ((("krum", Rule), "tuple"), (Rule, "type")):
            with self.assertRaisesRegex(BrokenPlugin, f"Registration objects, got {kind}"):
                registry(mine=Offers("aggregator", offered))

        class Nothing:
            @hookimpl
            def register_attacks(self) -> None:
                return None

        words = r"mine: register_attacks\(\) returned None, expected a list of Registration objects"
        with self.assertRaisesRegex(BrokenPlugin, words):
            registry(mine=Nothing())

    def test_registrations_are_checked(self) -> None:
        """A name that could not be typed, or a factory that is none, cannot be offered."""
        for name in ("Two Words", "CamelCase", "", "-x", "x_y"):
            self.assertRaises(ValueError, Registration, name, Rule)
        for aliases in (["Two Words"], [""]):
            self.assertRaises(ValueError, Registration, "x", Rule, aliases)
        self.assertRaises(TypeError, Registration, "x", Rule, "y")
        self.assertRaises(TypeError, Registration, "x", "not a factory")

    def test_factories_without_a_signature(self) -> None:
        """A factory whose parameters cannot be known is the plugin's fault."""
        with self.assertRaisesRegex(BrokenPlugin, "mine: aggregator 'x': .* cannot be read"):
            registry(mine=Offers("aggregator", Registration("x", dict)))

    def test_factories_that_fail(self) -> None:
        """An error that is no `ValueError` is the plugin's fault, not the user's."""
        names = registry(mine=Offers("model", Registration("x", lambda: {}["a"])))
        with self.assertRaisesRegex(BrokenPlugin, "mine: making model 'x' raised KeyError"):
            names.make("model", "x")

    def test_built_ins_stand_on_the_same_hooks(self) -> None:
        """Nothing of this package's own has another way in."""
        names = registry()
        self.assertEqual(set(names.distributions), {"byzpy-tw"})
        self.assertEqual({e.kind for e in names.entries()}, set(KINDS))
        self.assertEqual({e.version for e in names.entries()}, {byzpy_tw.__version__})


def made(kind: str, thing: Any, **fill: Any) -> Any:
    """`thing`, as the factory of a plugin of `kind` gave it, out of the registry."""
    return registry(mine=Offers(kind, Registration("x", lambda: thing))).make(kind, "x", **fill)


class OwnErrorsTests(SynchronousTestCase):
    def test_our_own_models_keep_their_code(self) -> None:
        """A model that does not fit the data is unsuitable; its name is not misspelt."""
        for name in ("small-cnn", "cnn-mnist", "cnn-cifar"):
            with self.assertRaises(UnsuitableModel):
                load().make("model", name, classes=10, shape=(5,))


class WrongThingsTests(SynchronousTestCase):
    """Factories that make what the hook did not ask for."""

    def test_not_callable(self) -> None:
        """A rule is something that can be called."""
        for kind in ("aggregator", "pre-aggregator", "attack", "partition"):
            with self.assertRaisesRegex(BrokenPlugin, f"mine: {kind} 'x' is str, which cannot"):
                made(kind, "a string")

    def test_not_a_dataset(self) -> None:
        """A dataset is a `Dataset`."""
        with self.assertRaisesRegex(BrokenPlugin, "mine: dataset 'x' is list, expected a Data"):
            made("dataset", [1, 2])

    def test_wrong_vectors(self) -> None:
        """An aggregator's result is looked at: shape, dtype, and whether it is finite."""
        rows = torch.ones(4, 3)
        for rule in (
            lambda v: v,
            lambda v: v[0].double(),
            lambda v: v[0] / 0,
            lambda v: v[0].tolist(),
            lambda v: v[0, :2],
        ):
            chain = build_pipeline(
                registry(mine=Offers("aggregator", Registration("x", lambda rule=rule: rule))), "x"
            )
            self.assertRaises(BadRuleOutput, chain, rows)

    def test_wrong_shards(self) -> None:
        """A partition's shards are as many as asked for, and indices into the data."""
        labels = torch.zeros(10, dtype=torch.int64)
        stream = np.random.default_rng(0)
        for shards, why in (
            ([[0, 1]], "cut 1 shards, 2 were asked for"),
            ([[0.5], [1]], "shard 0 is .* expected a row of whole numbers"),
            ([[0], [[1]]], "shard 1 is .* expected a row of whole numbers"),
            ([[0], [10]], "shard 1 names examples 10 to 10 of 10"),
            ([[-1], [1]], "shard 0 names examples -1"),
        ):
            cut = made("partition", lambda labels, n, stream, shards=shards: shards)
            with self.assertRaisesRegex(BadRuleOutput, f"mine: partition 'x'.*{why}"):
                cut(labels, 2, stream)
        with self.assertRaisesRegex(BrokenPlugin, "mine: partition 'x' raised TypeError"):
            made("partition", lambda: [])(labels, 2, stream)
        good = made("partition", lambda labels, n, stream: [[0, 1], torch.tensor([2])])
        self.assertEqual([s.tolist() for s in good(labels, 2, stream)], [[0, 1], [2]])

        def more(labels, n, stream):
            return [[i] for i in range(n + 1)]

        more.byzantine_shards = 1
        self.assertEqual(len(made("partition", more)(labels, 2, stream)), 3)
        more.byzantine_shards = 2
        with self.assertRaisesRegex(BadRuleOutput, "cut 3 shards, 4 were asked for"):
            made("partition", more)(labels, 2, stream)

    def test_knowledge_that_is_none(self) -> None:
        """An attack says what it must be shown, in the words that there are."""
        with self.assertRaisesRegex(BrokenPlugin, "mine: attack 'x' declares knowledge None"):
            made("attack", lambda known: known.mean)

        def prying(known: Knowledge) -> torch.Tensor:
            return known.vectors[0]

        prying.knowledge, prying.pieces = "moments", ("mean", "vectors")
        with self.assertRaisesRegex(BrokenPlugin, "wants to be shown mean, vectors"):
            made("attack", prying)


class PluginAttackTests(SynchronousTestCase):
    """The least that an attack can be is enough."""

    def test_a_plain_function(self) -> None:
        """A function with its knowledge is shown just that, and called as built-ins are."""
        seen: list[Knowledge] = []

        def steep(known: Knowledge) -> torch.Tensor:
            seen.append(known)
            return known.mean - known.std

        steep.knowledge = "moments"
        attack = made("attack", steep, f=1)
        self.assertEqual((attack.pieces, attack.behaviour), (("mean", "std"), "attack"))
        honest = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
        self.assertEqual(attack(Knowledge.for_attack(attack, honest)).tolist(), [1.0, 2.0])
        self.assertIsNone(seen[0].vectors)
        self.assertEqual(attack(honest.numpy(), context=Context()).tolist(), [1.0, 2.0])

    def test_what_it_declares_counts(self) -> None:
        """Pieces, behaviour and the context keyword are the plugin's to choose."""

        class Own:
            knowledge = "own"
            behaviour = "label-flip"
            strength = 3

            def __call__(self, known: Knowledge, *, context: Context) -> torch.Tensor:
                return known.own * context.node

        attack = made("attack", Own())
        self.assertEqual((attack.pieces, attack.behaviour), (("own",), "label-flip"))
        self.assertEqual(attack.strength, 3)
        known = Knowledge(h=2, dimension=2, own=torch.ones(2))
        self.assertEqual(attack(known, context=Context(node=5)).tolist(), [5.0, 5.0])
        self.assertRaises(AttributeError, lambda: attack.weakness)

    def test_one_that_takes_aim(self) -> None:
        """An attack on the run's own rules is handed them, and stays what it was."""

        @frozen
        class Aiming:
            target: Any = None
            knowledge = "all"

            def aimed_at(self, pipeline: Any) -> Aiming:
                return Aiming(pipeline)

            def __call__(self, known: Knowledge) -> torch.Tensor:
                return -self.target(known.vectors)

        names = registry(mine=Offers("attack", Registration("aiming", lambda: Aiming())))
        attack = build_attack(
            names, "aiming", n=4, b=1, f=1,
            run_pipeline=lambda: build_pipeline(names, "nnm | median"),
        )  # fmt: skip
        self.assertEqual(attack(torch.eye(3)).shape, (3,))
        self.assertEqual((attack.behaviour, attack.pieces[-1]), ("attack", "vectors"))
