"""Everything that can be named in a run, and whose it is.

A `Registry` is made once per process by `load`: the built-ins, then whatever
installed distributions offer under the entry-point group ``byzpy_tw``.  Anything
wrong with a plugin is an error that names its distribution.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import pluggy
from attrs import field, frozen

from byzpy_tw.errors import (
    BadParameter,
    BrokenPlugin,
    ByzpyTwError,
    DuplicateName,
    MisspeltHook,
    UnknownName,
)
from byzpy_tw.plugins import hookspecs
from byzpy_tw.plugins.hookspecs import GROUP, Registration
from byzpy_tw.plugins.naming import Named, nearest, parse
from byzpy_tw.plugins.parameters import (
    RESERVED,
    Parameter,
    parameters_of,
    read_all,
    takes,
)

KINDS: Mapping[str, str] = {
    "aggregator": "register_aggregators",
    "pre-aggregator": "register_preaggregators",
    "attack": "register_attacks",
    "dataset": "register_datasets",
    "model": "register_models",
    "partition": "register_partitions",
}

OWN = "byzpy-tw"  # this distribution


@frozen
class Entry:
    """One name: what makes the thing, and which distribution it comes from."""

    kind: str
    name: str
    factory: Callable[..., Any]
    distribution: str
    version: str
    aliases: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, Parameter]:
        return parameters_of(self.kind, self.factory)


@frozen
class Registry:
    """Names to factories, by kind.  Make one with `load`."""

    manager: pluggy.PluginManager = field(repr=False)
    # kind -> every name and alias -> its entry
    names: Mapping[str, Mapping[str, Entry]] = field(repr=False)
    # distribution -> version, of every distribution that offers a plugin
    distributions: Mapping[str, str] = field(factory=dict)

    def entries(self) -> Iterator[Entry]:
        """Each entry once, by kind, then by name."""
        for kind in KINDS:
            found = self.names[kind]
            yield from (found[n] for n in sorted(found) if found[n].name == n)

    def entry(self, kind: str, name: str) -> Entry:
        """The entry of this name; `UnknownName` with the nearest one otherwise."""
        found = self.names[kind]
        if name not in found:
            known = ", ".join(sorted(found)) or "none are installed"
            elsewhere = [other for other in KINDS if name in self.names[other]]
            near = nearest(name, found)
            if elsewhere:
                near = f"; {name!r} is {_article(elsewhere[0])}"
            raise UnknownName(f"no {kind} is called {name!r}{near} (known: {known})")
        return found[name]

    def make(self, kind: str, text: str | Named, **fill: Any) -> Any:
        """The thing that ``NAME:key=value,...`` names.

        `fill` offers values for parameters that the text does not give; those
        the factory does not take are ignored, and None counts as not offered.
        """
        named = parse(text) if isinstance(text, str) else text
        entry = self.entry(kind, named.name)
        offered = {key: value for key, value in fill.items() if value is not None}
        arguments = read_all(named, entry.parameters, offered)
        reserved = {
            key: value
            for key, value in offered.items()
            if key in RESERVED.get(kind, ()) and takes(entry.factory, key)
        }
        try:
            made = entry.factory(**arguments, **reserved)
        except ByzpyTwError:
            raise
        except (TypeError, ValueError) as e:
            raise BadParameter(f"{kind} {named.text!r}: {e}") from e
        except Exception as e:
            raise BrokenPlugin(
                f"{entry.distribution}: making {kind} {named.name!r} raised {e!r}"
            ) from e
        if entry.distribution == OWN:
            return made
        # Imported only now: names can be looked up without torch.
        from byzpy_tw.plugins.outputs import checked

        return checked(kind, entry.name, entry.distribution, made)

    def check(self, kind: str, text: str, **fill: Any) -> Entry:
        """The entry `text` names, its parameters read (as by `make`) but nothing made."""
        named = parse(text)
        entry = self.entry(kind, named.name)
        read_all(named, entry.parameters, {k: v for k, v in fill.items() if v is not None})
        return entry

    def owner(self, kind: str, text: str) -> str:
        """The thing that `text` names and, unless it is ours, whose it is: for messages."""
        entry = self.entry(kind, parse(text).name)
        if entry.distribution == OWN:
            return f"{kind} {entry.name!r}"
        return f"{kind} {entry.name!r} of {entry.distribution} {entry.version}"


def load(
    only: Collection[str] | None = None, extra: Mapping[str, object] | None = None
) -> Registry:
    """The registry of this process.

    `only` restricts plugins to the distributions named (built-ins always
    load); `extra` adds plugin objects by name, for tests and notebooks.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    owners: dict[str, tuple[str, str]] = {}

    def add(plugin: object, name: str, distribution: str, version: str) -> None:
        try:
            manager.register(plugin, name=name)
        except (pluggy.PluginValidationError, ValueError) as e:
            raise BrokenPlugin(f"{distribution}: {e}") from e
        _check_spelling(manager, plugin, distribution)
        owners[name] = (distribution, version)

    from byzpy_tw.plugins import builtins

    add(builtins, f"{OWN}:builtins", OWN, own_version())
    for distribution, version, point in installed(only):
        try:
            plugin = point.load()
        except Exception as e:
            raise BrokenPlugin(
                f"{distribution} {version}: entry point {point.name!r} ({point.value}) "
                f"failed to import: {e!r}; mend it or uninstall {distribution}"
            ) from e
        add(plugin, f"{distribution}:{point.name}", distribution, version)
    for name, plugin in (extra or {}).items():
        add(plugin, name, name, "0")

    names = {kind: _collect(manager, kind, hook, owners) for kind, hook in KINDS.items()}
    distributions = dict(sorted(owners.values()))
    return Registry(manager, names, distributions)


def own_version() -> str:
    """This package's version, from its metadata where it is installed."""
    import byzpy_tw

    return byzpy_tw.__version__


def installed(
    only: Collection[str] | None = None,
) -> Iterator[tuple[str, str, importlib.metadata.EntryPoint]]:
    """Entry points of the group, each with its distribution and version.

    Sorted, so that nothing depends on the order of directories.  A
    distribution found twice (an editable install seen from its own folder)
    counts once.
    """
    wanted = None if only is None else {_canonical(name) for name in only}
    found: dict[tuple[str, str], tuple[str, str, importlib.metadata.EntryPoint]] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if not name or (wanted is not None and _canonical(name) not in wanted):
            continue
        for point in distribution.entry_points:
            if point.group == GROUP:
                key = (_canonical(name), point.name)
                found.setdefault(key, (name, distribution.version, point))
    return iter(found[key] for key in sorted(found))


def _canonical(name: str) -> str:
    """The one spelling of a distribution's name, as packaging tools have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _check_spelling(
    manager: pluggy.PluginManager, plugin: object, distribution: str
) -> None:
    """pluggy takes a hook it does not know in silence; a user must not."""
    known = [n for n in dir(hookspecs) if hasattr(getattr(hookspecs, n), f"{GROUP}_spec")]
    for name in dir(plugin):
        if manager.parse_hookimpl_opts(plugin, name) is None or name in known:
            continue
        raise MisspeltHook(
            f"{distribution}: there is no hook {name!r}{nearest(name, known)}"
        )


def _collect(
    manager: pluggy.PluginManager,
    kind: str,
    hook: str,
    owners: Mapping[str, tuple[str, str]],
) -> dict[str, Entry]:
    """Everything registered as `kind`, under every name and alias.

    Implementations are called one at a time, not through the hook, so that a
    failure can be pinned on the plugin that caused it.
    """
    found: dict[str, Entry] = {}
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        distribution, version = owners[implementation.plugin_name]
        try:
            offered = list(implementation.function())
        except Exception as e:
            raise BrokenPlugin(f"{distribution}: {hook}() raised {e!r}") from e
        for registration in offered:
            if not isinstance(registration, Registration):
                raise BrokenPlugin(
                    f"{distribution}: {hook}() must offer Registration objects, "
                    f"got {type(registration).__name__}"
                )
            entry = Entry(
                kind,
                registration.name,
                registration.factory,
                distribution,
                version,
                registration.aliases,
            )
            try:
                entry.parameters
            except (TypeError, ValueError) as e:
                raise BrokenPlugin(
                    f"{distribution}: {kind} {entry.name!r}: its factory's parameters "
                    f"cannot be read: {e}"
                ) from e
            for name in (entry.name, *entry.aliases):
                if name in found:
                    raise DuplicateName(_twice(kind, name, found[name], distribution))
                found[name] = entry
    return found


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _twice(kind: str, name: str, first: Entry, distribution: str) -> str:
    if first.distribution == distribution:
        return f"{kind} {name!r} is offered twice by {distribution}"
    if first.distribution == OWN:
        return (
            f"{kind} {name!r} of {distribution} is a name of {OWN}'s own; "
            f"choose another, or uninstall {distribution}"
        )
    return (
        f"{kind} {name!r} comes from both {first.distribution} and {distribution}; "
        "uninstall one of them"
    )
