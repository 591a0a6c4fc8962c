"""The parts of sweeps: the grid, the results that are read back, and the displays."""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
from contextlib import redirect_stderr
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import attrs
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.__main__ import main
from byzpy_tw.cli import sweep as sweep_command
from byzpy_tw.cli.sweep import options
from byzpy_tw.cli.train import configuration
from byzpy_tw.config.run import RunConfig
from byzpy_tw.errors import BadParameter, ConfigError, UnknownName
from byzpy_tw.kernels.cpu import cores
from byzpy_tw.plugins import Registration, hookimpl, load
from byzpy_tw.sweep import findings, text
from byzpy_tw.sweep import grid as grids
from byzpy_tw.sweep.charts import charts
from byzpy_tw.sweep.colours import colour, is_dark, luminance
from byzpy_tw.sweep.command import grid_of, jobs_for
from byzpy_tw.sweep.display import LineDisplay, LiveTable, display_for
from byzpy_tw.sweep.grid import Cell, Grid, combine_chains, command_line, make_grid
from byzpy_tw.sweep.page import page
from byzpy_tw.sweep.resolve import cache_datasets, versions
from byzpy_tw.sweep.results import CellResult, read
from byzpy_tw.sweep.scheduler import Sweep
from tests.support import folder
from tests.sweep_grids import digest, ended, grid, outcome
from tests.terminal_screen import Terminal, screen


class GridTests(SynchronousTestCase):
    def test_every_pair(self) -> None:
        """A cell for each defence under each attack, a trial for each seed, all different."""
        made = grid(seeds=(1, 2))
        self.assertEqual(
            [(cell.defence, cell.attack) for cell in made.cells],
            [(d, a) for d in made.defences for a in made.attacks],
        )
        trials = made.trials
        self.assertEqual([t.seed for t in trials], [1, 2] * 4)
        self.assertEqual(len({t.folder for t in trials}), 8)
        [config] = {c.trials[0].config for c in made.cells if (c.row, c.column) == (1, 1)}
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

        def examine(config: RunConfig) -> str | None:
            if config.aggregator == "krum":
                raise ConfigError("krum needs more")
            return "no promise" if config.aggregator == "mean" else None

        made = make_grid({}, ("none",), ("mean", "krum", "median"), (1,), examine, digest)
        self.assertEqual([c.impossible for c in made.cells], [None, "krum needs more", None])
        self.assertEqual([c.missing for c in made.cells], ["no promise", None, None])
        self.assertEqual([len(c.trials) for c in made.cells], [1, 0, 1])

    def test_nonsense(self) -> None:
        """Options that no cell could be run with are an error before any is run."""
        for words, make in (
            ("--rounds", lambda: grid(rounds=0)),
            ("once", lambda: grid(local=2, remote_hosts=("tcp://a:1",))),
            ("Byzantine", lambda: grid(num_byz=0)),
            ("--attacks", lambda: grid(attacks=())),
            ("2002 runs", lambda: grid(seeds=tuple(range(1001)), defences=("mean",))),
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

    def test_real_conditions(self) -> None:
        """A rule that n and f rule out is a cell's matter, in the rule's own words."""
        made = grid_of({}, ["none"], ["bulyan", "mean"], [1], load(only=()))
        self.assertIn("bulyan needs n > 4f, got n=11, f=3", made.cells[0].impossible or "")
        self.assertIn("no faulty node", made.cells[1].missing or "")


class DigestTests(SynchronousTestCase):
    """By which a second call finds what a first one finished."""

    def folder(self, **given: object) -> str:
        return grid(**given).cells[0].trials[0].folder

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
        made = grid(defences=(long,)).cells[0].trials[0].folder
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


class CommandTests(SynchronousTestCase):
    def test_repeats_the_run(self) -> None:
        """The command on the page describes the same run, on servers."""
        made = grid(defences=("nnm | arc | krum",), seeds=(7,), replacement=True, q=2, threads=1)
        for cell in made.cells:
            config = cell.trials[0].config
            words = shlex.split(command_line(config))
            self.assertEqual(words[:3], ["python", "-m", "byzpy_tw.train"])
            again = configuration(words[3:])
            self.assertEqual(again.bits, config.bits)
            self.assertEqual(again.eval_interval, config.eval_interval)
            self.assertEqual(len(again.remote_hosts), 3)

    def test_the_servers_that_were_used(self) -> None:
        """Are the ones that it names."""
        made = grid(remote_hosts=("tcp://a:1", "tcp://b:2"), keys="k.pem")
        words = shlex.split(command_line(made.cells[0].trials[0].config))
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
        """One where threads are given, on servers, or where somebody watches rounds."""

        class Watcher:
            @hookimpl
            def round_completed(self, record: dict) -> None:
                pass

        nobody, watched = load(only=()), load(only=(), extra={"watcher": Watcher()})
        self.assertEqual(jobs_for(grid().base, nobody), min(2, cores()))
        for given, names in (({"threads": 2}, nobody), ({"local": 2}, nobody), ({}, watched)):
            self.assertEqual(jobs_for(grid(**given).base, names), 1)


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
            "worst_accuracy": 0.5, "best_accuracy": 0.8, "seconds": 1.0,
            "parameters_sha256": "ab",
        }  # fmt: skip
        (path / "result.json").write_text(json.dumps({**plain, **result}))

    def write_config(self, path: Path, config: RunConfig) -> None:
        """The part of config.json that is read back."""
        text = json.dumps({"bits": config.bits, "config": config.to_dict()})
        (path / "config.json").write_text(text)

    def test_is_read_back(self) -> None:
        """Accuracies, the curve, and how often each node was left out, and why."""
        trial = grid().cells[0].trials[0]
        path = folder(self) / "run"
        self.write(path, trial.config)
        found = read(trial, path)
        assert found is not None
        self.assertEqual((found.final, found.worst, found.best), (0.75, 0.5, 0.8))
        self.assertEqual(found.curve, ((2, 0.75),))
        share = found.shares[trial.config.num_honest]
        self.assertEqual((share.honest, share.excluded, share.refused), (False, 0.5, 0.5))
        self.assertEqual(share.left_out, 1.0)
        self.assertEqual(found.shares[1].left_out, 0.5)

    def test_nothing_is_made_of_less(self) -> None:
        """Another run's folder, half a file, none at all: as if there were none."""
        trial = grid().cells[0].trials[0]
        path = folder(self) / "run"
        self.assertIsNone(read(trial, path))
        self.write(path, grid(rounds=81).cells[0].trials[0].config)
        self.assertIsNone(read(trial, path))
        self.write_config(path, trial.config)
        self.assertIsNotNone(read(trial, path))
        (path / "result.json").write_text('{"status": "fin')
        self.assertIsNone(read(trial, path))

    def test_nothing_is_made_of_nonsense(self) -> None:
        """Whatever somebody's hand, or a bad disk, put there: as if there were no run."""
        trial, where = grid().cells[0].trials[0], folder(self)
        huge, deep = "9" * 400, "[" * 100_000 + "]" * 100_000
        for name, old, new in (
            ("result.json", '"rounds": 2', '"rounds": 1e400'),
            ("result.json", '"rounds": 2', f'"rounds": {huge}'),
            ("result.json", '"rounds": 2', '"rounds": 3'),
            ("result.json", '"final_accuracy": 0.75', '"final_accuracy": NaN'),
            ("result.json", '"final_accuracy": 0.75', '"final_accuracy": 7'),
            ("result.json", '"worst_accuracy": 0.5', f'"worst_accuracy": {huge}'),
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
            self.write(path, trial.config)
            text = (path / name).read_text()
            self.assertEqual(text.count(old), 1)
            self.assertIsNotNone(read(trial, path))
            (path / name).write_text(text.replace(old, new))
            self.assertIsNone(read(trial, path), (old, new[:40]))
            shutil.rmtree(path)

    def test_over_seeds(self) -> None:
        """The mean of the final ones, the lowest of the worst, the highest of the best."""
        cell = grid(seeds=(1, 2)).cells[0]
        found = outcome(cell, 0.8, 0.6)
        self.assertAlmostEqual(found.final or 0, 0.7)
        self.assertEqual((found.worst, found.best, found.status), (0.6, 0.8, "finished"))
        self.assertEqual(outcome(cell, 0.8).status, "waiting")

    def test_bad_ends(self) -> None:
        """One seed that failed is the cell's status; one that diverged counts as nothing."""
        cell = grid(seeds=(1, 2)).cells[0]
        runs = (
            ended(cell.trials[0]),
            ended(cell.trials[1], None, status="diverged", error="x"),
        )
        found = CellResult(cell=cell, ended=runs)
        self.assertEqual((found.status, found.value, found.reason), ("diverged", 0.0, "x"))
        failed = CellResult(cell=cell, failures=("BAD: no",))
        self.assertEqual((failed.status, failed.reason, failed.value), ("failed", "BAD: no", None))


def filled(made: Grid) -> list[CellResult]:
    """The mean collapses under the second attack; nothing else does."""
    return [
        outcome(cell, *(0.1 if (cell.row, cell.column) == (0, 1) else 0.9 for _ in cell.trials))
        for cell in made.cells
    ]


class TextTests(SynchronousTestCase):
    def test_the_table(self) -> None:
        """Accuracies with worst and best, a mark where it collapsed, who was left out."""
        made = grid()
        lines = text.table(made, filled(made))
        self.assertEqual(
            lines,
            [
                "defence \\ attack  none           sign-flip:",
                "                                 scale=-5",
                "mean              90.0 (90-90)   10.0! (10-10)",
                "                  out B 100 H 6  out B 100 H 6",
                "nnm | median      90.0 (90-90)   90.0 (90-90)",
                "                  out B 100 H 6  out B 100 H 6",
            ],
        )

    def test_every_state_has_a_word(self) -> None:
        """Waiting, under way, impossible, diverged."""
        cell = grid().cells[0]
        no = attrs.evolve(cell, impossible="krum needs n > 2f + 2", trials=())
        self.assertEqual(text.entry(CellResult(cell=cell))[0], ".")
        self.assertEqual(text.entry(CellResult(cell=cell), progress="40%")[0], "40%")
        self.assertEqual(text.entry(CellResult(cell=no))[0], "impossible")
        gone = outcome(cell, 0.5, status="diverged")
        self.assertEqual(text.entry(gone)[0], "diverged")
        made = grid()
        told = text.notes(made, [CellResult(cell=no), gone, *filled(made)[2:]])
        self.assertIn("impossible: mean under none: krum needs n > 2f + 2", told)

    def test_sentences(self) -> None:
        """The sentences name the collapsed cells, their baseline, and the best defence."""
        made = grid()
        self.assertEqual(
            findings.sentences(made, filled(made)),
            [
                "mean collapses under sign-flip:scale=-5 (10.0 %); at its best it reaches 90.0 %.",
                "nnm | median has the best worst case: 90.0 % under none.",
            ],
        )
        self.assertEqual(findings.sentences(made, [CellResult(cell=c) for c in made.cells]), [])
        gone = [outcome(cell, 0.5, status="diverged") for cell in made.cells]
        self.assertEqual(
            findings.sentences(made, gone)[0],
            "mean diverged under none, sign-flip:scale=-5.",
        )

    def test_who_was_left_out(self) -> None:
        """In a sentence, the honest node that suffered most by number."""
        told = findings.exclusion_sentence(filled(grid())[0])
        self.assertEqual(
            told,
            "Byzantine nodes were left out in 100 % of the rounds, honest ones in 6 %; of the "
            "honest ones most often node 0, in 50 %.",
        )


class ColourTests(SynchronousTestCase):
    def test_can_be_read(self) -> None:
        """Ink on every colour has WCAG's contrast for text, and more accuracy is lighter."""
        values = [i / 100 for i in range(101)]
        for value in values:
            light = luminance(colour(value))
            contrast = 1.05 / (light + 0.05) if is_dark(colour(value)) else (light + 0.05) / 0.05
            self.assertGreaterEqual(contrast, 4.5, value)
        lights = [luminance(colour(value)) for value in values]
        self.assertEqual(lights, sorted(lights))


class DisplayTests(SynchronousTestCase):
    def sweep(self, made: Grid) -> Sweep:
        return Sweep(made, folder(self), 1, load(only=()), None)

    def test_live(self) -> None:
        """Each drawing takes the last one's place; what is said stays above it."""
        sweep, out = self.sweep(grid()), Terminal()
        live = LiveTable(sweep, out)
        live.say("hello")
        cell = sweep.grid.cells[0]
        live.trial_started(cell, cell.trials[0])
        shown = screen(out.getvalue())
        self.assertEqual(shown[:2], ["hello", text.table(sweep.grid, sweep.outcomes())[0]])
        self.assertIn("0% ...", shown[3])
        self.assertEqual(shown[-1], "0 of 4 runs")
        sweep._ended[cell.trials[0].folder] = ended(cell.trials[0])
        live.trial_ended(cell, cell.trials[0])
        self.assertEqual(screen(out.getvalue())[-1], "1 of 4 runs")
        live.close()
        shown = [line for line in screen(out.getvalue()) if line]
        self.assertEqual(shown, ["hello", *text.table(sweep.grid, sweep.outcomes())])

    def test_colours(self) -> None:
        """A cell with an accuracy has its colour, unless NO_COLOR is set; one without has none."""
        for more, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
            with mock.patch.dict(os.environ, more):
                sweep, out = self.sweep(grid()), Terminal()
                live = LiveTable(sweep, out)
                live.tick()
                self.assertNotIn("48;5;", out.getvalue())
                cell = sweep.grid.cells[0]
                sweep._ended[cell.trials[0].folder] = ended(cell.trials[0], 0.9)
                live.tick()
                self.assertEqual("\x1b[38;5;16;48;5;" in out.getvalue(), coloured)

    def test_a_terminal_that_is_gone(self) -> None:
        """A sweep goes on without it."""

        class Gone(Terminal):
            def write(self, text: str) -> int:
                raise BrokenPipeError

        live = LiveTable(self.sweep(grid()), Gone())
        live.say("hello")
        live.close()

    def test_which_one(self) -> None:
        """A table on a terminal that it fits into, lines anywhere else."""
        sweep = self.sweep(grid())
        for out, more, kind in (
            (Terminal(), {}, LiveTable), (Terminal(), {"TERM": "dumb"}, LineDisplay),
            (Terminal(), {"COLUMNS": "40"}, LineDisplay), (io.StringIO(), {}, LineDisplay),
        ):  # fmt: skip
            with mock.patch.dict(os.environ, {"TERM": "xterm", "COLUMNS": "100", **more}):
                self.assertIsInstance(display_for(sweep, out, print), kind)

    def test_lines(self) -> None:
        """One for each finished cell, with the progress of the sweep."""
        made = grid(seeds=(1, 2))
        sweep, said = self.sweep(made), []
        lines = LineDisplay(sweep, said.append)
        cell = made.cells[0]
        for trial in cell.trials:
            sweep._ended[trial.folder] = ended(trial)
            lines.trial_ended(cell, trial)
        lines.close()
        self.assertEqual(
            said[0], "[2/8] mean under none: 90.0 % (worst 90.0, best 90.0), out B 100 H 6"
        )
        self.assertIn("mean", said[3])


class Outline(HTMLParser):
    """Every tag and its attributes, and whether they close in order."""

    VOID = {"meta", "link", "wbr", "br", "line", "rect"}

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attributes if k in ("href", "src", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, (tag, self.open)


def outline(content: str) -> Outline:
    found = Outline()
    found.feed(content)
    found.close()
    return found


HOSTILE = "<img src=x onerror=alert(1)>\"'&</script><script>alert(2)</script>"


class PageTests(SynchronousTestCase):
    def test_holds_everything(self) -> None:
        """The table, a chart an attack, and for each cell the command that repeats it."""
        made = grid(seeds=(1, 2))
        content = page(made, filled(made), Path("lab"))
        found = outline(content)
        self.assertEqual(found.open, [])
        self.assertEqual(found.tags.count("td"), 4)
        [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', content)
        charts = json.loads(data)["charts"]
        self.assertEqual([chart["title"] for chart in charts], ["none", "sign-flip:scale=-5"])
        self.assertEqual([s["name"] for s in charts[0]["series"]], ["mean", "nnm | median"])
        self.assertEqual(charts[1]["series"][0]["mean"][4:], [0.2, *[None] * 4, 0.1])
        self.assertEqual((found.tags.count("details"), found.tags.count("pre")), (4, 8))
        self.assertIn("mean collapses under sign-flip:scale=-5", content)
        self.assertIn("--attack sign-flip:scale=-5", content)
        self.assertIn("--seed 2", content)
        reports = [link for link in found.links if link.endswith("/report.html")]
        self.assertEqual(len(set(reports)), 8)  # each run's own page

    def test_a_band_over_seeds(self) -> None:
        """A line is the mean of the seeds, between the lowest and the highest."""
        made = grid(seeds=(1, 2))
        line = charts(made, [outcome(made.cells[0], 0.8, 0.6)])[0]["series"][0]
        for name, values in {"mean": (0.2, 0.7), "low": (0.2, 0.6), "high": (0.2, 0.8)}.items():
            self.assertEqual((line[name][4], line[name][9]), values)

    def test_needs_nothing(self) -> None:
        """No link leads out, nothing is loaded, and the browser is told to refuse it."""
        found = outline(page(grid(), filled(grid()), Path("lab")))
        for link in found.links:
            self.assertRegex(link, r"\A(#|cells/|data:,)")
        self.assertEqual({"img", "iframe", "object", "form"} & set(found.tags), set())
        self.assertEqual(found.tags.count("script"), 4)  # data, uPlot, and two of ours
        content = page(grid(), filled(grid()), Path("lab"))
        self.assertIn("default-src 'none'", content)
        self.assertNotRegex(content, r"<(link|script|img)[^>]+(src|href)=\"(?!data:)")

    def test_names_stay_text(self) -> None:
        """Whatever a rule, an attack, a reason or a folder is called."""
        made = grid()
        cells = tuple(
            attrs.evolve(cell, defence=HOSTILE, attack=HOSTILE, missing=HOSTILE)
            for cell in made.cells
        )
        hostile = attrs.evolve(made, attacks=(HOSTILE, "b"), defences=(HOSTILE, "d"), cells=cells)
        outcomes = [
            outcome(cells[0], 0.1),
            outcome(cells[1], 0.9),
            CellResult(cell=attrs.evolve(cells[2], impossible=HOSTILE)),
            outcome(cells[3], 0.9, status="paused", error=HOSTILE, digest=HOSTILE),
        ]
        found = outline(page(hostile, outcomes, Path(HOSTILE)))
        self.assertEqual(found.tags.count("script"), 4)  # data, uPlot, and two of ours
        self.assertNotIn("img", found.tags)
        self.assertEqual(found.open, [])

    def test_before_anything_has_run(self) -> None:
        """It is whole all the same."""
        made = grid()
        found = outline(page(made, [CellResult(cell=cell) for cell in made.cells], Path("lab")))
        self.assertEqual(found.open, [])

    def test_template_is_data(self) -> None:
        """A dollar sign in a name is no placeholder."""
        made = grid()
        cells = [attrs.evolve(cell, missing="$table ${found}") for cell in made.cells]
        content = page(made, [CellResult(cell=cell) for cell in cells], Path("lab"))
        self.assertIn("$table ${found}", content)


class DefaultsTests(SynchronousTestCase):
    def test_are_a_grid(self) -> None:
        """Four by four, every cell of which can be run."""
        made = grid_of({}, grids.ATTACKS, grids.DEFENCES, grids.SEEDS, load(only=()))
        self.assertEqual(len(made.trials), 16)
        self.assertEqual([cell for cell in made.cells if cell.impossible], [])
        self.assertIsInstance(made.cells[0], Cell)
