"""Causal models with adapters: what is trained, what is frozen, and the trial before round 0."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import byzpy_tw_lora as plugin
import pytest
import torch
from byzpy_tw_lora import lora
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import models
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BadParameter, UnsuitableModel
from byzpy_tw.models.dropout import StreamDropout
from byzpy_tw.models.trainable import digest_of_values, frozen_values, trained_parameters
from byzpy_tw.plugins import load
from byzpy_tw.workers.building import build_host
from tests.support import folder

DATA: dict[str, Any] = {"classes": 40, "shape": (6,), "root": None}
FAMILIES = ("gpt2", "llama")


@pytest.mark.slow  # transformers takes seconds to import
class LoraTests(SynchronousTestCase):
    def test_adapters_alone_are_trained(self) -> None:
        """They are all that makes up a vector; at first they change nothing."""
        for family in FAMILIES:
            model = models.build(lora, {**DATA, "family": family, "width": 16}, seed=1)
            names = [name for name, _ in trained_parameters(model)]
            self.assertEqual(len(names), 2 * 2 * (1 if family == "gpt2" else 2), names)
            self.assertEqual({"lora_" in name for name in names}, {True})
            tokens = torch.arange(12).reshape(2, 6)
            logits = model(tokens)
            self.assertEqual(logits.shape, (2, 6, 40))
            for name, leaf in trained_parameters(model):
                if "lora_B" in name:
                    self.assertFalse(bool(leaf.any()))
                    torch.nn.init.ones_(leaf)
            self.assertFalse(torch.equal(model(tokens), logits))
            # Causal: a later token does not change earlier logits.
            changed = torch.cat([tokens[:, :5], tokens[:, 5:] + 1], dim=1)
            torch.testing.assert_close(model(changed)[:, :5], model(tokens)[:, :5])

    def test_values(self) -> None:
        """They are a function of the seed, and the base's those of a file where one is named."""
        root = folder(self)
        one, two = (models.build(lora, DATA, seed=seed) for seed in (1, 2))
        again = models.build(lora, DATA, seed=1)
        frozen = [digest_of_values(frozen_values(m)) for m in (one, two, again)]
        self.assertEqual([digest == frozen[0] for digest in frozen], [True, False, True])
        base = plugin._base("gpt2", 40, 6, 2, 64, 2)
        models.write_values(root / "book.safetensors", base.state_dict())
        given = {**DATA, "root": root, "init": "book"}
        found = dict(models.build(lora, given, seed=3).named_parameters())
        weight = found["base.transformer.h.1.attn.c_attn.base_layer.weight"]
        self.assertTrue(torch.equal(weight, base.transformer.h[1].attn.c_attn.weight))
        with self.assertRaisesRegex(UnsuitableModel, "book.safetensors is of another model: it"):
            models.build(lora, {**given, "width": 32}, seed=3)

    def test_the_trial(self) -> None:
        """Both families pass it, with dropout from the run's streams, and without a copy a call."""
        (root := folder(self)).joinpath("book.txt").write_bytes(Path(__file__).read_bytes())
        names = load(only=(), extra={"byzpy-tw-lora": plugin})
        for family in FAMILIES:
            config = RunConfig(
                in_process=True, aggregator="median", dataset="text:name=book,length=8",
                model=f"lora:family={family},width=16,dropout=0.5", num_honest=4, batch_size=4,
            )  # fmt: skip
            host = build_host(config.spec(), names, data_root=root)
            self.assertFalse(host.trial_outcome.needs_copies)
            drops = [layer for layer in host.model.modules() if isinstance(layer, StreamDropout)]
            self.assertEqual(sum(layer.p == 0.5 for layer in drops), 2 if family == "gpt2" else 4)
        # The trial looks at what a model keeps, and not into all of transformers.
        self.assertNotIn("transformers.models.whisper.configuration_whisper", sys.modules)

    def test_parameters(self) -> None:
        """Values out of range are refused before anything is made."""
        names = load(only=(), extra={"byzpy-tw-lora": plugin})
        for text, words in (
            ("rank=0", "rank must be from 1 to 1024, got 0"), ("layers=1e6", "layers must be"),
            ("width=6", "multiple of twice the heads, got 6 and 2"), ("family=bert", "family"),
            ("context=5", "context=5 is less than the 6 tokens"), ("dropout=1", "below 1, got 1"),
        ):  # fmt: skip
            with self.assertRaisesRegex(BadParameter, words):
                names.make("model", f"lora:{text}", **DATA)
        with self.assertRaisesRegex(BadParameter, r"\(1, 28, 28\), expected \(T,\)"):
            names.make("model", "lora", **{**DATA, "shape": (1, 28, 28)})
