"""``--weights`` and ``--max-weight``: nodes' weights from the operator, and from nobody else."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import unittest
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase, TestCase

import byzpy_tw
from byzpy_tw.aggregators import GeometricMedian, Mean, Median, TrimmedMean
from byzpy_tw.algorithms.dsgd import Dsgd
from byzpy_tw.algorithms.node_weights import NodeWeights, capped
from byzpy_tw.algorithms.participation import Participants, RoundSize
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.algorithms.state import State
from byzpy_tw.audit.replay import ImmediateExecutor
from byzpy_tw.audit.verify import Verification
from byzpy_tw.config.merge import drop_unused
from byzpy_tw.config.run_config import RunConfig, from_dict
from byzpy_tw.errors import ConfigError, GuaranteeMissing, RunDirectoryError
from byzpy_tw.plugins import load
from byzpy_tw.records.folder import read_run
from byzpy_tw.records.resume import merge_config
from byzpy_tw.records.weights_file import FILE, identify_weights, read_weights
from byzpy_tw.report.result import Result
from byzpy_tw.rounds.feasibility import list_feasible_rules
from byzpy_tw.sweep.grid import command_line
from byzpy_tw.sweep.run_lines import check_records
from byzpy_tw.testing.properties import aggregator_tests
from byzpy_tw.workers.shards import examples_of_nodes
from byzpy_tw.workers.spec import RunSpec
from tests.support import folder
from tests.sweep_grids import grid_of
from tests.test_participation import naming, registry_of
from tests.weighing_rule import GIVEN, Watching

ROOT = Path(__file__).parent.parent

quick = settings(deadline=None, max_examples=60)
some = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=2, max_size=9).filter(any)

RUN: dict[str, Any] = {
    "dataset": "synthetic:n=300,features=9", "model": "logreg", "batch_size": 4, "rounds": 6,
    "threads": 1, "num_honest": 5, "num_byz": 2, "f": 2, "aggregator": "geometric-median",
    "attack": "sign-flip", "eval_interval": 0, "in_process": True, "checkpoint_interval": 2,
    "partition": "dirichlet:alpha=2", "show": None,
}  # fmt: skip


def config(**more: Any) -> RunConfig:
    return RunConfig(**{k: v for k, v in {**RUN, **more}.items() if k != "show"})


def write(path: Path, weights: Any = GIVEN) -> Path:
    path.write_text("".join(f"{node},{weight}\n" for node, weight in enumerate(weights)))
    return path


class SharesTests(SynchronousTestCase):
    @quick
    @given(some, st.data())
    def test_of_rows(self, weights: list[float], data: st.DataObject) -> None:
        """The shares of any nodes have a sum of one, and the same ratios, in any order."""
        found = NodeWeights.of(weights)
        nodes = data.draw(st.permutations(range(len(weights))))
        nodes = nodes[: data.draw(st.integers(1, len(nodes)))]
        total = math.fsum(weights[node] for node in nodes)
        if not total:
            return
        shares = found.of_rows(nodes)
        self.assertEqual((shares.dtype, shares.shape), (torch.float64, (len(nodes),)))
        wanted = [weights[node] / total for node in nodes]
        np.testing.assert_allclose(shares.numpy(), wanted, rtol=1e-12)

    @quick
    @given(some, st.integers(-20, 20))
    def test_scale(self, weights: list[float], power: int) -> None:
        """Powers of two change no bit, and so no digest."""
        scaled = NodeWeights.of([weight * 2.0**power for weight in weights])
        self.assertEqual(scaled.digest, NodeWeights.of(weights).digest)

    @quick
    @given(some, st.data())
    def test_heaviest_share(self, weights: list[float], data: st.DataObject) -> None:
        """It is the largest over all samples, and all choices of f of their nodes."""
        found = NodeWeights.of(weights)
        n = data.draw(st.integers(1, len(weights)))
        f = data.draw(st.integers(0, n - 1))
        weightless = False
        worst = 0.0
        for sample in itertools.combinations(weights, n):
            heavy = math.fsum(sorted(sample)[n - f :])
            weightless |= math.fsum(sorted(sample)[: n - f]) == 0
            worst = max(worst, heavy / math.fsum(sample) if any(sample) else 0.0)
        self.assertAlmostEqual(found.heaviest_share(n, f), worst, places=9)
        self.assertEqual(found.weightless(n, f), weightless)

    def test_told_once(self) -> None:
        self.assertEqual(NodeWeights.of([1, 3]).describe()["shares"], [0.25, 0.75])
        large = NodeWeights.of(range(100_000)).describe()
        self.assertIsNone(large["shares"])
        self.assertLess(len(json.dumps(large)), 300)


class CapTests(SynchronousTestCase):
    @quick
    @given(some, st.floats(0.05, 1.0))
    def test_fixed_point(self, weights: list[float], most: float) -> None:
        """None has more than the cap; lighter ones keep their ratios; again changes nothing."""
        shares = NodeWeights.of(weights).shares
        if most * sum(map(bool, weights)) < 1:
            self.assertRaises(ConfigError, capped, shares, most)
            return
        found = capped(shares, most)
        self.assertLessEqual(float(found.max()), most * (1 + 1e-9))
        self.assertAlmostEqual(float(found.sum()), 1.0)
        torch.testing.assert_close(capped(found, most), found, rtol=1e-9, atol=0)
        self.assertEqual((found > 0).tolist(), (shares > 0).tolist())
        light = found < most * (1 - 1e-9)
        if bool(light.any()) and float(shares.max()) > most:
            self.assertAlmostEqual(float(found[~light].max()), most)
            grown = found[light & (shares > 0)] / shares[light & (shares > 0)]
            torch.testing.assert_close(grown, grown[:1].expand_as(grown), rtol=1e-9, atol=0)

    def test_worked_out_by_hand(self) -> None:
        """With 1, 1, 2 and 16, at most 40 %, 16 is cut to t = 0.4 (4 + t), that is 8/3."""
        found = NodeWeights.of([1, 1, 2, 16], 0.4).shares
        torch.testing.assert_close(found, torch.tensor([0.15, 0.15, 0.3, 0.4]).double())
        equal = NodeWeights.of([1, 1, 2, 16], 0.25).shares
        torch.testing.assert_close(equal, torch.full((4,), 0.25).double())

    def test_nothing_to_cut(self) -> None:
        self.assertEqual(NodeWeights.of(GIVEN, 0.5).digest, NodeWeights.of(GIVEN).digest)

    def test_impossible(self) -> None:
        words = "--max-weight 0.2 cannot be kept: of 3 nodes .* 1/3 = 0.333334; use that or more"
        with self.assertRaisesRegex(ConfigError, words):
            NodeWeights.of([1, 0, 2, 3], 0.2)
        NodeWeights.of([1, 0, 2, 3], 0.333334)
        with self.assertRaisesRegex(ConfigError, "none of the 2 nodes has a weight above 0"):
            NodeWeights.of([0, 0])


class ExamplesTests(SynchronousTestCase):
    def test_of_nodes(self) -> None:
        """A Byzantine node has a copy of an honest node's shard, or one of those beyond."""
        spec = RunSpec(
            dataset="x", model="x", partition="x", shards=3, seed=1, batch_size=1,
            micro_batch_size=1, n=7, f=1,
        )  # fmt: skip
        self.assertEqual(examples_of_nodes([5, 6, 7], spec), [5, 6, 7, 5, 6, 7, 5])
        self.assertEqual(examples_of_nodes([5, 6, 7, 8, 9], spec), [5, 6, 7, 8, 9, 8, 9])


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = folder(self)
        self.path = self.folder / "sites.csv"

    def read(self, text: str | bytes) -> list[float]:
        data = text if isinstance(text, bytes) else text.encode()
        self.path.write_bytes(data)
        return read_weights(config(weights=str(self.path), num_honest=2, num_byz=1), None, {})

    def test_forms(self) -> None:
        for text in (
            "0,1\n1,2.5\n2,0\n",
            "node,weight\r\n0,1\r\n1,2.5\r\n2,0\r\n",
            "# the sites\n\nNode, Weight\n2, 0\n 1 ,2.5e0\n# all\n0,1",
            b"\xef\xbb\xbf0,1\n1,2.5\n2,-0.0\n",
        ):
            self.assertEqual(self.read(text), [1.0, 2.5, 0.0], text)

    def test_mistakes(self) -> None:
        """Each is told in one line, with the file and the line."""
        for text, words in (
            ("0,1\n1,x\n2,1\n", "sites.csv, line 2: expected a weight of 0, or from .* got 'x'"),
            ("0,1\n1,-1\n2,1\n", "line 2: expected a weight of 0"),
            ("0,nan\n", "line 1: expected a weight of 0"),
            ("0,inf\n", "line 1: .* got 'inf'"),
            ("0,1e-31\n", "line 1: .* got '1e-31'"),
            ("0;1\n", "line 1: expected NODE,WEIGHT, got '0;1'"),
            ("0,1,2\n", "line 1: expected NODE,WEIGHT, got '0,1,2'"),
            ("0,1\n\n3,1\n", "line 3: expected a node from 0 to 2, got '3'"),
            ("-1,1\n", "line 1: expected a node from 0 to 2, got '-1'"),
            ("0,1\nnode,weight\n", "line 2: expected a node from 0 to 2, got 'node'"),
            ("9" * 5000 + ",1\n", "line 1: expected a node from 0 to 2, got '9999"),
            ("0,1\n1,1\n0,2\n", "line 3: node 0 has a weight already, on line 1"),
            ("1,1\n", "no weight of node 0 and 1 more: the run has n = 3 nodes, 0 to 2"),
            ("0,1\n1,1\n", "no weight of node 2: the run"),
            (b"PK\x03\x04\xff", "is a zip archive, expected lines NODE,WEIGHT"),
            (b"\xff\xfe\x00", "is no text, expected lines NODE,WEIGHT"),
            ("", "is empty; name a file, or use --weights equal"),
            ("0,\x1b[31m\n", r"got '\\x1b\[31m'"),
        ):
            with self.assertRaisesRegex(ConfigError, words) as caught:
                self.read(text)
            self.assertNotIn("\n", str(caught.exception))
            self.assertIn(str(self.path), str(caught.exception))
        with self.assertRaisesRegex(ConfigError, "is not there; name a file"):
            identify_weights(config(weights=str(self.folder / "other.csv")))
        with self.assertRaisesRegex(ConfigError, "is a folder"):
            identify_weights(config(weights=str(self.folder)))

    def test_its_content_decides(self) -> None:
        """The SHA-256 is among the options that decide bits, and the path is not."""
        one = identify_weights(config(weights=str(write(self.path))))
        self.assertEqual(one.weights_sha256, hashlib.sha256(self.path.read_bytes()).hexdigest())
        copy = identify_weights(config(weights=str(write(self.folder / "copy.csv"))))
        other = identify_weights(config(weights=str(write(self.folder / "other.csv", range(7)))))
        self.assertEqual(one.bits, copy.bits)
        self.assertNotIn("weights", one.result_options)
        self.assertEqual(len({one.bits, other.bits, config().bits}), 3)
        with self.assertRaisesRegex(ConfigError, "must have .*put that file there, or begin"):
            identify_weights(evolve(one, weights=other.weights))

    def test_equal_weights_are_no_option(self) -> None:
        """A run without weights has the digest that it always had."""
        plain = config()
        self.assertFalse([name for name in plain.result_options if "weight" in name and
                          name != "weight_decay"])  # fmt: skip
        known = plain.to_dict()
        for name in ("weights", "weights_sha256", "max_weight"):
            del known[name]
        self.assertEqual(from_dict(known).bits, plain.bits)
        self.assertNotEqual(config(weights="examples").bits, plain.bits)

    def test_resuming(self) -> None:
        """The file may lie elsewhere; weights of another kind would make it another run."""
        saved = identify_weights(config(weights=str(write(self.path))))
        again = merge_config(saved, {"weights": "elsewhere.csv"})
        self.assertEqual(again.bits, saved.bits)
        for name, value in (("weights", "examples"), ("weights", "equal"), ("max_weight", 0.5)):
            with self.assertRaisesRegex(ConfigError, "would make it another run"):
                merge_config(saved, {name: value})
        with self.assertRaisesRegex(ConfigError, "would make it another run"):
            merge_config(config(weights="examples"), {"weights": str(self.path)})

    def test_the_copy(self) -> None:
        """A run on record has one in its folder, which must be the file that it began with."""
        made, given = folder(self), identify_weights(config(weights=str(write(self.path))))
        self.assertEqual(read_weights(given, made, {}, keep=True), list(GIVEN))
        self.assertEqual((made / FILE).read_bytes(), self.path.read_bytes())
        self.path.unlink()
        self.assertEqual(read_weights(given, made, {"run": "x"}), list(GIVEN))
        write(made / FILE, range(7))
        with self.assertRaisesRegex(RunDirectoryError, "has the SHA-256 .* and must have"):
            read_weights(given, made, {"run": "x"})


class PageTests(SynchronousTestCase):
    def test_the_danger(self) -> None:
        """The page's example holds: the smallest site moves a weighted mean by five norms."""
        page = ROOT / "docs" / "how-to" / "weigh-nodes.md"
        [source] = re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.S | re.M)
        found: dict[str, Any] = {}
        exec(compile(source, str(page), "exec"), found)  # documentation of ours
        self.assertGreater(found["moved"]["mean"], 5.5)
        self.assertLess(found["moved"]["clipping:c=32 | mean"], 0.04)


class RefusalTests(SynchronousTestCase):
    def refused(self, words: str, **options: Any) -> None:
        with self.assertRaisesRegex(ConfigError, words):
            resolve_rules(config(**{"weights": "examples", **options}), load(only=()))

    def test_rules(self) -> None:
        """One line names the rule and those that take weights."""
        self.refused(
            "--weights examples: krum takes no weights; use one that does "
            r"\(geometric-median, mean, median, .*trimmed-mean\), or --weights equal",
            aggregator="krum",
        )
        for pre in ("nnm", "bucketing:s=2"):
            self.refused(f"{pre} makes rows of several nodes' vectors", pre_aggregator=pre)
        for pre in ("clipping:c=1", "arc"):
            resolve_rules(config(weights="examples", pre_aggregator=pre), load(only=()))

    def test_doctor_lists_them(self) -> None:
        """Rules that take no weights are none that a run with weights may have."""
        registry, given = load(only=()), config(weights="examples")
        found = list_feasible_rules(given, registry, (RoundSize(7, 2, 2, 0),))
        able = {each.rule for each in found if each.uncomputable is None}
        self.assertLessEqual({"geometric-median", "mean", "median", "trimmed-mean"}, able)
        self.assertNotIn("krum", able)

    def test_local_data(self) -> None:
        self.refused("no use with --partition local: each site would say", partition="local")
        resolve_rules(config(weights="a.csv", partition="local"), load(only=()))

    def test_options_without_use(self) -> None:
        for options, words in (
            ({"max_weight": 0.5}, "--max-weight has no use with --weights equal"),
            ({"weights_sha256": "0" * 64}, "--weights-sha256 has no use with --weights equal"),
        ):
            with self.assertRaisesRegex(ConfigError, words):
                drop_unused(config(**options))
        for wrong in (0.0, 1.5, math.nan):
            with self.assertRaisesRegex(ConfigError, "--max-weight must be"):
                config(max_weight=wrong)

    def test_half_of_the_weight(self) -> None:
        """The f heaviest nodes are told of; where they have half, there is no guarantee."""
        rules = resolve_rules(config(weights="w.csv"), load(only=()))
        self.assertEqual(
            rules.use_weights(NodeWeights.of(GIVEN)),
            [
                "no guarantee: --weights w.csv: the f = 2 heaviest of 7 nodes have 0.5 of the "
                "weight, and no rule withstands faulty nodes with half of it or more (--strict "
                "makes this an error)"
            ],
        )
        self.assertIn("half of it", rules.missing_guarantee or "")
        light = resolve_rules(config(weights="w.csv"), load(only=()))
        self.assertEqual(
            light.use_weights(NodeWeights.of(GIVEN, 0.2)),
            ["--weights w.csv: the f = 2 heaviest of 7 nodes have 0.4 of the weight"],
        )
        self.assertIsNone(light.missing_guarantee)
        strict = resolve_rules(config(weights="w.csv", strict=True), load(only=()))
        strict.use_weights(NodeWeights.of(GIVEN, 0.2))
        with self.assertRaisesRegex(GuaranteeMissing, r"have 0.5 of the weight.*\(--strict\)"):
            strict.use_weights(NodeWeights.of(GIVEN))
        none = resolve_rules(config(weights="w.csv", f=0, num_byz=0, num_honest=7), load(only=()))
        self.assertEqual(
            none.use_weights(NodeWeights.of(GIVEN)),
            ["--weights w.csv: the heaviest of 7 nodes has 0.278 of the weight"],
        )

    def test_the_worst_sample(self) -> None:
        """With part of the nodes in a round, it is of the worst part."""

        def four(self: Dsgd, state: State) -> Participants:
            return Participants((0, 1, 2, 3), 1)

        names = registry_of(naming(four))
        rules = resolve_rules(config(weights="w.csv", algorithm="named"), names)
        # The heaviest, 5, beside 1, 1 and 2.
        [told] = rules.use_weights(NodeWeights.of(GIVEN))
        self.assertIn("f = 1 heaviest of a round's 4 nodes, at worst, have 0.556", told)
        with self.assertRaisesRegex(ConfigError, "of 4 nodes without f = 1 none may be left"):
            rules.use_weights(NodeWeights.of([1, 0, 2, 0, 0, 1, 1]))


@frozen(kw_only=True)
class Deaf:
    """Says that it takes weights, and gets none."""

    takes_weights: ClassVar[bool] = True

    def __call__(self, vectors: Tensor) -> Tensor:
        return vectors.mean(dim=0)


@frozen(kw_only=True)
class Ignoring:
    """Says that it takes weights, and ignores them."""

    takes_weights: ClassVar[bool] = True

    def __call__(self, vectors: Tensor, *, context: Any = None) -> Tensor:
        return vectors.mean(dim=0)


class SweepTests(SynchronousTestCase):
    def test_a_file(self) -> None:
        """Its content decides the folder of a run, and its path does not."""
        where, rules = folder(self), ["mean"]
        found = []
        for name, weights in (("a", [1] * 11), ("b", [1] * 11), ("c", [2] * 11)):
            path = write(where / name, weights)
            made = grid_of({"weights": str(path)}, ["none"], rules, [1], load(only=()))
            self.assertIn(f"--weights {path} --weights-sha256 ", command_line(made.runs[0].config))
            found.append(made.runs[0].folder)
        self.assertEqual((found[0], len(set(found))), (found[1], 2))
        with self.assertRaisesRegex(ConfigError, "no folder for the copy of the file of --weights"):
            check_records("lines", made.runs)
        refused = grid_of({"weights": str(path)}, ["none"], ["krum"], [1], load(only=()))
        self.assertIn("krum takes no weights", str(refused.cells[0].impossible))


class KitTests(SynchronousTestCase):
    def failures(self, make: Any) -> list[Any]:
        result = unittest.TestResult()
        tests = aggregator_tests(make, bound=None)
        unittest.defaultTestLoader.loadTestsFromName("test_weights", tests).run(result)
        self.assertEqual(result.testsRun, 1)
        return [*result.failures, *result.errors]

    def test_of_plugins(self) -> None:
        """The kit tells a rule that uses weights from one that does not."""
        for rule in (Mean, Median, TrimmedMean, GeometricMedian):
            self.assertEqual(self.failures(rule), [])
        [(_, told)] = self.failures(Ignoring)
        self.assertIn("weights change nothing", told)


class RunTests(TestCase):
    def setUp(self) -> None:
        self.where = folder(self)
        self.file = write(self.where / "w.csv")

    async def run_of(self, name: str, **options: Any) -> Result:
        where = str(self.where / name)
        return await byzpy_tw.run_async(**{**RUN, "run_dir": where, **options})

    def verified(self, name: str) -> Verification:
        found = Verification(read_run(self.where / name), load(), ImmediateExecutor(), 1)
        found.run()
        return found

    def hashes(self, name: str) -> list[str]:
        return [r["parameters_sha256"] for r in read_run(self.where / name).rounds]

    async def test_file(self) -> None:
        """It decides the bits; a resumed run and `verify` need only the copy in the folder."""
        given = {"weights": str(self.file), "max_weight": 0.25}
        await self.run_of("plain")
        await self.run_of("whole", **given)
        await self.run_of("part", rounds=3, **given)
        write(self.file, range(7))
        with self.assertRaisesRegex(ConfigError, "w.csv would make it another run: .* leave it"):
            await byzpy_tw.run_async(resume=self.where / "part", rounds=6, weights=str(self.file))
        self.file.unlink()
        await byzpy_tw.run_async(resume=self.where / "part", rounds=6, show=None)
        self.assertEqual(self.hashes("part"), self.hashes("whole"))
        self.assertNotEqual(self.hashes("plain"), self.hashes("whole"))
        recorded = read_run(self.where / "whole")
        self.assertEqual(recorded.description["weights"], NodeWeights.of(GIVEN, 0.25).describe())
        self.assertTrue(all("weights" not in record for record in recorded.rounds))
        for name in ("whole", "part"):
            found = self.verified(name)
            self.assertTrue(found.confirmed, found.problems)
        write(self.where / "whole" / FILE, range(7))
        [problem] = self.verified("whole").problems
        self.assertIn("has the SHA-256", problem.text)

    async def test_examples(self) -> None:
        """The partition decides, and a lie about it in config.json is found."""
        await self.run_of("run", weights="examples")
        recorded = read_run(self.where / "run")
        shares = recorded.description["weights"]["shares"]
        self.assertEqual(shares[5:], shares[:2])  # copies of honest nodes' shards
        self.assertNotEqual(shares[0], shares[1])
        self.assertTrue(self.verified("run").confirmed)
        path = self.where / "run" / "config.json"
        changed = json.loads(path.read_text())
        changed["weights"]["shares"][0] = 0.9
        path.write_text(json.dumps(changed))
        [problem] = self.verified("run").problems
        self.assertIn("config.json has the weights [0.9,", problem.text)
        changed["config"]["weights"] = "equal"
        path.write_text(json.dumps(changed))
        first = self.verified("run").problems[0]
        self.assertIn("--weights equal, the records were made with --weights examples", first.text)

    async def test_equal_numbers(self) -> None:
        """A file of equal weights gives the run without weights, to the bit."""
        write(self.file, [2] * 7)
        for rule in ("mean", "median", "trimmed-mean", "geometric-median"):
            await self.run_of(f"{rule}-plain", aggregator=rule)
            await self.run_of(f"{rule}-equal", aggregator=rule, weights=str(self.file))
            self.assertEqual(self.hashes(f"{rule}-plain"), self.hashes(f"{rule}-equal"))

    async def test_byzantine_weight(self) -> None:
        """Its share of the weighted mean is that of the nodes' weights, and is verified."""
        await self.run_of("run", aggregator="mean", weights=str(self.file), attack="none")
        shares = {r["byzantine_weight"] for r in read_run(self.where / "run").rounds}
        self.assertEqual(len(shares), 1)
        self.assertAlmostEqual(shares.pop(), 4 / 18)
        self.assertTrue(self.verified("run").confirmed)

    async def test_no_reply_changes_a_weight(self) -> None:
        """Whatever nodes send or keep back, those that are left share the weight as given."""
        hostile = ("garbage", "silent", "nan", "inf", "huge", "replay")
        for attack in hostile:
            await self.run_of(
                attack, aggregator=Watching, weights=str(self.file), attack=attack, rounds=3,
                round_timeout=0.3,
            )  # fmt: skip
            recorded = read_run(self.where / attack)
            self.assertEqual(len(recorded.rounds), 3)
            self.assertEqual(recorded.description["weights"], NodeWeights.of(GIVEN).describe())
        refused = [bool(read_run(self.where / name).rounds[0]["refused"]) for name in hostile]
        self.assertEqual(refused, [True, True, True, True, True, False])

    async def test_strength(self) -> None:
        """An attack that tries the run's rules tries them with the weights: it is verified."""
        for rule in ("geometric-median", "trimmed-mean"):
            await self.run_of(
                rule, aggregator=rule, attack="opt-alie", weights=str(self.file), rounds=3
            )
            self.assertTrue(self.verified(rule).confirmed)

    async def test_shown_rows_without_weight(self) -> None:
        """A round whose honest nodes have no weight shows them all the same."""
        some = write(self.where / "some.csv", (0, 0, 0, 1, 1, 1, 1))
        for attack in ("sign-flip", "opt-alie"):
            await self.run_of(
                attack, aggregator="median", weights=str(some), attack=attack, f=1, num_honest=4,
                num_byz=3, participants=5, rounds=12,
            )  # fmt: skip
            asked = [record["participants"] for record in read_run(self.where / attack).rounds]
            self.assertTrue(any(3 not in nodes for nodes in asked))
            self.assertTrue(self.verified(attack).confirmed)

    async def test_a_rule_that_gets_none(self) -> None:
        with self.assertRaisesRegex(byzpy_tw.errors.BrokenPlugin, "takes no keyword context"):
            await self.run_of("run", aggregator=Deaf, weights=str(self.file))

    async def test_before_round_zero(self) -> None:
        """A missing guarantee is told, and --strict refuses it."""
        said: list[str] = []
        await self.run_of("run", weights=str(self.file), rounds=1, show=said.append)
        self.assertTrue(any("no guarantee: --weights" in line for line in said), said)
        with self.assertRaisesRegex(GuaranteeMissing, "have 0.5 of the weight"):
            await self.run_of("strict", weights=str(self.file), strict=True)
        with self.assertRaisesRegex(ConfigError, "line 1: expected NODE,WEIGHT"):
            self.file.write_text("nonsense")
            await self.run_of("other", weights=str(self.file))

    @pytest.mark.slow
    async def test_on_servers(self) -> None:
        """The same bits with nodes in other processes."""
        given = {"weights": str(self.file), "in_process": False, "rounds": 4}
        await self.run_of("here", **{**given, "in_process": True})
        await self.run_of("there", **{**given, "threads": 2}, local=2)
        self.assertEqual(self.hashes("here"), self.hashes("there"))
