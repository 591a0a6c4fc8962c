"""The promises of CONTRIBUTING.md: commands and places exist; `--no-skips` names skipped tests."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.support import PATIENCE, environment, folder
from tests.test_names import definitions

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "byzpy_tw"
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

TESTS = """
import unittest
import pytest

class Tests(unittest.TestCase):
    def test_runs(self): ...

    @pytest.mark.gpu
    @unittest.skip("no GPU")
    def test_of_gpus(self): ...

    @unittest.skipIf({skip}, "no such program: chromium")
    def test_of_pages(self): ...
"""


def places(text: str) -> Iterator[tuple[list[Path], list[str]]]:
    """Yield the files that each row of a table names, and the names beside them."""
    for row in re.findall(r"(?m)^\|[^|]*\|(.*)\|$", text):
        quoted = re.findall(r"`([\w./-]+)`", row)
        paths = [q for q in quoted if "/" in q or q.endswith(".py")]
        names = [q for q in quoted if q not in paths and re.fullmatch(r"[A-Za-z_][\w.]*", q)]
        if paths:
            yield [PACKAGE / q if (PACKAGE / q).exists() else ROOT / q for q in paths], names


def defined(path: Path) -> set[str]:
    """Return what a module defines: names, ``Class.member``, and keywords of its fields."""
    if path.suffix != ".py":
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {name for name, _ in definitions(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for name, _ in definitions(ast.Module(node.body, []))}
        elif isinstance(node, ast.keyword):
            found.add(node.arg or "")
    return found


def wrong_places(text: str) -> list[str]:
    """Return each file in a table of `text` that is not there, and each name that is not in it."""
    wrong = []
    for paths, names in places(text):
        missing = [str(path.relative_to(ROOT)) for path in paths if not path.exists()]
        known = set().union(*(defined(path) for path in paths if path.is_file()))
        files = ", ".join(path.name for path in paths)
        wrong += missing or [f"{name} in {files}" for name in names if name not in known]
    return wrong


class GuideTests(SynchronousTestCase):
    def test_programs_exist(self) -> None:
        """Each script and module that a command names is there."""
        commands = re.findall(r"`((?:python|scripts/|\.ci/)[^`]*)`", GUIDE)
        self.assertGreater(len(commands), 8)
        for command in commands:
            words = shlex.split(command)
            if words[:2] == ["python", "-m"]:
                module = words[2].replace(".", "/")
                found = words[2] == "pytest" or (ROOT / module).with_suffix(".py").exists()
                self.assertTrue(found or (ROOT / module / "__main__.py").exists(), command)
            else:
                script = words[1] if words[0] == "python" else words[0]
                self.assertTrue((ROOT / script).exists(), command)

    def test_places_in_tables_exist(self) -> None:
        """Each file in a table of what to touch is there, and has the names beside it."""
        for heading, least in (("## To add something", 15), ("## To change something", 70)):
            table = GUIDE.partition(heading)[2].partition("\n## ")[0]
            self.assertGreaterEqual(len(list(places(table))), least)
            self.assertEqual(wrong_places(table), [])

    def test_places_in_explanations_exist(self) -> None:
        """So has each file on the way of a round, a session and a folder, and of a state."""
        for page, least in (("architecture.md", 30), ("round.md", 20)):
            text = (ROOT / "docs" / "explanation" / page).read_text(encoding="utf-8")
            self.assertGreaterEqual(len(list(places(text.partition("## Packages")[0]))), least)
            self.assertEqual(wrong_places(text.partition("## Packages")[0]), [])

    def test_wrong_places_are_found(self) -> None:
        """A file that moved, and a name that is no longer in it."""
        rows = ("| a | `gone.py` | `b` |", "| a | `seeds.py` | `stream`, `away`, `Context.gone` |")
        self.assertEqual(
            [wrong_places(row) for row in rows],
            [["gone.py"], ["away in seeds.py", "Context.gone in seeds.py"]],
        )

    def test_every_mark_is_explained(self) -> None:
        """The marks that are registered each have a test that has it, but for GPUs."""
        tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
        marks = {line.partition(":")[0] for line in tools["pytest"]["ini_options"]["markers"]}
        text = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").glob("test_*.py"))
        self.assertEqual(marks, {*re.findall(r"pytest\.mark\.(\w+)", text), "gpu"})


@pytest.mark.slow
class SkipTests(SynchronousTestCase):
    def run_(self, *, skip: bool) -> subprocess.CompletedProcess[str]:
        where = folder(self)
        shutil.copy(ROOT / "tests" / "conftest.py", where)
        (where / "test_skipping.py").write_text(TESTS.format(skip=skip))
        (where / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu\n    simulator\n")
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-n", "2", "--no-skips", "-p", "no:cacheprovider"],
            cwd=where,
            env={**environment(), "PYTEST_ADDOPTS": ""},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def test_a_gpu_may_be_missing(self) -> None:
        """A test of GPUs may skip."""
        done = self.run_(skip=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_nothing_else_may(self) -> None:
        """Any other skip fails the run, and is told with its reason."""
        done = self.run_(skip=True)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("test_of_pages: Skipped: no such program: chromium", done.stdout)
        self.assertNotIn("test_of_gpus:", done.stdout)


@pytest.mark.slow
class CoverageTests(SynchronousTestCase):
    def test_processes_and_the_simulator(self) -> None:
        """Processes that tests start are measured, and tests of the simulator are not."""
        where = folder(self)
        shutil.copy(ROOT / "tests" / "conftest.py", where)
        (where / "test_measured.py").write_text(
            "import subprocess, sys\nimport pytest\n\n"
            "def test_a_process():\n"
            "    subprocess.run([sys.executable, '-c', 'import byzpy_tw.vectors'], check=True)\n\n"
            "@pytest.mark.simulator\n"
            "def test_simulated():\n"
            "    import byzpy_tw.seeds\n"
            "    subprocess.run([sys.executable, '-c', 'import byzpy_tw.text'], check=True)\n"
        )
        (where / "pytest.ini").write_text("[pytest]\nmarkers =\n    simulator\n")
        settings = {
            "COVERAGE_PROCESS_START": str(ROOT / "pyproject.toml"),
            "COVERAGE_FILE": str(where / "data"),
            "PYTEST_ADDOPTS": "",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        }
        options = {"cwd": where, "capture_output": True, "text": True, "timeout": PATIENCE}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly"],
            env={**environment(), **settings}, **options,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        tool = [sys.executable, "-m", "coverage"]
        settings.pop("COVERAGE_PROCESS_START")
        subprocess.run([*tool, "combine", "-q"], env={**environment(), **settings}, **options)
        told = subprocess.run(
            [*tool, "report", "--rcfile", str(ROOT / "pyproject.toml"), "--fail-under=0"],
            env={**environment(), **settings}, **options,
        ).stdout  # fmt: skip
        lines = dict(re.findall(r"(byzpy_tw/\S+?\.py) .*?([\d.]+)%", told))
        self.assertGreater(float(lines["byzpy_tw/vectors.py"]), 10, told)
        for name in ("seeds", "text"):
            self.assertEqual(float(lines[f"byzpy_tw/{name}.py"]), 0, told)
