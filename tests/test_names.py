"""One word for one thing: old names do not come back, and docstrings begin plainly."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "byzpy_tw"
KEPT = ROOT / "tests" / "plugins_0_1"  # as it was written
# Where code stands whose docstrings are read here.
FOLDERS = tuple("byzpy_tw tests benchmarks scripts plugins docs reproductions twisted".split())
RIDDLES = frozenset("What Whether Whoever Of Nor Those Which Who That".split())


@frozen
class OldName:
    """`old`, for which `new` is said now, in files whose path `where` is found in."""

    old: str
    new: str
    where: str

    @classmethod
    def read(cls) -> list[OldName]:
        """Return the list in old_names.txt."""
        text = (ROOT / "tests" / "old_names.txt").read_text(encoding="utf-8")
        rows = [line.split() for line in text.splitlines() if line and line[0] != "#"]
        return [cls(*(row if len(row) == 3 else [*row, ""])) for row in rows]


def definitions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield each class, function, attribute and constant that a module defines."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.lineno
        if isinstance(node, (ast.ClassDef, ast.Module)):
            for statement in node.body:
                targets = getattr(statement, "targets", [getattr(statement, "target", None)])
                if isinstance(statement, (ast.Assign, ast.AnnAssign)):
                    for name in (n for t in targets for n in ast.walk(t)):
                        if isinstance(name, ast.Name):
                            yield name.id, name.lineno


def stale(path: str, tree: ast.Module, names: list[OldName]) -> list[str]:
    """Return each old name that the module at `path` defines."""
    by_word: dict[str, list[OldName]] = {}
    for name in names:
        by_word.setdefault(name.old, []).append(name)
    return [
        f"{path}:{line}: {word} is called {name.new}"
        for word, line in definitions(tree)
        for name in by_word.get(word, ())
        if re.search(name.where, path)
    ]


def riddles(path: str, tree: ast.Module) -> list[str]:
    """Return each docstring of the module that begins with one of `RIDDLES`."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for node in ast.walk(tree):
        text = ast.get_docstring(node) if isinstance(node, documented) else None
        first = re.match(r"\W*(\w+)", text or "")
        if first and first[1] in RIDDLES:
            found.append(f"{path}:{getattr(node, 'lineno', 1)}: {(text or '').splitlines()[0]}")
    return found


class OldNameTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.names = OldName.read()

    def test_modules(self) -> None:
        """No module has an old name, except for those that warn of it."""
        modules = [name for name in self.names if name.old.startswith("byzpy_tw.")]
        self.assertGreater(len(modules), 100)
        for name in modules:
            path = PACKAGE.joinpath(*name.old.split(".")[1:])
            for file in (path.with_suffix(".py"), path / "__init__.py"):
                if file.exists():
                    text = file.read_text("utf-8")
                    self.assertRegex(text, "DeprecationWarning|The old name of", name)

    def test_definitions(self) -> None:
        """Nothing in the package is defined under an old name."""
        found: list[str] = []
        for path in sorted(PACKAGE.rglob("*.py")):
            where = path.relative_to(ROOT).as_posix()
            found += stale(where, ast.parse(path.read_text("utf-8")), self.names)
        self.assertEqual(found, [])

    def test_each_is_found(self) -> None:
        """Classes, functions, attributes and constants are, where the name is not right."""
        names = [OldName("Fleet", "Cluster", ""), OldName("since", "begun_at", "trainer/")]
        for source in ("class Fleet: ...", "Fleet = 3", "class A:\n    since: int = 3",
                       "def since(): ...", "class A:\n    async def since(self): ..."):  # fmt: skip
            tree = ast.parse(source)
            self.assertEqual(len(stale("byzpy_tw/trainer/x.py", tree, names)), 1, source)
        tree = ast.parse("def since(): ...\ndef fleet(since): ...\nfrom x import Fleet")
        self.assertEqual(stale("byzpy_tw/rounds/x.py", tree, names), [])


class DocstringTests(SynchronousTestCase):
    def test_begin_plainly(self) -> None:
        """None begins with "What", "Whether", "Of" and the like, in any code here."""
        found: list[str] = []
        for folder in FOLDERS:
            for path in sorted((ROOT / folder).rglob("*.py")):
                if KEPT not in path.parents:
                    where = path.relative_to(ROOT).as_posix()
                    found += riddles(where, ast.parse(path.read_text("utf-8")))
        self.assertEqual(found, [])

    def test_each_is_found(self) -> None:
        """In modules, classes, functions and methods; a later word may be any."""
        for source in ('"""What is."""', 'class A:\n    """Whether."""',
                       'async def a():\n    """Of a."""'):  # fmt: skip
            self.assertEqual(len(riddles("x", ast.parse(source))), 1, source)
        self.assertEqual(riddles("x", ast.parse('"""Return what is."""\ndef a(): ...')), [])
