"""``python -m byzpy_tw.train``: its options, and what it says to mistakes."""

from __future__ import annotations

import contextlib
import io
import json

import attrs
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.runs.config import RunConfig, flag, from_dict
from byzpy_tw.train import configuration, main, parser
from tests.support import folder

# What was typed, the exit code, and words that must be in the one line that comes back.
MISTAKES: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("", 2, ("BAD_CONFIG", "--remote-hosts", "--local N", "--in-process")),
    ("--in-process --local 2", 2, ("once", "2 of them")),
    ("--remote-hosts ucx://a:1", 2, ("BAD_ADDRESS", "'ucx'", "supported: tcp://HOST:PORT")),
    ("--remote-hosts 127.0.0.1:29000", 2, ("BAD_ADDRESS", "write tcp://HOST:PORT")),
    ("--remote-hosts tcp://a:0", 2, ("BAD_ADDRESS", "1 to 65535")),
    ("--remote-hosts tcp://a:1,tcp://a:1", 2, ("BAD_ADDRESS", "listed twice")),
    ("--in-process --ronds 3", 2, ("unrecognized", "did you mean '--rounds'?")),
    ("--in-process --rounds three", 2, ("--rounds", "'three'")),
    ("--in-process --rounds 0", 2, ("--rounds must be a whole number of at least 1, got 0",)),
    ("--in-process --lr -1", 2, ("--lr must be above 0",)),
    ("--in-process --num-honest 0", 2, ("--num-honest", "at least 1")),
    ("--in-process --f 4", 2, ("--f 4", "n = 4")),
    ("--in-process --f 2", 2, ("multi-krum", "n=4", "f=2")),
    ("--in-process --q 4", 2, ("q", "4")),
    ("--remote-hosts tcp://a:1 --keys no.pem", 2, ("BAD_KEYS", "no.pem", "No such file", "keygen")),
    ("--in-process --device tpu", 2, ("--device must be one of cpu, cuda, auto", "'tpu'")),
    ("--in-process --aggregator multi-crum", 2, ("UNKNOWN_NAME", "did you mean 'multi-krum'?")),
    ("--in-process --aggregator multi-krum:p=2", 2, ("BAD_PARAMETER", "'p'", "it takes: ")),
    ("--in-process --aggregator multi-krum:q=x", 2, ("BAD_PARAMETER", "q='x'", "int")),
    ("--in-process --aggregator krum:../x", 2, ("BAD_PARAMETER", "key=value")),
    ("--in-process --attack empyre", 2, ("UNKNOWN_NAME", "did you mean 'empire'?")),
    ("--in-process --dataset nmist", 2, ("UNKNOWN_NAME", "did you mean 'mnist'?")),
    ("--in-process --dataset mnist5k:n=4", 2, ("BAD_PARAMETER", "'n'")),
    ("--in-process --model big-cnn", 2, ("UNKNOWN_NAME", "small-cnn")),
    ("--in-process --partition strides", 2, ("UNKNOWN_NAME", "did you mean 'stride'?")),
    ("--in-process --dataset mnist5k --strict", 2, ("GUARANTEE_MISSING", "n=4", "--strict")),
)


class MistakesTests(SynchronousTestCase):
    """A user's mistake is one line that says what to do."""

    def attempt(self, words: str) -> tuple[int, str]:
        """Exit code and standard error of the command with `words`."""
        errors = io.StringIO()
        arguments = [*words.split(), "--run-dir", str(folder(self) / "run")]
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            try:
                code = main(arguments)
            except SystemExit as e:
                code = int(str(e.code))
        return code, errors.getvalue()

    def test_mistakes(self) -> None:
        """Each typical mistake has its exit code, its words, and no traceback."""
        for words, code, expected in MISTAKES:
            got, said = self.attempt(words)
            self.assertEqual(got, code, (words, said))
            for word in expected:
                self.assertIn(word, said, words)
            self.assertNotIn("Traceback", said)
            self.assertTrue(said.startswith("byzpy_tw: error: "), said)


class OptionsTests(SynchronousTestCase):
    """The command line and the configuration are the same thing."""

    def test_every_field_is_an_option(self) -> None:
        """Each field of the configuration has its option, and a help text."""
        shown = parser().format_help()
        for option in attrs.fields(RunConfig):
            self.assertIn(flag(option.name), shown)
            self.assertTrue(option.metadata["help"])

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
        """What config.json holds makes the same configuration again."""
        config = configuration(["--local", "2", "--pre-aggregator", "nnm", "--lr", "0.1"])
        self.assertEqual(from_dict(json.loads(json.dumps(config.to_dict()))), config)

    def test_what_changes_bits(self) -> None:
        """Where the nodes live does not change the digest of what decides bits; the
        seed does."""
        here, there = configuration(["--in-process"]), configuration(["--local", "3"])
        other = configuration(["--in-process", "--seed", "1"])
        self.assertEqual(here.bits, there.bits)
        self.assertNotEqual(here.bits, other.bits)
