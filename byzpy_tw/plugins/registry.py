"""Everything that can be named in a run, and whose it is.

A `Registry` is made once per process by `load`: the built-ins, then whatever
installed distributions offer under the entry-point group ``byzpy_tw``.  A distribution
that cannot be used is left out as a whole and listed in `Registry.broken`, so that runs
that need nothing of it go on.  A name that two of them offer, and a hook that does not
exist, are errors that name the distributions.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from difflib import get_close_matches
from itertools import groupby
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
from byzpy_tw.plugin_code import describe_exception, plugin_call
from byzpy_tw.plugins import hookspecs
from byzpy_tw.plugins.hookspecs import GROUP, Registration
from byzpy_tw.plugins.naming import ParsedName, parse, suggest_nearest
from byzpy_tw.plugins.parameters import (
    RESERVED,
    Parameter,
    parameters_of,
    read_arguments,
    takes,
)
from byzpy_tw.text import clip

KINDS: Mapping[str, str] = {
    "aggregator": "register_aggregators",
    "pre-aggregator": "register_preaggregators",
    "attack": "register_attacks",
    "dataset": "register_datasets",
    "model": "register_models",
    "partition": "register_partitions",
}

OWN_DISTRIBUTION = "byzpy-tw"  # this distribution
_HOOKS = frozenset(
    name for name in dir(hookspecs) if hasattr(getattr(hookspecs, name), f"{GROUP}_spec")
)
_TYPO = 0.8  # of difflib: what is as near as that to a known name is a misspelling of it

Point = tuple[str, str, importlib.metadata.EntryPoint]  # its distribution and version, too


@frozen
class Broken:
    """A distribution whose plugins cannot be used, and why, in one line."""

    distribution: str
    version: str
    why: str

    @property
    def text(self) -> str:
        """One line for a user, with what to do."""
        return (
            f"{self.distribution} {self.version} is broken and left out: {self.why}; mend it, "
            f"uninstall {self.distribution}, or use --disable-plugin {self.distribution}"
        )


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
    # distribution -> version, of every distribution whose plugins can be used
    distributions: Mapping[str, str] = field(factory=dict)
    broken: tuple[Broken, ...] = ()
    disabled: tuple[str, ...] = ()  # distributions that were not even imported

    def entries(self) -> Iterator[Entry]:
        """Each entry once, by kind, then by name."""
        for kind in KINDS:
            found = self.names[kind]
            yield from (found[n] for n in sorted(found) if found[n].name == n)

    def entry(self, kind: str, name: str) -> Entry:
        """The entry of this name; `UnknownName` with the nearest one otherwise.

        `BrokenPlugin` where the name is near to none and a broken distribution may offer it.
        """
        found = self.names[kind]
        if name not in found:
            raise self._unknown(kind, name)
        return found[name]

    def _unknown(self, kind: str, name: str) -> ByzpyTwError:
        found = self.names[kind]
        known = ", ".join(sorted(found)) or "none are installed"
        elsewhere = [other for other in KINDS if name in self.names[other]]
        near = suggest_nearest(name, found)
        if elsewhere:
            near = f"; {name!r} is {_article(elsewhere[0])}"
        text = f"no {kind} is called {name!r}{near}"
        if self.disabled:
            known += f"; not looked at: {', '.join(self.disabled)}, by --disable-plugin"
        if not self.broken:
            return UnknownName(f"{text} (known: {known})")
        if elsewhere or get_close_matches(name, found, n=1, cutoff=_TYPO):
            names = ", ".join(f"{b.distribution} {b.version}" for b in self.broken)
            why = "; ".join(f"{b.distribution}: {b.why}" for b in self.broken)
            return UnknownName(
                f"{text} (known: {known}); {names} may offer it, and cannot be used: {why}"
            )
        # Nothing else explains the name: it is the broken distribution that is to blame.
        why = "; ".join(f"{b.distribution} {b.version} is broken: {b.why}" for b in self.broken)
        names = ", ".join(b.distribution for b in self.broken)
        return BrokenPlugin(f"{text}, and {why}; mend {names}, or use another name ({known})")

    def make(self, kind: str, text: str | ParsedName, **fill: Any) -> Any:
        """The thing that ``NAME:key=value,...`` names.

        `fill` offers values for parameters that the text does not give; those
        the factory does not take are ignored, and None counts as not offered.
        """
        named = parse(text) if isinstance(text, str) else text
        entry = self.entry(kind, named.name)
        offered = {key: value for key, value in fill.items() if value is not None}
        arguments = read_arguments(named, entry.parameters, offered)
        reserved = {
            key: value
            for key, value in offered.items()
            if key in RESERVED.get(kind, ()) and takes(entry.factory, key)
        }
        return self._called(entry, named, arguments, reserved)

    def _called(
        self,
        entry: Entry,
        named: ParsedName,
        arguments: Mapping[str, Any],
        reserved: Mapping[str, Any],
    ) -> Any:
        """Call the entry's factory, and check what it makes; every error of it is one of ours."""
        kind, own = entry.kind, entry.distribution == OWN_DISTRIBUTION
        with plugin_call(f"{entry.distribution}: making {kind} {named.name!r}"):
            try:
                # Models are made by `models.build`, which seeds by the run's own seed.
                with nullcontext() if own or kind == "model" else _seeded(kind, named.text):
                    made = entry.factory(**arguments, **reserved)
            except ByzpyTwError:
                raise
            except (TypeError, ValueError) as e:
                if own or _of_a_value(e, entry, named, arguments):
                    raise BadParameter(f"{kind} {named.text!r}: {_words_of(e)}") from e
                raise
            if own:
                return made
            # Imported only now: names can be looked up without torch.
            from byzpy_tw.plugins.outputs import check_made

            return check_made(kind, entry.name, entry.distribution, made)

    def check(self, kind: str, text: str, **fill: Any) -> Entry:
        """The entry `text` names, its parameters read (as by `make`) but nothing made."""
        named = parse(text)
        entry = self.entry(kind, named.name)
        read_arguments(named, entry.parameters, {k: v for k, v in fill.items() if v is not None})
        return entry

    def is_foreign(self, kind: str, text: str) -> bool:
        """Return whether another distribution than this package's offers what `text` names."""
        return self.entry(kind, parse(text).name).distribution != OWN_DISTRIBUTION

    def owner(self, kind: str, text: str) -> str:
        """The thing that `text` names and, unless it is ours, whose it is: for messages."""
        entry = self.entry(kind, parse(text).name)
        if not self.is_foreign(kind, text):
            return f"{kind} {entry.name!r}"
        return f"{kind} {entry.name!r} of {entry.distribution} {entry.version}"


@contextmanager
def _process_kept() -> Iterator[None]:
    """Keep what belongs to the whole process as it is while foreign code is imported.

    The current folder and torch's default type and device are put back, and what is printed
    goes to standard error: standard output may be a program's.
    """
    folder, torch = os.getcwd(), sys.modules.get("torch")
    default = (torch.get_default_dtype(), torch.get_default_device()) if torch else None
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if os.getcwd() != folder:
            os.chdir(folder)
        torch = sys.modules.get("torch")
        if torch is not None:
            dtype, device = default or (torch.float32, torch.device("cpu"))
            if torch.get_default_dtype() != dtype:
                torch.set_default_dtype(dtype)
            if torch.get_default_device() != device:
                torch.set_default_device(device)


def _seeded(kind: str, text: str) -> AbstractContextManager[None]:
    """Global generators that give foreign code the same numbers in each process."""
    from byzpy_tw import global_random, seeds  # torch, which names need not

    return global_random.temporary_seed(seeds.torch_seed(0, f"making {kind} {text}"))


def load(
    only: Collection[str] | None = None,
    extra: Mapping[str, object] | None = None,
    disabled: Collection[str] = (),
) -> Registry:
    """The registry of this process.

    `only` restricts plugins to the distributions named (built-ins always
    load); those that are `disabled` are not imported.  `extra` adds plugin objects by
    name, for tests and notebooks: what is wrong with one of these is raised.
    Raises `UnknownName` for a disabled distribution that is not there.
    """
    manager = _Manager(GROUP)
    manager.add_hookspecs(hookspecs)
    names: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
    distributions: dict[str, str] = {}
    broken: list[Broken] = []

    def take(distribution: str, version: str, entries: Iterable[Entry]) -> None:
        distributions[distribution] = version
        for entry in entries:
            _enter(names[entry.kind], entry)

    from byzpy_tw.plugins import builtins

    own = own_version()
    take(
        OWN_DISTRIBUTION,
        own,
        _offered(
            manager,
            builtins,
            f"{OWN_DISTRIBUTION}:builtins",
            OWN_DISTRIBUTION,
            OWN_DISTRIBUTION,
            own,
        ),
    )
    left_out = check_disabled(disabled)
    points = [point for point in installed(only) if point[0] not in left_out]
    for (distribution, version), group in groupby(points, key=lambda point: point[:2]):
        try:
            entries = _imported(manager, distribution, version, [p for _, _, p in group])
        except BrokenPlugin as e:
            why = str(e).removeprefix(f"{distribution} {version}: ")
            broken.append(Broken(distribution, version, why))
        else:
            take(distribution, version, entries)
    for name, plugin in (extra or {}).items():
        take(name, "0", _offered(manager, plugin, name, name, name, "0"))

    return Registry(
        manager, names, dict(sorted(distributions.items())), tuple(broken), tuple(left_out)
    )


def load_and_warn(disabled: Collection[str] = ()) -> Registry:
    """`load`, for a command: with a line on standard error for each broken distribution."""
    names = load(disabled=disabled)
    for broken in names.broken:
        print(f"byzpy_tw: warning: {broken.text}", file=sys.stderr, flush=True)
    return names


def check_disabled(names: Collection[str]) -> list[str]:
    """The installed distributions called `names`; `UnknownName` where one is none."""
    if not names:
        return []
    there = {_canonical(distribution): distribution for distribution, _, _ in installed()}
    found = []
    for name in names:
        if _canonical(name) not in there:
            known = ", ".join(sorted(there.values())) or "none"
            raise UnknownName(
                f"--disable-plugin {clip(name)!r}: no distribution with plugins is called "
                f"so{suggest_nearest(_canonical(name), there)} (installed: {known})"
            )
        found.append(there[_canonical(name)])
    return list(dict.fromkeys(found))


def filter_installed(names: Collection[str]) -> tuple[str, ...]:
    """The distributions among `names` that are there to be disabled."""
    there = {_canonical(distribution) for distribution, _, _ in installed()} if names else set()
    return tuple(name for name in names if _canonical(name) in there)


def own_version() -> str:
    """This package's version, from its metadata where it is installed."""
    import byzpy_tw

    return byzpy_tw.__version__


def installed(only: Collection[str] | None = None) -> Iterator[Point]:
    """Entry points of the group, each with its distribution and version.

    Sorted, so that nothing depends on the order of directories.  A
    distribution found twice (an editable install seen from its own folder)
    counts once.
    """
    wanted = None if only is None else {_canonical(name) for name in only}
    found: dict[tuple[str, str], Point] = {}
    versions: dict[str, tuple[str, str]] = {}
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata
        name = metadata["Name"] if metadata is not None else None
        if not name or (wanted is not None and _canonical(name) not in wanted):
            continue
        for point in distribution.entry_points:
            if point.group == GROUP:
                key = _canonical(name)
                # Of one that is there twice, the first on the path is the one that imports.
                told = versions.setdefault(key, (name, distribution.version or "unknown"))
                found.setdefault((key, point.name), (*told, point))
    return iter(found[key] for key in sorted(found))


def _canonical(name: str) -> str:
    """The one spelling of a distribution's name, as packaging tools have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


class _Manager(pluggy.PluginManager):
    """pluggy's, which reads every attribute of a plugin, also those that raise."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        try:
            with plugin_call(f"reading {name}"):
                return super().parse_hookimpl_opts(plugin, name)
        except ByzpyTwError:
            if name in _HOOKS:
                raise
            return None  # an attribute that is made when it is asked for is no hook


def _imported(
    manager: pluggy.PluginManager,
    distribution: str,
    version: str,
    points: Iterable[importlib.metadata.EntryPoint],
) -> list[Entry]:
    """All that a distribution offers; `BrokenPlugin`, and nothing of it is left, if it cannot."""
    entries: list[Entry] = []
    registered: list[str] = []
    owner = f"{distribution} {version}"
    try:
        for point in points:
            try:
                with plugin_call("importing it"), _process_kept():
                    plugin = point.load()
            except ByzpyTwError as e:
                raise BrokenPlugin(
                    f"{owner}: entry point {point.name!r} ({point.value}) failed to import: "
                    f"{describe_exception(e.__cause__ or e)}"
                ) from e
            name = f"{distribution}:{point.name}"
            registered.append(name)
            entries += _offered(manager, plugin, name, owner, distribution, version)
    except BaseException:
        for name in registered:
            if manager.has_plugin(name):
                manager.unregister(name=name)
        raise
    return entries


def _offered(
    manager: pluggy.PluginManager,
    plugin: object,
    name: str,
    owner: str,
    distribution: str,
    version: str,
) -> list[Entry]:
    """Register `plugin` under `name`; all that its hooks offer.

    Raises `BrokenPlugin` and `MisspeltHook`, which name its `owner`.
    """
    try:
        with plugin_call(f"{owner}: looking for its hooks"):
            _check_hooks(manager, plugin, owner, distribution)
            manager.register(plugin, name=name)
    except MisspeltHook:
        raise
    except ByzpyTwError as e:
        raise e if isinstance(e, BrokenPlugin) else BrokenPlugin(f"{owner}: {e}") from e
    return [
        entry
        for kind, hook in KINDS.items()
        for implementation in getattr(manager.hook, hook).get_hookimpls()
        if implementation.plugin_name == name
        for entry in _entries(kind, hook, implementation, owner, distribution, version)
    ]


def _check_hooks(
    manager: pluggy.PluginManager, plugin: object, owner: str, distribution: str
) -> None:
    """Refuse hooks that pluggy would take in silence, or tell of at a page's length."""
    other = manager.get_name(plugin)
    if other is not None:
        raise BrokenPlugin(
            f"{owner}: what it registers is registered already, as {other!r}; name each "
            "object by one entry point"
        )
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is None:
            continue
        hook = options.get("specname") or name
        if hook not in _HOOKS:
            raise MisspeltHook(
                f"{distribution}: there is no hook {hook!r}{suggest_nearest(hook, sorted(_HOOKS))}"
            )
        if options.get("wrapper") or options.get("hookwrapper"):
            raise BrokenPlugin(
                f"{owner}: {name}() is a hook wrapper, and hooks here are called one by one: "
                "make it a plain function"
            )
        given = getattr(manager.hook, hook).spec.argnames
        beyond = _beyond(getattr(plugin, name), given)
        if beyond == ["self"]:
            raise BrokenPlugin(
                f"{owner}: {name}() is a method of a class: have the entry point name an "
                "instance of it"
            )
        if beyond:
            raise BrokenPlugin(
                f"{owner}: {name}() takes {', '.join(beyond)}, and the hook hands in "
                f"{', '.join(given) or 'nothing'}"
            )


def _beyond(function: Callable[..., Any], given: Collection[str]) -> list[str]:
    """The arguments that `function` must have, and that nobody hands in."""
    return [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and (p.name not in given or p.kind is p.KEYWORD_ONLY)
    ]


def _entries(
    kind: str,
    hook: str,
    implementation: pluggy.HookImpl,
    owner: str,
    distribution: str,
    version: str,
) -> list[Entry]:
    """All that one plugin registers as `kind`.

    Implementations are called one at a time, not through the hook, so that a
    failure can be pinned on the plugin that caused it.
    """
    try:
        with plugin_call(f"{owner}: {hook}()"):
            offered = list(implementation.function())
    except BrokenPlugin:
        raise
    except ByzpyTwError as e:
        raise BrokenPlugin(f"{owner}: {hook}() raised {describe_exception(e)}") from e
    return [_entry(kind, hook, one, owner, distribution, version) for one in offered]


def _entry(
    kind: str, hook: str, registration: Any, owner: str, distribution: str, version: str
) -> Entry:
    if not isinstance(registration, Registration):
        raise BrokenPlugin(
            f"{owner}: {hook}() must offer Registration objects, got {type(registration).__name__}"
        )
    name, factory, aliases = registration.name, registration.factory, registration.aliases
    entry = Entry(kind, name, factory, distribution, version, aliases)
    try:
        with plugin_call("reading its signature"):
            entry.parameters  # noqa: B018  (a property that reads the signature)
    except ByzpyTwError as e:
        raise BrokenPlugin(
            f"{owner}: {kind} {name!r}: its factory's parameters cannot be read: "
            f"{describe_exception(e.__cause__ or e)}"
        ) from e
    return entry


def _enter(found: dict[str, Entry], entry: Entry) -> None:
    """Put `entry` under its name and aliases; `DuplicateName` where one is taken."""
    for name in (entry.name, *entry.aliases):
        if name in found:
            raise DuplicateName(_twice(entry.kind, name, found[name], entry.distribution))
        found[name] = entry


def _of_a_value(
    e: Exception, entry: Entry, named: ParsedName, arguments: Mapping[str, Any]
) -> bool:
    """Return whether a factory's `e` may be about a value that it was given."""
    if named.parameters:
        return True
    if isinstance(e, ValueError):  # a model's come from the data: its classes and its shape
        return bool(arguments) or entry.kind == "model"
    # Numbers that options offer, such as f, are of the right type.
    return any(not isinstance(value, (int, float)) for value in arguments.values())


def _words_of(e: BaseException) -> str:
    """The text of `e` in one line; its kind where it has none, or none can be had."""
    try:
        return " ".join(str(e).split()) or type(e).__name__
    except Exception:
        return describe_exception(e)


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _twice(kind: str, name: str, first: Entry, distribution: str) -> str:
    if first.distribution == distribution:
        return f"{kind} {name!r} is offered twice by {distribution}"
    if first.distribution == OWN_DISTRIBUTION:
        return (
            f"{kind} {name!r} of {distribution} is a name of {OWN_DISTRIBUTION}'s own; "
            f"choose another, or uninstall {distribution}"
        )
    return (
        f"{kind} {name!r} comes from both {first.distribution} and {distribution}; "
        "uninstall one of them"
    )
