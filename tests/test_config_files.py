"""Files of options: what ``--config`` reads, what ``--print-config`` writes."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.cli.train import configuration, main, parse_invocation
from byzpy_tw.config.merge import OPTIONS, merge_options
from byzpy_tw.config.run_config import LOCATIONS, SECTIONS, RunConfig
from byzpy_tw.config.toml import options_to_toml, read_options, to_toml
from byzpy_tw.config.validators import toml_key
from byzpy_tw.errors import ConfigError
from byzpy_tw.records.folder import RunDirectory
from tests.support import environment, folder

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1)
NAME = st.from_regex(r"[a-z][a-z-]{0,20}(:[a-z]{1,5}=[0-9]{1,3}\.?[0-9]{0,3})?", fullmatch=True)
HOSTS = st.lists(TEXT, min_size=1, max_size=3)
PLACE = st.one_of(
    st.fixed_dictionaries({"remote_hosts": HOSTS}),
    st.fixed_dictionaries({"local": st.integers(1, 256)}),
    st.just({"in_process": True}),
)
REST = st.fixed_dictionaries(
    {},
    optional={
        "attack": NAME, "aggregator": NAME, "pre_aggregator": st.lists(NAME, max_size=3),
        "dataset": NAME, "data_root": TEXT, "keys": TEXT, "run_dir": TEXT,
        "rounds": st.integers(1, 2**31 - 1), "seed": st.integers(0, 2**63 - 1),
        "lr": st.floats(1e-300, 1e30), "momentum": st.floats(0, 1e30),
        "weight_decay": st.one_of(st.integers(0, 10), st.floats(0, 1)),
        "lr_milestones": st.sets(st.integers(1, 10**9), max_size=4).map(sorted),
        "q": st.one_of(st.none(), st.integers(1, 99)), "replacement": st.booleans(),
        "strict": st.booleans(), "failover": st.sampled_from(["on", "off"]),
        "keep_checkpoints": st.one_of(st.just("all"), st.integers(1, 99).map(str)),
        "threads": st.one_of(st.none(), st.integers(1, 1024)),
    },
)  # fmt: skip


def written(case: Any, text: str) -> str:
    """The path of a file that holds `text`."""
    path = folder(case) / "run.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def printed(*arguments: str) -> str:
    """Return the output of the command, which must end well."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(arguments)
    assert code == 0, code
    return out.getvalue()


class RoundTripTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = folder(self) / "run.toml"

    @given(place=PLACE, rest=REST)
    @settings(deadline=None, max_examples=40)
    def test_what_is_written_is_read(self, place: dict, rest: dict) -> None:
        """Any configuration, written as a whole file or in short, is read as itself."""
        config = RunConfig(**place, **rest)
        values = {name: getattr(config, name) for name in OPTIONS}
        for text in (to_toml(config), options_to_toml(values)):
            self.path.write_text(text, encoding="utf-8")
            self.assertEqual(RunConfig(**read_options(self.path)), config)

    @pytest.mark.slow
    def test_print_config(self) -> None:
        """The printed file, given back, is the same run: also from a terminal that knows
        no UTF-8."""
        options = ["--remote-hosts", "tcp://a:1,tcp://b:2", "--lr", "1e-5", "--strict"]
        options += ["--pre-aggregator", "nnm", "clipping:c=2", "--data-root", 'dätä "x"\\']
        done = subprocess.run(
            [sys.executable, "-m", "byzpy_tw.train", "--print-config", *options],
            env={**environment(), "PYTHONIOENCODING": "ascii"}, capture_output=True, timeout=60,
        )  # fmt: skip
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        path = written(self, done.stdout.decode())
        self.assertEqual(configuration(["--config", path]), configuration(options))

    def test_the_file_is_complete(self) -> None:
        """Every option is there, in its section, with its help; a comment if it has no value."""
        text = printed("--print-config", "--local", "2")
        for name, option in OPTIONS.items():
            self.assertRegex(text, rf"(?m)^#?{toml_key(name)} = ")
            self.assertIn(option.metadata["help"][:30], text)
        found = tomllib.loads(text)
        self.assertEqual(list(found), list(SECTIONS))
        here = {toml_key(n): o.metadata["section"] for n, o in OPTIONS.items()}
        for section, options in found.items():
            self.assertEqual({here[key] for key in options}, {section})

    def test_numbers_of_thousands_of_digits(self) -> None:
        """Python neither reads nor writes them: one line says where there is one."""
        for text, told in (
            ("lr = 1\nrounds = " + "9" * 5000, "(line 2): no option takes one"),
            ("rounds = 0x" + "f" * 5000, "run.toml: rounds must be a whole number of at least 1"),
            ("lr = 0x" + "f" * 5000, "got a number of thousands of digits"),
            ("lr-milestones = [0x" + "f" * 5000 + ", 1]", "got a number of thousands of digits"),
            ("keep-checkpoints = 0x" + "f" * 5000, "got a number of thousands of digits"),
            ("attack = 0x" + "f" * 5000, "got a number of thousands of digits"),
        ):
            path = Path(written(self, text))
            self.assertIn(told, str(self.assertRaises(ConfigError, read_options, path)))

    def test_what_toml_cannot_say(self) -> None:
        """A path that is no text is refused, not written as another."""
        config = RunConfig(in_process=True, data_root="a\udcff")
        self.assertIn("not UTF-8", str(self.assertRaises(ConfigError, to_toml, config)))


class PrecedenceTests(SynchronousTestCase):
    """The command line over the file over the defaults."""

    def test_over_the_file(self) -> None:
        """An option that is given goes before the file's, lists as wholes."""
        path = written(self, 'rounds = 7\nseed = 1\npre-aggregator = ["nnm", "arc"]\nlocal = 2')
        config = configuration(["--config", path, "--rounds", "9", "--pre-aggregator", "nnm"])
        self.assertEqual((config.rounds, config.seed, config.lr), (9, 1, 0.05))
        self.assertEqual(config.pre_aggregator, ("nnm",))
        self.assertEqual(config.local, 2)

    def test_one_file_for_every_place(self) -> None:
        """A place on the command line takes the place of the file's."""
        path = written(self, '[where]\nremote-hosts = "tcp://a:1, tcp://b:2"')
        self.assertEqual(configuration(["--config", path]).remote_hosts, ("tcp://a:1", "tcp://b:2"))
        for place, name, value in (
            (["--in-process"], "in_process", True),
            (["--local", "3"], "local", 3),
            (["--remote-hosts", "tcp://c:3"], "remote_hosts", ("tcp://c:3",)),
        ):
            config = configuration(["--config", path, *place])
            self.assertEqual(getattr(config, name), value)
            self.assertEqual(sum(bool(getattr(config, p)) for p in LOCATIONS), 1)

    def test_a_file_without_a_place(self) -> None:
        """Without a place on the command line, the printed file has none, and fits all."""
        path = written(self, printed("--print-config", "--rounds", "3"))
        self.assertEqual(set(read_options(Path(path))) & set(LOCATIONS), set())
        self.assertEqual(configuration(["--config", path, "--local", "2"]).local, 2)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            self.assertEqual(main(["--config", path]), 2)
        self.assertIn("say where the nodes live", said.getvalue())

    def test_switches(self) -> None:
        """A switch that the file turns on can be turned off."""
        path = written(self, "strict = true\nin-process = true")
        self.assertTrue(configuration(["--config", path]).strict)
        self.assertFalse(configuration(["--config", path, "--no-strict"]).strict)

    def test_spellings(self) -> None:
        """Hyphens and underscores, sections or none, one or a list of one, 1 or 1.0."""
        one = 'in-process = true\n[training]\nlr = 1\n[aggregation]\npre-aggregator = "nnm"'
        two = 'in_process = true\nlr = 1.0\npre_aggregator = ["nnm"]\n[running]'
        self.assertEqual(*(configuration(["--config", written(self, t)]) for t in (one, two)))

    def test_a_mark_before_the_first_byte(self) -> None:
        """Editors on Windows put one there."""
        path = written(self, "\ufeffrounds = 3")
        self.assertEqual(read_options(Path(path)), {"rounds": 3})

    def test_standard_input(self) -> None:
        """``--config -``, so that a file need not be one; not with another use of the pipe."""
        pipe = io.TextIOWrapper(io.BytesIO(b"rounds = 3\nlocal = 1"))
        self.patch(sys, "stdin", pipe)
        self.assertEqual(configuration(["--config", "-"]).rounds, 3)
        self.assertRaises(ConfigError, parse_invocation, ["--config", "-", "--until-eof"])

    def test_over(self) -> None:
        """A place that is turned off leaves the one beneath."""
        found = merge_options({"in_process": False}, {"local": 2})
        self.assertEqual(found, {"local": 2, "in_process": False})


class ResumeTests(SynchronousTestCase):
    """``--config`` beside ``--resume``."""

    def setUp(self) -> None:
        self.path = folder(self) / "run"
        begun = RunConfig(in_process=True, rounds=7, seed=5, run_dir=str(self.path))
        directory = RunDirectory.create(self.path)
        self.addCleanup(directory.close)
        directory.write_config({"config": begun.to_dict(), "run": "r"})

    def test_print_config_of_a_run(self) -> None:
        """A run's file begins it again, elsewhere; even while it is under way."""
        again = configuration(
            ["--config", written(self, printed("--print-config", "--resume", str(self.path)))]
        )
        begun = RunConfig(in_process=True, rounds=7, seed=5)
        self.assertEqual(again, begun)

    def test_options_besides(self) -> None:
        """They are in it, and one that would make it another run is refused."""
        text = printed("--print-config", "--resume", str(self.path), "--local", "2")
        self.assertEqual(tomllib.loads(text)["where"], {"local": 2})
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = main(["--print-config", "--resume", str(self.path), "--lr", "1"])
        self.assertEqual(code, 2)
        self.assertIn("begun with 0.05", said.getvalue())

    def test_the_file_that_began_it(self) -> None:
        """Its own run-dir may stand there: the same file serves both commands."""
        path = written(self, f'rounds = 9\nrun-dir = "{self.path}"')
        found = parse_invocation(["--config", path, "--resume", str(self.path), "--threads", "2"])
        self.assertEqual(found.options, {"rounds": 9, "threads": 2})
        self.assertEqual(found.resume, self.path)
        # Without --resume it is where the records go.
        self.assertEqual(parse_invocation(["--config", path]).options["run_dir"], str(self.path))


class DefinitionTests(SynchronousTestCase):
    def test_each_option_can_be_in_a_file(self) -> None:
        """No option's word is a section's, and each has a section that there is."""
        self.assertEqual({toml_key(name) for name in OPTIONS} & set(SECTIONS), set())
        for option in attrs.fields(RunConfig):
            self.assertIn(option.metadata["section"], SECTIONS)
            # Checked by itself, before there is a configuration.
            self.assertIsNotNone(option.validator, option.name)
