"""``python -m byzpy_tw.train``: its options.  What it says to mistakes is in test_mistakes."""

from __future__ import annotations

import contextlib
import json
import re
from io import StringIO
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import __main__
from byzpy_tw.__main__ import COMMANDS
from byzpy_tw.cli import train
from byzpy_tw.cli.train import configuration, parser
from byzpy_tw.config.run_config import RunConfig, from_dict
from byzpy_tw.config.validators import flag
from byzpy_tw.errors import ConfigError


class OptionsTests(SynchronousTestCase):
    """The command line and the configuration are the same thing."""

    def test_every_field_is_an_option(self) -> None:
        """Each field of the configuration has its option, and a help text."""
        shown = parser().format_help()
        for option in attrs.fields(RunConfig):
            self.assertIn(flag(option.name), shown)
            self.assertTrue(option.metadata["help"])

    def test_tidy_help(self) -> None:
        """No command's help has marks of two sentences beside one another, or marks of code."""
        for name in ("train", *COMMANDS):
            with contextlib.redirect_stdout(StringIO()) as out, contextlib.suppress(SystemExit):
                train.main(["--help"]) if name == "train" else __main__.main([name, "--help"])
            shown = " ".join(out.getvalue().split())
            self.assertIn("usage: ", shown)
            for words in ("``", ". .", ") (", ".)."):
                self.assertNotIn(words, shown, name)
            self.assertNotIn("..", shown.replace("...", ""), name)

    def test_the_defaults(self) -> None:
        """The options that users know from elsewhere keep their defaults."""
        config = configuration(["--in-process"])
        expected = {
            "num_honest": 3, "num_byz": 1, "rounds": 50, "batch_size": 64, "lr": 0.05, "f": 1,
            "q": None, "chunk_size": 32, "seed": 42, "data_root": "./data", "eval_interval": 10,
            "aggregator": "multi-krum", "attack": "empire", "dataset": "mnist",
        }  # fmt: skip
        self.assertEqual({k: getattr(config, k) for k in expected}, expected)

    def test_lists(self) -> None:
        """Servers are parted by commas; pre-aggregators may be given several times."""
        config = configuration(
            ["--remote-hosts", "tcp://a:1, tcp://b:2"]
            + ["--pre-aggregator", "clipping:c=1", "--pre-aggregator", "nnm"]
        )
        self.assertEqual(config.remote_hosts, ("tcp://a:1", "tcp://b:2"))
        self.assertEqual(config.pipeline, "clipping:c=1 | nnm | multi-krum")

    def test_survives_json(self) -> None:
        """The configuration in config.json is read back the same."""
        config = configuration(["--local", "2", "--pre-aggregator", "nnm", "--lr", "0.1"])
        self.assertEqual(from_dict(json.loads(json.dumps(config.to_dict()))), config)

    def test_what_changes_bits(self) -> None:
        """Where the nodes live does not change the digest of what decides bits; the
        seed does."""
        here, there = configuration(["--in-process"]), configuration(["--local", "3"])
        other = configuration(["--in-process", "--seed", "1"])
        self.assertEqual(here.bits, there.bits)
        self.assertNotEqual(here.bits, other.bits)

    def test_numbers_are_of_their_options_kind(self) -> None:
        """A file or a script that writes 1 for 1.0 does not make it another run."""
        typed = configuration(["--in-process", "--lr", "1", "--keep-checkpoints", "3"])
        called = RunConfig(in_process=True, lr=1, keep_checkpoints=3)  # type: ignore[arg-type]
        self.assertEqual(typed, called)
        self.assertEqual(typed.bits, called.bits)

    def test_switches_go_both_ways(self) -> None:
        """A switch that a file turns on can be turned off on the command line."""
        self.assertTrue(configuration(["--in-process", "--strict"]).strict)
        self.assertFalse(configuration(["--in-process", "--strict", "--no-strict"]).strict)

    def test_values_that_no_command_line_makes(self) -> None:
        """From Python too, each option is of its kind."""
        for name, value, words in (
            ("data_root", 3, "--data-root must be a string that is not empty, got 3"),
            ("data_root", "a\0b", "--data-root must be a string"),
            ("run_dir", "", "--run-dir must be a string that is not empty"),
            ("keys", True, "--keys must be a string"),
            ("strict", 1, "--strict must be true or false, got 1"),
            ("lr", True, "--lr must be a number above 0, got True"),
            ("lr", float("nan"), "--lr must be above 0, got nan"),
            ("lr", 10**400, "--lr must be above 0 and at most 1e+30"),
            ("rounds", 3.0, "--rounds must be a whole number of at least 1, got 3.0"),
            ("model", None, "--model must be NAME or NAME:key=value,..., got None"),
            ("pre_aggregator", ["nnm", 3], "--pre-aggregator must be NAME"),
            ("remote_hosts", [3], "--remote-hosts must be a list of strings, got [3]"),
            ("lr_milestones", ["3"], "--lr-milestones must be round numbers"),
            ("failover", ["on"], "--failover must be one of on, off"),
        ):
            with self.subTest(name, value=repr(value)[:20]):
                error = self.assertRaises(ConfigError, RunConfig, local=1, **{name: value})
                self.assertIn(words, str(error))

    def test_code_where_a_name_is_wanted(self) -> None:
        """A function, an object and a class are answered with the way to a plugin."""
        for name in ("aggregator", "attack", "model", "pre_aggregator"):
            for value in (max, lambda x: x, RunConfig(local=1), dict):
                with self.subTest(name, value=repr(value)[:20]):
                    error = self.assertRaises(ConfigError, RunConfig, local=1, **{name: value})
                    self.assertIn("byzpy_tw new-plugin", str(error))
                    page = re.search(r"docs/\S+\.md", str(error))
                    assert page is not None
                    self.assertTrue((Path(__file__).parent.parent / page.group()).exists())
