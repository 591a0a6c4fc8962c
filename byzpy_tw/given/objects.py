"""The objects given for one run: told from names, put into a registry, compared with a record."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from byzpy_tw.errors import ConfigError, RunDirectoryError
from byzpy_tw.given.factories import GivenObject, to_given
from byzpy_tw.given.options import KINDS, is_object, recorded_texts
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.naming import suggest_nearest
from byzpy_tw.plugins.plugin_objects import GIVEN, recorded_object
from byzpy_tw.plugins.registry import Entry
from byzpy_tw.text import clean_value, clip, printable


@frozen(eq=False)
class GivenObjects:
    """The objects of a run, by their option."""

    by_option: Mapping[str, Sequence[GivenObject | str]] = field(factory=dict)

    @classmethod
    def split(cls, options: Mapping[str, Any]) -> tuple[GivenObjects, dict[str, Any]]:
        """Return the objects among `options`, and all options with texts in their place."""
        found: dict[str, list[GivenObject | str]] = {}
        for option, value in options.items():
            if is_object(option, value):
                many = option == "pre_aggregator" and isinstance(value, (list, tuple))
                things = value if many else [value]
                found[option] = [
                    thing if isinstance(thing, str) else to_given(option, thing)
                    for thing in things
                ]  # fmt: skip
        texts = {
            option: tuple(_text(one) for one in given) if option == "pre_aggregator"
            else _text(given[0])
            for option, given in found.items()
        }  # fmt: skip
        return cls(found), {**options, **texts}

    @classmethod
    def of_record(cls, folder: Path, config: Any, objects: Mapping[str, Any]) -> GivenObjects:
        """Return `objects`, by option, of the run in `folder` with this configuration.

        Raises `RunDirectoryError` where they are not those of the run.
        """
        for option in objects:
            if option not in KINDS:
                near = suggest_nearest(option, KINDS)
                raise ConfigError(f"no object is given as {clip(option)}={near}")
        given, _ = cls.split(objects)
        given.check_recorded(folder, config)
        return given

    def __bool__(self) -> bool:
        return bool(self.by_option)

    def _of_kind(self) -> Iterator[tuple[str, list[GivenObject]]]:
        for option, (kind, _) in KINDS.items():
            given = [g for g in self.by_option.get(option, ()) if isinstance(g, GivenObject)]
            if given:
                yield kind, given

    def add_to(self, registry: Registry) -> Registry:
        """Return `registry` with these objects under the name that their texts have."""
        names = {kind: dict(entries) for kind, entries in registry.names.items()}
        for kind, given in self._of_kind():
            names[kind][GIVEN] = Entry(kind, GIVEN, _Factory(given), GIVEN, "0", named_seed=False)
        return attrs.evolve(registry, names=names)

    def check_recorded(self, folder: Path, recorded: Any) -> None:
        """Raise `RunDirectoryError` unless these are the objects of the `recorded` configuration.

        The message names each one that is missing or another.
        """
        faults = []
        for option in KINDS:
            then = recorded_texts(recorded, option)
            now = [
                _text(one) for one in self.by_option.get(option, ()) if isinstance(one, GivenObject)
            ]
            if not then:
                continue
            if not now:
                faults.append(f"{option}= must be {_shown(then)}, and is not given")
            elif now != then:
                faults.append(f"{option}= must be {_shown(then)}, and {_shown(now)} is given")
        if faults:
            raise RunDirectoryError(
                f"{printable(folder)} was begun with objects from Python: {'; '.join(faults)} "
                f"(in brackets: digests of code, as Python {platform.python_version()} compiles it)"
            )


def _text(one: GivenObject | str) -> str:
    return one if isinstance(one, str) else one.text


def _shown(texts: Sequence[str]) -> str:
    """The objects of `texts` for a message: name and digest of each."""
    found = (recorded_object(text) for text in texts)
    return ", ".join(f"{clean_value(o[0])} ({clean_value(o[1])})" for o in found if o is not None)


class _Factory:
    """The factory of one kind: makes the object whose name and digest it is called with."""

    def __init__(self, given: Sequence[GivenObject]) -> None:
        self._by_key = {(g.name, g.digest): g for g in given}
        takes = dict.fromkeys(name for g in given for name in g.takes)
        keyword = Parameter.KEYWORD_ONLY
        self.__annotations__ = {"name": str, "digest": str}
        self.__signature__ = Signature(
            [Parameter(name, keyword) for name in ("name", "digest")]
            + [Parameter(name, keyword, default=None) for name in takes]
        )
        # A model may name its task by an attribute of its class.
        self.task = getattr(getattr(given[0].make, "factory", None), "task", None)

    def __call__(self, *, name: str, digest: str, **filled: Any) -> Any:
        given = self._by_key.get((name, digest))
        if given is None:
            known = ", ".join(f"{n} ({d})" for n, d in self._by_key)
            raise ConfigError(f"{name} ({digest}) was not given, but {known}")
        taken = [key for key, needed in given.takes.items() if needed or key in filled]
        return given.make(**{key: filled.get(key) for key in taken})
