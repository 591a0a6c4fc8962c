"""Installation: the wheel, twistd's plugin, and the sample plugins beside it."""

from __future__ import annotations

import atexit
import configparser
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

import byzpy_tw
from tests.support import Process, address_of, environment, folder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
# The samples, each with what it needs besides this package.
NEEDS = {
    "byzpy-tw-fang": [],
    "byzpy-tw-lora": ["transformers", "peft"],
    "byzpy-tw-spirals": [],
    "byzpy-tw-tensorboard": ["tensorboard"],
    "byzpy-tw-winsorized": [],
}
SAMPLES = tuple(NEEDS)
TWISTD = ("-c", "from twisted.scripts.twistd import run; run()")


def setup_cfg() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg", encoding="utf-8")
    return found


class MetadataTests(SynchronousTestCase):
    def test_packages_are_those_on_disk(self) -> None:
        """A new folder of modules is in the list, or would be missing from the wheel."""
        listed = setup_cfg()["options"]["packages"].split()
        on_disk = {
            ".".join(path.parent.relative_to(ROOT).parts)
            for top in ("byzpy_tw", "twisted")
            for path in (ROOT / top).rglob("*.py")
        }
        self.assertEqual(sorted(listed), sorted(on_disk))

    def test_data_files_are_listed(self) -> None:
        """So is every file that is no module."""
        listed = {
            f"{package.replace('.', '/')}/{name}"
            for package, names in setup_cfg()["options.package_data"].items()
            for name in names.split()
        }
        on_disk = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / "byzpy_tw").rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc")
        }
        self.assertEqual(on_disk, listed)

    def test_twisted_stays_twisted(self) -> None:
        """With an ``__init__.py`` in it, our folder would take the real Twisted's place."""
        self.assertEqual(list((ROOT / "twisted").rglob("__init__.py")), [])

    def test_one_version(self) -> None:
        """The version stands in the package, and the metadata reads it there."""
        self.assertEqual(setup_cfg()["metadata"]["version"], "attr: byzpy_tw.__version__")
        elsewhere = [
            path.relative_to(ROOT)
            for path in (*(ROOT / "byzpy_tw").rglob("*.py"), ROOT / "setup.cfg")
            if f'"{byzpy_tw.__version__}"' in path.read_text(encoding="utf-8")
        ]
        self.assertEqual(elsewhere, [Path("byzpy_tw/__init__.py")])

    def test_pyproject_configures_tools(self) -> None:
        """It has the build system and the tools; what is installed stands in setup.cfg."""
        found = tomllib.loads((ROOT / "pyproject.toml").read_text())
        self.assertEqual(set(found), {"build-system", "tool"})
        tools = {"pytest", "coverage", "mypy", "ruff", "towncrier"}
        self.assertEqual(set(found["tool"]), tools)
        self.assertEqual(found["tool"]["coverage"]["report"]["fail_under"], 90)
        extra = setup_cfg()["options.extras_require"]["test"]
        for tool in tools:
            self.assertIn(f"\n{tool} >=", extra)

    def test_news_fragments(self) -> None:
        """Each has a kind that towncrier knows, and NEWS.md a place for them."""
        news = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
        self.assertIn(news["start_string"], (ROOT / news["filename"]).read_text())
        kinds = "|".join(kind["directory"] for kind in news["type"])
        for path in (ROOT / news["directory"]).iterdir():
            if path.name != "README.md":
                self.assertRegex(path.name, rf"^(\d+|\+[\w-]+)\.({kinds})(\.\d+)?\.md$")
                self.assertTrue(path.read_text(encoding="utf-8").strip(), path.name)

    def test_samples_are_complete(self) -> None:
        """Each sample has metadata, one module, a README and tests."""
        self.assertEqual({path.name for path in (ROOT / "plugins").iterdir()}, set(SAMPLES))
        for name in SAMPLES:
            here, module = ROOT / "plugins" / name, name.replace("-", "_")
            project = tomllib.loads((here / "pyproject.toml").read_text())["project"]
            self.assertEqual(project["name"], name)
            self.assertEqual(project["dependencies"], ["byzpy-tw", *NEEDS[name]])
            self.assertEqual(list(project["entry-points"]["byzpy_tw"].values()), [module])
            self.assertTrue((here / f"{module}.py").is_file())
            self.assertIn(f"pip install {name}", (here / "README.md").read_text())
            self.assertTrue(list((here / "tests").glob("test_*.py")))


@frozen
class Venv:
    """A virtual environment of its own, which finds torch and the rest in ours."""

    path: Path

    @classmethod
    def create(cls, path: Path, wheels: list[Path], beside: Path) -> Venv:
        """With `wheels` in it, and the packages in the folder `beside` visible."""
        run([sys.executable, "-m", "venv", "--without-pip", str(path)])
        made = cls(path)
        run(
            [sys.executable, "-m", "pip", "--python", str(made.python), "install"]
            + ["--no-deps", "--no-index", "--no-compile", *map(str, wheels)]
        )
        # Only now: pip need not know of what is there already.
        [packages] = path.glob("lib/python3*/site-packages")
        (packages / "beside.pth").write_text(f"{beside}\n")
        return made

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    def run(self, case: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Its Python with `arguments`, in an empty folder."""
        return subprocess.run(
            [str(self.python), *arguments],
            cwd=folder(case),
            env=surroundings(),
            capture_output=True,
            text=True,
            timeout=240,
        )

    def servers(self, case: Any, count: int) -> list[str]:
        """The addresses of `count` ``twistd byzpy-server`` that run until the test is over."""
        command = [str(self.python), *TWISTD, "-n", "--pidfile=", "--logfile=-", "byzpy-server"]
        command += ["--host", "127.0.0.1", "--port", "0", "--until-eof", "--threads", "1"]
        started = [
            Process.start(case, command, cwd=folder(case), env=surroundings()) for _ in range(count)
        ]
        return [address_of(server) for server in started]


def surroundings() -> dict[str, str]:
    """The environment of a user who has set nothing up."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    return {key: value for key, value in environment().items() if key not in hidden}


def run(command: list[str]) -> None:
    done = subprocess.run(
        command, env=surroundings(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise AssertionError(f"{command} failed:\n{done.stdout}")


def our_packages(where: Path) -> Path:
    """A folder of links to all that is installed here, this package and its plugins apart."""
    where.mkdir()
    for entry in map(Path, sys.path):
        if entry.name not in ("site-packages", "dist-packages"):
            continue
        for package in entry.iterdir():
            ours = package.name.startswith(("byzpy", "__editable__", "__pycache__"))
            if not ours and package.suffix != ".pth" and not (where / package.name).exists():
                (where / package.name).symlink_to(package)
    return where


def build_wheels(where: Path) -> list[Path]:
    """Wheels of this package and of the samples, in that order.

    Built from copies: setuptools leaves its ``build`` folder beside the source.
    """
    source, wheels = where / "source", where / "wheels"
    litter = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dropin.cache")
    for name in ("byzpy_tw", "twisted", "plugins"):
        shutil.copytree(ROOT / name, source / name, ignore=litter)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    projects = [source, *(source / "plugins" / name for name in SAMPLES)]
    run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
        + ["--wheel-dir", str(wheels), *map(str, projects)]
    )
    return [
        next(wheels.glob(f"{name.replace('-', '_')}-[0-9]*.whl")) for name in ("byzpy-tw", *SAMPLES)
    ]


@frozen
class Installed:
    """The wheels, and two environments: with this package and the samples, and without them."""

    wheels: list[Path]
    complete: Venv
    bare: Venv


@cache
def installed() -> Installed:
    """Made once, for all tests here; gone when this process ends."""
    made = tempfile.TemporaryDirectory(prefix="byzpy_tw-")
    atexit.register(made.cleanup)
    where = Path(made.name)
    wheels = build_wheels(where)
    beside = our_packages(where / "beside")
    return Installed(
        wheels,
        Venv.create(where / "complete", wheels, beside),
        Venv.create(where / "bare", wheels[:1], beside),
    )


class WheelTests(SynchronousTestCase):
    """An environment with the wheels installed."""

    def setUp(self) -> None:
        here = installed()
        self.wheels, self.complete, self.bare = here.wheels, here.complete, here.bare

    def train(self, *options: str) -> tuple[subprocess.CompletedProcess[str], Path]:
        """A short run of the complete environment's trainer; what it said, and its folder."""
        path = folder(self) / "run"
        short = ("--rounds", "3", "--batch-size", "16", "--model", "logreg", "--threads", "1")
        done = self.complete.run(
            self, "-m", "byzpy_tw.train", "--run-dir", str(path), *short, *options
        )
        return done, path

    def test_contents(self) -> None:
        """Every module and data file, twistd's dropin, and nothing beside them."""
        names = set(zipfile.ZipFile(self.wheels[0]).namelist())
        expected = {
            path.relative_to(ROOT).as_posix()
            for top in ("byzpy_tw", "twisted")
            for path in (ROOT / top).rglob("*")
            if path.is_file() and path.suffix != ".pyc" and path.name != "dropin.cache"
        }
        self.assertIn("byzpy_tw/datasets/mnist5k.npz", expected)
        self.assertIn("twisted/plugins/byzpy_tw_dropin.py", expected)
        self.assertEqual({name for name in names if ".dist-info/" not in name}, expected)

    def test_contents_of_samples(self) -> None:
        """A sample's wheel holds its one module."""
        for name, wheel in zip(SAMPLES, self.wheels[1:], strict=True):
            names = zipfile.ZipFile(wheel).namelist()
            self.assertEqual(
                [n for n in names if ".dist-info/" not in n], [f"{name.replace('-', '_')}.py"]
            )

    def test_is_the_wheel_that_runs(self) -> None:
        """The environment's own package is imported, and torch from beside it."""
        where = "print(byzpy_tw.__file__, find_spec('torch').origin)"
        done = self.bare.run(
            self, "-c", f"import byzpy_tw; from importlib.util import find_spec; {where}"
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        ours, torch = done.stdout.split()
        self.assertIn(self.bare.path, Path(ours).parents)
        self.assertEqual(Path(torch).parts[-3:-1], ("beside", "torch"))

    def test_twistd_finds_the_server(self) -> None:
        """From an empty folder, ``twistd`` names byzpy-server once and explains its options."""
        listed = self.bare.run(self, *TWISTD, "--help")
        self.assertEqual(listed.returncode, 0, listed.stderr)
        self.assertEqual(listed.stdout.count("byzpy-server"), 1, listed.stdout)
        explained = self.bare.run(self, *TWISTD, "byzpy-server", "--help")
        self.assertEqual(explained.returncode, 0, explained.stderr)
        for option in ("--host=", "--port=", "--data-root=", "--insecure"):
            self.assertIn(option, explained.stdout)

    def test_the_console_script(self) -> None:
        """``byzpy-tw`` is ``python -m byzpy_tw``."""
        done = subprocess.run(
            [self.bare.path / "bin" / "byzpy-tw", "--version"],
            env=surroundings(),
            cwd=folder(self),
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.stdout, f"byzpy_tw {byzpy_tw.__version__}\n")

    def test_samples_are_listed(self) -> None:
        """An installed sample is listed under its distribution, with nothing else to do."""
        done = self.complete.run(self, "-m", "byzpy_tw", "plugins", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(
            {
                (row["kind"], row["name"], row["distribution"])
                for row in json.loads(done.stdout)
                if row["distribution"] != "byzpy-tw"
            },
            {
                ("aggregator", "winsorized-mean", "byzpy-tw-winsorized"),
                ("attack", "fang-trim", "byzpy-tw-fang"),
                ("dataset", "spirals", "byzpy-tw-spirals"),
                ("model", "lora", "byzpy-tw-lora"),
            },
        )

    def test_samples_across_servers(self) -> None:
        """All that have names, on two server processes; the same bits as in one process."""
        names = ("--aggregator", "winsorized-mean", "--attack", "fang-trim:near=2")
        data = ("--dataset", "spirals:n=600,noise=0.1")
        digests = []
        for place in (("--local", "2"), ("--in-process",)):
            done, path = self.train(*place, *names, *data)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            result = json.loads((path / "result.json").read_text())
            self.assertEqual(result["status"], "finished")
            digests.append(result["parameters_sha256"])
            config = json.loads((path / "config.json").read_text())
            self.assertLessEqual(set(SAMPLES), set(config["plugins"]))
        self.assertEqual(digests[0], digests[1])

    def test_a_sample_with_the_shipped_digits(self) -> None:
        """A plugin's aggregator is the trainer's alone: bare servers will do, and they
        have the shipped digits."""
        hosts = ",".join(self.bare.servers(self, 2))
        done, path = self.train(
            *("--remote-hosts", hosts, "--dataset", "mnist5k"),
            *("--aggregator", "winsorised-mean:cut=1"),
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(json.loads((path / "result.json").read_text())["rounds"], 3)

    def test_missing_on_a_server(self) -> None:
        """Before round 0, one line: which server, what it lacks, what to install there."""
        [address] = self.bare.servers(self, 1)
        for name, distribution, options in (
            ("fang-trim", "byzpy-tw-fang", ("--dataset", "mnist5k", "--attack", "fang-trim")),
            ("spirals", "byzpy-tw-spirals", ("--dataset", "spirals:n=600")),
        ):
            done, path = self.train("--remote-hosts", address, *options)
            self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
            [line] = done.stderr.splitlines()
            for part in ("MISSING_PLUGIN", address, name, f"pip install {distribution}=="):
                self.assertIn(part, line)
            self.assertNotIn("Traceback", done.stdout)
            self.assertEqual((path / "rounds.jsonl").read_text(), "")
