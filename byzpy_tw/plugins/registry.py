"""Everything that can be named in a run, and its distribution; `load` makes the `Registry`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import pluggy
from attrs import field, frozen

from byzpy_tw.errors import BadParameter, BrokenPlugin, ByzpyTwError, UnknownName
from byzpy_tw.parameters import check_value, real_in
from byzpy_tw.plugin_code import exception_text, plugin_call
from byzpy_tw.plugins.naming import ParsedName, parse, suggest_nearest, suggest_task
from byzpy_tw.plugins.plugin_files import PluginFile
from byzpy_tw.plugins.recorded_object import OBJECT, object_of
from byzpy_tw.plugins.signatures import (
    RATE,
    RESERVED,
    Parameter,
    parameters_of,
    read_arguments,
)
from byzpy_tw.text import clip

KINDS: Mapping[str, str] = {
    "aggregator": "register_aggregators",
    "pre-aggregator": "register_preaggregators",
    "attack": "register_attacks",
    "dataset": "register_datasets",
    "model": "register_models",
    "partition": "register_partitions",
    "task": "register_tasks",
    "algorithm": "register_algorithms",
    "optimizer": "register_optimizers",
    "schedule": "register_schedules",
    "transport": "register_transports",
}

OWN_DISTRIBUTION = "byzpy-tw"
_TYPO = 0.8  # of difflib: as near as that to a known name, it is a misspelling


@frozen
class BrokenDistribution:
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


@frozen(slots=False)
class Entry:
    """One name: its factory, and the distribution it comes from."""

    kind: str
    name: str
    factory: Callable[..., Any]
    distribution: str
    version: str
    aliases: tuple[str, ...] = ()
    # Whether random numbers drawn while it is made depend on its name: not those of a file or an
    # object, which are the same code under any name.
    named_seed: bool = True
    is_object: bool = False  # whether it makes the objects of a run, which come from Python

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        return parameters_of(self.kind, self.factory)

    @cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.factory)

    @property
    def foreign(self) -> bool:
        """Return whether another distribution than this package's offers it."""
        return self.distribution != OWN_DISTRIBUTION

    def name_of(self, named: ParsedName) -> str:
        """Return the name for messages: of an object from Python, that of its code."""
        return named.parameters.get("name", self.name) if self.is_object else self.name


@frozen
class Registry:
    """Names to factories, by kind."""

    manager: pluggy.PluginManager = field(repr=False)
    # kind -> every name and alias -> its entry
    names: Mapping[str, Mapping[str, Entry]] = field(repr=False)
    # distribution -> version, of every distribution whose plugins can be used
    distributions: Mapping[str, str] = field(factory=dict)
    broken: tuple[BrokenDistribution, ...] = ()
    disabled: tuple[str, ...] = ()  # distributions that were not even imported
    files: tuple[PluginFile, ...] = ()  # distributions that are one file each

    def entries(self) -> Iterator[Entry]:
        """Each entry once, by kind, then by name."""
        for kind in KINDS:
            found = self.names[kind]
            yield from (found[n] for n in sorted(found) if found[n].name == n)

    def entry(self, kind: str, name: str) -> Entry:
        """The entry of this name, else `UnknownName`; `BrokenPlugin` if only that explains it."""
        if name not in self.names[kind]:
            raise self._unknown(kind, name)
        return self.names[kind][name]

    def _unknown(self, kind: str, name: str) -> ByzpyTwError:
        found = self.names[kind]
        known = ", ".join(sorted(found)) or "none are installed"
        if self.disabled:
            known += f"; not looked at: {', '.join(self.disabled)}, by --disable-plugin"
        elsewhere = [f"; {name!r} is {with_article(k)}" for k in KINDS if name in self.names[k]]
        near = elsewhere[0] if elsewhere else suggest_nearest(name, found)
        if not near and kind == "task":
            near = suggest_task(name)
        if not near:
            known += "; others come by --plugin FILE.py, or from packages"
        text = f"no {kind} is called {name!r}{near}"
        if not self.broken:
            return UnknownName(f"{text} (known: {known})").with_fields(kind=kind, name=name)
        names = ", ".join(f"{b.distribution} {b.version}" for b in self.broken)
        broken = f"cannot be used: {'; '.join(f'{b.distribution}: {b.why}' for b in self.broken)}"
        if elsewhere or get_close_matches(name, found, n=1, cutoff=_TYPO):
            maybe = f"{text} (known: {known}); {names} may offer it, and {broken}"
            return UnknownName(maybe).with_fields(kind=kind, name=name)
        # Nothing else explains the name: the broken distribution is to blame.
        return BrokenPlugin(
            f"{text}, and {names} {broken}; mend what is broken, or use another name ({known})"
        )

    def make(self, kind: str, text: str | ParsedName, **fill: Any) -> Any:
        """Make the thing that ``NAME:key=value,...`` names.

        `fill` offers values for parameters that the text does not give.  Values that the
        factory does not take are ignored, and None counts as not offered, but for a reserved
        parameter without a default.
        """
        named = parse(text) if isinstance(text, str) else text
        entry, arguments = self._read(kind, named, fill)
        taken = entry.signature.parameters
        arguments = {key: value for key, value in arguments.items() if key in taken}
        reserved = {
            key: fill[key]
            for key in RESERVED.get(kind, frozenset()) & taken.keys() & fill.keys()
            if fill[key] is not None or taken[key].default is inspect.Parameter.empty
        }
        name = entry.name_of(named)
        with plugin_call(f"{entry.distribution}: making {kind} {name!r}"):
            try:
                # Models are made by `models.build`, which seeds by the run's own seed.
                seeded = entry.foreign and kind != "model"
                text = named.text if entry.named_seed else ""
                with _seeded(kind, text) if seeded else nullcontext():
                    made = entry.factory(**arguments, **reserved)
            except (TypeError, ValueError) as e:
                if _is_about_a_value(e, entry, named, arguments):
                    why = exception_text(e) or type(e).__name__
                    raise BadParameter(f"{kind} {named.text!r}: {why}") from e
                raise
            if not entry.foreign:
                return made
            # Imported only now: names can be looked up without torch.
            from byzpy_tw.plugins.contracts import check_made

            return check_made(kind, name, entry.distribution, made)

    def _read(
        self, kind: str, named: ParsedName, fill: Mapping[str, Any]
    ) -> tuple[Entry, dict[str, Any]]:
        """The entry of `named`, and the arguments for its factory, without `RESERVED`."""
        entry = self._entry_of(kind, named)
        offered = {key: value for key, value in fill.items() if value is not None}
        return entry, read_arguments(named, entry.parameters, offered)

    def _entry_of(self, kind: str, named: ParsedName) -> Entry:
        """The entry of `named`, else an error: also for an object that is not here."""
        if object_of(named) is None:
            return self.entry(kind, named.name)
        known = self.names[kind].get(OBJECT)
        if known is not None and known.is_object:
            return known
        raise UnknownName(
            f"the {kind} was the object {clip(named.parameters['name'])} from Python, which no "
            "name stands for: go on from Python with the same objects, by byzpy_tw.run(resume=DIR, "
            "model=..., ...), byzpy_tw.verify(DIR, model=..., ...) or "
            "byzpy_tw.Result.read(DIR, model=..., ...)"
        ).with_fields(kind=kind, name=named.name)

    def check(self, kind: str, text: str, **fill: Any) -> Entry:
        """The entry `text` names, its parameters read (as by `make`) but nothing made."""
        return self._read(kind, parse(text), fill)[0]

    def learning_rate(self, text: str, **fill: Any) -> float | None:
        """The learning rate that the optimizer's `text` gives, or `fill`; None without.

        Also None where the factory takes a parameter of that name, which is then its own.
        """
        entry, arguments = self._read("optimizer", parse(text), fill)
        if RATE in entry.signature.parameters or arguments.get(RATE) is None:
            return None
        found: float = arguments[RATE]
        check_value(real_in(above=0, most=1e30), f"{entry.name}: {RATE}", found, BadParameter)
        return found

    def is_foreign(self, kind: str, text: str) -> bool:
        """Return whether another distribution than this package's offers this name."""
        return self._entry_of(kind, parse(text)).foreign

    def owner(self, kind: str, text: str) -> str:
        """The thing that `text` names and, unless it is ours, its distribution: for messages."""
        named = parse(text)
        entry = self._entry_of(kind, named)
        source = f" of {entry.distribution} {entry.version}" if entry.foreign else ""
        return f"{kind} {entry.name_of(named)!r}{source * (not entry.is_object)}"


def _seeded(kind: str, text: str) -> AbstractContextManager[None]:
    """Global generators that give foreign code the same numbers in each process."""
    from byzpy_tw import global_random, seeds  # torch, which names need not

    return global_random.temporary_seed(seeds.torch_seed(0, f"making {kind} {text}"))


def _is_about_a_value(
    e: Exception, entry: Entry, named: ParsedName, arguments: Mapping[str, Any]
) -> bool:
    """Return whether a factory's `e` may be about a value that it was given."""
    if isinstance(e, ByzpyTwError):
        return type(e) is BadParameter
    if (named.parameters and not entry.is_object) or not entry.foreign:
        return True
    if isinstance(e, ValueError):  # a model's and a task's come from the data, such as classes
        return bool(arguments) or entry.kind in ("model", "task")
    # Numbers that options offer, such as f, are of the right type.
    return any(not isinstance(value, (int, float)) for value in arguments.values())


def with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
