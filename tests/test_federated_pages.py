"""docs/how-to/cross-silo.md and cross-device.md: their commands."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from twisted.internet import reactor as installed
from twisted.trial.unittest import TestCase

import byzpy_tw
from byzpy_tw.__main__ import main
from byzpy_tw.cli.train import configuration
from byzpy_tw.datasets import mnist5k
from byzpy_tw.server.service import ByzpyServer
from byzpy_tw.tap import Options
from tests.support import folder
from tests.test_docs import BLOCK, DOCS

pytestmark = pytest.mark.slow
reactor: Any = installed


class PageCase(TestCase):
    timeout = 240
    page = ""

    def setUp(self) -> None:
        self.here = folder(self)
        before = os.getcwd()
        os.chdir(self.here)
        self.addCleanup(os.chdir, before)
        text = (DOCS / "how-to" / self.page).read_text(encoding="utf-8")
        self.blocks = [(language, code) for language, code in BLOCK.findall(text)]
        self.commands = [
            shlex.split(line)
            for language, code in self.blocks
            if language == "sh"
            for line in code.splitlines()
        ]

    def command(self, words: list[str]) -> tuple[int, str]:
        """``python -m byzpy_tw``, in this process; its exit code and output."""
        self.assertEqual(words[:3], ["python", "-m", "byzpy_tw"])
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = main(words[3:])
        return code, out.getvalue()


class CrossSiloTests(PageCase):
    """Ten servers in this process, each with keys and data of its own."""

    page = "cross-silo.md"
    sizes = (400, 300, 260, 220, 180, 160, 140, 120, 60, 40)

    def write_data(self) -> None:
        """Write unequal parts of the digits, and test data at the trainer."""
        found: Any = mnist5k()
        mixed = np.random.default_rng(0).permutation(len(found.train.y))  # else by label
        x, y, begun = found.train.x.numpy()[mixed], found.train.y.numpy()[mixed], 0
        test: dict[str, Any] = {"x_test": found.test.x.numpy(), "y_test": found.test.y.numpy()}
        none: dict[str, Any] = {name: value[:0] for name, value in test.items()}
        for site, size in enumerate(self.sizes):
            part = slice(begun, begun + size)
            (self.here / f"data{site}").mkdir()
            np.savez(f"data{site}/silo.npz", x_train=x[part], y_train=y[part], **none)
            begun += size
        (self.here / "data").mkdir()
        np.savez("data/silo.npz", x_train=x[-32:], y_train=y[-32:], **test)

    def start(self, site: int, words: list[str]) -> str:
        """Start the server of `site`; return its address."""
        options = Options()
        place = {"29000": "0", "0.0.0.0": "127.0.0.1", "/srv/data": f"data{site}",
                 "site0.pem": f"silo/site{site}.pem"}  # fmt: skip
        words = [place.get(word, word) for word in words[words.index("byzpy-server") + 1 :]]
        options.parseOptions([*words, "--threads", "1"])
        server = ByzpyServer(reactor, options.config, options.loaded_keys)
        server.startService()
        self.addCleanup(server.stopService)
        address: Any = server.address
        return f"tcp://127.0.0.1:{address.port}"

    def write_options(self, addresses: list[str]) -> None:
        """Write the page's two files, for servers at `addresses`."""
        [weights] = [code for language, code in self.blocks if language == "csv"]
        Path("sites.csv").write_text(weights)
        [text] = [code for language, code in self.blocks if language == "toml"]
        for site, address in enumerate(addresses):
            text = text.replace(f"tcp://10.77.0.{10 + site}:29000", address)
        Path("silo.toml").write_text(
            text.replace("trainer.pem", "silo/trainer.pem").replace("/srv/data", "data")
        )

    async def train(self, words: list[str]) -> byzpy_tw.Result:
        self.assertEqual(words[:3], ["python", "-m", "byzpy_tw.train"])
        return await byzpy_tw.run_async(configuration(words[3:]), show=None, threads=1)

    async def test_the_page(self) -> None:
        """Ten sites learn by the file's weights, and one verifies its own node."""
        self.write_data()
        keygen, server, _, train, compare, verify = self.commands
        self.assertEqual(self.command(keygen)[0], 0)
        self.write_options([self.start(site, server) for site in range(10)])
        self.assertGreater((await self.train(train)).accuracy, 0.7)
        described = json.loads(Path("runs/silo/config.json").read_text())
        self.assertAlmostEqual(max(described["weights"]["shares"]), 0.16, places=12)
        self.assertGreater((await self.train(compare)).accuracy, 0.7)
        code, told = self.command([word.replace("/srv/data", "data3") for word in verify])
        self.assertEqual(code, 0, told)
        self.assertIn("of nodes 3", told)


class CrossDeviceTests(PageCase):
    """A population in this process, of which each round asks a sample."""

    page = "cross-device.md"

    async def test_the_page(self) -> None:
        """The run tells the page's budget, learns, and its records name the samples."""
        [train] = [words for words in self.commands if words[2] == "byzpy_tw.train"]
        said: list[str] = []
        config = configuration(train[3:])
        result = await byzpy_tw.run_async(config, show=said.append, threads=1)
        self.assertGreater(result.accuracy, 0.8)
        [told] = [code for language, code in self.blocks if language == "text"]
        self.assertIn(told.strip(), said)
        [block] = [code for language, code in self.blocks if language == "python"]
        exec(compile(block, self.page, "exec"), {})  # our documentation
        [verify] = [words for words in self.commands if words[3] == "verify"]
        code, out = self.command(verify)
        self.assertEqual(code, 0, out)
