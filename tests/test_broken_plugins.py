"""Distributions that are broken, in every way that users' plugins have been."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import evolve
from twisted.internet.task import Clock
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl
from byzpy_tw.errors import BadParameter, BrokenPlugin, UnknownName
from byzpy_tw.output.observers import Observers
from byzpy_tw.plugins import Registry, load
from byzpy_tw.plugins.hookspecs import Registration as Offered
from byzpy_tw.tap import Options, makeService
from byzpy_tw.trainer.local_servers import LocalServers
from tests.distributions import on_path, write

ILL = "byzpy-tw-ill"

# A distribution's module, and what is said of it.
BROKEN: dict[str, tuple[str, str]] = {
    "exits": ("import sys\nsys.exit('no licence')", "failed to import: SystemExit: no licence"),
    "interrupts": ("raise KeyboardInterrupt", "failed to import: KeyboardInterrupt"),
    "lacks": ("import no_such_module", "failed to import: ModuleNotFoundError: No module named"),
    "syntax": ("def (:", "failed to import: SyntaxError"),
    "ours": ("from byzpy_tw.errors import ConfigError\nraise ConfigError('theirs')",
             "failed to import: theirs"),
    "textless": ("class E(Exception):\n    def __str__(self):\n        raise SystemExit\nraise E",
                 "failed to import: E: no text: that raised SystemExit"),
    "hook raises": ("@hookimpl\ndef register_models():\n    raise SystemExit(3)",
                    "register_models() raised SystemExit: 3 (byzpy_tw_ill.py, line 4)"),
    "hook says why": ("@hookimpl\ndef register_models():\n    try:\n        import no_such_module\n"
                      "    except ImportError as e:\n"
                      "        from byzpy_tw.errors import BrokenPlugin\n"
                      "        raise BrokenPlugin('pip install it') from e",
                      "register_models() raised pip install it"),
    "tuple": ("@hookimpl\ndef register_models():\n    return [('x', int)]",
              "register_models() must offer Registration objects, got tuple"),
    "none": ("@hookimpl\ndef register_models():\n    return None",
             "register_models() returned None, expected a list of Registration objects"),
    "number": ("@hookimpl\ndef register_models():\n    return 3",
               "register_models() raised TypeError"),
    "name": ("@hookimpl\ndef register_models():\n    return [Registration('My_Rule', int)]",
             "a name is lower-case words and digits joined by hyphens, such as 'my-rule', got "
             "'My_Rule'"),
    "wrapper": ("@hookimpl(wrapper=True)\ndef register_models():\n    return (yield)",
                "register_models() is a hook wrapper"),
    "old wrapper": ("@hookimpl(hookwrapper=True)\ndef run_started(config):\n    yield",
                    "run_started() is a hook wrapper"),
    "arguments": ("@hookimpl\ndef run_started(config, secrets):\n    pass",
                  "run_started() takes secrets, and the hook hands in config"),
    "class": ("class Plugin:\n    @hookimpl\n    def register_models(self):\n        return []\n"
              "import sys\nsys.modules[__name__] = Plugin",
              "register_models() is a method of a class"),
    "signature": ("@hookimpl\ndef register_models():\n    return [Registration('x', dict)]",
                  "its factory's parameters cannot be read"),
}  # fmt: skip


def offering(kind: str, factory: Any) -> Registry:
    """A registry in which ``x`` of the plugin ``mine`` is made by `factory`."""

    class Plugin:
        pass

    def offered(self: Any) -> list[Registration]:
        return [Registration("x", factory)]

    offered.__name__ = f"register_{kind}s"
    setattr(Plugin, offered.__name__, hookimpl(offered))
    return load(only=(), extra={"mine": Plugin()})


class BrokenDistributionTests(SynchronousTestCase):
    """A distribution that cannot be used is left out, and told of; nothing else stops."""

    def loaded(self, source: str, **options: Any) -> Registry:
        where = on_path(self)
        write(where, ILL, source, module="byzpy_tw_ill")
        self.addCleanup(sys.modules.pop, "byzpy_tw_ill", None)
        return load(only={ILL}, **options)

    def test_every_way_to_be_broken(self) -> None:
        """Whatever it raises, offers or implements, it is one line with its name and the cause."""
        for what, (source, why) in BROKEN.items():
            with self.subTest(what):
                names = self.loaded(source)
                [broken] = names.broken
                self.assertEqual((broken.distribution, broken.version), (ILL, "1.0"))
                self.assertIn(why, broken.why)
                self.assertEqual(len(broken.text.splitlines()), 1)
                self.assertEqual(set(names.distributions), {"byzpy-tw"})
                self.assertTrue(names.make("aggregator", "median"))
            sys.modules.pop("byzpy_tw_ill", None)
            sys.path.pop(0)
            self.doCleanups()

    def test_nothing_of_it_is_offered(self) -> None:
        """A good hook beside a broken one offers nothing, and its observer hears nothing."""
        names = self.loaded(
            """
            @hookimpl
            def register_aggregators():
                return [Registration("good", lambda: max)]

            @hookimpl
            def register_models():
                raise OSError("gone")

            @hookimpl
            def run_started(config):
                pass
            """
        )
        with self.assertRaisesRegex(BrokenPlugin, "no aggregator is called 'good', and .*gone"):
            names.make("aggregator", "good")
        self.assertEqual(names.manager.hook.run_started.get_hookimpls(), [])

    def test_a_misspelling_stays_one(self) -> None:
        """A name that is near to a known one is told as unknown, the broken plugin beside it."""
        names = self.loaded("raise SystemExit('no licence')")
        error = self.assertRaises(UnknownName, names.entry, "aggregator", "medain")
        self.assertIn("did you mean 'median'?", str(error))
        self.assertIn(f"{ILL} 1.0 may offer it, and cannot be used", str(error))
        error = self.assertRaises(UnknownName, names.entry, "aggregator", "nnm")
        self.assertIn("'nnm' is a pre-aggregator", str(error))

    def test_a_disabled_one_is_not_imported(self) -> None:
        """Any spelling of its name will do; one that is not installed is told with the nearest."""
        names = self.loaded("raise AssertionError", disabled=["Byzpy.TW_ill"])
        self.assertEqual((names.broken, names.disabled), ((), (ILL,)))
        self.assertNotIn("byzpy_tw_ill", sys.modules)
        with self.assertRaisesRegex(UnknownName, f"'byzpy-tw-il'.*; did you mean '{ILL}'"):
            load(only={ILL}, disabled=["byzpy-tw-il"])

    def test_attributes_that_raise(self) -> None:
        """An attribute of a module that cannot be had is no hook; a hook of that kind is broken."""
        lazy = """
            def __dir__():
                return [*globals(), {name!r}]

            def __getattr__(name):
                if name == {name!r}:
                    raise SystemExit("lazy")
                raise AttributeError(name)

            @hookimpl
            def register_aggregators():
                return [Registration("good", lambda: max)]
            """
        names = self.loaded(lazy.format(name="heavy"))
        self.assertEqual((names.broken, names.entry("aggregator", "good").version), ((), "1.0"))
        self.assertIs(names.make("aggregator", "good"), max)

    def test_a_module_of_two_entry_points(self) -> None:
        """It is told by the name that it has already, not by a dump of all plugins."""
        where = on_path(self)
        write(where, ILL, "", module="byzpy_tw_ill")
        points = where / "byzpy_tw_ill-1.0.dist-info" / "entry_points.txt"
        points.write_text("[byzpy_tw]\na = byzpy_tw_ill\nb = byzpy_tw_ill\n")
        [broken] = load(only={ILL}).broken
        self.assertIn(f"registered already, as '{ILL}:a'", broken.why)
        points.write_text("[byzpy_tw]\nit = byzpy_tw_ill:plugin\n")
        [broken] = load(only={ILL}).broken
        self.assertIn("no attribute 'plugin'", broken.why)

    def test_those_handed_in_still_raise(self) -> None:
        """A plugin that a script hands in itself is its own mistake, told at once."""

        class Wrapping:
            @hookimpl(wrapper=True)
            def register_models(self) -> Any:
                return (yield)

        with self.assertRaisesRegex(BrokenPlugin, r"mine: register_models\(\) is a hook wrapper"):
            load(only=(), extra={"mine": Wrapping()})


class ServerTests(SynchronousTestCase):
    """``twistd byzpy-server --disable-plugin NAME``."""

    def parsed(self, *words: str) -> Options:
        options = Options()
        options.parseOptions(["--host", "127.0.0.1", "--port", "0", *words])
        return options

    def test_disabled(self) -> None:
        """It may be given several times, and one that is not installed is told at once."""
        where = on_path(self)
        write(where, ILL, "raise AssertionError", module="byzpy_tw_ill")
        options = self.parsed("--disable-plugin", "Byzpy_tw.Ill", "--data-root", "~/data")
        self.assertEqual(options.config.disable_plugin, (ILL,))
        self.assertEqual(options.config.data_root, str(Path.home() / "data"))
        [service] = makeService(options, Clock())
        self.assertEqual(service.config, evolve(options.config, threads=service.threads))
        self.assertEqual(service._registry.broken, ())
        words = ("--disable-plugin", ILL, "--disable-plugin", "byzpy-tw-il")
        error = self.assertRaises(UsageError, self.parsed, *words)
        self.assertIn("UNKNOWN_NAME: --disable-plugin 'byzpy-tw-il'", str(error))

    def test_local_servers_get_the_trainer_s(self) -> None:
        """A run's own servers import nothing that the trainer does not."""
        servers = LocalServers(1, Path("d"), Path("l"), None, None, disabled=(ILL, "b"))
        self.assertEqual(
            servers._program(0).words[-4:], ("--disable-plugin", ILL, "--disable-plugin", "b")
        )


class RegistrationTests(SynchronousTestCase):
    """One sentence for each thing that a registration cannot be."""

    def test_what_is_said(self) -> None:
        """A good spelling, what there is, and of which type."""
        for arguments, error, words in (
            (("My_Rule", max), ValueError, "such as 'my-rule', got 'My_Rule'"),
            (("MyRule", max), ValueError, "such as 'my-rule', got 'MyRule'"),
            (("", max), ValueError, "a name is lower-case words"),
            (("x" * 65, max), ValueError, "a name has at most 64 characters, got 65"),
            ((3, max), TypeError, "a name is text, such as 'my-rule', got int"),
            (("x", max, ["A B"]), ValueError, "an alias is lower-case .*'a-b', got 'A B'"),
            (("x", max, [None]), TypeError, "an alias is text"),
            (("x", max, 3), TypeError, "aliases must be a list of names, got 3"),
            (("x", "y"), TypeError, "the factory of 'x' must be a class or a function, got str"),
        ):
            with self.assertRaisesRegex(error, words):
                Offered(*arguments)


class FactoryTests(SynchronousTestCase):
    """Errors of a factory are told as its distribution's, or as those of a value it was given."""

    def raises(self, error: BaseException, kind: str = "aggregator") -> Any:
        def factory(*, f: int = 0, width: float = 1.0) -> Any:
            raise error

        def bare() -> Any:
            raise error

        return offering(kind, bare), offering(kind, factory)

    def test_anything_that_is_raised(self) -> None:
        """SystemExit and its like end no process, and are no traceback."""
        for error in (SystemExit(2), KeyboardInterrupt(), GeneratorExit(), KeyError("a")):
            for names in self.raises(error):
                kind = type(error).__name__
                with self.assertRaisesRegex(BrokenPlugin, f"mine: making .* 'x' raised {kind}"):
                    names.make("aggregator", "x")

    def test_values(self) -> None:
        """A ValueError is of the value that was given; without one it is the factory's fault."""
        bare, taking = self.raises(ValueError("too wide"))
        with self.assertRaisesRegex(BadParameter, "aggregator 'x:width=3': too wide"):
            taking.make("aggregator", "x:width=3")
        with self.assertRaisesRegex(BadParameter, "aggregator 'x': too wide"):
            taking.make("aggregator", "x", f=2)
        with self.assertRaisesRegex(BrokenPlugin, "raised ValueError: too wide"):
            taking.make("aggregator", "x")
        with self.assertRaisesRegex(BrokenPlugin, "raised ValueError: too wide"):
            bare.make("aggregator", "x", f=2)

    def test_partitions(self) -> None:
        """Whatever a partition raises names it, and the labels that it writes to are its own."""
        labels = torch.arange(4)

        def leaving(labels: Any, shards: int, stream: Any) -> Any:
            raise SystemExit("bye")

        def writing(labels: Any, shards: int, stream: Any) -> Any:
            cut = np.array_split(np.arange(len(labels)), shards)
            labels[:] = 0
            return cut

        stream = np.random.default_rng(0)
        cut = offering("partition", lambda: leaving).make("partition", "x")
        with self.assertRaisesRegex(BrokenPlugin, "mine: partition 'x' raised SystemExit: bye"):
            cut(labels, 2, stream)
        cut = offering("partition", lambda: writing).make("partition", "x")
        for given in (labels, labels.numpy()):
            self.assertEqual([s.tolist() for s in cut(given, 2, stream)], [[0, 1], [2, 3]])
            self.assertEqual(given.tolist(), [0, 1, 2, 3])


class ObserverTests(SynchronousTestCase):
    def test_one_that_exits(self) -> None:
        """It is logged under its name, and those after it are still told."""
        heard: list[str] = []

        class Leaving:
            @hookimpl
            def run_started(self, config: Any) -> None:
                raise SystemExit("bye")

        class Listening:
            @hookimpl
            def run_started(self, config: Any) -> None:
                heard.append(config["name"])

        names = load(only=(), extra={"listening": Listening(), "leaving": Leaving()})
        observers = Observers(names)
        observers.tell("run_started", config={"name": "a"})
        observers.tell("run_started", config={"name": "b"})
        observers.finish()
        self.assertEqual(heard, ["a", "b"])
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
