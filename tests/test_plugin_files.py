"""``--plugin FILE.py``: a plugin that is one file, on the trainer and on servers."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shlex
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import torch
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

import byzpy_tw
from byzpy_tw import Result
from byzpy_tw.__main__ import main
from byzpy_tw.cli.train import parse_invocation
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import (
    BrokenPlugin,
    ByzpyTwError,
    ConfigError,
    DuplicateName,
    MissingPlugin,
    MisspeltHook,
    RunDirectoryError,
    ServerDiffers,
    ServerError,
    UnknownName,
)
from byzpy_tw.plugins import Registry, load, load_and_warn
from byzpy_tw.plugins.plugin_files import read_plugin_files
from byzpy_tw.records.resume_hints import how_to_resume
from byzpy_tw.records.run_registry import load_registry
from byzpy_tw.scaffold.writing import KINDS, write_single_file
from byzpy_tw.server.service import ByzpyServer
from byzpy_tw.sweep.grid import command_line
from byzpy_tw.tap import Options, makeService
from byzpy_tw.testing import FakeServer
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.testing.fake_server import HERE
from byzpy_tw.trainer.handshake import Handshake
from byzpy_tw.trainer.local_servers import LocalServers
from tests.distributions import on_path, write
from tests.plugin_files import MODEL, load_files, plugin_file
from tests.support import folder
from tests.test_tap import TwistdOptions

NET = MODEL.format(size=9)
RULE = """
    @hookimpl
    def register_aggregators():
        return [Registration("{name}", lambda: max)]
    """


def version_of(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def service_of(options: Options) -> ByzpyServer:
    """The server of these options, as far as it can tell its environment."""
    [service] = makeService(options, ClockReactor())
    service.pool = HandCrankedPool(eager=True)
    return service


class MistakeTests(SynchronousTestCase):
    """Each is one line with the path as it was given, the reason and the cure."""

    def refusal(self, *paths: Path | str, error: type[ByzpyTwError] = ConfigError) -> str:
        with self.assertRaises(error) as caught:
            load_files(*paths)
        text = str(caught.exception)
        self.assertNotIn("\n", text)
        self.assertLess(len(text), 600)
        return text

    def test_no_such_file(self) -> None:
        """Its path, relative as it was given, and from the root on."""
        here, before = folder(self), os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(here)
        text = self.refusal("sub/../mine.py")
        self.assertIn("--plugin sub/../mine.py: cannot read ", text)
        self.assertIn("No such file or directory", text)

    def test_no_path(self) -> None:
        """A home folder of nobody, and what a damaged record may hold."""
        self.assertIn("write ./~nobody-here/a.py", self.refusal("~nobody-here/a.py"))
        self.assertIn("cannot read", self.refusal("a\0b/mine.py"))

    def test_no_python_file(self) -> None:
        """A folder, a package's folder, a notebook, a device, a name that no module can have."""
        here = folder(self)
        (here / "folder.py").mkdir()
        (here / "much.py").write_bytes(b"#" * (2**22 + 1))
        os.mkfifo(here / "pipe.py")
        self.assertIn("is a folder: name one file", self.refusal(here))
        self.assertIn("is no file", self.refusal(here / "folder.py"))
        self.assertIn("is no file", self.refusal(here / "pipe.py"))
        self.assertIn("has over 4 MiB", self.refusal(here / "much.py"))
        for name in ("run.ipynb", "mine", "a b.py", ".py", "é.py", "x" * 61 + ".py", "/dev/zero"):
            self.assertIn("not the name of a Python file", self.refusal(here / name))

    def test_what_is_no_code(self) -> None:
        """The line where it ends to be Python."""
        path = plugin_file(self, "x = 1\nif x:\nreturn\n")
        self.assertIn(f"{path} is not Python code: expected an indented block", self.refusal(path))
        self.assertIn(", line 4", self.refusal(path))
        for content in (b"\x00\x01", b"\xff\xfe\n", b"# coding: nothing\n", b"(" * 5000):
            path.write_bytes(content)
            self.assertIn("is not Python code: ", self.refusal(path))

    def test_what_raises(self) -> None:
        """Its own error with the line, also one that would end the process; nothing stays."""
        for source, words in (
            ("import not_here_at_all", "ModuleNotFoundError: No module named 'not_here_at_all'"),
            ("raise SystemExit('no licence')", "SystemExit: no licence"),
            ("1 / 0", "ZeroDivisionError: division by zero (mine.py, line 2)"),
        ):
            path = plugin_file(self, source)
            text = self.refusal(path, error=BrokenPlugin)
            self.assertIn(f"--plugin {path}: failed to import: {words}", text)
            self.assertFalse("byzpy_tw_file_mine" in sys.modules)

    def test_no_hooks(self) -> None:
        """It would offer nothing; a script is not run; a hook that there is not is told."""
        script = folder(self) / "script.py"
        script.write_text("raise AssertionError('it was run')")
        self.assertIn("has no function marked with @byzpy_tw.hookimpl", self.refusal(script))
        path = plugin_file(self, "def register_models(): return []")
        self.assertIn("has no function marked with @byzpy_tw.hookimpl", self.refusal(path))
        path = plugin_file(self, "@hookimpl\ndef register_modles(): return []")
        text = self.refusal(path, error=MisspeltHook)
        self.assertIn("mine.py: there is no hook 'register_modles'; did you mean", text)
        path = plugin_file(self, "@hookimpl\ndef register_models(): return [1]")
        text = self.refusal(path, error=BrokenPlugin)
        self.assertIn(f"--plugin {path}: register_models() must offer Registration", text)

    def test_two_of_one_name(self) -> None:
        """Also where the names differ by a hyphen alone, and one file that is given twice."""
        first, other = plugin_file(self, NET), plugin_file(self, NET)
        self.assertIn(f"{other} and {first} are called alike", self.refusal(first, other))
        self.assertIn("are called alike", self.refusal(first, first))
        hyphen, line = (plugin_file(self, NET, name) for name in ("a-b.py", "a_b.py"))
        self.assertIn("are called alike", self.refusal(hyphen, line))

    def test_the_name_of_what_is_installed(self) -> None:
        """A distribution's, and a name that one offers."""
        where = on_path(self)
        write(where, "byzpy-tw-acme", RULE.format(name="acme"), module="acme_rules")
        path = plugin_file(self, NET, "byzpy_tw_acme.py")
        files = read_plugin_files([path])
        with self.assertRaisesRegex(ConfigError, "called as the installed byzpy-tw-acme is"):
            load(only={"byzpy-tw-acme"}, files=files)
        taken = read_plugin_files([plugin_file(self, RULE.format(name="acme"))])
        with self.assertRaisesRegex(DuplicateName, "both byzpy-tw-acme and mine.py; .*--plugin"):
            load(only={"byzpy-tw-acme"}, files=taken)


class LoadingTests(SynchronousTestCase):
    def test_a_distribution(self) -> None:
        """Called as the file is, with its digest as the version; its module's name is its own."""
        path = plugin_file(self, NET, "my-net.py")
        names = load_files(path)
        entry = names.entry("model", "net")
        self.assertEqual((entry.distribution, entry.version), ("my-net.py", version_of(path)))
        self.assertEqual(names.distributions["my-net.py"], version_of(path))
        self.assertEqual(entry.factory.__module__, "byzpy_tw_file_my_net")
        self.assertEqual(names.owner("model", "net"), f"model 'net' of my-net.py {entry.version}")
        self.assertFalse((path.parent / "__pycache__").exists())

    def test_once_for_each_content(self) -> None:
        """The same file is the same module; one that was edited is run anew."""
        path = plugin_file(self, NET)
        first, again = (load_files(path).entry("model", "net").factory for _ in range(2))
        self.assertIs(first, again)
        path.write_text(path.read_text() + "\nEDITED = True\n")
        edited = load_files(path).entry("model", "net").factory
        self.assertIsNot(first, edited)
        self.assertTrue(edited.__globals__["EDITED"])

    def test_classes_with_annotations(self) -> None:
        """They are looked up in the module, as those of any other."""
        path = plugin_file(self, "")
        path.write_text(
            dedent("""
            from __future__ import annotations
            from dataclasses import dataclass
            from byzpy_tw import Registration, hookimpl

            @dataclass
            class Scaled:
                factor: float = 2.0

                def __call__(self, vectors):
                    return self.factor * vectors.mean(dim=0)

            @hookimpl
            def register_aggregators():
                return [Registration("scaled", Scaled)]
            """)
        )
        made = load_files(path).make("aggregator", "scaled:factor=3")
        self.assertEqual(made(torch.ones(2, 2)).tolist(), [3, 3])

    def test_numbers_do_not_depend_on_names(self) -> None:
        """The same code under another name draws the same numbers while it is made."""
        source = """
            import torch

            @hookimpl
            def register_aggregators():
                def make():
                    drawn = torch.rand(1)
                    return lambda vectors: vectors[0] + drawn
                return [Registration("{name}", make)]
            """
        first, other = (
            load_files(plugin_file(self, source.format(name=name), f"{name}.py")).make(
                "aggregator", name
            )(torch.zeros(1, 1))
            for name in ("one", "two")
        )
        self.assertEqual(first, other)

    def test_commands(self) -> None:
        """`plugins` lists its names; every command has the option."""
        path = plugin_file(self, NET)
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            main(["plugins", "--plugin", str(path), "--json", "net"])
        [row] = json.loads(said.getvalue())
        self.assertEqual((row["distribution"], row["version"]), ("mine.py", version_of(path)))
        wrong = io.StringIO()
        with contextlib.redirect_stderr(wrong):
            self.assertEqual(main(["plugins", "--plugin", "none.py"]), 2)
        self.assertRegex(wrong.getvalue(), r"\Abyzpy_tw: error: BAD_CONFIG: --plugin none.py: .*\n")
        self.assertEqual(wrong.getvalue().count("\n"), 1 + wrong.getvalue().count("\nsee: "))

    def test_options(self) -> None:
        """It is kept in the configuration, and decides no bits."""
        path = plugin_file(self, NET)
        found = parse_invocation(["--in-process", "--plugin", str(path)])
        self.assertEqual(found.registry().entry("model", "net").distribution, "mine.py")
        self.assertEqual(found.configuration().plugin, (str(path),))
        self.assertIn(f"--plugin {path}", command_line(found.configuration()))
        same = RunConfig(in_process=True)
        self.assertEqual(RunConfig(in_process=True, plugin=("a.py",)).bits, same.bits)

    def test_every_kind_that_is_written(self) -> None:
        """`new-plugin --single-file` writes a file that is found under its name."""
        here = folder(self)
        for kind in KINDS:
            made = write_single_file(kind, f"sample-{kind}", here)
            names = load_files(made.module)
            if kind == "observer":
                [hook] = names.manager.hook.run_finished.get_hookimpls()
                self.assertEqual(hook.plugin_name, made.module.name)
            else:
                entry = names.entry(kind, f"sample-{kind}")
                self.assertEqual(entry.distribution, made.module.name)
            self.assertIn(f"--plugin {made.module}", made.command)
        with self.assertRaisesRegex(ConfigError, "is there already, and stays as it is"):
            write_single_file("model", "sample-model", here)
        with self.assertRaisesRegex(RunDirectoryError, "cannot write .*nowhere"):
            write_single_file("model", "sample-model", here / "nowhere")


class OnServersTests(SynchronousTestCase):
    """A server uses the files that its operator named; the trainer compares their digests."""

    def compare(self, names: Registry, plugins: dict[str, str], **options: Any) -> list[str]:
        """Compare a server that has `plugins` with a run of the model ``net``; its warnings."""
        config = RunConfig(in_process=True, model="net", **options)
        warned: list[str] = []
        mine = evolve(HERE, plugins=dict(names.distributions))
        Handshake(config, names, warned.append).compare(
            "tcp://b:1", mine, evolve(HERE, plugins=plugins)
        )
        return warned

    def test_missing_there(self) -> None:
        """One line with the server, the file, its digest and what to do, strict or not."""
        path = plugin_file(self, NET)
        names = load_files(path)
        for strict in (False, True):
            error = self.assertRaises(MissingPlugin, self.compare, names, {}, strict=strict)
            self.assertIn("tcp://b:1 lacks the model 'net', which comes from mine.py "
                          f"{version_of(path)}: copy the trainer's file", str(error))  # fmt: skip

    def test_another_there(self) -> None:
        """One line with both digests; the same is no difference, nor is what is not used."""
        path, idle = plugin_file(self, NET), plugin_file(self, RULE.format(name="idle"), "idle.py")
        names = load_files(path, idle)
        here = {"mine.py": version_of(path), "idle.py": version_of(idle)}
        self.assertEqual(self.compare(names, here), [])
        self.assertEqual(self.compare(names, {**here, "idle.py": "sha256:000000000000"}), [])
        for strict in (False, True):
            other = {**here, "mine.py": "sha256:000000000000"}
            error = self.assertRaises(ServerDiffers, self.compare, names, other, strict=strict)
            self.assertIn(f"tcp://b:1 has mine.py sha256:000000000000, the trainer mine.py "
                          f"{version_of(path)}", str(error))  # fmt: skip

    def test_a_task_that_the_data_names(self) -> None:
        """A server that lacks it says so when it looks the name up; the advice is the same."""
        path = plugin_file(self, RULE.replace("aggregators", "tasks").format(name="mine"))

        def refuse(server: FakeServer, command: str) -> None:
            if command == "open":
                raise UnknownName("it is not here").with_fields(kind="task", name="mine")

        server = FakeServer("tcp://b:1", before=refuse)
        self.successResultOf(Deferred.fromCoroutine(server.hello()))
        handshake = Handshake(RunConfig(in_process=True), load_files(path), lambda line: None)
        opening = handshake.open_run(server, "run", server, {})
        error = self.failureResultOf(Deferred.fromCoroutine(opening)).value
        self.assertIsInstance(error, MissingPlugin)
        self.assertIn(f"from mine.py {version_of(path)}: copy the trainer's file", str(error))

    def test_the_option(self) -> None:
        """It is read and run when the server starts, and not again at SIGHUP."""
        path = plugin_file(self, NET)
        options = Options()
        options.parseOptions(["--host", "127.0.0.1", "--port", "0", "--plugin", str(path)])
        version = version_of(path)
        service = service_of(options)
        path.write_text("edited after the start")
        service.reload_keys()
        environment = self.successResultOf(service.environment())
        self.assertEqual(environment.plugins["mine.py"], version)
        self.assertNotIn(str(path.parent), environment.to_json())

    def test_privileges(self) -> None:
        """As root with --uid the file is read before they are given up, and run afterwards."""
        path = plugin_file(self, NET + "\nraise AssertionError('run as root')")
        options = Options()
        options.parent = TwistdOptions(uid=1)  # type: ignore[assignment]
        options.parseOptions(["--host", "127.0.0.1", "--port", "0", "--plugin", str(path)])
        service = service_of(options)
        path.unlink()
        error = self.failureResultOf(service.environment(), ServerError).value
        self.assertIn("run as root", str(error))
        self.assertEqual(len(self.flushLoggedErrors(BrokenPlugin)), 1)

    def test_mistakes_of_the_option(self) -> None:
        """The server does not start: one line."""
        for source in ("if", "raise OSError('gone')", "x = 1"):
            path = plugin_file(self, source)
            words = ["--host", "127.0.0.1", "--port", "0", "--plugin", str(path)]
            error = self.assertRaises(UsageError, Options().parseOptions, words)
            self.assertIn(f"--plugin {path}", str(error))
            self.assertNotIn("\n", str(error))

    def test_local_servers_get_the_trainer_s(self) -> None:
        """By their absolute paths."""
        servers = LocalServers(1, Path("d"), Path("l"), None, None, plugin_files=(Path("/a/b.py"),))
        self.assertEqual(servers._program(0).words[-2:], ("--plugin", "/a/b.py"))


class RecordedRunTests(SynchronousTestCase):
    """A run with files is gone on with by the same files; nobody runs what a folder names."""

    def setUp(self) -> None:
        self.path, self.run_dir = plugin_file(self, NET), folder(self)
        config = RunConfig(in_process=True, model="net", plugin=(str(self.path),))
        description = {"config": config.to_dict(), "plugins": {"mine.py": version_of(self.path)}}
        (self.run_dir / "config.json").write_text(json.dumps(description))

    def files(self, *given: str) -> list[Path]:
        options = {"plugin": given or None}
        return [file.path for file in load_registry(load_and_warn, options, self.run_dir).files]

    def refusal(self, *given: str) -> str:
        error = self.assertRaises(RunDirectoryError, self.files, *given)
        self.assertNotIn("\n", str(error))
        return str(error)

    def record(self, *places: str) -> None:
        """Let the folder name its files so."""
        config = json.loads((self.run_dir / "config.json").read_text())
        config["config"]["plugin"] = places
        (self.run_dir / "config.json").write_text(json.dumps(config))

    def test_given_again(self) -> None:
        """The file of then, or a copy elsewhere; another one will not do."""
        self.assertEqual(self.files(str(self.path)), [self.path])
        copy = folder(self) / "mine.py"
        self.path.rename(copy)
        self.assertIn(
            "No such file", str(self.assertRaises(ConfigError, self.files, str(self.path)))
        )
        self.assertEqual(self.files(str(copy)), [copy])
        other = plugin_file(self, RULE.format(name="other"), "other.py")
        self.assertIn(
            f"was begun with --plugin mine.py ({version_of(copy)})", self.refusal(str(other))
        )

    def test_not_given(self) -> None:
        """Nothing runs because a folder names it, wherever that is: one line says what to add."""
        self.path.write_text("import hookimpl\nraise AssertionError")
        inside = self.run_dir / "mine.py"
        inside.write_bytes(self.path.read_bytes())
        for place in (str(self.path), str(inside), os.path.relpath(self.path), "/a b/mine.py"):
            self.record(place)
            self.assertIn(f"if you trust it, add --plugin {shlex.quote(place)} (", self.refusal())
            invocation = parse_invocation(["--resume", str(self.run_dir)])
            self.assertRaises(RunDirectoryError, invocation.registry)
            self.assertRaises(RunDirectoryError, byzpy_tw.verify, self.run_dir)
        self.record("/a/one.py", "/b/two.py")
        text = self.refusal()
        self.assertIn("--plugin one.py (unknown), two.py (unknown), and", text)
        self.assertIn("add --plugin /a/one.py /b/two.py", text)

    def test_edited_meanwhile(self) -> None:
        """Both digests, and it is not run."""
        before = version_of(self.path)
        self.path.write_text("import hookimpl\nraise AssertionError")
        text = self.refusal(str(self.path))
        self.assertIn(f"--plugin mine.py of {before}, and {self.path} is "
                      f"{version_of(self.path)}: put back", text)  # fmt: skip
        words = ["--resume", str(self.run_dir), "--plugin", str(self.path)]
        self.assertRaises(RunDirectoryError, parse_invocation(words).registry)

    def test_without_a_digest(self) -> None:
        """A record that lacks it is as one of another file."""
        config = json.loads((self.run_dir / "config.json").read_text())
        del config["plugins"]
        (self.run_dir / "config.json").write_text(json.dumps(config))
        text = self.refusal(str(self.path))
        self.assertIn("was begun with --plugin mine.py of unknown", text)

    def test_somebody_else_s_folder(self) -> None:
        """To verify and to read a run, the file is named by who does it."""
        wrong = io.StringIO()
        (self.run_dir / "rounds.jsonl").touch()
        with contextlib.redirect_stderr(wrong):
            self.assertNotEqual(main(["verify", str(self.run_dir)]), 0)
        self.assertIn("was begun with --plugin mine.py", wrong.getvalue())
        self.assertEqual(wrong.getvalue().count("byzpy_tw: error"), 1)
        result = Result.read(self.run_dir)
        self.assertRaises(RunDirectoryError, result.registry)
        result = Result.read(self.run_dir, plugin=str(self.path))
        self.assertEqual(result.registry().entry("model", "net").name, "net")

    def test_disabled_then(self) -> None:
        """A recorded run leaves out what it left out, however it is read; options say otherwise."""
        write(on_path(self), "byzpy-tw-acme", "raise AssertionError", module="acme_rules")
        config = json.loads((self.run_dir / "config.json").read_text())
        config["config"]["disable_plugin"] = ["byzpy-tw-acme", "byzpy-tw-gone"]
        (self.run_dir / "config.json").write_text(json.dumps(config))
        names = Result.read(self.run_dir, plugin=str(self.path)).registry()
        self.assertEqual(names.disabled, ("byzpy-tw-acme",))
        words = ["--resume", str(self.run_dir), "--plugin", str(self.path)]
        self.assertEqual(parse_invocation(words).registry().disabled, ("byzpy-tw-acme",))
        options = {"plugin": (str(self.path),), "disable_plugin": ()}
        self.assertEqual(load_registry(load_and_warn, options, self.run_dir).disabled, ())

    def test_how_to_resume(self) -> None:
        """The line at a run's end has the files, for they must be given again."""
        config = RunConfig(in_process=True, plugin=("/a b/mine.py",))
        path = Path("runs/a")
        self.assertEqual(how_to_resume(path, config), "--resume runs/a --plugin '/a b/mine.py'")
        given = evolve(config, model="given:name=Net,digest=0123456789ab")
        call = "byzpy_tw.run(resume='runs/a', plugin=['/a b/mine.py'], model=...)"
        self.assertEqual(how_to_resume(path, given), f"{call} with the same objects")
