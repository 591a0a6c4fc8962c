"""docs/reference is what the code says now, and says all of it."""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import tap
from byzpy_tw.__main__ import COMMANDS
from byzpy_tw.aggregators.rule import _CONDITIONS
from byzpy_tw.config.run_config import RunConfig, flag
from byzpy_tw.config.validators import option
from byzpy_tw.errors import ByzpyTwError, errors_by_code
from byzpy_tw.parameters import integer_in
from byzpy_tw.plugins import hookspecs, load

ROOT = Path(__file__).resolve().parent.parent
AGAIN = "run: python docs/generate.py"


def generator() -> ModuleType:
    """docs/generate.py, which is in no package."""
    there = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs/generate.py")
    assert there is not None and there.loader is not None
    module = importlib.util.module_from_spec(there)
    there.loader.exec_module(module)
    return module


GENERATE = generator()
PAGES = GENERATE.pages()


class PagesTests(SynchronousTestCase):
    def test_are_as_generated(self) -> None:
        """The pages in docs/reference are those that docs/generate.py writes now."""
        there = {path.name: path for path in (ROOT / "docs" / "reference").iterdir()}
        self.assertEqual(set(there), set(PAGES), AGAIN)
        for name, text in PAGES.items():
            self.assertEqual(there[name].read_text(encoding="utf-8"), text, f"{name}: {AGAIN}")

    def test_every_option_of_a_run(self) -> None:
        """Each field of `RunConfig`, with its help."""
        for one in attrs.fields(RunConfig):
            self.assertRegex(PAGES["train.md"], rf"(?m)^\| `{flag(one.name)}[ ,`]")

    def test_every_none_is_explained(self) -> None:
        """A parameter that is none by default says what that stands for, here and in the code."""
        for entry in load(only=()).entries():
            for parameter in entry.parameters.values():
                if parameter.default is None:
                    where = f"{entry.kind} {entry.name}: {parameter.name}"
                    self.assertTrue(parameter.none, f"{where} has no none=... in its declaration")
                    self.assertIn(f"| `{entry.name}` | `{parameter.name}` |", PAGES["names.md"])

    def test_every_rule_says_when_it_holds(self) -> None:
        """The condition shown is the method's, in a sense that docs/security.md defines."""
        security = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
        known = {
            **_CONDITIONS, "f = 0": lambda n, f: f == 0, "n > ceil(c f)": lambda n, f: n > f,
            "n >= theta": lambda n, f: n >= f + 1,  # the default of rlr
        }  # fmt: skip
        for entry in load(only=()).entries():
            if entry.kind not in ("aggregator", "pre-aggregator"):
                continue
            shown = entry.factory.conditions
            row = f"| {shown.computable} | {shown.guarantee} | {shown.sense} |"
            self.assertIn(row, PAGES["names.md"])
            self.assertIn(f"\n| `{shown.sense}` |", security)
            for n, f in ((9, 0), (9, 1), (9, 2), (9, 3), (9, 4), (9, 8)):
                rule = entry.factory(f=f)
                for method in ("computable", "guarantee"):
                    holds = known[getattr(shown, method).partition(",")[0]](n, f)
                    self.assertEqual(getattr(rule, method)(n) is None, holds, (entry.name, n, f))

    def test_every_word_is_listed(self) -> None:
        """A parameter that takes words is shown with all of them, after or with the default."""
        page, seen = PAGES["names.md"].replace("\\|", "|"), 0
        for entry in load(only=()).entries():
            for parameter in entry.parameters.values():
                if parameter.words:
                    seen += 1
                    shown = list(parameter.words)
                    if parameter.default is None:
                        shown.insert(0, "none")
                    else:
                        self.assertEqual(shown[0], parameter.default)
                    self.assertIn(f"`{parameter.name}={'|'.join(shown)}`", page)
                    self.assertEqual(list(parameter.meanings), parameter.words, entry.name)
                    for word in parameter.words:
                        self.assertIn(f"| `{entry.name}` | `{parameter.name}={word}` |", page)
        self.assertGreaterEqual(seen, 6)

    def test_every_option_of_a_server(self) -> None:
        """Each option and flag of twistd's command."""
        for name, *_ in [*tap.Options.optParameters, *tap.Options.optFlags]:
            self.assertRegex(PAGES["server.md"], rf"(?m)^\| `--{name}[ `]")

    def test_every_command(self) -> None:
        """Each with a section, and each of its arguments."""
        for name, command in COMMANDS.items():
            parser = argparse.ArgumentParser(add_help=False)
            command.options(parser)
            section = PAGES["commands.md"].partition(f"\n## {name}\n")[2].partition("\n## ")[0]
            for action in parser._actions:
                shown = action.option_strings[0] if action.option_strings else action.metavar
                self.assertIn(str(shown), section, name)

    def test_every_error(self) -> None:
        """Each code has a section with its cause and what to do."""
        for code, kind in errors_by_code().items():
            section = PAGES["errors.md"].partition(f"\n## {code}\n")[2].partition("\n## ")[0]
            self.assertIn(f"`errors.{kind.__name__}`", section, code)
            self.assertIn("**What to do:** ", section, code)

    def test_every_hook_and_name(self) -> None:
        """Each hook has a section, each built-in name a row."""
        for name in dir(hookspecs):
            if hasattr(getattr(hookspecs, name), "byzpy_tw_spec"):
                self.assertIn(f"\n## {name}\n", PAGES["hooks.md"])
        for entry in load(only=()).entries():
            self.assertIn(f"\n| `{entry.name}`", PAGES["names.md"])

    def test_every_module(self) -> None:
        """Each module has a row, with its first sentence and its classes and functions."""
        rows = dict(re.findall(r"(?m)^\| \[`(.*?)`\]\(.*?\) \| (\S.*) \|$", PAGES["modules.md"]))
        for path in (ROOT / "byzpy_tw").rglob("*.py"):
            name = path.relative_to(ROOT / "byzpy_tw").as_posix()
            if path.name != "__init__.py" and name != "runs.py":  # a name of 0.1
                self.assertIn(name, rows)
        self.assertIn(" | `ByzpyTwError`, `ConfigError`", rows["errors.py"])

    def test_readers_of_options(self) -> None:
        """The modules that read an option: directly, as a node's field, by a property, a server."""
        readers = dict(re.findall(r"(?m)^\| `--(.*?)` \| (.*) \|$", PAGES["modules.md"]))
        for name, module in (
            ("eval-interval", "trainer/training.py"),
            ("micro-batch-size", "workers/gradients.py"),
            ("heartbeat-timeout", "rounds/deadlines.py"),
            ("max-runs", "server/session.py"),
        ):
            self.assertIn(f"`{module}`", readers[name], name)


class ChangeTests(SynchronousTestCase):
    """Code that is added, changed or taken away changes the pages."""

    def test_an_option_of_a_run(self) -> None:
        """Its name, its default and its words."""
        shown = set()
        for name, help in (("--aa", "so"), ("--bb", "so"), ("--aa", "other"), (None, "")):
            parser = argparse.ArgumentParser(add_help=False)
            if name:
                parser.add_argument(name, help=help)
            shown.add(GENERATE.training_options(parser))
        self.assertEqual(len(shown), 4)

    def test_an_option_of_a_server(self) -> None:
        """A parameter and a flag."""

        def fields(**given: Any) -> list[tuple[str, Any]]:
            return [(f.name, f) for f in attrs.fields(attrs.make_class("Made", given))]

        parameters = ({}, {"aa": option(1, "So.", integer_in(0))}, {"aa": option("b", "So.")})
        shown = {
            GENERATE.server_options(SimpleNamespace(synopsis=""), fields(**a, **b))
            for a in parameters
            for b in ({}, {"bb": option(False, "So.")})
        }
        self.assertEqual(len(shown), 6)

    def test_a_command(self) -> None:
        """A command, and an argument of it."""

        def command(*names: str) -> Any:
            def options(parser: argparse.ArgumentParser) -> None:
                for name in names:
                    parser.add_argument(name)

            return SimpleNamespace(HELP="do so", options=options)

        made = GENERATE.other_commands
        shown = {made({}), made({"a": command()}), made({"a": command("x")})}
        self.assertEqual(len(shown), 3)

    def test_an_error(self) -> None:
        """A class, its exit code and its words."""

        class Other(ByzpyTwError):
            """It rained.

            What to do: wait.
            """

            code = "RAIN"

        shown = GENERATE.error_codes({"RAIN": Other}, {})
        self.assertIn("It rained.", shown)
        self.assertIn("**What to do:** wait.", shown)
        self.assertNotEqual(shown, GENERATE.error_codes({}, {}))

    def test_a_hook(self) -> None:
        """A hook and its contract."""

        def some_hook(record: int) -> None:
            """Be told."""

        some_hook.byzpy_tw_spec = {}  # type: ignore[attr-defined]
        shown = GENERATE.hooks(SimpleNamespace(some_hook=some_hook))
        self.assertIn("def some_hook(record: int) -> None: ...", shown)
        self.assertIn("Be told.", shown)
