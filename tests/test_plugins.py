"""Installed plugins, good and broken, and the command that lists them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from twisted.trial.unittest import SynchronousTestCase

import byzpy_tw
from byzpy_tw.errors import (
    DuplicateName,
    MisspeltHook,
)
from byzpy_tw.plugins import KINDS, load
from tests.distributions import on_path, write
from tests.support import environment, folder

HERE = os.path.dirname(os.path.dirname(byzpy_tw.__file__))
# A plugin with one model, whose name is to be filled in.
MODEL = """
def model(*, classes, shape):
    return None

@hookimpl
def register_models():
    return [Registration({!r}, model)]
"""


class InstalledTests(SynchronousTestCase):
    """Distributions on disk, as pip leaves them."""

    def test_found_with_name_and_version(self) -> None:
        """A name of an installed distribution is there, under its name and version."""
        write(
            on_path(self),
            "byzpy-tw-found",
            """
            def first(*, f: int = 0):
                return lambda vectors: vectors[0]

            @hookimpl
            def register_aggregators():
                return [Registration("first-row", first)]
            """,
            module="byzpy_tw_found",
            version="2.3",
        )
        names = load()
        entry = names.entry("aggregator", "first-row")
        self.assertEqual((entry.distribution, entry.version), ("byzpy-tw-found", "2.3"))
        self.assertEqual(names.distributions["byzpy-tw-found"], "2.3")
        rule = names.make("aggregator", "first-row", f=1)
        self.assertEqual(rule(torch.eye(2)).tolist(), [1.0, 0.0])

    def test_only_the_distributions_named(self) -> None:
        """Plugins can be left out; any spelling of a distribution's name will do."""
        where = on_path(self)
        write(where, "byzpy-tw-a", MODEL.format("aa"), module="byzpy_tw_a")
        write(where, "byzpy-tw-b", MODEL.format("bb"), module="byzpy_tw_b")
        for only, there in (
            ({"byzpy-tw-a"}, {"byzpy-tw", "byzpy-tw-a"}),
            ({"Byzpy_TW.b"}, {"byzpy-tw", "byzpy-tw-b"}),
            ((), {"byzpy-tw"}),
        ):
            self.assertEqual(set(load(only=only).distributions), there)

    def test_twice_on_the_path_counts_once(self) -> None:
        """An editable install seen from its own folder is not a duplicate."""
        source = MODEL.format("aa")
        for version in ("1.0", "2.0"):
            write(on_path(self), "byzpy-tw-c", source, module="byzpy_tw_c", version=version)
        # The later entry on the path was put in front.
        self.assertEqual(load(only={"byzpy-tw-c"}).distributions["byzpy-tw-c"], "2.0")

    def test_twice_with_other_entry_points(self) -> None:
        """Metadata in the source's folder that are out of date hide no entry point."""
        for point in ("old", "new"):
            source = MODEL.format(f"model-{point}")
            module = f"byzpy_tw_c_{point}"
            write(on_path(self), "byzpy-tw-c", source, module=module, point=point)
        names = load(only={"byzpy-tw-c"})
        self.assertEqual({e.name for e in names.entries() if e.foreign}, {"model-old", "model-new"})

    def test_damaged_ones_are_passed_over(self) -> None:
        """A distribution without metadata, as by an uninstall that failed, stops no other."""
        where = on_path(self)
        write(where, "byzpy-tw-c", MODEL.format("aa"), module="byzpy_tw_c")
        for name in (".egg-info", "-1.0.dist-info", "byzpy_tw_d-1.0.dist-info"):
            (where / name).mkdir()
        self.assertEqual(
            set(load().distributions) & {"byzpy-tw", "byzpy-tw-c"}, {"byzpy-tw", "byzpy-tw-c"}
        )

    def test_misspelt_hooks(self) -> None:
        """A misspelt hook names its distribution, too."""
        source = "@hookimpl\ndef register_dataset():\n    return []\n"
        write(on_path(self), "byzpy-tw-ill", source, module="byzpy_tw_ill")
        with self.assertRaisesRegex(
            MisspeltHook,
            "byzpy-tw-ill: there is no hook 'register_dataset'; did you mean 'register_data",
        ):
            load(only={"byzpy-tw-ill"})

    def test_two_distributions_one_name(self) -> None:
        """Two distributions with one name are both named, also where their entry
        points share a name."""
        where = on_path(self)
        source = MODEL.format("aa")
        write(where, "byzpy-tw-d", source, module="byzpy_tw_d")
        write(where, "byzpy-tw-e", source, module="byzpy_tw_e")
        with self.assertRaisesRegex(
            DuplicateName, "model 'aa' comes from both byzpy-tw-d and byzpy-tw-e"
        ):
            load(only={"byzpy-tw-d", "byzpy-tw-e"})


@pytest.mark.slow
class PluginsCommandTests(SynchronousTestCase):
    """``python -m byzpy_tw plugins``, in a process of its own."""

    def plugins(self, *options: str, path: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "byzpy_tw", "plugins", *options],
            cwd=folder(self),
            env={**environment(), "PYTHONPATH": os.pathsep.join(filter(None, [path, HERE]))},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def test_lists_every_name(self) -> None:
        """For people and for programs: kind, name, aliases, parameters, whose it is."""
        where = write(
            folder(self),
            "byzpy-tw-listed",
            """
            def rule(*, f: int = 0, width: float | None = None, sort: bool):
                return lambda vectors: vectors[0]

            @hookimpl
            def register_aggregators():
                return [Registration("listed-rule", rule, ["also-listed"])]
            """,
            module="byzpy_tw_listed",
            version="3.1",
        )
        shown = self.plugins("--json", path=str(where))
        self.assertEqual((shown.returncode, shown.stderr), (0, ""))
        rows = json.loads(shown.stdout)
        self.assertEqual({row["kind"] for row in rows}, set(KINDS))
        [mine] = [row for row in rows if row["name"] == "listed-rule"]
        self.assertEqual(mine["distribution"], "byzpy-tw-listed")
        self.assertEqual(mine["version"], "3.1")
        self.assertEqual(mine["aliases"], ["also-listed"])
        self.assertEqual(mine["parameters"]["width"], {"type": "none or float", "default": None})
        for name in ("krum", "multi-krum", "empire", "mnist5k", "small-cnn", "stride"):
            self.assertIn(name, {row["name"] for row in rows})

        text = self.plugins(path=str(where))
        self.assertEqual((text.returncode, text.stderr), (0, ""))
        [line] = [line for line in text.stdout.splitlines() if "listed-rule" in line]
        for word in ("also-listed", "byzpy-tw-listed", "3.1", "f=0"):
            self.assertIn(word, line)

    def test_tells_of_one_name(self) -> None:
        """Its parameters with the words that they take, and what none stands for."""
        told = self.plugins("rfa", path="")
        self.assertEqual((told.returncode, told.stderr), (0, ""))
        for words in ("geometric-median = rfa", "init=mean|zero", "nu=none", "none is 1e-6 of"):
            self.assertIn(words, told.stdout)
        unknown = self.plugins("krun", path="")
        self.assertNotEqual(unknown.returncode, 0)
        self.assertIn("did you mean 'krum'", unknown.stderr)

    def test_a_broken_plugin_is_listed(self) -> None:
        """A broken distribution is listed with the reason, after all others; the cure is a
        warning."""
        where = write(folder(self), "byzpy-tw-ill", "1 / 0", module="byzpy_tw_ill")
        shown = self.plugins(path=str(where))
        self.assertEqual(shown.returncode, 0)
        self.assertEqual(
            shown.stdout.splitlines()[-2:],
            ["broken", "  byzpy-tw-ill 1.0: entry point 'it' (byzpy_tw_ill) failed to import: "
             "ZeroDivisionError: division by zero (byzpy_tw_ill.py, line 2)"],
        )  # fmt: skip
        self.assertEqual(len(shown.stderr.splitlines()), 1, shown.stderr)
        self.assertIn("byzpy_tw: warning: byzpy-tw-ill 1.0 is broken and left out", shown.stderr)
        self.assertIn("uninstall byzpy-tw-ill", shown.stderr)
        rows = json.loads(self.plugins("--json", path=str(where)).stdout)
        [ill] = [row for row in rows if row["kind"] == "broken"]
        self.assertEqual((ill["distribution"], ill["version"]), ("byzpy-tw-ill", "1.0"))
        self.assertIn("division by zero", ill["why"])
        without = self.plugins("--disable-plugin", "Byzpy_TW.ill", path=str(where))
        self.assertEqual((without.returncode, without.stderr), (0, ""))
        self.assertNotIn("byzpy-tw-ill", without.stdout)
