"""Plugins that are one file, named by ``--plugin FILE.py``: read, checked, and run as modules.

To the registry such a file is a distribution called ``FILE.py``, whose version is its digest.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from os import PathLike, fspath
from pathlib import Path
from types import CodeType, ModuleType

from attrs import field, frozen

from byzpy_tw.errors import ConfigError
from byzpy_tw.plugins.distributions import canonical_name
from byzpy_tw.text import DIGITS, clip, printable

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,59}\.py")
_MOST_BYTES = 2**22
_MODULES = "byzpy_tw_file_"  # the names of modules begin so
_MARKERS = {"hookimpl", "HookimplMarker"}
NO_HOOKS = (
    "has no function marked with @byzpy_tw.hookimpl, so it offers nothing: 'python -m byzpy_tw "
    "new-plugin --single-file KIND NAME' writes one"
)


@frozen
class PluginFile:
    """A file of Python code that was read and compiled, and not yet run."""

    given: str  # its path, as a person wrote it
    path: Path  # from the root on
    digest: str  # hex SHA-256 of its bytes
    code: CodeType = field(repr=False)

    @property
    def name(self) -> str:
        """The name of its distribution."""
        return self.path.name

    @property
    def version(self) -> str:
        """The version of its distribution."""
        return f"sha256:{self.digest[:DIGITS]}"

    @property
    def module(self) -> str:
        """The name of its module, the same in every process."""
        return _MODULES + re.sub(r"\W", "_", self.path.stem)

    def run(self) -> ModuleType:
        """Run it as a module, once in a process for each content; raises what it raises."""
        before = sys.modules.get(self.module)
        if getattr(before, "__plugin_digest__", None) == (self.digest, str(self.path)):
            return sys.modules[self.module]
        # Not by an importer: it would read the file again, and leave a cache beside it.
        spec = importlib.util.spec_from_file_location(self.module, self.path)
        assert spec is not None
        made = importlib.util.module_from_spec(spec)
        sys.modules[self.module] = made  # as its classes' annotations are looked up there
        try:
            exec(self.code, vars(made))
        except BaseException:
            sys.modules.pop(self.module, None)
            if before is not None:
                sys.modules[self.module] = before
            raise
        vars(made)["__plugin_digest__"] = (self.digest, str(self.path))
        return made


def read_plugin_files(paths: Iterable[str | PathLike[str]]) -> tuple[PluginFile, ...]:
    """Read the files of ``--plugin``; raises `ConfigError` with the path and the cure."""
    found: dict[str, PluginFile] = {}
    for given in paths:
        file = _read(fspath(given))
        other = found.setdefault(canonical_name(file.path.stem), file)
        if other is not file:
            raise ConfigError(
                f"--plugin {printable(file.given)} and {printable(other.given)} are called alike: "
                "a plugin file is known by its name, so give each once, and rename one of two"
            )
    return tuple(found.values())


def _read(given: str) -> PluginFile:
    who = f"--plugin {printable(clip(given, 300))}"
    try:
        path = Path(given).expanduser().absolute()
    except RuntimeError as e:
        raise ConfigError(f"{who}: {e} (for a file of that name write ./{clip(given)})") from None
    if not _NAME.fullmatch(path.name):
        kind = "a folder" if path.is_dir() else "not the name of a Python file"
        raise ConfigError(
            f"{who} is {kind}: name one file, NAME.py, of letters, digits, - and _ (a package is "
            "installed by pip)"
        )
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{who} is no file: name one file of Python code")
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as e:  # ValueError: no path at all
        why = getattr(e, "strerror", None) or e
        raise ConfigError(
            f"{who}: cannot read {printable(path)}: {why}; a plugin file is named by its path on "
            "this machine"
        ) from None
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{who} has over {_MOST_BYTES // 2**20} MiB: name a file of Python code")
    code = _compile(who, path, content)
    if not _MARKERS & set(_names_in(code)):  # such as a script: it is not even run
        raise ConfigError(f"{who} {NO_HOOKS}")
    return PluginFile(given, path, hashlib.sha256(content).hexdigest(), code)


def _compile(who: str, path: Path, content: bytes) -> CodeType:
    """Compile `content`; raises `ConfigError` with the line where it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of an escape in a string
            code: CodeType = compile(content, str(path), "exec", dont_inherit=True)
    except SyntaxError as e:
        where = f", line {e.lineno}" if e.lineno else ""
        raise ConfigError(f"{who} is not Python code: {e.msg}{where}") from None
    except (ValueError, RecursionError, MemoryError, OverflowError) as e:
        raise ConfigError(f"{who} is not Python code: {e or type(e).__name__}") from None
    return code


def _names_in(code: CodeType) -> Iterator[str]:
    """Yield the names that `code` reads or imports, and those of the functions within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)
