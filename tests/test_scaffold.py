"""``python -m byzpy_tw new-plugin``: what it writes works, and it writes over nothing."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import sys
import tomllib
import unittest
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.__main__ import main
from byzpy_tw.errors import ConfigError
from byzpy_tw.plugins import load
from byzpy_tw.scaffold.writing import KINDS, check, files, write
from tests.distributions import on_path
from tests.support import folder


class WritingTests(SynchronousTestCase):
    def installed(self, where: Path, kind: str) -> str:
        """A new distribution, with the metadata that pip would make of it; its name."""
        made = write(kind, f"sample-{kind}", where)
        project = tomllib.loads((made.folder / "pyproject.toml").read_text())["project"]
        information = made.folder / f"{made.module.stem}-0.1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        [(point, value)] = project["entry-points"]["byzpy_tw"].items()
        (information / "entry_points.txt").write_text(f"[byzpy_tw]\n{point} = {value}\n")
        sys.path.insert(0, str(made.folder))
        self.addCleanup(sys.path.remove, str(made.folder))
        return str(project["name"])

    @pytest.mark.slow
    def test_every_kind(self) -> None:
        """Its tests pass from the start, and installed it is found under its name."""
        where = on_path(self)
        names = [self.installed(where, kind) for kind in KINDS]
        for kind in KINDS:
            tests = where / f"byzpy-tw-sample-{kind}" / "tests"
            sys.path.insert(0, str(tests))
            self.addCleanup(sys.path.remove, str(tests))
            module = importlib.import_module(f"test_sample_{kind.replace('-', '_')}")
            found = unittest.defaultTestLoader.loadTestsFromModule(module)
            result = unittest.TextTestRunner(stream=io.StringIO()).run(found)
            self.assertGreaterEqual(result.testsRun, 3, kind)
            self.assertEqual(result.failures + result.errors, [], kind)
        registry = load(only=names)
        offered = {(e.kind, e.name) for e in registry.entries() if e.distribution in names}
        self.assertEqual(
            offered, {(kind, f"sample-{kind}") for kind in KINDS if kind != "observer"}
        )
        [hook] = registry.manager.hook.run_finished.get_hookimpls()
        self.assertEqual(hook.plugin_name, "byzpy-tw-sample-observer:sample-observer")

    def test_complete(self) -> None:
        """Metadata, a README that says how to install and try it, a module, tests."""
        for kind in KINDS:
            made = files(kind, "my-own")
            self.assertEqual(
                set(made),
                {"pyproject.toml", "README.md", "byzpy_tw_my_own.py", "tests/conftest.py",
                 "tests/test_my_own.py"},
            )  # fmt: skip
            project = tomllib.loads(made["pyproject.toml"])["project"]
            self.assertEqual(project["dependencies"], ["byzpy-tw"])
            self.assertIn("pip install .", made["README.md"])
            for path, content in made.items():
                self.assertTrue(content.endswith("\n") and not content.endswith("\n\n"), path)
                self.assertLessEqual(max(map(len, content.splitlines())), 100, (kind, path))

    def test_names_of_all_sorts(self) -> None:
        """One that would hide an import, and one of a keyword, make modules that are right."""
        for kind in KINDS:
            for name in ("tensor", "true", "dataset", "registration", "a1-b2"):
                for path, content in files(kind, name).items():
                    if path.endswith(".py"):
                        tree = ast.parse(content, path)
                        classes = {n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
                        self.assertFalse(classes & {"Tensor", "Dataset", "Registration"}, path)


class RefusingTests(SynchronousTestCase):
    def test_bad_names(self) -> None:
        """With the rule, and the nearest name that would do."""
        names = load(only=())
        for name, better in (
            ("My_Rule", "'my-rule'"), ("2d", "'d'"), ("../x", "'x'"), ("a b", "'a-b'"),
            ("-x", "'x'"), ("x-", "'x'"), ("$x", "'x'"), ("x" * 41, "x" * 40), ("", "lower"),
        ):  # fmt: skip
            with self.assertRaises(ConfigError) as caught:
                check("attack", name, names)
            self.assertIn(better, str(caught.exception))

    def test_names_that_are_taken(self) -> None:
        """By this package, under an alias too; the same word for another kind is free."""
        names = load(only=())
        for kind, name in (("aggregator", "median"), ("aggregator", "rfa"), ("model", "mlp")):
            with self.assertRaisesRegex(ConfigError, f"{name}.*from byzpy-tw "):
                check(kind, name, names)
        check("attack", "median", names)

    def test_a_folder_that_is_there(self) -> None:
        """Stays as it is, file for file."""
        where = folder(self)
        (where / "byzpy-tw-mine").mkdir()
        with self.assertRaisesRegex(ConfigError, "byzpy-tw-mine is there already"):
            write("attack", "mine", where)
        self.assertEqual(list((where / "byzpy-tw-mine").iterdir()), [])

    def test_the_command(self) -> None:
        """Says what it wrote and what to type next; a mistake is one line and code 2."""
        where, said, wrong = folder(self), io.StringIO(), io.StringIO()
        words = ["new-plugin", "partition", "my-cut", "--into", str(where)]
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong):
            self.assertEqual(main(words), 0)
            self.assertEqual(main(words), 2)
        self.assertIn(f"wrote {where / 'byzpy-tw-my-cut'}", said.getvalue())
        self.assertIn("python -m byzpy_tw sweep --partition my-cut", said.getvalue())
        self.assertRegex(wrong.getvalue(), r"\Abyzpy_tw: error: BAD_CONFIG: .*\n\Z")
