"""A sweep's grid, options and results."""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import math
import shlex
import shutil
from contextlib import redirect_stderr
from math import inf, nan
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import torch
from safetensors.torch import save_file
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.__main__ import main
from byzpy_tw.cli import sweep as sweep_command
from byzpy_tw.cli.sweep import options
from byzpy_tw.cli.train import configuration
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BadParameter, ConfigError, UnknownName
from byzpy_tw.kernels.cpu import cores
from byzpy_tw.plugins import Registration, hookimpl, load
from byzpy_tw.records.metrics import KINDS
from byzpy_tw.records.summary import AttackFailures
from byzpy_tw.sweep.command import jobs_for
from byzpy_tw.sweep.default_study import ATTACKS, DEFENCES, SEEDS, combine_chains
from byzpy_tw.sweep.grid import Cell, command_line
from byzpy_tw.sweep.resolve import cache_datasets, versions
from byzpy_tw.sweep.result_lines import line_of, of_line
from byzpy_tw.sweep.results import CellResult, Evaluation, read
from byzpy_tw.sweep.scores import goodness
from byzpy_tw.tasks import Classification
from tests.support import folder
from tests.sweep_grids import ended, grid, grid_of, make_grid, outcome


class GridTests(SynchronousTestCase):
    def test_every_pair(self) -> None:
        """A cell for each defence under each attack, a run for each seed, all different."""
        made = grid(seeds=(1, 2))
        self.assertEqual(
            [(cell.defence, cell.attack) for cell in made.cells],
            [(d, a) for d in made.defences for a in made.attacks],
        )
        runs = made.runs
        self.assertEqual([run.config.seed for run in runs], [1, 2] * 4)
        self.assertEqual(len({t.folder for t in runs}), 8)
        [config] = {c.runs[0].config for c in made.cells if (c.row, c.column) == (1, 1)}
        self.assertEqual(
            (config.pre_aggregator, config.aggregator, config.attack),
            (("nnm",), "median", "sign-flip:scale=-5"),
        )

    def test_preaggregators(self) -> None:
        """Each is put before each rule, ``none`` leaves a rule alone, nothing comes twice."""
        self.assertEqual(
            combine_chains(["mean", "arc|krum", "mean"], ["none", "nnm"]),
            ("mean", "nnm | mean", "arc | krum", "nnm | arc | krum"),
        )

    def test_f_is_the_number_of_attackers(self) -> None:
        """Unless it is given."""
        self.assertEqual(grid(num_byz=2).base.f, 2)
        self.assertEqual(grid(num_byz=2, f=1).base.f, 1)

    def test_where(self) -> None:
        """In this process, unless servers are named."""
        self.assertTrue(grid().base.in_process)
        self.assertFalse(grid(local=2).base.in_process)
        self.assertFalse(grid(remote_hosts=("tcp://a:1",)).base.in_process)

    def test_a_cell_that_cannot_be(self) -> None:
        """Says why, and the others are there."""

        def missing_guarantee(config: RunConfig) -> str | None:
            if config.aggregator == "krum":
                raise ConfigError("krum needs more")
            return "no promise" if config.aggregator == "mean" else None

        made = make_grid({}, ("none",), ("mean", "krum", "median"), (1,), missing_guarantee)
        self.assertEqual([c.impossible for c in made.cells], [None, "krum needs more", None])
        self.assertEqual([c.missing_guarantee for c in made.cells], ["no promise", None, None])
        self.assertEqual([len(c.runs) for c in made.cells], [1, 0, 1])

    def test_nonsense(self) -> None:
        """Options that no cell could be run with are an error before any is run."""
        for words, make in (
            ("--rounds", lambda: grid(rounds=0)),
            ("once", lambda: grid(local=2, remote_hosts=("tcp://a:1",))),
            ("Byzantine", lambda: grid(num_byz=0)),
            ("--attacks", lambda: grid(attacks=())),
            ("200002 runs", lambda: grid(seeds=tuple(range(100_001)), defences=("mean",))),
        ):
            with self.assertRaisesRegex(ConfigError, words):
                make()

    def test_names_are_looked_up_first(self) -> None:
        """A misspelt name or parameter anywhere ends the sweep before it begins."""
        for error, attacks, defences in (
            (UnknownName, ["none"], ["mediann"]),
            (UnknownName, ["nnone"], ["median"]),
            (UnknownName, ["none"], ["nmm | median"]),
            (BadParameter, ["none"], ["multi-krum:p=2"]),
            (BadParameter, ["ipm:tua=1"], ["median"]),
        ):
            self.assertRaises(error, grid_of, {}, attacks, defences, [1], load(only=()))

    def test_initial_values(self) -> None:
        """The content of the file of --init decides the folder, and its path does not."""
        here, found = folder(self), []
        for name, value in (("a", 0.0), ("b", 0.0), ("c", 1.0)):
            save_file({"w": torch.full((2,), value)}, path := here / f"{name}.safetensors")
            made = grid_of({"init": str(path)}, ["none"], ["mean"], [1], load(only=()))
            found.append(made.runs[0].folder)
            self.assertIn(f"--init {path} ", command_line(made.runs[0].config))
        self.assertEqual(found[0], found[1])
        self.assertNotEqual(found[0], found[2])

    def test_real_conditions(self) -> None:
        """A rule that n and f rule out is a cell's matter, in the rule's own words."""
        made = grid_of({}, ["none"], ["bulyan", "mean"], [1], load(only=()))
        self.assertIn("bulyan needs n > 4f, got n=11, f=3", made.cells[0].impossible or "")
        self.assertIn("no faulty node", made.cells[1].missing_guarantee or "")


class DigestTests(SynchronousTestCase):
    """By which a second call finds what a first one finished."""

    def folder(self, **given: object) -> str:
        return grid(**given).cells[0].runs[0].folder

    def test_what_decides_it(self) -> None:
        """Bits, the evaluations, and in kind where the nodes are."""
        here = self.folder()
        for given in ({"rounds": 81}, {"eval_interval": 7}, {"f": 2}, {"local": 2}):
            self.assertNotEqual(self.folder(**given), here, given)
        self.assertEqual(self.folder(threads=2, round_timeout=9.0), here)
        self.assertEqual(self.folder(local=2), self.folder(local=3))

    def test_can_be_a_name(self) -> None:
        """Whatever the rules are called, and however long."""
        long = "nnm | " * 40 + "multi-krum:q=2"
        made = grid(defences=(long,)).cells[0].runs[0].folder
        self.assertRegex(made, r"\A[A-Za-z0-9_.-]{1,100}\Z")

    def test_a_plugin_that_was_changed(self) -> None:
        """Its source counts, so that whoever writes one never sees the last version's table."""
        path = folder(self) / "rule.py"
        source = "def rule():\n    return lambda vectors: vectors.mean(dim=0)\n"

        def found(text: str) -> dict[str, str]:
            path.write_text(text)
            spec = importlib.util.spec_from_file_location("rule", path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)

            class Plugin:
                @hookimpl
                def register_aggregators(self) -> list[Registration]:
                    return [Registration("mine", module.rule)]

            names = load(only=(), extra={"someone": Plugin()})
            config = attrs.evolve(grid().base, aggregator="mine")
            return versions(config, names)

        first = found(source)
        self.assertEqual(list(first), ["aggregator mine"])
        self.assertEqual(found(source), first)
        self.assertNotEqual(found(source + "# better\n"), first)

    def test_every_kind_of_plugin(self) -> None:
        """A task counts, given by its name or chosen by a plugin's data; so does an optimizer."""

        class Plugin:
            @hookimpl
            def register_tasks(self) -> list[Registration]:
                return [Registration("my-task", Classification)]

            @hookimpl
            def register_optimizers(self) -> list[Registration]:
                return [Registration("my-steps", lambda: None)]

            @hookimpl
            def register_datasets(self) -> list[Registration]:
                return [Registration("my-data", lambda: None)]

        names, base = load(only=(), extra={"someone": Plugin()}), grid().base
        for given, kinds in (
            ({}, []), ({"task": "my-task"}, ["task my-task"]),
            ({"dataset": "my-data"}, ["dataset my-data", "task my-task"]),
            ({"optimizer": "my-steps"}, ["optimizer my-steps"]),
        ):  # fmt: skip
            self.assertEqual(sorted(versions(attrs.evolve(base, **given), names)), kinds)
        for option in ("task", "optimizer", "algorithm", "lr_schedule"):
            with self.assertRaisesRegex(UnknownName, "is called 'nothing'"):
                grid_of({option: "nothing"}, ["none"], ["mean"], [1], names)


class CommandTests(SynchronousTestCase):
    def test_repeats_the_run(self) -> None:
        """The command on the page describes the same run, where the sweep had it."""
        made = grid(defences=("nnm | arc | krum",), seeds=(7,), replacement=True, q=2, threads=1)
        for cell in made.cells:
            config = cell.runs[0].config
            words = shlex.split(command_line(config))
            self.assertEqual(words[:3], ["python", "-m", "byzpy_tw.train"])
            again = configuration(words[3:])
            self.assertEqual(again.bits, config.bits)
            self.assertEqual(again.eval_interval, config.eval_interval)
            self.assertTrue(again.in_process)
        config = grid(local=2).cells[0].runs[0].config
        self.assertEqual(configuration(shlex.split(command_line(config))[3:]).local, 2)

    def test_the_servers_that_were_used(self) -> None:
        """Are the ones that it names."""
        made = grid(remote_hosts=("tcp://a:1", "tcp://b:2"), keys="k.pem")
        words = shlex.split(command_line(made.cells[0].runs[0].config))
        self.assertIn("tcp://a:1,tcp://b:2", words)
        self.assertEqual(words[words.index("--keys") + 1], "k.pem")


class OptionTests(SynchronousTestCase):
    """The options of the command line."""

    def test_only_what_many_runs_can_have(self) -> None:
        """Not a port or a standard output for one of them."""
        parser = argparse.ArgumentParser()
        options(parser)
        self.assertEqual(parser.parse_args(["--rounds", "5"]).rounds, 5)
        for words in (["--web", "8080"], ["--json"], ["--quiet"], ["--run-dir", "x"]):
            with redirect_stderr(io.StringIO()) as said:
                self.assertRaises(SystemExit, parser.parse_args, words)
            self.assertIn("unrecognized arguments", said.getvalue())

    def test_a_list_where_one_value_goes(self) -> None:
        """The error names the options that take lists."""
        for words in (["--f", "1", "2", "3"], ["--partition", "iid", "extreme"]):
            with redirect_stderr(io.StringIO()) as said:
                self.assertEqual(main(["sweep", *words]), 2)
            told = said.getvalue()
            self.assertRegex(told, r"\Abyzpy_tw: error: BAD_CONFIG: unrecognized .*\n\Z")
            self.assertIn("--preaggregators, --attacks and --seeds take lists", told)
        with redirect_stderr(io.StringIO()) as said:
            self.assertEqual(main(["sweep", "--ronds", "3"]), 2)
        self.assertIn("did you mean '--rounds'", said.getvalue())
        self.assertNotIn("take lists", said.getvalue())

    def test_a_folder_has_a_name(self) -> None:
        """Or the folder that one happens to be in would be filled."""
        with redirect_stderr(io.StringIO()) as said:
            self.assertEqual(main(["sweep", "--out", "", "--num-byz", "0"]), 2)
        self.assertRegex(said.getvalue(), r"\Abyzpy_tw: error: \w+: --out must be .*\n\Z")

    def test_the_old_name(self) -> None:
        """It warns in one line, keeps its own default folder, and takes --out."""
        for words, out in (([], "runs/lab"), (["--out", "x"], "x")):
            with (
                redirect_stderr(io.StringIO()) as said,
                mock.patch.object(sweep_command, "run", return_value=0) as run,
            ):
                self.assertEqual(main(["lab", "--rounds", "3", *words]), 0)
            self.assertRegex(said.getvalue(), r"\Abyzpy_tw: warning: 'lab' .*'sweep'.*\n\Z")
            [chosen] = run.call_args.args
            self.assertEqual((chosen.out, chosen.rounds), (out, 3))


class DataTests(SynchronousTestCase):
    def test_is_read_once(self) -> None:
        """Every run of a sweep has the same tensors, not copies of them."""
        names = cache_datasets(load(only=()))
        self.assertIs(names.make("dataset", "mnist5k"), names.make("dataset", "mnist5k"))
        small, large = (names.make("dataset", f"synthetic:n={n}") for n in (200, 400))
        self.assertIsNot(small, large)
        self.assertRaises(BadParameter, names.make, "dataset", "mnist5k:n=4")


class JobsTests(SynchronousTestCase):
    def test_how_many(self) -> None:
        """One for each core, or as many cores as each has threads; two for each server; one
        where somebody watches rounds."""

        class Watcher:
            @hookimpl
            def round_completed(self, record: dict) -> None:
                pass

        nobody, watched = load(only=()), load(only=(), extra={"watcher": Watcher()})
        for given, names, expected in (
            ({}, nobody, cores()),
            ({"threads": cores()}, nobody, 1),
            ({"threads": 2 * cores()}, nobody, 1),
            ({"local": 2}, nobody, 4),
            ({}, watched, 1),
            ({"local": 2}, watched, 1),
        ):  # fmt: skip
            self.assertEqual(jobs_for(grid(**given).base, names), expected, given)


def _damaged(rounds: int) -> list[dict[str, Any]]:
    """Entries that are JSON as Python reads it, and say what cannot be."""
    half = {"accuracy": 0.5}
    failures = {
        "failed": 1, "probation": 0, "of": 4, "all_failed": True, "round": 0, "node": 3, "why": "",
    }  # fmt: skip
    numbers: tuple[Any, ...] = (nan, inf, 10**400, "1", True, [1])
    return [
        *({"metrics": {"accuracy": {"final": n, "worst": 0.5, "best": 0.5}}} for n in numbers),
        *({name: n} for n in numbers for name in ("byzantine_weight", "seconds")),
        *({"chance": {"accuracy": n}} for n in numbers), {"byzantine_weight": 1.5},
        *({"rounds": n} for n in (-3, 10**4299, rounds + 1, True, 2.0)),
        *({"evaluations": [[n, half, 1.0]]} for n in (0, 3, 10**15, 2.0)),
        {"evaluations": [[2, half, 1.0], [1, half, 1.0]]}, {"evaluations": [[2, half, nan]]},
        {"evaluations": [[2, {"accuracy": inf}, 1.0]]}, {"evaluations": 1},
        *({"attack_failures": {**failures, name: value}} for name, value in (
            ("failed", "1"), ("probation", None), ("of", -1), ("all_failed", 1), ("round", 0.5),
            ("node", nan), ("why", ["x"]), ("other", 1))),
        {"attack_failures": "broken"},
    ]  # fmt: skip


class OutcomeTests(SynchronousTestCase):
    def write(self, path: Path, config: RunConfig, **result: object) -> None:
        """A run's folder, of two rounds of which the second was evaluated."""
        path.mkdir(parents=True)
        self.write_config(path, config)
        byz = config.num_honest
        always = {"seconds": 0.1, "phases": {}, "f": 1, "parameters_sha256": "0" * 64}
        records = [
            {**always, "round": 0, "selected": [0, 1], "excluded": [2, byz], "refused": []},
            {**always, "round": 1, "selected": [0, 2], "excluded": [1], "accuracy": 0.75,
             "test_loss": 0.5, "refused": [{"node": byz, "reason": "late", "detail": ""}]},
        ]  # fmt: skip
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (path / "rounds.jsonl").write_text(lines)
        plain = {
            "status": "finished", "error": None, "rounds": 2, "final_accuracy": 0.75,
            "worst_accuracy": 0.75, "best_accuracy": 0.75, "seconds": 1.0,
            "parameters_sha256": "ab",
        }  # fmt: skip
        (path / "result.json").write_text(json.dumps({**plain, **result}))

    def write_config(self, path: Path, config: RunConfig) -> None:
        """The part of config.json that is read back."""
        text = json.dumps({"bits": config.bits, "config": config.to_dict()})
        (path / "config.json").write_text(text)

    def test_is_read_back(self) -> None:
        """Accuracies, the curve, and how often each node was left out, and why."""
        run = grid().cells[0].runs[0]
        path = folder(self) / "run"
        self.write(path, run.config)
        found = read(run, path)
        assert found is not None
        cell = CellResult(cell=grid().cells[0], ended=(found,))
        self.assertEqual(cell.figures(cell.metric), dict.fromkeys(KINDS, 0.75))
        self.assertEqual(found.evaluations, (Evaluation(2, {"accuracy": 0.75}, 0.5),))
        share = found.shares[run.config.num_honest]
        self.assertEqual((share.honest, share.excluded, share.refused), (False, 0.5, 0.5))
        self.assertEqual(share.left_out, 1.0)
        self.assertEqual(found.shares[1].left_out, 0.5)

    def test_in_one_line(self) -> None:
        """A run that is recorded in one line has the same result, but for its nodes' shares."""
        run = grid().cells[0].runs[0]
        run = attrs.evolve(run, config=attrs.evolve(run.config, rounds=2))
        path = folder(self) / "run"
        self.write(path, run.config)
        found = read(run, path)
        assert found is not None
        line = json.loads(json.dumps(line_of(found)))
        self.assertEqual(of_line(run, line), attrs.evolve(found, shares=(), has_folder=False))
        failures = AttackFailures(1, 0, 4, False, 0, 3, "broken")
        failed = attrs.evolve(
            found, failures=failures, status="failed", shares=(), has_folder=False
        )
        self.assertEqual(of_line(run, json.loads(json.dumps(line_of(failed)))), failed)
        for wrong in (
            {"folder": "another"}, {"status": "waiting"}, {"rounds": "2"}, {"seconds": -1},
            {"rounds": run.config.rounds - 1},  # and finished
            {"metrics": {}}, {"metrics": {"accuracy": {"final": "0.5"}}}, {"evaluations": [[1]]},
            {"evaluations": [[-1, {}, None]]}, {"described_metrics": [{"name": "No"}]},
        ):  # fmt: skip
            self.assertIsNone(of_line(run, {**line, **wrong}), wrong)
        for damaged in _damaged(run.config.rounds):
            self.assertIsNone(of_line(run, line | damaged), damaged)
        for name in ("status", "metrics", "evaluations", "seconds"):
            self.assertIsNone(of_line(run, {k: v for k, v in line.items() if k != name}), name)

    def test_nothing_is_made_of_less(self) -> None:
        """Another run's folder, half a file, none at all: as if there were none."""
        run = grid().cells[0].runs[0]
        path = folder(self) / "run"
        self.assertIsNone(read(run, path))
        self.write(path, grid(rounds=81).cells[0].runs[0].config)
        self.assertIsNone(read(run, path))
        self.write_config(path, run.config)
        self.assertIsNotNone(read(run, path))
        (path / "result.json").write_text('{"status": "fin')
        self.assertIsNone(read(run, path))

    def test_nothing_is_made_of_nonsense(self) -> None:
        """Whatever somebody's hand, or a bad disk, put there: as if there were no run."""
        run, where = grid().cells[0].runs[0], folder(self)
        huge, deep = "9" * 400, "[" * 100_000 + "]" * 100_000
        for name, old, new in (
            ("result.json", '"rounds": 2', '"rounds": 1e400'),
            ("result.json", '"rounds": 2', f'"rounds": {huge}'),
            ("result.json", '"rounds": 2', '"rounds": 3'),
            ("result.json", '"final_accuracy": 0.75', '"final_accuracy": NaN'),
            ("result.json", '"final_accuracy": 0.75', '"final_accuracy": 7'),
            ("result.json", '"worst_accuracy": 0.75', f'"worst_accuracy": {huge}'),
            ("result.json", '"worst_accuracy": 0.75', '"worst_accuracy": 0.7'),
            ("result.json", '"seconds": 1.0', '"seconds": 1e400'),
            ("result.json", '"status": "finished"', '"status": "waiting"'),
            ("result.json", '"error": null', f'"error": {deep}'),
            ("config.json", '{"bits"', f'{{"more": {deep}, "bits"'),
            ("rounds.jsonl", '"round": 1', f'"round": {huge}'),
            ("rounds.jsonl", '"accuracy": 0.75', '"accuracy": -0.1'),
            ("rounds.jsonl", '"accuracy": 0.75', f'"accuracy": {deep}'),
            ("rounds.jsonl", '"excluded": [1]', '"excluded": [-1]'),
        ):
            path = where / "run"
            self.write(path, run.config)
            text = (path / name).read_text()
            self.assertEqual(text.count(old), 1)
            self.assertIsNotNone(read(run, path))
            (path / name).write_text(text.replace(old, new))
            self.assertIsNone(read(run, path), (old, new[:40]))
            shutil.rmtree(path)

    def test_over_seeds(self) -> None:
        """The mean of the final ones, the lowest of the worst, the highest of the best."""
        cell = grid(seeds=(1, 2)).cells[0]
        found = outcome(cell, 0.8, 0.6)
        self.assertAlmostEqual(found.final or 0, 0.7)
        figures = found.figures(found.metric)
        self.assertEqual((figures["worst"], figures["best"], found.status), (0.6, 0.8, "finished"))
        self.assertEqual(outcome(cell, 0.8).status, "waiting")

    def test_bad_ends(self) -> None:
        """One seed that failed is the cell's status; one that diverged counts as nothing."""
        cell = grid(seeds=(1, 2)).cells[0]
        runs = (
            ended(cell.runs[0]),
            ended(cell.runs[1], None, status="diverged", error="x"),
        )
        found = CellResult(cell=cell, ended=runs)
        self.assertEqual((found.status, found.reason), ("diverged", "x"))
        self.assertEqual(goodness(found), -math.inf)
        failed = CellResult(cell=cell, failures=("BAD: no",))
        self.assertEqual((failed.status, failed.reason), ("failed", "BAD: no"))
        self.assertIsNone(goodness(failed))


class DefaultsTests(SynchronousTestCase):
    def test_are_a_grid(self) -> None:
        """Four by four, every cell of which can be run."""
        made = grid_of({}, ATTACKS, DEFENCES, SEEDS, load(only=()))
        self.assertEqual(len(made.runs), 16)
        self.assertEqual([cell for cell in made.cells if cell.impossible], [])
        self.assertIsInstance(made.cells[0], Cell)
