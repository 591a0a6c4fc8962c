"""Write the distribution of a new plugin from the templates beside this module."""

from __future__ import annotations

import keyword
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from string import Template

from attrs import frozen

from byzpy_tw.errors import ConfigError, RunDirectoryError
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.hookspecs import NAME
from byzpy_tw.text import clip

LONGEST = 40  # of a name

# Each kind of plugin, with a command that tries one.
KINDS: Mapping[str, str] = {
    "aggregator": "python -m byzpy_tw sweep --aggregators mean {}",
    "pre-aggregator": "python -m byzpy_tw sweep --preaggregators none {}",
    "attack": "python -m byzpy_tw sweep --attacks none {}",
    "dataset": "python -m byzpy_tw sweep --dataset {}",
    "model": "python -m byzpy_tw sweep --model {}",
    "partition": "python -m byzpy_tw sweep --partition {}",
    "task": "python -m byzpy_tw.train --in-process --dataset mnist5k --task {}",
    "observer": "python -m byzpy_tw.train --in-process --dataset mnist5k",
}
_ON_SERVERS = ("attack", "dataset", "model", "partition", "task")

# Names that the templates use: a class of that name would hide one.
_USED = "Counter Dataset Knowledge Mapping Metric Registration Sequence Split Tensor".split()


@frozen
class NewPlugin:
    """A distribution that was written, and a command that tries it."""

    folder: Path
    module: Path
    tests: Path
    command: str


def check(kind: str, name: str, names: Registry) -> None:
    """Raise `ConfigError` for a name that cannot be used, or that is taken."""
    if not re.fullmatch(NAME, name) or not name[0].isalpha() or len(name) > LONGEST:
        better = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:LONGEST]
        hint = f"; did you mean {better!r}?" if better else ""
        raise ConfigError(
            f"{clip(name)!r} is not a name for a plugin: names are lower-case words joined by "
            f"hyphens, such as 'steady-median', of at most {LONGEST} characters{hint}"
        )
    taken = names.names.get(kind, {}).get(name)
    if taken is not None:
        raise ConfigError(
            f"the {kind} {name!r} is there already, from {taken.distribution} "
            f"{taken.version}; choose another name"
        )
    distribution = f"byzpy-tw-{name}"
    with suppress(PackageNotFoundError):
        raise ConfigError(
            f"{distribution} {version(distribution)} is installed already; choose another name, "
            "or uninstall it"
        )


def write(kind: str, name: str, into: Path) -> NewPlugin:
    """Write the distribution into a new folder of `into`.

    Raises `ConfigError` where the folder exists, `RunDirectoryError` where it cannot be written.
    """
    words = _words(kind, name)
    folder = into / words["distribution"]
    if folder.exists():
        raise ConfigError(
            f"{folder} is there already, and stays as it is: choose another name, or --into "
            "another folder"
        )
    try:
        for path, content in files(kind, name).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(content, encoding="utf-8")
    except OSError as e:
        shutil.rmtree(folder, ignore_errors=True)
        raise RunDirectoryError(f"cannot write to {folder}: {e.strerror or e}") from e
    tests = folder / "tests" / f"test_{words['snake']}.py"
    return NewPlugin(folder, folder / f"{words['module']}.py", tests, words["try"])


def write_single_file(kind: str, name: str, into: Path) -> NewPlugin:
    """Write the plugin's module alone into the folder `into`, as ``NAME.py`` for ``--plugin``.

    Raises `ConfigError` where it exists, `RunDirectoryError` where it cannot be written.
    """
    words = _words(kind, name)
    path = into / f"{words['snake']}.py"
    content = files(kind, name)[f"{words['module']}.py"]
    if kind == "observer":  # the hooks of a module are its functions
        content += "".join(
            f"{hook} = plugin.{hook}\n"
            for hook in ("run_started", "round_completed", "run_finished")
        )
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        raise ConfigError(
            f"{path} is there already, and stays as it is: choose another name, or --into "
            "another folder"
        ) from None
    except OSError as e:
        raise RunDirectoryError(f"cannot write {path}: {e.strerror or e}") from e
    return NewPlugin(into, path, path, f"{words['try']} --plugin {path}")


def files(kind: str, name: str) -> dict[str, str]:
    """Return the distribution's files by their paths in it."""
    words, found = _words(kind, name), {}
    for template in (kind, "common"):
        source = resources.files("byzpy_tw.scaffold").joinpath("templates", f"{template}.txt")
        text = Template(source.read_text("utf-8")).substitute(words)
        # Each file begins with a line that has its path.
        for part in re.split(r"^=== ", text, flags=re.MULTILINE)[1:]:
            path, _, content = part.partition("\n")
            found[path] = content
    return found


def _words(kind: str, name: str) -> dict[str, str]:
    """Return the values of the templates' words."""
    snake, on_servers = name.replace("-", "_"), " and on every server's"
    module = f"byzpy_tw_{snake}"
    klass = "".join(word.capitalize() for word in name.split("-"))
    if klass in _USED or keyword.iskeyword(klass):
        klass += "".join(word.capitalize() for word in kind.split("-"))
    return {
        "kind": kind,
        "an": "an" if kind[0] in "aeiou" else "a",
        "name": name,
        "title": name.replace("-", " ").capitalize(),
        "distribution": f"byzpy-tw-{name}",
        "module": module,
        "entry": f"{module}:plugin" if kind == "observer" else module,
        "snake": snake,
        "klass": klass,
        "where": f"on the trainer's machine{on_servers * (kind in _ON_SERVERS)}",
        "try": KINDS[kind].format(name),
    }
