"""Loading of the registry: built-ins first, then the plugins of installed distributions.

A distribution that cannot be used is left out and listed in `Registry.broken`: runs that need
nothing of it go on.  A name offered twice and a hook that does not exist are errors.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import EntryPoint
from itertools import groupby
from typing import Any

import pluggy
from attrs import field, frozen

import byzpy_tw
from byzpy_tw.errors import (
    BrokenPlugin,
    ByzpyTwError,
    ConfigError,
    DuplicateName,
    MisspeltHook,
)
from byzpy_tw.plugin_code import describe_exception, plugin_call
from byzpy_tw.plugins import hookspecs
from byzpy_tw.plugins.distributions import canonical_name, check_disabled, installed_points
from byzpy_tw.plugins.hookspecs import GROUP, Registration
from byzpy_tw.plugins.naming import suggest_nearest
from byzpy_tw.plugins.plugin_files import NO_HOOKS, PluginFile
from byzpy_tw.plugins.registry import (
    KINDS,
    OWN_DISTRIBUTION,
    BrokenDistribution,
    Entry,
    Registry,
)
from byzpy_tw.text import printable

_HOOKS = frozenset(
    name for name in dir(hookspecs) if hasattr(getattr(hookspecs, name), f"{GROUP}_spec")
)


def load(
    only: Collection[str] | None = None,
    extra: Mapping[str, object] | None = None,
    disabled: Collection[str] = (),
    files: Sequence[PluginFile] = (),
) -> Registry:
    """The registry of this process.

    `only` restricts plugins to the distributions named (built-ins always load); `disabled` ones are
    not imported, and raise `UnknownName` where they are not installed.  `extra` adds plugin objects
    by name, for tests and notebooks, and raises their errors; so do `files`, which it runs.
    """
    loader = _Loader()
    loader.take_built_ins()
    left_out = check_disabled(disabled)
    loader.take_installed(only, left_out)
    loader.take_files(files)
    for name, plugin in (extra or {}).items():
        source = _Source(loader.manager, name, "0", name)
        loader.take(source, source.offered(plugin, name))
    known, broken = dict(sorted(loader.distributions.items())), tuple(loader.broken)
    return Registry(loader.manager, loader.names, known, broken, left_out, tuple(files))


def load_and_warn(disabled: Collection[str] = (), files: Sequence[PluginFile] = ()) -> Registry:
    """`load`, for a command: with a line on standard error for each broken distribution."""
    registry = load(disabled=disabled, files=files)
    for broken in registry.broken:
        print(f"byzpy_tw: warning: {broken.text}", file=sys.stderr, flush=True)
    return registry


class _Manager(pluggy.PluginManager):
    """pluggy's manager, which reads every attribute of a plugin, also attributes that raise."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        try:
            with plugin_call(f"reading {name}"):
                return super().parse_hookimpl_opts(plugin, name)
        except ByzpyTwError:
            if name in _HOOKS:
                raise
            return None  # a property of the plugin's own is no hook


def _new_manager() -> _Manager:
    manager = _Manager(GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


@frozen(eq=False)
class _Loader:
    """The names that are known so far, by kind, and the distributions that they are of."""

    manager: _Manager = field(factory=_new_manager)
    names: dict[str, dict[str, Entry]] = field(factory=lambda: {kind: {} for kind in KINDS})
    distributions: dict[str, str] = field(factory=dict)
    broken: list[BrokenDistribution] = field(factory=list)

    def take(self, source: _Source, entries: list[Entry]) -> None:
        """Add `entries`; raises `DuplicateName`."""
        self.distributions[source.distribution] = source.version
        for entry in entries:
            _enter(self.names[entry.kind], entry)

    def take_built_ins(self) -> None:
        from byzpy_tw.plugins import builtins  # which imports torch

        own = _Source(self.manager, OWN_DISTRIBUTION, byzpy_tw.__version__, OWN_DISTRIBUTION)
        self.take(own, own.offered(builtins, f"{OWN_DISTRIBUTION}:builtins"))

    def take_installed(self, only: Collection[str] | None, left_out: Collection[str]) -> None:
        points = [point for point in installed_points(only) if point[0] not in left_out]
        for (distribution, version), group in groupby(points, key=lambda point: point[:2]):
            source = _Source(self.manager, distribution, version, f"{distribution} {version}")
            try:
                entries = source.imported([point for _, _, point in group])
            except BrokenPlugin as e:
                why = e.fields.get("why", str(e))
                self.broken.append(BrokenDistribution(distribution, version, why))
            else:
                self.take(source, entries)

    def take_files(self, files: Sequence[PluginFile]) -> None:
        for file in files:
            who = f"--plugin {printable(file.given)}"
            source = _Source(self.manager, file.name, file.version, who, named_seed=False)
            source.check_name_is_free(file, self.distributions)
            self.take(source, source.run(file))


@frozen(eq=False)
class _Source:
    """One distribution, while it is loaded.  Its errors begin with `owner`."""

    manager: pluggy.PluginManager
    distribution: str
    version: str
    owner: str
    named_seed: bool = True  # of its entries

    def imported(self, points: list[EntryPoint]) -> list[Entry]:
        """Import the entry points; return all they offer, or leave nothing registered if broken."""
        entries: list[Entry] = []
        names = [f"{self.distribution}:{point.name}" for point in points]
        try:
            for name, point in zip(names, points):
                failed = f"entry point {point.name!r} ({point.value}) failed to import:"
                with self._blamed(failed), _process_kept():
                    plugin = point.load()
                entries += self.offered(plugin, name)
        except BaseException:
            for name in filter(self.manager.has_plugin, names):
                self.manager.unregister(name=name)
            raise
        return entries

    def check_name_is_free(self, file: PluginFile, distributions: Collection[str]) -> None:
        """Raise `ConfigError` where a distribution among these is called as the file is."""
        for other in distributions:
            if canonical_name(other) in map(canonical_name, (file.name, file.path.stem)):
                raise ConfigError(
                    f"{self.owner} is called as the installed {other} is: rename the file, or "
                    "leave one of the two out"
                )

    def run(self, file: PluginFile) -> list[Entry]:
        """Run the file of ``--plugin``; return all it offers."""
        with self._blamed("failed to import:"), _process_kept():
            plugin = file.run()
        entries = self.offered(plugin, file.name)
        if not self.manager.get_hookcallers(plugin):
            raise ConfigError(f"{self.owner} {NO_HOOKS}")
        return entries

    def offered(self, plugin: object, name: str) -> list[Entry]:
        """Register `plugin`; return all it offers, or raise `BrokenPlugin` or `MisspeltHook`."""
        try:
            with plugin_call("looking for its hooks"):
                self._check_hooks(plugin)
                self.manager.register(plugin, name=name)
        except MisspeltHook:
            raise
        except ByzpyTwError as e:
            raise e if "why" in e.fields else self._broken(str(e)) from e
        # Implementations are called one at a time, not through the hook, so that a failure can
        # be pinned on the plugin that caused it.
        return [
            entry
            for kind, hook in KINDS.items()
            for implementation in getattr(self.manager.hook, hook).get_hookimpls()
            if implementation.plugin_name == name
            for entry in self._entries(kind, hook, implementation.function)
        ]

    def _broken(self, why: str) -> BrokenPlugin:
        return BrokenPlugin(f"{self.owner}: {why}").with_fields(why=why)

    @contextmanager
    def _blamed(self, failed: str) -> Iterator[None]:
        """Raise `BrokenPlugin`, with `failed` before its cause, for any exception inside."""
        call = plugin_call(self.owner)
        try:
            with call:
                yield
        except ByzpyTwError as e:
            why = e.fields.get("why") or describe_exception(call.replaced or e)
            raise self._broken(f"{failed} {why}") from e

    def _check_hooks(self, plugin: object) -> None:
        """Refuse hooks that pluggy would accept silently, or report at a page's length."""
        other = self.manager.get_name(plugin)
        if other is not None:
            raise self._broken(
                f"what it registers is registered already, as {other!r}; name each object by "
                "one entry point"
            )
        for name in dir(plugin):
            options = self.manager.parse_hookimpl_opts(plugin, name)
            if options is not None:
                self._check_hook(name, getattr(plugin, name), options)

    def _check_hook(self, name: str, function: Any, options: Mapping[str, Any]) -> None:
        hook = options.get("specname") or name
        if hook not in _HOOKS:
            near = suggest_nearest(hook, _HOOKS)
            raise MisspeltHook(f"{self.distribution}: there is no hook {hook!r}{near}")
        given = getattr(self.manager.hook, hook).spec.argnames
        beyond = [
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.default is p.empty
            and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            and (p.name not in given or p.kind is p.KEYWORD_ONLY)
        ]
        if options.get("wrapper") or options.get("hookwrapper"):
            why = "is a hook wrapper; hooks here are called one by one: make it a plain function"
        elif beyond == ["self"]:
            why = "is a method of a class: have the entry point name an instance of it"
        elif beyond:
            hands = ", ".join(given) or "nothing"
            why = f"takes {', '.join(beyond)}, and the hook hands in {hands}"
        else:
            return
        raise self._broken(f"{name}() {why}")

    def _entries(self, kind: str, hook: str, function: Callable[[], Any]) -> list[Entry]:
        """All that one hook of the plugin registers as `kind`."""
        with self._blamed(f"{hook}() raised"):
            found = function()
            offered = None if found is None else list(found)
        if offered is None:
            raise self._broken(f"{hook}() returned None, expected a list of Registration objects")
        entries = []
        for made in offered:
            if not isinstance(made, Registration):
                got = type(made).__name__
                raise self._broken(f"{hook}() must offer Registration objects, got {got}")
            source = (self.distribution, self.version)
            entry = Entry(kind, made.name, made.factory, *source, made.aliases, self.named_seed)
            with self._blamed(f"{kind} {made.name!r}: its factory's parameters cannot be read:"):
                entry.parameters  # noqa: B018  (a property that reads the signature)
            entries.append(entry)
        return entries


@contextmanager
def _process_kept() -> Iterator[None]:
    """Keep the current folder, and torch's default type and device, while foreign code is imported.

    Prints go to standard error: a program may read standard output.
    """
    import torch  # loaded by the built-ins before

    folder, dtype, device = os.getcwd(), torch.get_default_dtype(), torch.get_default_device()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if os.getcwd() != folder:
            os.chdir(folder)
        if torch.get_default_dtype() != dtype:
            torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)


def _enter(names: dict[str, Entry], entry: Entry) -> None:
    """Put `entry` under its name and aliases; raise `DuplicateName` where one is taken."""
    for name in (entry.name, *entry.aliases):
        if name not in names:
            names[name] = entry
            continue
        thing, distribution = f"{entry.kind} {name!r}", entry.distribution
        first = names[name].distribution
        if first == distribution:
            raise DuplicateName(f"{thing} is offered twice by {distribution}")
        if first == OWN_DISTRIBUTION:
            raise DuplicateName(
                f"{thing} of {distribution} is a name of {OWN_DISTRIBUTION}'s own; choose "
                f"another, or uninstall {distribution}"
            )
        raise DuplicateName(
            f"{thing} comes from both {first} and {distribution}; uninstall one of them, or leave "
            "out its --plugin"
        )
