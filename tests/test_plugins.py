"""Names: how they are written, found and explained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, Literal

import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import ge
from hypothesis import given, settings
from hypothesis import strategies as st
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
)
from byzpy_tw.plugins import KINDS, ParsedName, Registry, load, parse
from byzpy_tw.plugins.shorthand import build_attack, build_pipeline
from byzpy_tw.plugins.signatures import parameters_of, read_arguments
from tests.distributions import on_path, write
from tests.support import environment, folder

HERE = os.path.dirname(os.path.dirname(byzpy_tw.__file__))
WORD = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
KEY = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,63}", fullmatch=True)
VALUE = st.one_of(
    st.from_regex(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,63}", fullmatch=True),
    st.integers().map(str).filter(lambda text: len(text) < 64),
    st.floats(allow_nan=False, allow_infinity=False).map(str),
)
NAMED = st.builds(ParsedName, WORD, st.dictionaries(KEY, VALUE, max_size=32))

# Text that is nearly right, and text that is nothing at all.
GARBAGE = st.one_of(
    st.text(max_size=300),
    st.text(alphabet="ab1:=,.-_ /\\\n\0é", max_size=60),
    NAMED.map(lambda named: named.text + "," + named.text),
)


class NamingTests(SynchronousTestCase):
    @given(NAMED)
    @settings(deadline=None)
    def test_round_trip(self, named: ParsedName) -> None:
        """What is written out reads back as the same."""
        self.assertEqual(parse(named.text), named)

    @given(GARBAGE)
    @settings(deadline=None, max_examples=400)
    def test_garbage_is_refused_in_words(self, text: str) -> None:
        """Whatever comes, it is read or refused with a short message."""
        try:
            named = parse(text)
        except BadParameter as e:
            self.assertLess(len(str(e)), 1000)
        else:
            self.assertEqual(parse(named.text), named)

    def test_one_spelling(self) -> None:
        """Order, spaces and hyphens in keys do not matter."""
        written = parse(" krum: q = 2 ,chunk-size=8")
        self.assertEqual(written, parse("krum:chunk_size=8,q=2"))
        self.assertEqual(written.text, "krum:chunk_size=8,q=2")

    def test_no_paths_no_code(self) -> None:
        """Values are numbers and single words."""
        for value in ("../x", "/etc/passwd", ".hidden", "a b", "f()", "a;b", "", "x" * 65):
            with self.assertRaisesRegex(BadParameter, "not key=value"):
                parse(f"leaves:root={value}")

    def test_says_what_is_wrong(self) -> None:
        """The message quotes the part that does not read."""
        for text, why in (
            ("", "is not a name"),
            ("k rum", "is not a name"),
            ("krum:", "'' is not key=value"),
            ("krum:q", "'q' is not key=value"),
            ("krum:q=1,q=2", "'q' is given twice"),
            ("krum:" + ",".join(f"k{i}=1" for i in range(33)), "33 parameters"),
        ):
            with self.assertRaisesRegex(BadParameter, why):
                parse(text)


def every_kind(
    *,
    whole: int = 1,
    real: float = 0.5,
    truth: bool = False,
    text: str = "x",
    word: Literal["mean", "own"] = "mean",
    maybe: int | None = None,
    either: Literal["auto"] | float = "auto",
    bare=2.5,
    needed: int,
) -> dict[str, Any]:
    return dict(locals())


class ParameterTests(SynchronousTestCase):
    def read(self, text: str, **fill: Any) -> dict[str, Any]:
        return read_arguments(parse(text), parameters_of("aggregator", every_kind), fill)

    def test_values_by_annotation(self) -> None:
        """Each text becomes what the parameter's annotation says."""
        for text, value in {
            "whole=3": 3,
            "whole=-1": -1,
            "whole=1e3": 1000,
            "real=3": 3.0,
            "real=1e-6": 1e-6,
            "real=.5": 0.5,
            "truth=yes": True,
            "truth=False": False,
            "truth=0": False,
            "text=1e3": "1e3",
            "word=own": "own",
            "maybe=none": None,
            "maybe=7": 7,
            "either=auto": "auto",
            "either=2": 2.0,
            "bare=1": 1.0,
        }.items():
            key = text.partition("=")[0]
            got = self.read(f"x:{text}", needed=0)[key]
            self.assertEqual((got, type(got)), (value, type(value)), text)

    def test_values_that_do_not_read(self) -> None:
        """The message says which parameter, what was given, and what would do."""
        for text, wanted in {
            "whole=2.5": "int",
            "whole=inf": "int",
            "whole=many": "int",
            "real=fast": "float",
            "truth=2": "bool",
            "word=all": "mean or own",
            "maybe=x": "none or int",
            "either=x": "float or auto",
        }.items():
            with self.assertRaisesRegex(BadParameter, f"x: .*is not {wanted}"):
                self.read(f"x:{text}", needed=0)

    @given(st.sampled_from(["whole", "real", "truth", "word", "maybe", "either"]), VALUE)
    @settings(deadline=None)
    def test_any_value_reads_or_is_refused(self, key: str, value: str) -> None:
        """No text, however odd, gets through as something of another type."""
        try:
            got = self.read(f"x:{key}={value}", needed=0)[key]
        except BadParameter:
            return
        kinds = {
            "whole": int, "real": float, "truth": bool, "word": str,
            "maybe": (int, type(None)), "either": (float, str),
        }  # fmt: skip
        self.assertIsInstance(got, kinds[key])

    def test_what_is_filled_in(self) -> None:
        """The user's word counts over what is offered; what is not taken is ignored."""
        got = self.read("x:whole=5", whole=9, needed=2, chunk_size=32)
        self.assertEqual(got, {"whole": 5, "needed": 2})

    def test_what_is_missing(self) -> None:
        """A parameter without a default must come from somewhere."""
        with self.assertRaisesRegex(BadParameter, "'x' needs needed: write x:needed=VALUE"):
            self.read("x")

    def test_attrs_classes(self) -> None:
        """Private fields go by their public names, annotations of strings resolve."""

        @frozen
        class Rule:
            _depth: int = 1
            names: tuple[str, ...] = ()
            done: bool = field(default=False, init=False)

        found = parameters_of("aggregator", Rule)
        self.assertEqual(list(found), ["depth", "names"])
        self.assertEqual(found["depth"].type_text, "int")

    def test_reserved_by_kind(self) -> None:
        """A data root or a model's shape is nobody's to give; elsewhere the words are free."""

        def factory(*, root: str = "", classes: int = 2, shape: int = 1) -> None: ...

        for kind, taken in {
            "dataset": ["classes", "shape"],
            "model": ["root"],
            "attack": ["root", "classes", "shape"],
        }.items():
            self.assertEqual(list(parameters_of(kind, factory)), taken)


@frozen(kw_only=True)
class Rule:
    """An aggregator with parameters, for plugins in tests."""

    f: int = field(default=0, validator=ge(0))
    width: float = 1.0

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors[0]


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
        """What the factory refuses is the user's mistake, in the factory's words."""
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

        with self.assertRaisesRegex(BrokenPlugin, r"mine: register_attacks\(\) raised TypeErr"):
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
        """What is no `ValueError` is the plugin's fault, not the user's."""
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


# A plugin with one model, whose name is to be filled in.
MODEL = """
def model(*, classes, shape):
    return None

@hookimpl
def register_models():
    return [Registration({!r}, model)]
"""


class InstalledTests(SynchronousTestCase):
    """Distributions on disk, as pip leaves them."""

    def test_found_with_name_and_version(self) -> None:
        """What an installed distribution offers is there, under its name and version."""
        write(
            on_path(self),
            "byzpy-tw-found",
            """
            def first(*, f: int = 0):
                return lambda vectors: vectors[0]

            @hookimpl
            def register_aggregators():
                return [Registration("first-row", first)]
            """,
            module="byzpy_tw_found",
            version="2.3",
        )
        names = load()
        entry = names.entry("aggregator", "first-row")
        self.assertEqual((entry.distribution, entry.version), ("byzpy-tw-found", "2.3"))
        self.assertEqual(names.distributions["byzpy-tw-found"], "2.3")
        rule = names.make("aggregator", "first-row", f=1)
        self.assertEqual(rule(torch.eye(2)).tolist(), [1.0, 0.0])

    def test_only_the_distributions_named(self) -> None:
        """Plugins can be left out; any spelling of a distribution's name will do."""
        where = on_path(self)
        write(where, "byzpy-tw-a", MODEL.format("aa"), module="byzpy_tw_a")
        write(where, "byzpy-tw-b", MODEL.format("bb"), module="byzpy_tw_b")
        for only, there in (
            ({"byzpy-tw-a"}, {"byzpy-tw", "byzpy-tw-a"}),
            ({"Byzpy_TW.b"}, {"byzpy-tw", "byzpy-tw-b"}),
            ((), {"byzpy-tw"}),
        ):
            self.assertEqual(set(load(only=only).distributions), there)

    def test_twice_on_the_path_counts_once(self) -> None:
        """An editable install seen from its own folder is not a duplicate."""
        source = MODEL.format("aa")
        for version in ("1.0", "2.0"):
            write(on_path(self), "byzpy-tw-c", source, module="byzpy_tw_c", version=version)
        # The later entry on the path was put in front.
        self.assertEqual(load(only={"byzpy-tw-c"}).distributions["byzpy-tw-c"], "2.0")

    def test_misspelt_hooks(self) -> None:
        """A misspelt hook names its distribution, too."""
        source = "@hookimpl\ndef register_dataset():\n    return []\n"
        write(on_path(self), "byzpy-tw-ill", source, module="byzpy_tw_ill")
        with self.assertRaisesRegex(
            MisspeltHook,
            "byzpy-tw-ill: there is no hook 'register_dataset'; did you mean 'register_data",
        ):
            load(only={"byzpy-tw-ill"})

    def test_two_distributions_one_name(self) -> None:
        """Two distributions with one name are both named, also where their entry
        points share a name."""
        where = on_path(self)
        source = MODEL.format("aa")
        write(where, "byzpy-tw-d", source, module="byzpy_tw_d")
        write(where, "byzpy-tw-e", source, module="byzpy_tw_e")
        with self.assertRaisesRegex(
            DuplicateName, "model 'aa' comes from both byzpy-tw-d and byzpy-tw-e"
        ):
            load(only={"byzpy-tw-d", "byzpy-tw-e"})


class PluginsCommandTests(SynchronousTestCase):
    """``python -m byzpy_tw plugins``, in a process of its own."""

    def plugins(self, *options: str, path: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "byzpy_tw", "plugins", *options],
            cwd=folder(self),
            env={**environment(), "PYTHONPATH": os.pathsep.join(filter(None, [path, HERE]))},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def test_lists_every_name(self) -> None:
        """For people and for programs: kind, name, aliases, parameters, whose it is."""
        where = write(
            folder(self),
            "byzpy-tw-listed",
            """
            def rule(*, f: int = 0, width: float | None = None, sort: bool):
                return lambda vectors: vectors[0]

            @hookimpl
            def register_aggregators():
                return [Registration("listed-rule", rule, ["also-listed"])]
            """,
            module="byzpy_tw_listed",
            version="3.1",
        )
        shown = self.plugins("--json", path=str(where))
        self.assertEqual((shown.returncode, shown.stderr), (0, ""))
        rows = json.loads(shown.stdout)
        self.assertEqual({row["kind"] for row in rows}, set(KINDS))
        [mine] = [row for row in rows if row["name"] == "listed-rule"]
        self.assertEqual(mine["distribution"], "byzpy-tw-listed")
        self.assertEqual(mine["version"], "3.1")
        self.assertEqual(mine["aliases"], ["also-listed"])
        self.assertEqual(mine["parameters"]["width"], {"type": "none or float", "default": None})
        for name in ("krum", "multi-krum", "empire", "mnist5k", "small-cnn", "stride"):
            self.assertIn(name, {row["name"] for row in rows})

        text = self.plugins(path=str(where))
        self.assertEqual((text.returncode, text.stderr), (0, ""))
        [line] = [line for line in text.stdout.splitlines() if "listed-rule" in line]
        for word in ("also-listed", "byzpy-tw-listed", "3.1", "f=0"):
            self.assertIn(word, line)

    def test_a_broken_plugin_is_listed(self) -> None:
        """Which distribution and why, after all that can be used; what to do is a warning."""
        where = write(folder(self), "byzpy-tw-ill", "1 / 0", module="byzpy_tw_ill")
        shown = self.plugins(path=str(where))
        self.assertEqual(shown.returncode, 0)
        self.assertEqual(
            shown.stdout.splitlines()[-2:],
            ["broken", "  byzpy-tw-ill 1.0: entry point 'it' (byzpy_tw_ill) failed to import: "
             "ZeroDivisionError: division by zero (byzpy_tw_ill.py, line 2)"],
        )  # fmt: skip
        self.assertEqual(len(shown.stderr.splitlines()), 1, shown.stderr)
        self.assertIn("byzpy_tw: warning: byzpy-tw-ill 1.0 is broken and left out", shown.stderr)
        self.assertIn("uninstall byzpy-tw-ill", shown.stderr)
        rows = json.loads(self.plugins("--json", path=str(where)).stdout)
        [ill] = [row for row in rows if row["kind"] == "broken"]
        self.assertEqual((ill["distribution"], ill["version"]), ("byzpy-tw-ill", "1.0"))
        self.assertIn("division by zero", ill["why"])
        without = self.plugins("--disable-plugin", "Byzpy_TW.ill", path=str(where))
        self.assertEqual((without.returncode, without.stderr), (0, ""))
        self.assertNotIn("byzpy-tw-ill", without.stdout)
