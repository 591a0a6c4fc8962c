"""Options beside one another, paths as users write them, and values of other libraries."""

from __future__ import annotations

import enum
import json
import os
import tomllib
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from twisted.trial.unittest import SynchronousTestCase

import byzpy_tw
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.audit.verify import config_in_process
from byzpy_tw.cli.train import parse_invocation
from byzpy_tw.config.merge import drop_unused, unused_notices
from byzpy_tw.config.paths import expand_home, resolve_paths
from byzpy_tw.config.run_config import RunConfig, from_dict
from byzpy_tw.config.toml import options_to_toml, to_toml
from byzpy_tw.errors import BadParameter, BadVectors, ConfigError, GuaranteeMissing
from byzpy_tw.plugins import load
from byzpy_tw.records.resume import merge_config
from byzpy_tw.trainer.run import PreparedRun, prepare_resume, prepare_run
from tests.support import folder

# Options without use, and the options that leave them none.
USELESS = (
    ("--in-process --keys k.pem", "--keys has no use with --in-process"),
    ("--local 2 --keys k.pem", "--keys has no use with --local"),
    ("--in-process --min-servers 1", "--min-servers has no use with --in-process"),
    ("--in-process --max-nodes-per-server 2", "--max-nodes-per-server has no use with"),
    ("--in-process --heartbeat-timeout 2", "--heartbeat-timeout has no use with"),
    ("--in-process --failover off", "--failover has no use with --in-process"),
    ("--in-process --lr-decay 0.5", "--lr-decay has no use without --lr-milestones"),
    ("--in-process --keep-checkpoints 3 --checkpoint-interval 0", "--keep-checkpoints has no use"),
    ("--in-process --aggregator median --q 2", "--q has no use with median"),
)
FILE = """
keys = "k.pem"
min-servers = 2
failover = "off"
lr-decay = 0.5
lr-milestones = [3]
q = 2
keep-checkpoints = "all"
"""


class UselessTests(SynchronousTestCase):
    """An option that has no use is refused when a run is begun; a file's are dropped."""

    def setUp(self) -> None:
        self.names = load(only=())
        self.file = folder(self) / "run.toml"
        self.file.write_text(FILE)

    def begun(self, words: str) -> RunConfig:
        found = parse_invocation(words.split())
        return drop_unused(found.configuration(), self.names, found.beneath)

    def test_refused(self) -> None:
        """One sentence with the option, and with what has no use for it."""
        for words, said in USELESS:
            with self.subTest(words):
                error = self.assertRaises(ConfigError, self.begun, words)
                self.assertIn(said, str(error))
                self.assertEqual(error.exit_code, 2)

    def test_of_use(self) -> None:
        """The same options are taken where they do something, and at their defaults."""
        for words in (
            "--remote-hosts tcp://a:1,tcp://b:1 --keys k.pem --min-servers 1 --failover off",
            "--local 2 --min-servers 1 --heartbeat-timeout 2 --max-nodes-per-server 4",
            "--in-process --lr-decay 0.5 --lr-milestones 3",
            "--in-process --lr-decay 0.1 --failover on --keep-checkpoints 2 "
            "--checkpoint-interval 0",
            "--in-process --q 2", "--in-process --aggregator median --attack none --num-byz 0",
        ):  # fmt: skip
            self.begun(words)

    def test_one_file_for_every_place(self) -> None:
        """The command line's place, rule and interval drop what the file has for others."""
        config = self.begun(
            f"--in-process --config {self.file} --aggregator median --checkpoint-interval 0"
        )
        self.assertEqual(
            (config.keys, config.min_servers, config.failover, config.q, config.keep_checkpoints),
            (None, None, "on", None, "2"),
        )
        self.assertEqual(self.begun(f"--local 3 --config {self.file}").min_servers, 2)
        error = self.assertRaises(
            ConfigError, self.begun, f"--in-process --config {self.file} --failover off"
        )
        self.assertIn("--failover has no use", str(error))
        self.file.write_text("in-process = true\n" + FILE)
        error = self.assertRaises(ConfigError, self.begun, f"--config {self.file}")
        self.assertIn("has no use with --in-process", str(error))

    def test_files_that_say_all(self) -> None:
        """A file of --print-config, defaults and all, begins a run."""
        self.file.write_text(to_toml(RunConfig(in_process=True)))
        self.assertEqual(self.begun(f"--config {self.file}"), RunConfig(in_process=True))

    def test_old_records(self) -> None:
        """A run that was begun with such options goes on, also in another place."""
        saved = RunConfig(in_process=True, keys="k.pem", failover="off", q=2, aggregator="median")
        again = merge_config(saved, {"rounds": 60})
        self.assertEqual((again.keys, again.failover), ("k.pem", "off"))
        self.assertIsNone(merge_config(saved, {"local": 2}).keys)
        self.assertEqual(from_dict(config_in_process(again, None).to_dict()).keys, None)

    def test_an_attack_of_nobody(self) -> None:
        """An attack without Byzantine nodes is a notice; the default one is none."""
        config = RunConfig(in_process=True, num_byz=0, f=0, attack="sign-flip")
        self.assertEqual(unused_notices(config), ["--attack sign-flip is not used: --num-byz 0"])
        for attack, b in (("empire", 0), ("none", 0), ("sign-flip", 1)):
            self.assertEqual(
                unused_notices(RunConfig(in_process=True, num_byz=b, f=b, attack=attack)), []
            )


class PathsTests(SynchronousTestCase):
    """Home folders, and records that mean the same from everywhere."""

    def setUp(self) -> None:
        self.names = load(only=())
        self.expand_home = folder(self)
        before = os.environ["HOME"]
        os.environ["HOME"] = str(self.expand_home)
        self.addCleanup(os.environ.__setitem__, "HOME", before)

    def begun(self, **options: Any) -> PreparedRun:
        small = {"dataset": "synthetic", "model": "logreg", "aggregator": "median"}
        run = prepare_run(RunConfig(in_process=True, **{**small, **options}), self.names)
        run.directory.close()
        return run

    def test_home(self) -> None:
        """``~`` and ``~user`` stand for home folders, and only in front."""
        self.assertEqual(expand_home("~/x"), self.expand_home / "x")
        self.assertEqual(expand_home("~root"), Path(os.path.expanduser("~root")))
        self.assertEqual((expand_home("a/~"), expand_home("./~")), (Path("a/~"), Path("~")))
        with self.assertRaisesRegex(ConfigError, "no home folder of 'no-such-user'.* ./~no-such"):
            expand_home("~no-such-user/x")

    def test_records_are_absolute(self) -> None:
        """config.json holds roots that another folder's resume and verify find."""
        for given, root in (
            ("~/data", self.expand_home / "data"),
            ("./data", Path("data").absolute()),
        ):
            run = self.begun(data_root=given, run_dir=f"~/runs/{root.parent.name}")
            self.assertEqual(run.directory.path, self.expand_home / "runs" / root.parent.name)
            saved = json.loads((run.directory.path / "config.json").read_text())["config"]
            self.assertEqual(saved["data_root"], str(root))
            self.assertNotIn("~", json.dumps(saved))
            again = prepare_resume(run.directory.path, {}, self.names, str)
            assert again is not None
            again.directory.close()
            self.assertEqual(again.config.data_root, str(root))
            moved = {"data_root": "~/moved"}
            again = prepare_resume(run.directory.path, moved, self.names, str)
            assert again is not None
            again.directory.close()
            self.assertEqual(again.config.data_root, str(self.expand_home / "moved"))
        self.assertEqual(config_in_process(run.config, None).data_root, str(root))
        self.assertEqual(
            config_in_process(run.config, "~/other").data_root, str(self.expand_home / "other")
        )

    def test_files_keep_what_was_written(self) -> None:
        """--print-config writes the path as it was given."""
        config = RunConfig(local=1, data_root="~/data")
        self.assertIn('data-root = "~/data"', to_toml(config))
        keyed = resolve_paths(RunConfig(remote_hosts="tcp://a:1", keys="~/k.pem"))  # type: ignore[arg-type]
        self.assertEqual(keyed.keys, str(self.expand_home / "k.pem"))


class Whole(enum.IntEnum):
    THREE = 3


class Word(str, enum.Enum):
    MEDIAN = "median"


class PlainValuesTests(SynchronousTestCase):
    """Values of NumPy, torch and others are plain ones in every record."""

    def test_options(self) -> None:
        """Scalars, arrays without dimensions, members of enumerations, paths and lists."""
        given: dict[str, Any] = {
            "lr": np.float64(0.1), "momentum": torch.tensor(0.5), "rounds": np.int64(3),
            "batch_size": np.array(8), "seed": torch.tensor(5), "num_honest": Whole.THREE,
            "aggregator": Word.MEDIAN, "strict": np.bool_(True), "data_root": Path("d"),
            "lr_milestones": np.array([1, 2]), "pre_aggregator": np.array(["nnm", "arc"]),
            "weight_decay": Fraction(1, 4), "worker_momentum": Decimal("0.25"),
            "keep_checkpoints": np.uint8(3), "model": np.str_("mlp"), "f": Fraction(1),
            "round_timeout": np.longdouble(8), "heartbeat_timeout": np.float32(2),
            "disable_plugin": "acme",
        }  # fmt: skip
        config = RunConfig(local=np.int8(1), **given)  # type: ignore[arg-type]
        plain = config.to_dict()
        self.assertEqual(json.loads(json.dumps(plain)), plain)
        expected = {
            "lr": 0.1, "momentum": 0.5, "rounds": 3, "batch_size": 8, "seed": 5, "local": 1,
            "num_honest": 3, "aggregator": "median", "strict": True, "data_root": "d",
            "lr_milestones": [1, 2], "pre_aggregator": ["nnm", "arc"], "weight_decay": 0.25,
            "worker_momentum": 0.25, "keep_checkpoints": "3", "model": "mlp", "f": 1,
            "round_timeout": 8.0, "heartbeat_timeout": 2.0, "disable_plugin": ["acme"],
        }  # fmt: skip
        for name, value in expected.items():
            self.assertEqual((plain[name], type(plain[name])), (value, type(value)), name)
        told = tomllib.loads(options_to_toml(plain))
        self.assertEqual(told["lr"], 0.1)
        self.assertEqual(told["aggregator"], "median")

    def test_what_stays_wrong(self) -> None:
        """A text that stands for no such value is refused as before."""
        for options in (
            {"rounds": np.float64(2.5)}, {"rounds": np.bool_(True)}, {"lr": np.array([0.1])},
            {"lr": np.complex64(1)}, {"lr": torch.ones(2)}, {"strict": np.int64(1)},
            {"lr": torch.ones((), device="meta")}, {"data_root": b"x"}, {"lr": np.nan},
        ):  # fmt: skip
            self.assertRaises(ConfigError, RunConfig, in_process=True, **options)


class KeywordTests(SynchronousTestCase):
    """Keywords of rules are checked, whatever the type of their values."""

    def test_unknown_ones(self) -> None:
        """The nearest one is named, and all that there are."""
        for value in (2, np.int64(2), torch.tensor(2), [2], max, None, Fraction(2)):
            with self.assertRaisesRegex(BadParameter, r"'ff'; did you mean 'f'\? \(it takes: f\)"):
                byzpy_tw.aggregator("trimmed-mean", ff=value)
        with self.assertRaisesRegex(BadParameter, "no parameter 'scal'; did you mean 'scale'"):
            byzpy_tw.attack("sign-flip", scal=np.float32(1))
        with self.assertRaisesRegex(BadParameter, "no parameter 'size'"):
            byzpy_tw.preaggregator("bucketing", size=np.int64(1))
        with self.assertRaisesRegex(BadParameter, "no rule of .* has a parameter 'ff'; did you"):
            byzpy_tw.pipeline("nnm | trimmed-mean", ff=2)

    def test_numbers_of_other_libraries(self) -> None:
        """NumPy's, torch's, fractions and decimals are the numbers that they stand for."""
        for value in (
            2, 2.0, "2", np.int64(2), np.float32(2), np.array(2), torch.tensor(2), Fraction(4, 2),
            Decimal(2), Whole(3) - 1,
        ):  # fmt: skip
            self.assertEqual(byzpy_tw.aggregator("trimmed-mean", f=value).f, 2)
            chain = byzpy_tw.pipeline("nnm | trimmed-mean", f=value)
            self.assertEqual((chain.pre[0].f, type(chain.aggregator.f)), (2, int))
        self.assertEqual(byzpy_tw.attack("sign-flip", scale=np.float64(-3)).scale, -3.0)
        self.assertEqual(byzpy_tw.aggregator("trimmed-mean:f=2", f=2.0).f, 2)
        self.assertIsNone(byzpy_tw.aggregator("multi-krum", q=None).q)

    def test_given_twice(self) -> None:
        """A keyword that differs from a rule's own text is an error, in a pipeline too."""
        for made in (byzpy_tw.aggregator, byzpy_tw.pipeline):
            with self.assertRaisesRegex(BadParameter, "'krum:f=1': f is given twice, 1 and 4"):
                made("krum:f=1", f=4)
        with self.assertRaisesRegex(BadParameter, "'nnm:f=1': f is given twice, 1 and 2"):
            byzpy_tw.pipeline("nnm:f=1 | krum", f=2)
        self.assertEqual(byzpy_tw.pipeline("nnm:f=2 | krum", f=2).aggregator.f, 2)

    def test_pipeline_of_a_list(self) -> None:
        """A list of names is the text with bars between them; other things are told."""
        named = byzpy_tw.pipeline("clipping:c=3 | nnm | krum", f=1)
        self.assertEqual(byzpy_tw.pipeline(["clipping:c=3", "nnm", "krum"], f=1), named)
        with self.assertRaisesRegex(BadParameter, "'nnm | krum', or a list of such names, got"):
            byzpy_tw.pipeline([byzpy_tw.preaggregator("nnm"), "krum"], f=1)  # type: ignore[list-item]  # wrong

    def test_values_of_another_kind(self) -> None:
        """The error says what is expected, and what there is."""
        for value, got in (
            (2.5, "got float 2.5"), (True, "got bool True"), ([2], "got list"),
            (np.array([2]), "got ndarray"), (max, "got builtin_function_or_method"),
            (1j, "got complex"), (float("nan"), "got float nan"), (torch.ones(2), "got Tensor"),
        ):  # fmt: skip
            for made in (byzpy_tw.aggregator, byzpy_tw.pipeline):
                with self.assertRaisesRegex(BadParameter, f"trimmed-mean: f must be int, {got}"):
                    made("trimmed-mean", f=value)
        with self.assertRaisesRegex(BadParameter, "must be random or identity, got int 3"):
            byzpy_tw.preaggregator("bucketing", permutation=3)


class TrustedRowTests(SynchronousTestCase):
    """A rule that trusts one node's row promises nothing behind one that mixes rows."""

    def test_guarantee(self) -> None:
        """Bucketing and nnm move or mix the reference's row; clipping leaves it in its place."""
        for chain, good in (
            ("monna", True), ("clipping | monna", True), ("arc | monna", True),
            ("bucketing:s=1,permutation=identity | monna", True), ("nnm | median", True),
            ("bucketing:s=1 | monna", False), ("nnm | monna", False),
            ("clipping | nnm | monna", False),
        ):  # fmt: skip
            found = byzpy_tw.pipeline(chain, f=2).guarantee(13)
            self.assertEqual(found is None, good, chain)
        self.assertIn("monna trusts one node's row, and bucketing", str(
            byzpy_tw.pipeline("bucketing:s=1 | monna", f=2).guarantee(13)
        ))  # fmt: skip

    def test_no_row_of_its_own(self) -> None:
        """Behind a rule that leaves fewer rows there is none to trust: no run begins."""
        config = RunConfig(
            in_process=True,
            num_honest=11,
            f=2,
            aggregator="monna",
            pre_aggregator="bucketing",  # type: ignore[arg-type]
        )
        with self.assertRaisesRegex(ConfigError, "monna needs the row .* makes 6 rows of n=12"):
            resolve_rules(config, load(only=()))

    def test_strict(self) -> None:
        """It is a notice at the start, and an error with --strict."""
        options: dict[str, Any] = {
            "in_process": True, "num_honest": 11, "num_byz": 2, "f": 2, "aggregator": "monna",
            "pre_aggregator": "bucketing:s=1",
        }  # fmt: skip
        names = load(only=())
        missing = resolve_rules(RunConfig(**options), names).missing_guarantee
        self.assertIn("monna trusts one node's row", str(missing))
        strict = RunConfig(**options, strict=True)
        self.assertRaises(GuaranteeMissing, resolve_rules, strict, names)


class VectorsTests(SynchronousTestCase):
    """Inputs that are no vectors: what is accepted, what there is, and the cure."""

    def test_refused(self) -> None:
        """One error for all of them, from every kind of rule."""
        rows = torch.ones(5, 3)
        layers = [[torch.ones(2, 2), torch.ones(2)] for _ in range(5)]
        state = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
        for vectors, got in (
            (layers, r"a list of list; join .*torch.cat\(\[t.reshape\(-1\) for t in layers\]\)"),
            ([state] * 5, "a list of dict; join"), (state, "dict; join"),
            (np.ma.masked_array(np.ones((5, 3)), False), r"masked array .*x.filled\(...\)"),
            ([np.ones(3), np.ma.ones(3)], r"a masked array .*x.filled\(...\)"),
            (rows.to_sparse(), "layout torch.sparse_coo; make it dense"),
            ([rows[0].to_sparse()] * 5, "layout torch.sparse_coo"), (nested, "a nested tensor"),
            (rows.to("meta"), "meta device"), ([rows[0], rows[0].to("meta")], "meta device"),
            (rows.to(torch.float8_e4m3fn), "torch.float8_e4m3fn"), (rows.int(), "torch.int32"),
            (rows.to(torch.complex64), "torch.complex64"), (rows.bool(), "torch.bool"),
            (np.ones((5, 3), np.longdouble), f"an array of {np.dtype(np.longdouble)}"),
            (np.array([[1], [2, 3]], dtype=object), "an array of object"), ("abc", "str"),
            (["a", "b"], "a list of str"), ((row for row in rows), r"generator; list\(x\)"),
            (None, "NoneType"), ([None] * 3, "a list of NoneType"), ([], "list of length 0"),
            ([[1.0], [2.0]], "a list of list; make it a tensor"), (rows[0], r"shape \(3,\)"),
            ([rows[0], np.ones(3)], "a list of both Tensor and ndarray"),
            ([torch.ones(3), torch.ones(4)], "differing shapes"), (5, "int"),
        ):  # fmt: skip
            for rule in ("median", "krum", "mean", "geometric-median"):
                with self.assertRaisesRegex(BadVectors, f"expected an .*float64.*, got .*{got}"):
                    byzpy_tw.aggregator(rule)(vectors)

    def test_accepted(self) -> None:
        """The four types, any memory order, parameters beside tensors, and lazy signs."""
        rows = torch.arange(15.0).reshape(5, 3)
        for vectors in (
            rows.half(), rows.bfloat16(), rows.double(), rows.t().contiguous().t(),
            [torch.nn.Parameter(rows[0]), *rows[1:]], rows.numpy()[::-1], tuple(rows),
            rows.numpy().astype(">f4"), torch.imag((1j * rows).conj()).neg(),
        ):  # fmt: skip
            found = byzpy_tw.aggregator("median")(vectors)
            self.assertEqual([float(x) for x in found], [6.0, 7.0, 8.0])
