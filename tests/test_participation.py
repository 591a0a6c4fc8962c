"""The participants that a plugin's algorithm names: checks, notices, the trial before round 0."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from attrs import define, evolve
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw import Registration, hookimpl, seeds
from byzpy_tw.algorithms import Dsgd, Participants, Revealed, State
from byzpy_tw.algorithms.aggregation import Aggregated
from byzpy_tw.algorithms.guarded import GuardedAlgorithm
from byzpy_tw.algorithms.participation import bare_state, check_participants, survey
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import (
    BadRuleOutput,
    BrokenPlugin,
    ConfigError,
    Diverged,
    GuaranteeMissing,
    PluginError,
)
from byzpy_tw.plugins import Registry, load
from byzpy_tw.records.folder import RESULT, read_run
from byzpy_tw.rounds.algorithm_trial import try_algorithm
from byzpy_tw.rounds.feasibility import list_feasible_rules, round_sizes
from byzpy_tw.trainer.preparation import guarantee_notices
from byzpy_tw.trainer.run import prepare_run, run_prepared
from tests.support import folder

HONEST, BYZANTINE = 8, 2
N = HONEST + BYZANTINE


def registry_of(*algorithms: type) -> Registry:
    """Return the registry with `algorithms` by their lower-case names."""

    class Plugin:
        @hookimpl
        def register_algorithms(self) -> list[Registration]:
            return [Registration(made.__name__.lower(), made) for made in algorithms]

    return load(only=(), extra={"acme": Plugin()})


def options(algorithm: str, **more: Any) -> RunConfig:
    return RunConfig(**{
        "in_process": True, "algorithm": algorithm, "num_honest": HONEST, "num_byz": BYZANTINE,
        "f": 2, "aggregator": "trimmed-mean", "attack": "alie:tau=1.5", "rounds": 6, **more,
    })  # fmt: skip


def naming(answer: Callable[[Dsgd, State], Any]) -> type:
    """Return an algorithm whose participants are `answer`."""

    @define(eq=False)
    class Named(Dsgd):
        def participants(self, state: State) -> Participants:
            found: Participants = answer(self, state)
            return found

    return Named


class CheckTests(SynchronousTestCase):
    """The participants of a round are some nodes in order, with a budget of their own."""

    def assert_refused(self, found: Any, *words: str) -> None:
        with self.assertRaises(BadRuleOutput) as caught:
            check_participants(found, 3, options("dsgd"), "algorithm 'x' of acme 1.0")
        for word in ("algorithm 'x' of acme 1.0", "round 3", *words):
            self.assertIn(word, str(caught.exception))

    def test_wrong_answers(self) -> None:
        for nodes, f, words in (
            ((), 0, "no nodes"),
            ((0, 10), 0, "name node 10: the run has nodes 0 to 9"),
            ((-1, 3), 0, "name node -1"),
            ((3, 1), 0, "are 3, 1: name each node once, in ascending order"),
            ((1, 1), 0, "are 1, 1"),
            ((8, 9), 0, "Byzantine nodes 8, 9 alone"),
            ((0, 1), -1, "f = -1"),
            ((0, 1, 2, 3), 3, "f = 3, and the run has --f 2"),
            ((0, 1), 2, "are 2 with f = 2, which leaves none honest"),
        ):
            with self.subTest(words):
                self.assert_refused(Participants(nodes, f), words)
        for spare, words in (
            ((3, 10), "name node 10: the run has nodes 0 to 9"),
            ((3, 1), "have the spare nodes 3, 1: name others than the participants, once"),
            ((3, 3), "have the spare nodes 3, 3"),
        ):
            self.assert_refused(Participants((0, 1), 1, spare), words)

    def test_another_type(self) -> None:
        self.assert_refused([0, 1], "list", "expected Participants(nodes, f)")

    def test_enormous_numbers(self) -> None:
        """Numbers of more digits than Python prints end in a line as others do."""
        self.assert_refused(Participants((0, 10**5000), 1), "name node (int)")
        self.assert_refused(Participants((0, 1), -(10**5000)), "f = (int)")

    def test_numbers(self) -> None:
        """NumPy's and torch's integers are taken, and become Python's; others are errors."""
        made = Participants(np.array([0, 2]), torch.tensor(1))  # type: ignore[arg-type]
        self.assertEqual(made, Participants((0, 2), 1))
        json.dumps(made.nodes)
        self.assertRaises(TypeError, Participants, [0.5], 0)
        self.assertRaises(TypeError, Participants, [0], "1")

    @given(st.sets(st.integers(0, N - 1), min_size=1), st.integers(0, 2))
    def test_samples(self, nodes: set[int], f: int) -> None:
        """Any part of the nodes with an honest one and a budget below its size is taken."""
        asked = Participants(sorted(nodes), f)
        if min(nodes) < HONEST and f < len(nodes):
            self.assertIs(check_participants(asked, 0, options("dsgd"), "x"), asked)
        else:
            self.assertRaises(BadRuleOutput, check_participants, asked, 0, options("dsgd"), "x")


def half(self: Dsgd, state: State) -> Participants:
    return Participants(range(state.round % 2, N, 2), 1)


class NoticeTests(SynchronousTestCase):
    """The sizes of rounds are told and checked before round 0."""

    def notices(self, answer: Callable[[Dsgd, State], Any], **more: Any) -> list[str]:
        names = registry_of(naming(answer))
        return guarantee_notices(resolve_rules(options("named", **more), names))

    def test_all(self) -> None:
        """Nothing is told where all nodes take part with the budget of the run."""
        config = options("dsgd")
        self.assertEqual(guarantee_notices(resolve_rules(config, load(only=()))), [])

    def test_some(self) -> None:
        self.assertEqual(
            self.notices(half),
            ["--algorithm named: 5 of 10 nodes take part in a round, and f = 1 of them may be "
             "faulty (--f 2)"],
        )  # fmt: skip

    def test_another_budget(self) -> None:
        told = self.notices(lambda self, state: Participants(range(N), 1), num_byz=1, num_honest=9)
        self.assertIn("10 of 10 nodes take part in a round, and f = 1 of them", told[0])

    def test_several_sizes(self) -> None:
        """The notice says how many rounds of a long run were looked at."""
        told = self.notices(
            lambda self, state: Participants(range(5 + state.round % 3), 2), rounds=5000
        )
        self.assertIn("5 to 7 of 10 nodes take part in a round, and f = 2 of them", told[0])
        self.assertIn("in the 1000 rounds of 5000 that were looked at", told[0])

    def test_not_computable(self) -> None:
        """A rule that cannot be computed with a round's participants is refused."""
        with self.assertRaisesRegex(ConfigError, "trimmed-mean: round 1, of 4 nodes with f = 2: "):
            self.notices(lambda self, state: Participants(range(4 if state.round else 10), 2))

    def test_no_guarantee(self) -> None:
        told = self.notices(half, aggregator="krum", f=1, num_byz=1, num_honest=9)
        self.assertEqual(len(told), 1, told)  # n = 5 > 2f + 2
        told = self.notices(
            lambda self, state: Participants(range(state.round % 2, N, 2)[:4], 1),
            aggregator="krum", f=1, num_byz=1, num_honest=9,
        )  # fmt: skip
        self.assertRegex(told[1], "no guarantee: krum: round 0, of 4 nodes with f = 1: .*n=4, f=1")

    def test_more_byzantine_nodes_than_f(self) -> None:
        """A sample with more Byzantine nodes than its budget is no less than a run with them."""
        asked = Participants((0, 1, 2, 8, 9), 1)
        self.assertIn(
            "round 0, of 5 nodes with f = 1: 2 Byzantine nodes are more than f = 1",
            self.notices(lambda self, state: asked)[1],
        )
        self.assertRaises(GuaranteeMissing, self.notices, lambda self, s: asked, strict=True)

    def test_once(self) -> None:
        """More Byzantine nodes than f are told once, and another gap besides."""
        for aggregator, count in (("median", 1), ("krum:f=1", 2)):
            config = options("dsgd", aggregator=aggregator, f=2, num_byz=3, num_honest=7)
            told = guarantee_notices(resolve_rules(config, load(only=())))
            self.assertEqual(len(told), count, told)
            self.assertEqual("; ".join(told).count("3 Byzantine nodes are more than f = 2"), 1)

    def test_a_rules_own_smaller_f(self) -> None:
        """It is reported, also behind another rule, and refused under --strict alone."""
        names = load(only=())
        for pre, aggregator in (((), "krum:f=1"), (("nnm:f=0",), "trimmed-mean")):
            given = {"aggregator": aggregator, "pre_aggregator": pre}
            config = options("dsgd", f=2, num_byz=2, num_honest=8, **given)
            [told] = guarantee_notices(resolve_rules(config, names))
            self.assertRegex(told, "f=[01] is run with less than f = 2: it promises nothing for 2")
            strict = evolve(config, strict=True)
            self.assertRaises(GuaranteeMissing, resolve_rules, strict, names)
            [line] = list_feasible_rules(config, names, round_sizes(config, names))[:1]
            self.assertIn("run with less than f = 2", line.unguaranteed or "")

    def test_doctor(self) -> None:
        """The table of rules is for the sizes of the rounds."""
        names = registry_of(naming(half))
        config = options("named", aggregator="krum")
        sizes = round_sizes(config, names)
        self.assertEqual([(size.n, size.f) for size in sizes], [(5, 1)])
        found = {line.rule: line for line in list_feasible_rules(config, names, sizes)}
        self.assertEqual((found["krum"].most_f, found["krum"].unguaranteed), (1, None))
        self.assertIn("n >= 4f + 3, got n=5, f=1", found["bulyan"].unguaranteed or "")

    def test_errors(self) -> None:
        """An exception and an impossible answer name the distribution before anything starts."""
        with self.assertRaisesRegex(BadRuleOutput, "algorithm 'named' of acme .* division by zero"):
            self.notices(lambda self, state: 1 / 0)
        with self.assertRaisesRegex(BadRuleOutput, "of acme .*round 4 name node 10"):
            self.notices(lambda self, state: Participants((0, 10) if state.round == 4 else (0,), 0))


class TrialTests(SynchronousTestCase):
    """An algorithm that could spoil a run, or could not be repeated, is found before round 0."""

    def trial(self, made: type, **more: Any) -> None:
        config = options(made.__name__.lower(), worker_momentum=0.5, **more)
        try_algorithm(config, registry_of(made), 40)

    def assert_unfit(self, error: type[PluginError], words: str, made: type) -> None:
        with self.assertRaisesRegex(error, words) as caught:
            self.trial(made)
        self.assertIn("of acme", str(caught.exception))

    def test_fit(self) -> None:
        for optimizer in ("sgd", "adam"):
            for attack in ("alie:tau=1.5", "replay:age=1", "mimic"):
                self.trial(naming(half), optimizer=optimizer, attack=attack)

    def test_memory(self) -> None:
        """Participants that depend on what was asked before, or on more than the round."""
        calls: list[int] = []

        def counts(self: Dsgd, state: State) -> Participants:
            calls.append(1)
            return Participants(range(len(calls) % 2, N, 2), 1)

        self.assert_unfit(BrokenPlugin, "other participants of round 0", naming(counts))

        def by_parameters(self: Dsgd, state: State) -> Participants:
            return Participants(range(int(state.parameters.numel() > 0), N, 2), 1)

        words = "other participants of round 0 .*function of the options and of"
        self.assert_unfit(BrokenPlugin, words, naming(by_parameters))

    def test_draws(self) -> None:
        def draws(self: Dsgd, state: State) -> Participants:
            return Participants(sorted(np.random.choice(HONEST, 6, replace=False)), 1)

        self.assert_unfit(BrokenPlugin, "draws from NumPy's global generator", naming(draws))

    def test_writes(self) -> None:
        """Writes to others' memory, through torch and past it."""

        class Halves(Dsgd):
            def receive(self, state: State, node: int, sent: Tensor) -> Tensor:
                return sent.mul_(0.5)

        self.assert_unfit(BadRuleOutput, "receive wrote to the vectors", Halves)

        class Clears(Dsgd):
            def aggregate(self, state: State, nodes: Any, f: int, matrix: Tensor) -> Aggregated:
                made = super().aggregate(state, nodes, f, matrix)
                matrix.numpy()[0] = 0
                return made

        self.assert_unfit(BadRuleOutput, "aggregate wrote to the vectors", Clears)

        class Moves(Dsgd):
            def request(self, state: State) -> Tensor:
                return state.parameters.add_(1)

        self.assert_unfit(BadRuleOutput, "request wrote to the vectors", Moves)

    def test_in_place(self) -> None:
        """Memory that is reused must hold what would be there otherwise."""

        class Forgets(Dsgd):
            def advance(self, state: State, *given: Any, reuse: bool = False, **more: Any) -> State:
                after = super().advance(state, *given, reuse=reuse, **more)
                return evolve(after, momenta={}) if reuse else after

        self.assert_unfit(BrokenPlugin, "other states where advance is called with reuse", Forgets)

    def test_keeps_a_count(self) -> None:
        class Counts(Dsgd):
            calls: list[int] = []

            def receive(self, state: State, node: int, sent: Tensor) -> Tensor:
                self.calls.append(node)
                return sent * (1 + len(self.calls))

        self.assert_unfit(BrokenPlugin, "comes to other states", Counts)

    def test_answers(self) -> None:
        """Each method's answer is checked."""
        wrong: Mapping[str, Any] = {
            "request": torch.zeros(3), "receive": [1.0], "reveal": None, "past_vectors": (),
            "aggregate": 3, "advance": None, "begin": 7,
        }  # fmt: skip
        for method, answer in wrong.items():
            with self.subTest(method):
                made = type("Odd", (Dsgd,), {method: lambda self, *given, _a=answer, **more: _a})
                self.assert_unfit(BadRuleOutput, f"{method} returned", made)


class GuardTests(SynchronousTestCase):
    def guarded(self, made: type) -> GuardedAlgorithm:
        config = options(made.__name__.lower())
        found = resolve_rules(config, registry_of(made)).make_algorithm()
        assert isinstance(found, GuardedAlgorithm)
        return found

    def test_rows_are_copied(self) -> None:
        """Rows that a state keeps do not change with the vectors of the next round."""

        class Keeps(Dsgd):
            def advance(self, state: State, nodes: Sequence[int], matrix: Tensor,
                        *given: Any, **more: Any) -> State:  # fmt: skip
                after = super().advance(state, nodes, matrix, *given, **more)
                return evolve(after, momenta={0: matrix[0]})

        made = self.guarded(Keeps)
        state, matrix = made.begin(torch.zeros(3)), torch.ones(N, 3)
        aggregated = made.aggregate(state, tuple(range(N)), 1, matrix)
        after = made.advance(state, range(N), matrix, aggregated, {}, reuse=True)
        matrix.zero_()
        self.assertEqual(after.momenta[0].tolist(), [1.0] * 3)

    def test_diverged(self) -> None:
        """A step to infinity is the run's end, and no fault of the plugin's."""
        made = self.guarded(type("Plain", (Dsgd,), {}))
        state, matrix = made.begin(torch.zeros(3)), torch.ones(N, 3)
        aggregated = made.aggregate(state, tuple(range(N)), 1, matrix)
        wrong = evolve(aggregated, vector=torch.full((3,), float("inf")))
        self.assertRaises(Diverged, made.advance, state, range(N), matrix, wrong, {})

    def test_conditions(self) -> None:
        for method in ("computable", "guarantee"):
            made = type("Odd", (Dsgd,), {method: lambda self, n, f: False})
            with self.assertRaisesRegex(BadRuleOutput, f"of acme .*{method} returned bool"):
                self.guarded(made)

    def test_words(self) -> None:
        """Reasons are a line of text, whatever they are made of."""
        for method in ("computable", "guarantee"):
            text = "one\ntwo \x1b[31m" + "x" * 999
            made = type("Odd", (Dsgd,), {method: lambda self, n, f, text=text: text})
            plain: Any = self.guarded(type("Plain", (Dsgd,), {}))
            odd = GuardedAlgorithm(made(plain.config, plain.made.rules), plain.config, "x")
            why = getattr(odd, method)(N, 1)
            assert why is not None
            self.assertTrue(why.startswith("one two [31mx") and len(why) <= 500, why)

    def test_odd_answers(self) -> None:
        """Answers of the right class with anything in them are blamed on their distribution."""
        loop: dict[str, Any] = {}
        loop["again"] = loop
        wrong: Sequence[tuple[str, Mapping[str, Any]]] = (
            ("aggregate", {"vector": None}),
            ("aggregate", {"vector": np.zeros(3, "float32")}),
            ("aggregate", {"vector": torch.zeros(3, device="meta")}),
            ("aggregate", {"selected": 3}),
            ("aggregate", {"selected": [[1]]}),
            ("aggregate", {"selected": (0.0, 1.0)}),
            ("aggregate", {"selected": (0, 0)}),
            ("aggregate", {"byzantine_weight": 1.5}),
            ("aggregate", {"byzantine_weight": float("nan")}),
            ("aggregate", {"byzantine_weight": torch.tensor(0.5)}),
            ("aggregate", {"memory": None}),
            ("aggregate", {"memory": loop}),
            ("advance", {"round": torch.tensor([1, 1])}),
            ("advance", {"round": 1.0}),
            ("advance", {"round": 10**5000}),
            ("advance", {"momenta": None}),
            ("advance", {"momenta": {np.int64(0): torch.zeros(3)}}),
            ("advance", {"history": loop}),
            ("advance", {"history": {0: {1, 2}}}),
            ("advance", {"optimizer": 3}),
            ("reveal", {"pieces": None}),
            ("reveal", {"pieces": {"all": torch.zeros(3)}}),
            ("reveal", {"pieces": {"mean": torch.zeros(2)}}),
            ("reveal", {"pieces": {"mean": torch.zeros(3, dtype=torch.float64)}}),
            ("reveal", {"memory": None}),
        )
        for method, changed in wrong:
            with self.subTest(f"{method}: {list(changed)}"):

                def answer(self: Any, *given: Any, _m: Any = method, _c: Any = changed,
                           **more: Any) -> Any:  # fmt: skip
                    return evolve(getattr(Dsgd, _m)(self, *given, **more), **_c)

                made = self.guarded(type("Odd", (Dsgd,), {method: answer}))
                with self.assertRaisesRegex(BadRuleOutput, "^algorithm 'odd' of acme"):
                    self.round(made)
        for method, made_of in (("receive", lambda v: v * float("nan")),
                                ("request", lambda v: v * float("nan"))):  # fmt: skip

            def spoil(self: Any, *given: Any, _m: Any = method, _f: Any = made_of) -> Any:
                return _f(getattr(Dsgd, _m)(self, *given))

            made = self.guarded(type("Odd", (Dsgd,), {method: spoil}))
            with self.assertRaisesRegex(BadRuleOutput, f"^algorithm 'odd' of acme.*{method}.*NaN"):
                self.round(made)
        for past in ({"x": 1}, {0: torch.zeros(3)}, {HONEST: torch.zeros(2)}, {HONEST: "x"}):
            made = self.guarded(type("Odd", (Dsgd,), {"past_vectors": lambda self, s, p=past: p}))
            with self.assertRaisesRegex(BadRuleOutput, "^algorithm 'odd' of acme.*past_vectors"):
                self.round(made)

    def round(self, made: GuardedAlgorithm) -> State:
        """Return the state after a round with three parameters."""
        state, matrix = made.begin(torch.zeros(3)), torch.ones(N, 3)
        made.request(state)
        for node in range(N):
            made.receive(state, node, matrix[node])
        shown = made.reveal(state, range(HONEST), matrix[:HONEST], 1)
        made.past_vectors(state)
        aggregated = made.aggregate(state, tuple(range(N)), 1, matrix)
        return made.advance(state, range(N), matrix, aggregated, shown.memory)

    def test_numbers_of_others(self) -> None:
        """NumPy's and torch's integers become Python's, tensors what can be written and sent."""

        class Odd(Dsgd):
            def aggregate(self, *given: Any) -> Aggregated:
                made = super().aggregate(*given)
                return evolve(made, selected=np.array([0, 2]), vector=made.vector.requires_grad_())

            def request(self, state: State) -> Tensor:
                return torch._neg_view(super().request(state)).requires_grad_()

            def advance(self, *given: Any, **more: Any) -> State:
                after = super().advance(*given, **more)
                strided = torch.zeros(6)[::2]
                return evolve(after, round=np.int64(after.round), parameters=strided)

        made = self.guarded(Odd)
        state, matrix = made.begin(torch.zeros(3)), torch.ones(N, 3)
        sent = made.request(state)
        self.assertFalse(sent.is_neg() or sent.requires_grad)
        aggregated = made.aggregate(state, tuple(range(N)), 1, matrix)
        json.dumps(aggregated.selected)
        self.assertFalse(aggregated.vector.requires_grad)
        after = made.advance(state, range(N), matrix, aggregated, {})
        self.assertIs(type(after.round), int)
        self.assertTrue(after.parameters.is_contiguous())

    def test_blame(self) -> None:
        class Raises(Dsgd):
            def reveal(self, state: State, nodes: Any, rows: Tensor, f: int) -> Revealed:
                raise SystemExit(3)

        made = self.guarded(Raises)
        with self.assertRaisesRegex(BadRuleOutput, "algorithm 'raises' of acme .* SystemExit"):
            made.reveal(made.begin(torch.zeros(3)), (0,), torch.ones(1, 3), 1)


class SurveyTests(SynchronousTestCase):
    def test_each_size_once(self) -> None:
        config = options("dsgd", rounds=7)
        found = survey(config, lambda state: Participants(range(3 + state.round % 2), 1))
        self.assertEqual([(s.n, s.f, s.byzantine, s.round) for s in found.sizes],
                         [(3, 1, 0, 0), (4, 1, 0, 1)])  # fmt: skip
        self.assertEqual(found.seen, 7)

    def test_bare_state(self) -> None:
        self.assertEqual((bare_state(3).round, bare_state(3).parameters.numel()), (3, 0))


DATA: dict[str, Any] = {
    "dataset": "synthetic:n=600,classes=4,features=9", "model": "logreg", "batch_size": 8,
    "threads": 1, "quiet": True, "eval_interval": 3,
}  # fmt: skip


class RunTests(TestCase):
    """A plugin's algorithm in a run of one process."""

    async def test_pause_in_a_round(self) -> None:
        """An answer that the trial did not see pauses the run before its round."""
        answers: list[int] = []

        def fails(self: Dsgd, state: State) -> Participants:
            if state.round == 4 and state.parameters.numel() == 40:
                answers.append(1)
                return Participants((3, 1), 1)
            return Participants(range(0, N, 2), 1)

        path = folder(self) / "run"
        config = options("named", **DATA, run_dir=str(path))
        ended = await run_prepared(
            reactor, prepare_run(config, registry_of(naming(fails))), str
        )  # fmt: skip
        assert ended.error is not None
        self.assertEqual((ended.error.code, ended.code), ("BAD_RULE_OUTPUT", 3))
        self.assertRegex(str(ended.error), "of acme .* participants of round 4 are 3, 1")
        result = json.loads((path / RESULT).read_text())
        self.assertEqual((result["status"], result["rounds"]), ("paused", 4))
        self.assertEqual(len(read_run(path).rounds), 4)
        self.assertEqual(len(answers), 1)

    async def test_receive(self) -> None:
        """A plugin's own `receive` is called for each vector, also of Byzantine nodes."""

        class Clips(Dsgd):
            def receive(self, state: State, node: int, sent: Tensor) -> Tensor:
                return sent.clamp(-1e-4, 1e-4)

        path = folder(self) / "run"
        config = options("clips", **DATA, attack="empire", aggregator="mean", f=2,
                         run_dir=str(path))  # fmt: skip
        ended = await run_prepared(reactor, prepare_run(config, registry_of(Clips)), str)
        self.assertIsNone(ended.error)
        for record in read_run(path).rounds:
            self.assertLessEqual(record["aggregate_norm"], 1e-4 * 40**0.5)
            sent = [record["norms"][str(node)] for node in range(HONEST)]  # as they came
            self.assertGreater(min(sent), 1e-4 * 40**0.5)


class StreamTests(SynchronousTestCase):
    def test_seeded(self) -> None:
        """The way of the documentation: a stream of the run's seed and the round."""

        def drawn(self: Dsgd, state: State) -> Participants:
            stream = seeds.stream(self.config.seed, "participants", state.round)
            return Participants(sorted(stream.choice(HONEST, 6, replace=False)), 2)

        try_algorithm(options("named"), registry_of(naming(drawn)), 40)
