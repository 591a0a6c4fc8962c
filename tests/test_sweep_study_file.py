"""Files of studies, and the command line beside them."""

from __future__ import annotations

import argparse
import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.__main__ import main
from byzpy_tw.cli import sweep
from byzpy_tw.config.toml import read_options
from byzpy_tw.errors import ByzpyTwError, ConfigError
from byzpy_tw.plugins import load
from byzpy_tw.sweep.command import plan_of
from byzpy_tw.sweep.plan import configurations
from byzpy_tw.sweep.study import Axis, Selection, Study
from byzpy_tw.sweep.study_file import read_study
from tests.support import folder
from tests.test_docs import BLOCK, DOCS
from tests.test_sweep_study import axis

STUDY = """
lr = [0.1, 0.2]
[nodes]
num-byz = [1, 2, 4]
attack = ["ipm", "alie:tau=1.5"]
[aggregation]
f = [1, 2, 4]
aggregator = "median"
pre-aggregator = [[], "nnm", ["clipping:c=2", "nnm"]]
[training]
rounds = 20
lr_milestones = [10, 15]
lr-decay = 0.5
[sweep]
paired = [["num-byz", "f"]]
exclude = [{attack = "ipm", f = [1, 2]}, {pre-aggregator = "nnm", lr = 0.2}]
derive = {num-honest = "20 - num-byz"}
repetitions = 3
select = {over = ["lr"], by = "accuracy"}
"""
HUGE, DIGITS = "0x" + "f" * 9000, "a number of thousands of digits"


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = folder(self) / "study.toml"

    def read(self, text: str, given: dict[str, Any] | None = None, *lists: Axis) -> Study:
        self.path.write_text(text, encoding="utf-8")
        return read_study(self.path, given or {}, lists)


class StudyFileTests(Case):
    def test_all_of_it(self) -> None:
        """Lists are axes in the order of the file, pairs where the first of them stands."""
        found = self.read(STUDY)
        self.assertEqual(
            found.axes,
            (
                axis("lr", 0.1, 0.2),
                Axis(("num_byz", "f"), ((1, 1), (2, 2), (4, 4))),
                axis("attack", "ipm", "alie:tau=1.5"),
                axis("pre_aggregator", (), ("nnm",), ("clipping:c=2", "nnm")),
            ),
        )
        self.assertEqual(
            found.options,
            {
                "aggregator": "median", "rounds": 20, "lr_milestones": (10, 15), "lr_decay": 0.5,
                "in_process": True,
            },
        )  # fmt: skip
        self.assertEqual(
            found.exclude,
            ({"attack": ("ipm",), "f": (1, 2)}, {"pre_aggregator": (("nnm",),), "lr": (0.2,)}),
        )
        self.assertEqual(found.derive, {"num_honest": "20 - num-byz"})
        self.assertEqual(found.selection, Selection(("lr",), "accuracy", ("attack",)))
        self.assertEqual(found.combinations, 2 * 3 * 2 * 3 * 3)
        configs = [config for _, config in configurations(found)]
        # Of the 36 points two thirds of ipm's are left out, and a third of those with lr = 0.2.
        self.assertEqual(len(configs), 3 * (36 - 12 - 4))
        self.assertEqual({config.n for config in configs}, {20})

    def test_a_file_of_options(self) -> None:
        """One without lists is one run: the run that it is as a file of --config."""
        text = 'in-process = true\nf = 2\nnum-honest = 9\npre-aggregator = ["nnm", "arc"]'
        [(_, config)] = configurations(self.read(text))
        [(_, again)] = configurations(Study(options=read_options(self.path), axes=()))
        self.assertEqual(config, again)

    def test_defaults(self) -> None:
        """Nodes live in this process, and as many are tolerated as there are attackers."""
        for text, in_process, f in (
            ("", True, [1]), ("local = 2", False, [1]), ("num-byz = [1, 2]", True, [1, 2]),
            ("num-byz = 2\nf = 1", True, [1]), ("num-byz = [0, 1]\nf = [0, 1]", True, [0, 1, 0, 1]),
            ('num-byz = [0, 2]\n[sweep]\nderive = {f = "num-byz // 2"}', True, [0, 1]),
        ):  # fmt: skip
            configs = [config for _, config in configurations(self.read(text))]
            self.assertEqual([config.f for config in configs], f, text)
            self.assertEqual(configs[0].in_process, in_process)

    def test_excluded_by_default(self) -> None:
        """A combination may be left out by an option that follows from another one."""
        text = "num-byz = [1, 2]\n[sweep]\nexclude = [{f = 2}]"
        self.assertEqual([c.num_byz for _, c in configurations(self.read(text))], [1])

    def test_repeated_values(self) -> None:
        """A value counts once, however it is spelt."""
        self.assertEqual(self.read("lr = [1, 1.0, 2]").axes, (axis("lr", 1.0, 2.0),))


MISTAKES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ronds = 3", ("no option 'ronds'", "did you mean 'rounds'")),
    ("[training]\nf = [1, 2]", ("'f' does not belong under [training] but under [aggregation]",)),
    ("[traning]\nlr = 1", ("no section [traning]", "did you mean 'training'", "running, sweep)")),
    ("f = [1, -2]", ("f must be a whole number of at least 0", "got -2")),
    ('attack = ["ipm", "alie:tau"]', ("attack: in 'alie:tau'", "not key=value")),
    ("lr = []", ("lr is an empty list: give it a value",)),
    ("lr = [0.1, true]", ("lr must be a number", "True")),
    ("local = [1, 2]", ("local is no axis: where nodes live is the same", "give one value")),
    ('plugin = [["a.py"], ["b.py"]]', ("plugin is no axis: it is the same", "give one list")),
    ("threads = [1, 2]", ("threads is no axis", "give one value")),
    ("[running]\nweb = '8080'", ("web under [running] is an option of a single run: leave it",)),
    ("json = [true, false]", ("json is an option of a single run",)),
    ('pre-aggregator = ["none", "nnm"]', ("one chain", "[[], ['nnm']]")),
    ('aggregator = ["nnm | median"]', ("aggregator must be one rule", "--pre-aggregator")),
    ("sweep = 3", ("'sweep' is a section: write [sweep] above",)),
    ("[sweep]\npared = []", ("[sweep] there is no 'pared'", "did you mean 'paired'")),
    ("[sweep]\nlr = [1, 2]", ("'lr' is an option of a run: it belongs under [training]",)),
    ("[sweep]\npaired = ['f']", ('paired: write a list of lists, as [["f", "num-byz"]]',)),
    ("[sweep]\npaired = [['f', 3]]", ("paired: 3 is no option's name: write it in quotes",)),
    ("f = [1]\n[sweep]\npaired = [['f']]", ("paired: f: name two options",)),
    ("f = [1]\n[sweep]\npaired = [['f', 'num-bzy']]", ("did you mean 'num-byz'",)),
    ("f = [1]\n[sweep]\npaired = [['f', 'num-byz']]", ("num-byz has no list of values",)),
    ("f = [1]\nnum-byz = [1, 2]\n[sweep]\npaired = [['f', 'num-byz']]",
     ("1 of f and 2 of num-byz cannot advance together",)),
    ("f = [1]\nlr = [1]\nq = [1]\n[sweep]\npaired = [['f', 'lr'], ['q', 'f']]",
     ("f stands in two pairs",)),
    ("[sweep]\nexclude = {f = 1}", ('exclude: write a list of tables, as [{f = 2, attack',)),
    ("f = [1, 2]\n[sweep]\nexclude = [{f = 3}]", ("exclude: f is never 3 (its values: 1, 2)",)),
    ("attack = ['ipm', 'min-max']\n[sweep]\nexclude = [{attack = 'minmax'}]",
     ("attack is never minmax", "did you mean 'min-max'")),
    ("[sweep]\nexclude = [{rounds = 3}]", ("rounds has one value in all runs",)),
    ("[sweep]\nexclude = [{threads = 3}]", ("threads is the same in all runs",)),
    ("[sweep]\nderive = 'f = 2'", ("derive: write a table",)),
    ("f = 1\n[sweep]\nderive = {f = '2'}", ("derive: f has a value: leave out one",)),
    ("[sweep]\nrepetitions = " + HUGE, ("repetitions must be", DIGITS)),
    ("lr = 0.1\n[sweep]\npaired = [[" + HUGE + "]]", (DIGITS, "is no option's name")),
    ("[sweep]\nderive = {f = " + HUGE + "}", ("derive: f: must be", DIGITS)),
    ("[sweep]\nselect = {by = " + HUGE + "}", ("by must be", DIGITS)),
    ("seed = [" + HUGE + "]", ("seed", DIGITS)),
    ("lr = [" + HUGE + "]", ("lr", "must be")),
    ("[sweep]\nderive = {f = 2}", ("derive: f: must be arithmetic in quotes", "got 2")),
    ("[sweep]\nderive = {f = 'num-byz ** 2'}", ("derive: f: 'num-byz ** 2' is more than",)),
    ("[sweep]\nderive = {f = 'num-bzy - 1'}", ("no option 'num-bzy'", "did you mean 'num-byz'")),
    ("[sweep]\nderive = {f = 'num-byz', num-byz = 'f'}", ("each needs the other's value",)),
    ("[sweep]\nrepetitions = 0", ("repetitions must be a whole number of at least 1", "got 0")),
    ("[sweep]\nrepetitions = 200000", ("at most 100000, got 200000",)),
    ("seed = [1, 2]\n[sweep]\nrepetitions = 2", ("seed is a list already",)),
    ("[sweep]\nselect = 'lr'", ("select: write a table",)),
    ("[sweep]\nselect = {ower = ['lr']}", ("select: there is no 'ower'", "did you mean 'over'")),
    ("lr = [1]\n[sweep]\nselect = {over = ['lr']}", ("by must be a metric's name", "got None")),
    ("[sweep]\nselect = {by = 'loss', over = ['lr']}", ("over: lr has no list of values",)),
    ("[sweep]\nselect = {by = 'loss'}", ("over: name the options that are chosen",)),
    ("lr = [1, 2]\n[sweep]\nselect = {by = 'loss', over = ['lr'], worst-over = ['lr']}",
     ("lr is in over and in worst-over",)),
)  # fmt: skip


class MistakeTests(Case):
    """One line says what is wrong, where, and what to do."""

    def test_in_the_file(self) -> None:
        for text, words in MISTAKES:
            error = self.assertRaises(ByzpyTwError, self.read, text)
            said = str(error)
            self.assertTrue(said.startswith(f"{self.path}: "), said)
            self.assertNotIn("\n", said)
            for word in words:
                self.assertIn(word, said, text)

    def test_in_the_runs(self) -> None:
        """Names, and options without effect, are found for all runs before one begins."""
        for text, words in (
            ('aggregator = ["median", "mediann"]', ("no aggregator is called 'mediann'",)),
            ('pre-aggregator = [[], ["nnm", "bucketin"]]', ("did you mean 'bucketing'",)),
            ('attack = ["ipm", "ipm:tua=1"]', ("tua",)),
            ('model = ["mlp", "mpl"]', ("no model is called 'mpl'", "did you mean 'mlp'")),
            ('optimizer = ["sgd", "adm"]', ("no optimizer is called 'adm'",)),
            ("f = [1, 4]", ("--f 4 faulty nodes of n = 4", "where f = 4: leave the combination")),
            ("lr-decay = [0.2, 0.5]", ("--lr-decay has no use without --lr-milestones",)),
            ("[sweep]\nderive = {f = 'num-honest // (num-byz - 1)'}", ("divides by zero",)),
            ("seed = [1, 2]\nf = [0, 1]\n[sweep]\nexclude = [{f = [0, 1]}]", ("every run",)),
        ):  # fmt: skip
            self.path.write_text(text, encoding="utf-8")
            with redirect_stderr(io.StringIO()) as said:
                self.assertEqual(main(["sweep", str(self.path), "--dry-run"]), 2, text)
            told = said.getvalue()
            self.assertRegex(told, rf"\Abyzpy_tw: error: [A-Z_]+: {self.path}: .*\n\Z")
            for word in words:
                self.assertIn(word, told, text)


class CommandLineTests(Case):
    """Options of the command line replace those of the file."""

    def test_replaces(self) -> None:
        found = self.read(STUDY, {"lr": 0.3, "rounds": 7, "num_honest": 9}, axis("attack", "none"))
        self.assertEqual(found.options["lr"], 0.3)
        self.assertEqual(found.options["rounds"], 7)
        self.assertEqual(found.axes[-1], axis("attack", "none"))
        self.assertEqual({config.num_honest for _, config in configurations(found)}, {9})
        self.assertEqual(self.read(STUDY, {}, axis("seed", 5)).repetitions, 1)
        self.assertEqual(self.read(STUDY, {"num_byz": 1, "f": 1}).axes[0], axis("lr", 0.1, 0.2))
        with self.assertRaisesRegex(ConfigError, "--f replaces .*: give --num-byz as well"):
            self.read(STUDY, {"f": 1})

    def test_another_place(self) -> None:
        """A place on the command line takes that of the file."""
        found = self.read('remote-hosts = ["tcp://a:1"]\nkeys = "k"', {"local": 2})
        self.assertEqual(found.options, {"local": 2})

    def dry_run(self, *words: str) -> str:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as said:
            self.assertEqual(main(["sweep", *words, "--dry-run"]), 0, said.getvalue())
        return out.getvalue()

    def test_rules(self) -> None:
        """Either list replaces its own option; chains replace both."""
        text = 'aggregator = ["mean", "median"]\npre-aggregator = [[], ["nnm"]]\nnum-honest = 9'
        self.path.write_text(text, encoding="utf-8")
        for words, size in (
            ((), "4 runs = 2 aggregator x 2 pre-aggregator"),
            (("--aggregators", "krum"), "2 runs = 2 pre-aggregator"),
            (("--preaggregators", "none", "nnm", "arc"), "6 runs = 2 aggregator x 3 pre-aggreg"),
            (("--aggregators", "nnm | krum", "mean"), "2 runs = 2 rules"),
            (("--aggregators", "nnm|krum", "--preaggregators", "none", "arc"), "2 runs = 2 rules"),
            (("--attacks", "ipm", "none", "--seeds", "1", "2", "3"), "24 runs = 2 aggregator x"),
        ):
            self.assertTrue(self.dry_run(str(self.path), *words).startswith(size), words)

    def test_a_dry_run(self) -> None:
        """It has the axes, and what cannot be run with the reason, and begins no folder."""
        self.path.write_text(
            'attack = ["ipm", "none"]\naggregator = ["mean", "bulyan"]\nnum-byz = [1, 2]\n'
            "num-honest = 6\nreplacement = [true, false]\n"
            '[sweep]\nrepetitions = 2\nexclude = [{attack = "none", num-byz = 2}]',
            encoding="utf-8",
        )
        here = folder(self)
        lines = self.dry_run(str(self.path), "--out", str(here / "out")).splitlines()
        self.assertEqual(
            lines,
            [
                "24 runs = 2 attack x 2 aggregator x 2 num-byz x 2 replacement x 2 seed",
                "  attack       ipm, none",
                "  aggregator   mean, bulyan",
                "  num-byz      1, 2",
                "  replacement  true, false",
                "  seed         42, 43",
                "8 combinations are left out by exclude",
                "0 done, 20 to run, 4 impossible",
                lines[8],
                "no run of this kind is finished in this folder: how long it takes is not known",
            ],
        )
        self.assertIn("bulyan needs n > 4f, got n=8, f=2", lines[8])
        self.assertFalse((here / "out").exists())

    def test_the_folder(self) -> None:
        """It has the file's name by default, and a sweep without a file its own."""
        for words, where in (
            (["a/study.toml"], "runs/study"), ([], "runs/sweep"), (["-"], "runs/sweep"),
            (["study.toml", "--out", "there"], "there"),
        ):  # fmt: skip
            parser = argparse.ArgumentParser()
            sweep.options(parser)
            self.assertEqual(sweep.folder_of(parser.parse_args(words)), Path(where))

    def test_a_value_too_many(self) -> None:
        """A word that is no file is taken for one more value."""
        with redirect_stderr(io.StringIO()) as said:
            self.assertEqual(main(["sweep", "--partition", "iid", "extreme"]), 2)
        self.assertIn("unrecognized arguments: extreme; --aggregators, ", said.getvalue())
        with redirect_stderr(io.StringIO()) as said:
            self.assertEqual(main(["sweep", "nothing.toml"]), 2)
        self.assertIn("cannot read nothing.toml: No such file", said.getvalue())


class DocumentTests(Case):
    """The studies in docs/sweep.md."""

    def blocks(self, language: str) -> list[str]:
        text = (DOCS / "sweep.md").read_text(encoding="utf-8")
        return [block for kind, block in BLOCK.findall(text) if kind == language]

    def test_the_first(self) -> None:
        """Twenty lines make 108 runs, and a dry run says what the page says."""
        first, *_ = self.blocks("toml")
        self.assertLessEqual(len(first.splitlines()), 20)
        self.path.write_text(first, encoding="utf-8")
        with redirect_stdout(io.StringIO()) as out:
            self.assertEqual(
                main(["sweep", str(self.path), "--dry-run", "--out", str(self.path.parent)]), 0
            )
        self.assertIn(out.getvalue(), self.blocks("text"))
        self.assertTrue(out.getvalue().startswith("108 runs = "))

    def test_the_second(self) -> None:
        """It is what is said of it: always twenty nodes, and every combination can be run."""
        _, second, *_ = self.blocks("toml")
        made = plan_of(self.read(second), load(only=()))
        self.assertEqual(len(made.possible), len(made.runs))
        self.assertEqual(len(made.runs), 2 * 2 * (2 * 3 - 2))
        self.assertEqual({run.config.n for run in made.runs}, {20})

    def test_the_third(self) -> None:
        """It selects two options, by validation data that its runs have."""
        *_, third = self.blocks("toml")
        made = plan_of(self.read(third), load(only=()))
        self.assertEqual(len(made.runs), 2 * 2 * 3 * 2 * 3)
        self.assertEqual(
            made.study.selection, Selection(("lr", "weight_decay"), "accuracy", ("attack",))
        )
