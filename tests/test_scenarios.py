"""Whole runs of what people train, one of each kind, against attackers.

Each runs in one process, and on two servers where it is cut short and resumed: the same bits.
Then its records are verified.  It learns more than an answer that ignores its input.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from byzpy_tw.audit.verify import Verification
from byzpy_tw.cli.train import configuration
from byzpy_tw.kernels.parallel import pool as make_pool
from byzpy_tw.models import write_values
from byzpy_tw.plugins import load
from byzpy_tw.plugins.plugin_files import read_plugin_files
from byzpy_tw.records.folder import read_run
from byzpy_tw.trainer.run import PreparedRun, prepare_resume, prepare_run, run_prepared
from tests.support import address_of, folder, start_server

ROOT = Path(__file__).resolve().parent.parent
FILES = [ROOT / "tests" / "scenario_plugin.py",
         ROOT / "plugins" / "byzpy-tw-lora" / "byzpy_tw_lora.py"]  # fmt: skip
NODES = ("--num-honest 4 --num-byz 1 --f 1 --threads 1 --batch-size 8 --eval-interval 20 "
         "--checkpoint-interval 1000")  # fmt: skip


class _ForTheClass:
    """A case whose processes end after all tests of a class."""

    def __init__(self, case: type[TestCase]) -> None:
        self.addCleanup: Callable[..., Any] = case.addClassCleanup


@pytest.mark.slow
class ScenarioTests(TestCase):
    timeout = 240
    root: Path
    hosts: str
    first: dict[str, float]  # the metrics of the first evaluation

    @classmethod
    def setUpClass(cls) -> None:
        made = tempfile.TemporaryDirectory(prefix="byzpy_tw-")
        cls.addClassCleanup(made.cleanup)
        cls.root = Path(made.name)
        pages = sorted((ROOT / "docs").rglob("*.md"))
        text = b"".join(page.read_bytes() for page in pages)
        (cls.root / "docs.txt").write_bytes(text[:150_000])
        options = [word for file in FILES for word in ("--plugin", str(file))]
        options += ["--data-root", str(cls.root), "--threads", "1"]
        servers = [start_server(_ForTheClass(cls), *options) for _ in range(2)]
        cls.hosts = ",".join(map(address_of, servers))
        cls.registry = load(only=(), files=read_plugin_files(FILES))

    async def finish(self, run: PreparedRun | None) -> Path:
        assert run is not None
        lines: list[str] = []
        ended = await run_prepared(reactor, run, lines.append)
        self.assertIsNone(ended.error, "\n".join(lines))
        return run.directory.path

    async def train(self, words: str, *more: str) -> Path:
        options = [*shlex.split(f"{NODES} {words}"), *more, "--data-root", str(self.root)]
        options += ["--run-dir", str(folder(self) / "run")]
        return await self.finish(prepare_run(configuration(options), self.registry))

    def result(self, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((path / "result.json").read_text())
        return found

    async def check(self, words: str, *, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
        """Run, resume and verify; return the last metrics, and those of chance."""
        alone = await self.train(words, "--in-process", "--rounds", str(rounds))
        half = str(rounds // 2)
        path = await self.train(words, "--remote-hosts", self.hosts, "--rounds", half)
        self.assertEqual(self.result(path)["rounds"], rounds // 2)
        resumed = prepare_resume(path, {"rounds": rounds}, self.registry, str)
        await self.finish(resumed)
        hashes = [self.result(run)["parameters_sha256"] for run in (alone, path)]
        self.assertEqual(hashes[0], hashes[1], words)
        pool = make_pool(1)
        self.addCleanup(pool.shutdown)
        found = Verification(read_run(path), self.registry, pool, 1)
        found.run()
        self.assertEqual(([p.text for p in found.problems], found.confirmed), ([], True))
        ones, others = ([record["metrics"] for record in self.evaluated(run)]
                        for run in (alone, path))  # fmt: skip
        self.assertEqual(ones[-1], others[-1], words)
        self.first = ones[0]
        config = json.loads((path / "config.json").read_text())
        return others[-1], config["chance"]

    def evaluated(self, path: Path) -> list[dict[str, Any]]:
        """The records of the rounds after which there was an evaluation."""
        records = map(json.loads, (path / "rounds.jsonl").read_text().splitlines())
        return [record for record in records if "metrics" in record]

    async def test_language_model(self) -> None:
        """`gpt-nano` on the bytes of the docs under sign-flip beats the unigram model."""
        found, chance = await self.check(
            "--dataset text:name=docs,length=16 --model gpt-nano:width=32,depth=1 "
            "--optimizer adam:beta2=0.99 --lr 0.05 --batch-size 32 "
            "--attack sign-flip --pre-aggregator nnm --aggregator trimmed-mean", rounds=80,
        )  # fmt: skip
        self.assertLess(found["perplexity"], chance["perplexity"])

    async def test_regression(self) -> None:
        """Real-valued targets under ALIE."""
        found, chance = await self.check(
            "--dataset hills --model mlp:hidden=32 --lr 0.1 --attack alie:tau=1.5 "
            "--aggregator trimmed-mean", rounds=60,
        )  # fmt: skip
        self.assertLess(found["rmse"], chance["rmse"] / 2)
        self.assertGreater(found["r2"], 0.5)

    async def test_multi_label(self) -> None:
        """Any number of labels for each example, under label-flip."""
        found, chance = await self.check(
            "--dataset tags --model mlp:hidden=16 --lr 0.3 --attack label-flip "
            "--aggregator trimmed-mean", rounds=60,
        )  # fmt: skip
        self.assertGreater(found["micro_f1"], chance["micro_f1"] + 0.2)
        self.assertGreater(found["exact_match"], chance["exact_match"])

    async def test_batch_norm(self) -> None:
        """A ResNet-20 with BatchNorm on pictures, under empire."""
        found, chance = await self.check(
            "--dataset stripes --model resnet20:norm=batch --lr 0.05 --attack empire "
            "--aggregator median", rounds=8,
        )  # fmt: skip
        self.assertGreater(found["accuracy"], chance["accuracy"] + 0.2)

    async def test_frozen_backbone(self) -> None:
        """The head alone is trained, and alone travels; a buffer of floats is a constant."""
        found, chance = await self.check(
            "--dataset stripes --model frozen-backbone --lr 0.1 --attack sign-flip "
            "--aggregator median", rounds=30,
        )  # fmt: skip
        self.assertGreater(found["accuracy"], chance["accuracy"] + 0.2)

    async def test_lora(self) -> None:
        """Adapters of a causal model of Hugging Face, whose values are in a file, with dropout."""
        from transformers import AutoModelForCausalLM, GPT2Config

        config = GPT2Config(vocab_size=256, n_positions=16, n_embd=16, n_layer=2, n_head=2)
        base = AutoModelForCausalLM.from_config(config)
        write_values(self.root / "tiny.safetensors", base.state_dict())
        found, chance = await self.check(
            "--dataset text:name=docs,length=16 --model lora:width=16,dropout=0.1,init=tiny "
            "--optimizer adam --lr 0.01 --attack sign-flip --aggregator median --eval-interval 1",
            rounds=10,
        )  # fmt: skip
        self.assertLess(found["perplexity"], self.first["perplexity"])
        self.assertIn("token_accuracy", chance)
