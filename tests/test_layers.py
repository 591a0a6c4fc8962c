"""The layers: who may import whom, and what no module may do at all."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase

import byzpy_tw
from tests.support import environment, folder

PACKAGE = Path(byzpy_tw.__file__).parent

# The layers, from the bottom up: names that `byzpy_tw/` holds, modules and packages.  A
# module may import those of lower lines, and its own package.  A new one fails the test
# until it is given its place here.
ORDER = (
    ("", "errors", "text"),  # byzpy_tw itself: it imports nothing until a name is used
    (
        "batches",
        "code_names",
        "console",
        "events",
        "files",
        "log_tail",
        "plugin_code",
        "seeds",
        "user_files",
        "vectors",
    ),
    ("global_random", "object_state", "parameters"),
    ("kernels",),
    ("aggregators",),
    ("preaggregators", "attacks", "datasets", "models", "partitions", "optimizers"),
    ("tasks",),
    ("plugins",),
    ("objects",),
    ("workers",),
    ("config",),
    ("algorithms",),
    ("rounds",),
    ("records",),
    ("audit", "report"),
    # No Twisted at or below this line.
    ("processes", "scheduling"),
    ("transports",),
    ("protocol",),
    ("output",),
    ("trainer", "server"),
    ("sweep", "api"),
    ("scaffold", "testing"),
    ("cli",),
    ("__main__", "train", "tap"),
    ("runs",),  # deprecated names of 0.1
)
LAYERS = {name: level for level, names in enumerate(ORDER) for name in names}
KERNELS, AUDIT = LAYERS["kernels"], LAYERS["audit"]

Import = tuple[str, int]  # a dotted name, and the line


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package, parsed, by its name below byzpy_tw."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def is_package(name: str) -> bool:
    return (PACKAGE / Path(*name.split("."))).is_dir()


def imports(name: str, tree: ast.AST) -> Iterator[Import]:
    """Yield the full name of everything that the module `name` imports, anywhere in it.

    ``from a import b`` gives ``a.b``, which may be a module or a name in one;
    so does ``byzpy_tw.b``, which is imported when it is first used.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(name, node)
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "byzpy_tw":
            yield f"byzpy_tw.{node.attr}", node.lineno


def _base(name: str, node: ast.ImportFrom) -> str:
    """The module that ``from ... import`` names, relative ones resolved."""
    if not node.level:
        return node.module or ""
    here = f"byzpy_tw.{name}".rstrip(".").split(".")
    up = node.level - (1 if is_package(name) else 0)
    parts = here[: len(here) - up]
    return ".".join([*parts, *([node.module] if node.module else [])])


def top(dotted: str) -> str | None:
    """``kernels`` of ``byzpy_tw.kernels.gram``; None outside the package."""
    first, _, rest = dotted.partition(".")
    if first != "byzpy_tw":
        return None
    head = rest.split(".")[0]
    if head in byzpy_tw._HOMES:  # a name that byzpy_tw hands on
        return top(byzpy_tw._HOMES[head])
    # What is no module either is byzpy_tw's own, such as __version__.
    there = (PACKAGE / head).is_dir() or (PACKAGE / f"{head}.py").is_file()
    return head if there and head else ""


def upward(name: str, tree: ast.AST) -> list[str]:
    """The imports by which the module `name` breaks the layers."""
    here = name.split(".")[0]
    broken = []
    for dotted, line in imports(name, tree):
        there = top(dotted)
        if there is None or there == here:
            continue
        down = LAYERS[there] < LAYERS[here]
        if not down and there != "":  # reading the version is no dependency
            broken.append(f"byzpy_tw.{name}:{line} imports {dotted}")
    return broken


class LayerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.modules = modules()

    def test_every_module_has_a_layer(self) -> None:
        """A module without a place in this test's table fails it."""
        tops = {name.split(".")[0] for name in self.modules}
        self.assertEqual(tops - set(LAYERS), set(), "give it a layer in LAYERS")

    def test_imports_point_down(self) -> None:
        """No module imports one of a layer above its own, or beside it."""
        broken = [line for name, tree in self.modules.items() for line in upward(name, tree)]
        self.assertEqual(broken, [])

    def test_ground_imports_nothing_of_ours(self) -> None:
        """byzpy_tw itself, and errors, import no module of the package."""
        for name in ("", "errors"):
            found = [d for d, _ in imports(name, self.modules[name]) if top(d) is not None]
            self.assertEqual(found, [], name)

    def test_no_twisted_up_to_runs(self) -> None:
        """Rules, nodes and records need no knowledge of Twisted: they do not import it."""
        for name, tree in self.modules.items():
            if LAYERS[name.split(".")[0]] <= AUDIT:
                found = [
                    f"byzpy_tw.{name}:{line} imports {dotted}"
                    for dotted, line in imports(name, tree)
                    if dotted.split(".")[0] in ("twisted", "automat", "zope")
                ]
                self.assertEqual(found, [])

    def test_kernels_know_only_torch(self) -> None:
        """The kernels import torch, numpy and attrs, and nothing else that has to be installed."""
        allowed = {"torch", "numpy", "attrs", "byzpy_tw", *sys.stdlib_module_names}
        for name, tree in self.modules.items():
            if LAYERS[name.split(".")[0]] == KERNELS:
                found = {d.split(".")[0] for d, _ in imports(name, tree)}
                self.assertLessEqual(found, allowed, name)

    def test_no_star_imports(self) -> None:
        """They would hide from the tests here what a module takes."""
        for name, tree in self.modules.items():
            for dotted, line in imports(name, tree):
                self.assertFalse(dotted.endswith(".*"), f"byzpy_tw.{name}:{line}")


class ThisTestTests(SynchronousTestCase):
    """The checks above find the code that they look for."""

    def test_finds_imports_of_every_kind(self) -> None:
        """At the top, in a function, relative, of a name or of a module."""
        for source in (
            "from byzpy_tw.protocol import frames",
            "import byzpy_tw.trainer.round_runner",
            "def f():\n    from byzpy_tw import server",
            "from .. import protocol",
            "from ..protocol.frames import Header",
            "import byzpy_tw\nbyzpy_tw.protocol",
        ):
            self.assertEqual(len(upward("workers.host", ast.parse(source))), 1, source)

    def test_lets_the_rest_pass(self) -> None:
        """Downward, within a layer's own package, outside, and the version."""
        for source in (
            "from byzpy_tw import models, seeds, __version__",
            "import byzpy_tw",
            "from . import spec",
            "from .spec import NodeSpec",
            "from ..plugins import Registry",
            "import torch",
            "import byzpy_tw\nprint(byzpy_tw.__version__)",
            "from byzpy_tw import Context, Dataset, aggregator",
        ):
            self.assertEqual(upward("workers.host", ast.parse(source)), [], source)

    def test_finds_imports_through_the_front_door(self) -> None:
        """A name that byzpy_tw hands on counts as the module that it comes from."""
        for source in ("from byzpy_tw import aggregator", "import byzpy_tw\nbyzpy_tw.attack('x')"):
            self.assertTrue(upward("kernels.gram", ast.parse(source)), source)

    def test_shells_never_meet(self) -> None:
        """Trainer and server are of one layer, and strangers."""
        self.assertTrue(upward("trainer.local", ast.parse("from byzpy_tw.server import x")))
        self.assertTrue(upward("server.service", ast.parse("import byzpy_tw.trainer")))

    def test_finds_what_is_forbidden(self) -> None:
        """Each construct that the tests below forbid is recognised."""
        for source in (
            "import pickle",
            "from marshal import loads",
            "import shelve as s",
            "eval('1')",
            "builtins.exec(code)",
            "torch.load(path)",
            "torch.load(path, weights_only=False)",
            "from torch import load",
            "torch.hub.load('a', 'b')",
            "np.load(path, allow_pickle=True)",
            "__import__('pickle')",
        ):
            self.assertEqual(len(forbidden("x", ast.parse(source))), 1, source)
        for source in (
            "model.eval()",
            "registry.load()",
            "np.load(path, allow_pickle=False)",
            "torch.load(path, weights_only=True)",
            "from byzpy_tw.plugins import load",
            "load()",
        ):
            self.assertEqual(forbidden("x", ast.parse(source)), [], source)


PLUGIN_FILES = "plugins.plugin_files"
# The options of a run, of a command, of a sweep and of a server.
READERS_OF_CODE = {"cli.plugin_options", "records.run_registry", "sweep.command",
                   "sweep.worker", "tap"}  # fmt: skip
CODE_CARRIERS = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def forbidden(name: str, tree: ast.AST) -> list[str]:
    """Where the module `name` could run code that came as data."""
    found = []
    for dotted, line in imports(name, tree):
        if dotted.split(".")[0] in CODE_CARRIERS or dotted in ("torch.load", "numpy.load"):
            found.append(f"{name}:{line} imports {dotted}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (why := _runs_data(node)):
            found.append(f"{name}:{node.lineno} calls {why}")
    return found


def _runs_data(call: ast.Call) -> str | None:
    """Return the reason why `call` could run data as code, or None."""
    called = ast.unparse(call.func)
    literal = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
    if called.removeprefix("builtins.") in ("eval", "exec", "compile", "__import__"):
        return called
    if called == "torch.load" and literal.get("weights_only") is not True:
        return "torch.load without weights_only=True"
    if called in ("np.load", "numpy.load") and literal.get("allow_pickle", False) is not False:
        return "numpy.load of pickles"
    if called.startswith("torch.hub.") or called.startswith("torch.package."):
        return called
    return None


class NoForeignCodeTests(SynchronousTestCase):
    def test_nothing_that_runs_data(self) -> None:
        """No pickle or its like, no eval, no exec, no unsafe torch.load, anywhere.

        But for the files of ``--plugin``, whose paths come from options and from nowhere else.
        """
        found = {name: forbidden(name, tree) for name, tree in modules().items()}
        whys = [line.split(" ", 1)[1] for line in found.pop(PLUGIN_FILES)]
        self.assertEqual(whys, ["calls exec", "calls compile"])
        self.assertEqual([line for lines in found.values() for line in lines], [])

    def test_who_reads_files_of_code(self) -> None:
        """Modules with the options of a person do, and none that speaks with a peer."""
        reader = f"byzpy_tw.{PLUGIN_FILES}.read_plugin_files"
        found = {
            name for name, tree in modules().items() for dotted, _ in imports(name, tree)
            if dotted == reader
        }  # fmt: skip
        self.assertEqual(found, READERS_OF_CODE)


@pytest.mark.slow
class CheapImportTests(SynchronousTestCase):
    """In a process of its own, from an empty directory."""

    def imported(self, statement: str) -> set[str]:
        """Top-level packages that are in memory after `statement`."""
        code = (
            f"import sys, json\n{statement}\n"
            "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder(self),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return set(json.loads(done.stdout.splitlines()[-1]))

    def test_the_package(self) -> None:
        """``import byzpy_tw`` takes neither torch nor Twisted."""
        found = self.imported("import byzpy_tw; dir(byzpy_tw)")
        self.assertIn("byzpy_tw", found)
        self.assertEqual(found & {"torch", "numpy", "twisted", "attrs"}, set())

    def test_the_way_to_a_run(self) -> None:
        """To describe a run takes no torch and no Twisted: its process has them."""
        found = self.imported("from byzpy_tw import Result, RunConfig, run")
        self.assertIn("attrs", found)
        self.assertEqual(found & {"torch", "numpy", "twisted"}, set())

    def test_the_way_to_a_study(self) -> None:
        """To read a study takes no torch and no Twisted: mistakes are told at once."""
        found = self.imported("from byzpy_tw.cli import sweep; from byzpy_tw.sweep import plan")
        self.assertIn("tomllib", found)
        self.assertEqual(found & {"torch", "numpy", "twisted"}, set())

    def test_twistd_lists_the_server_without_torch(self) -> None:
        """``twistd --help`` on any machine, from anywhere, names byzpy-server and
        imports no torch."""
        found = self.imported(
            "from twisted.plugin import getPlugins\n"
            "from twisted.application.service import IServiceMaker\n"
            "names = [p.tapname for p in getPlugins(IServiceMaker)]\n"
            "assert names.count('byzpy-server') == 1, names"
        )
        self.assertEqual(found & {"torch", "numpy"}, set())

    def test_its_options_without_torch(self) -> None:
        """``twistd byzpy-server --help`` is quick: only a server that starts needs torch."""
        found = self.imported("import byzpy_tw.tap; byzpy_tw.tap.Options()")
        self.assertEqual(found & {"torch", "numpy"}, set())

    def test_a_bad_command_line_without_torch(self) -> None:
        """A mistake in the trainer's options is told at once."""
        found = self.imported(
            "import byzpy_tw.train\n"
            "try: byzpy_tw.train.main(['--roundz', '3'])\n"
            "except SystemExit as e: assert e.code == 2"
        )
        self.assertEqual(found & {"torch"}, set())
