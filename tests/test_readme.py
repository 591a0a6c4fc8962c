"""The README's commands and code do what it says."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.cli.sweep import options as sweep_options
from byzpy_tw.cli.train import configuration, parse_invocation, parser
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.plugins import load
from byzpy_tw.tap import Options
from tests.support import PATIENCE, TWISTD, Process, environment, folder

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PLUGINS = (ROOT / "docs" / "how-to" / "write-plugins.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()


def blocks(heading: str, language: str, page: str = README) -> list[str]:
    """The code blocks of `language` under `heading` of `page`."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [b.strip() for b in re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)]


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


@pytest.mark.slow
class WalkTests(TestCase):
    """The three-terminal walk, as printed."""

    def test_three_terminals(self) -> None:
        """The four commands, with free ports in place of the README's, train a model."""
        *server_lines, trainer_line = blocks("Three terminals on one machine", "sh")
        self.assertEqual(len(server_lines), 3)
        here = folder(self)
        for there, port in zip((29000, 29001, 29002), free_ports(3), strict=True):
            server_lines = [line.replace(str(there), str(port)) for line in server_lines]
            trainer_line = trainer_line.replace(str(there), str(port))
        for line in server_lines:
            words = shlex.split(line)
            self.assertEqual(words[0], "twistd")
            server = Process.start(self, [*TWISTD, *words[1:]], fresh=True, cwd=here)
            server.wait_for("listening on")
        words = shlex.split(trainer_line)
        self.assertEqual(words[0], "python")
        trainer = Process.start(self, [sys.executable, *words[1:]], fresh=True, cwd=here)
        self.assertEqual(trainer.wait(), 0, trainer.output)
        accuracy = float(trainer.wait_for(r"final: .* accuracy ([\d.]+)%").group(1))
        self.assertGreaterEqual(accuracy, 88, trainer.output)
        [left] = (here / "runs").iterdir()
        self.assertTrue((left / "result.json").exists())


@pytest.mark.slow
class PluginTests(TestCase):
    """The plugin of the page on plugins, from its two files to its name."""

    def test_the_plugin_works(self) -> None:
        """Installed by pip, it is used by name."""
        here, there = folder(self), folder(self)
        [code], [project] = (
            blocks("As a package", "python", PLUGINS),
            blocks("As a package", "toml", PLUGINS),
        )
        (here / "midrange.py").write_text(code.partition("\n")[2])
        (here / "pyproject.toml").write_text(project)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        pip += ["--no-build-isolation", "--no-index", "--target", str(there), str(here)]
        installed = subprocess.run(pip, capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(installed.returncode, 0, installed.stderr)
        path = os.pathsep.join(filter(None, [str(there), os.environ.get("PYTHONPATH")]))
        run = Process.start(
            self,
            [sys.executable, "-m", "byzpy_tw.train", "--in-process", "--dataset", "mnist5k"]
            + ["--rounds", "1", "--aggregator", "midrange:scale=0.5"],
            cwd=folder(self),
            env={**environment(), "PYTHONPATH": path},
        )
        self.assertEqual(run.wait(), 0, run.output)


class TextTests(SynchronousTestCase):
    """Checks of the text that run nothing for long."""

    def test_is_short(self) -> None:
        """At most 120 lines: everything else stands in docs/."""
        self.assertLessEqual(len(README.splitlines()), 120)

    def test_options_exist(self) -> None:
        """Each option that the README names is the trainer's, the server's or the sweep's."""
        sweep = argparse.ArgumentParser()
        sweep_options(sweep)
        known = parser().format_help() + str(Options()) + sweep.format_help()
        elsewhere = {"--pidfile", "--logfile", "--help", "--server"}
        for option in set(re.findall(r"--[a-z][a-z-]+", README)) - elsewhere:
            self.assertIn(option, known, option)

    def test_runs_keep_their_guarantee(self) -> None:
        """Each run that the README starts has a rule with its guarantee, for n and f."""
        lines = re.findall(r"-m byzpy_tw\.train (--.*)$", README, re.MULTILINE)
        self.assertEqual(len(lines), 2)
        [code] = blocks("From Python", "python")
        [options] = re.findall(r"byzpy_tw\.run\((.*)\)  #", code)
        called = RunConfig(in_process=True, **eval(f"dict({options})"))
        configs = [called, *(configuration(shlex.split(line)) for line in lines)]
        for config in configs:
            self.assertIsNone(resolve_rules(config, load(only=())).missing_guarantee, config)

    @pytest.mark.slow
    def test_python_runs(self) -> None:
        """The Python lines run."""
        [code] = blocks("From Python", "python")
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE,
            cwd=folder(self),
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("finished: 5 rounds", done.stdout)

    def test_config_file(self) -> None:
        """The file of options is one, and the commands beside it are understood."""
        text, *_ = blocks("An example", "toml", CONFIGURATION)
        lines = blocks("An example", "sh", CONFIGURATION)
        here = folder(self)
        (here / "run.toml").write_text(text)
        commands = [shlex.split(line) for block in lines for line in block.splitlines()]
        for words in commands:
            self.assertEqual(words[:3], ["python", "-m", "byzpy_tw.train"])
            given = words[3 : words.index(">") if ">" in words else None]
            given = [str(here / w) if w == "run.toml" else w for w in given]
            self.assertGreaterEqual(parse_invocation(given).options["rounds"], 1)

    def test_ci_runs_the_commands(self) -> None:
        """.ci/run installs and tests as the README's second command, and runs its first."""
        script = (ROOT / ".ci" / "run").read_text()
        first, second = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
        self.assertIn(first.rpartition("venv/bin/python ")[2], script)
        self.assertIn("install --quiet -e '.[test]'", script)
        self.assertIn("pip install -e '.[test]'", second)
        command = second.rpartition("venv/bin/python ")[2]
        self.assertEqual(command, "-m pytest -n 2")
        self.assertIn(f'/venv/bin/python" {command} ', script)
