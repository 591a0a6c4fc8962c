"""docs/: everything is found from its index, links lead somewhere, commands are understood."""

from __future__ import annotations

import argparse
import configparser
import json
import re
import shlex
import shutil
import subprocess
import unittest
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.__main__ import COMMANDS
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.cli.doctor import own_parser
from byzpy_tw.cli.train import configuration, parser
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ByzpyTwError, UnknownName
from byzpy_tw.plugins import load
from byzpy_tw.plugins.shorthand import build_pipeline
from byzpy_tw.tap import Options
from byzpy_tw.testing.properties import aggregator_tests

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(r"^ *```(\w+)[^\n]*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the headings of a page as GitHub's anchors."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def links(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Each link to a file of this project: as written, the file, the anchor."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            yield target, (page.parent / path).resolve() if path else page, anchor


def commands() -> Iterator[tuple[str, list[str]]]:
    """Each command line in a block of a shell, with its page's name."""
    for page in PAGES:
        for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in text.splitlines() if language == "sh" else ():
                yield page.name, shlex.split(line.removesuffix(" || true").partition(" > ")[0])


class PagesTests(SynchronousTestCase):
    def test_links_lead_somewhere(self) -> None:
        """Each relative link is to a file that is there, and to a heading in it."""
        for page in [*PAGES, ROOT / "README.md"]:
            for target, path, anchor in links(page):
                self.assertTrue(path.exists(), f"{page.name}: {target}")
                if anchor:
                    self.assertIn(anchor, anchors(path), f"{page.name}: {target}")

    def test_the_index_has_every_page(self) -> None:
        """docs/README.md links to each of them, and the project's README to it."""
        listed = {path for _, path, _ in links(DOCS / "README.md")}
        self.assertEqual(set(PAGES) - listed, {DOCS / "README.md"})
        self.assertIn(DOCS / "README.md", {path for _, path, _ in links(ROOT / "README.md")})

    def test_commands_are_understood(self) -> None:
        """Every command of this project that a page shows has options that exist."""
        seen = set()
        for page, words in commands():
            try:
                seen.add(self.understood(words))
            except (SystemExit, usage.UsageError, ByzpyTwError) as e:
                self.fail(f"{page}: {shlex.join(words)}: {e}")
        self.assertLessEqual({"train", "byzpy-server", "plugins", "keygen"}, seen)

    def understood(self, words: list[str]) -> str | None:
        """Return the name of a command of ours, or None."""
        if "..." in words or "COMMAND" in words or words[0] in ("sudo", "docker"):
            return None
        if words[:3] == ["python", "-m", "byzpy_tw.train"]:
            if {"--resume", "--config"} & set(words):  # of files that are not here
                parser().parse_args(words[3:])
            else:
                checked(configuration(words[3:]))
            return "train"
        if words[:4] == ["python", "-m", "byzpy_tw", "doctor"]:  # before a run's own words
            parser().parse_args(own_parser().parse_known_args(words[4:])[1])
            return "doctor"
        if words[:3] == ["python", "-m", "byzpy_tw"]:
            made = argparse.ArgumentParser()
            COMMANDS[words[3]].options(made)
            made.parse_args(words[4:])
            return words[3]
        if words[0] == "twistd" and "[options]" not in words:
            server(words[words.index("byzpy-server") + 1 :])
            return "byzpy-server"
        return None


def checked(config: RunConfig) -> None:
    """As before round 0: whether rules and attack make sense for these numbers."""
    try:
        resolve_rules(config, load(only=()))
    except UnknownName as e:
        if "near-m" not in str(e) and not config.plugin:  # the pages' own plugins
            raise


def server(words: list[str]) -> usage.Options:
    """A server's options, read but for what `words` name: keys, a port to listen on."""

    class Read(Options):
        def postOptions(self) -> None:
            """Nothing is looked for on this machine."""

    read = Read()
    read.parseOptions(words)
    return read


class DeployTests(SynchronousTestCase):
    """docs/deploy: what an operator copies."""

    def setUp(self) -> None:
        self.unit = DOCS / "deploy" / "byzpy-server.service"
        self.image = (DOCS / "deploy" / "Dockerfile").read_text(encoding="utf-8")

    def test_the_unit_starts_a_server(self) -> None:
        """In the foreground, with keys, from the folders that the page makes."""
        lines = self.unit.read_text(encoding="utf-8").replace("\\\n", " ")
        # Keys may be there twice for systemd.
        read = configparser.RawConfigParser(strict=False)
        read.read_string(lines)
        words = shlex.split(read["Service"]["ExecStart"].replace("$BYZPY_OPTIONS", ""))
        at = words.index("byzpy-server")
        self.assertEqual(words[1:at], ["-n", "--pidfile=", "--logfile=-"])
        options = server(words[at + 1 :])
        page = (DOCS / "how-to" / "servers-as-services.md").read_text(encoding="utf-8")
        for needed in (words[0].rpartition("/bin/")[0], options["keys"], options["data-root"]):
            self.assertIn(needed, page)
        self.assertIn(f"--user-group --home-dir /var/lib/byzpy --shell /usr/sbin/nologin "
                      f"{read['Service']['User']}", page)  # fmt: skip

    @pytest.mark.slow
    def test_systemd_takes_the_unit(self) -> None:
        """Its own checker finds nothing wrong, but that nothing is installed here."""
        checker = shutil.which("systemd-analyze")
        if checker is None:
            raise unittest.SkipTest("systemd-analyze is not installed")
        done = subprocess.run(
            [checker, "verify", str(self.unit)], capture_output=True, text=True, timeout=60
        )
        wrong = [line for line in done.stderr.splitlines() if self.unit.name in line]
        self.assertEqual([line for line in wrong if "is not executable" not in line], [])

    def test_the_image_starts_a_server(self) -> None:
        """Its command is understood, and what it copies is there and let in."""
        lines = self.image.replace("\\\n", " ").splitlines()
        parts = dict(line.split(" ", 1) for line in lines if re.match("ENTRYPOINT|CMD", line))
        words = [*json.loads(parts["ENTRYPOINT"]), *json.loads(parts["CMD"])]
        at = words.index("byzpy-server")
        self.assertEqual(words[1:at], ["-n", "--pidfile=", "--logfile=-"])
        options = server(words[at + 1 :])
        self.assertEqual((options["data-root"], options["port"]), ("/data", 29000))
        ignored = (DOCS / "deploy" / "Dockerfile.dockerignore").read_text().split()
        for line in lines:
            if line.startswith("COPY ") and "--from" not in line:
                for source in line.split()[1:-1]:
                    self.assertTrue((ROOT / source).exists(), source)
                    self.assertIn(f"!{source}", ignored)


def medoid() -> ModuleType:
    return gram_space_plugin("near_medoid")


def gram_space_plugin(name: str) -> ModuleType:
    """A plugin in docs/explanation/gram-space.md, by its module's name."""
    text = (DOCS / "explanation" / "gram-space.md").read_text(encoding="utf-8")
    blocks = [code for language, code in BLOCK.findall(text) if language == "python"]
    [source] = [code for code in blocks if f'"{name.replace("_", "-")}"' in code]
    module = ModuleType(name)
    # Documentation of ours, not data from elsewhere.
    exec(compile(source, "docs/explanation/gram-space.md", "exec"), vars(module))
    return module


class GramSpaceTests(SynchronousTestCase):
    """The rule of docs/explanation/gram-space.md."""

    def by_hand(self, rows: torch.Tensor, f: int) -> torch.Tensor:
        apart = torch.cdist(rows, rows)
        nearest = apart[apart.sum(dim=1).argmin()].sort().indices[: len(rows) - f]
        return rows[nearest].mean(dim=0)

    def test_alone_and_in_a_chain(self) -> None:
        """The inner products give the rule's definition, also for mixed rows."""
        rows = torch.randn(9, 40, generator=torch.Generator().manual_seed(1)).double()
        names = load(only=(), extra={"near-medoid": medoid()})
        rule = names.make("aggregator", "near-medoid", f=3)
        torch.testing.assert_close(rule(rows), self.by_hand(rows, 3))
        chain = build_pipeline(names, "nnm | near-medoid", f=3)
        mixed = names.make("pre-aggregator", "nnm", f=3)(rows)
        torch.testing.assert_close(chain(rows), self.by_hand(mixed, 3))
        weights = chain.outcome(rows).weights
        assert weights is not None
        self.assertAlmostEqual(float(weights.sum()), 1.0)

    def test_passes_the_test_kit(self) -> None:
        """The example that a reader copies has every property of an aggregator."""
        result = unittest.TestResult()
        tests = aggregator_tests(medoid().NearMedoid, bound=bound)
        unittest.defaultTestLoader.loadTestsFromTestCase(tests).run(result)
        self.assertEqual([*result.failures, *result.errors], [])
        self.assertGreater(result.testsRun, 5)


def bound(honest: torch.Tensor) -> float:
    """Return the bound for the kit's 13 rows with 2 faulty ones.

    The medoid is within 2 (n - f) / (n - 2f) < 2.5 diameters of an honest row, kept rows
    one diameter more from it; a diameter is at most twice the longest row.
    """
    return (1 + 2 * (2.5 + 3.5)) * float(honest.norm(dim=1).max())
