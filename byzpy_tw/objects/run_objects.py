"""The objects of one run: told from names, put into a registry, compared with a record."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from byzpy_tw.errors import ConfigError, RunDirectoryError
from byzpy_tw.objects.factories import RunObject, to_run_object
from byzpy_tw.objects.options import KINDS, is_object, recorded_texts
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.naming import suggest_nearest
from byzpy_tw.plugins.recorded_object import FIRST_WORD, OBJECT, recorded_object
from byzpy_tw.plugins.registry import Entry
from byzpy_tw.text import clean_value, clip, printable


@frozen(eq=False)
class RunObjects:
    """The objects of a run, by their option."""

    by_option: Mapping[str, Sequence[RunObject | str]] = field(factory=dict)

    @classmethod
    def split(cls, options: Mapping[str, Any]) -> tuple[RunObjects, dict[str, Any]]:
        """Return the objects among `options`, and all options with texts in their place."""
        found: dict[str, list[RunObject | str]] = {}
        for option, value in options.items():
            if is_object(option, value):
                many = option == "pre_aggregator" and isinstance(value, (list, tuple))
                things = value if many else [value]
                found[option] = [
                    thing if isinstance(thing, str) else to_run_object(option, thing)
                    for thing in things
                ]  # fmt: skip
        objects = cls(found)
        return objects, {**options, **objects.texts()}

    @classmethod
    def of_record(cls, folder: Path, config: Any, objects: Mapping[str, Any]) -> RunObjects:
        """Return `objects`, by option, of the run in `folder` with this configuration.

        Raises `RunDirectoryError` where they are not those of the run.
        """
        for option in objects:
            if option not in KINDS:
                near = suggest_nearest(option, KINDS)
                raise ConfigError(f"no object is given as {clip(option)}={near}")
        made, _ = cls.split(objects)
        made.check_recorded(folder, config)
        return made

    def texts(self, recorded: Any = None) -> dict[str, str | tuple[str, ...]]:
        """Return the options that have objects, as texts: as `recorded` has them where it does."""
        found: dict[str, str | tuple[str, ...]] = {}
        for option, objects in self.by_option.items():
            known = [] if recorded is None else recorded_texts(recorded, option)
            texts = tuple(_text(one, known) for one in objects)
            found[option] = texts if option == "pre_aggregator" else texts[0]
        return found

    def __bool__(self) -> bool:
        return bool(self.by_option)

    def _of_kind(self) -> Iterator[tuple[str, list[RunObject]]]:
        for option, (kind, _) in KINDS.items():
            objects = [o for o in self.by_option.get(option, ()) if isinstance(o, RunObject)]
            if objects:
                yield kind, objects

    def add_to(self, registry: Registry) -> Registry:
        """Return `registry` with these objects under the name that their texts have."""
        names = {kind: dict(entries) for kind, entries in registry.names.items()}
        for kind, objects in self._of_kind():
            entry = Entry(
                kind, OBJECT, _Factory(objects), OBJECT, "0", named_seed=False, is_object=True
            )
            names[kind] = {FIRST_WORD: entry, **names[kind], OBJECT: entry}
        return attrs.evolve(registry, names=names)

    def check_recorded(self, folder: Path, recorded: Any) -> None:
        """Raise `RunDirectoryError` unless these are the objects of the `recorded` configuration.

        The message names each one that is missing or another.
        """
        faults = []
        for option in KINDS:
            then = recorded_texts(recorded, option)
            objects = self.by_option.get(option, ())
            now = [_text(one, then) for one in objects if isinstance(one, RunObject)]
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


def _text(one: RunObject | str, recorded: Sequence[str] = ()) -> str:
    if isinstance(one, str):
        return one
    return one.first_text if one.first_text in recorded else one.text


def _shown(texts: Sequence[str]) -> str:
    """The objects of `texts` for a message: name and digest of each."""
    found = (recorded_object(text) for text in texts)
    return ", ".join(f"{clean_value(o[0])} ({clean_value(o[1])})" for o in found if o is not None)


class _Factory:
    """The factory of one kind: makes the object whose name and digest it is called with."""

    def __init__(self, objects: Sequence[RunObject]) -> None:
        self._by_key = {
            (one.name, digest): one
            for one in objects
            for digest in (one.first_digest, one.digest)
            if digest
        }
        takes = dict.fromkeys(name for one in objects for name in one.takes)
        keyword = Parameter.KEYWORD_ONLY
        self.__annotations__ = {"name": str, "digest": str}
        self.__signature__ = Signature(
            [Parameter(name, keyword) for name in ("name", "digest")]
            + [Parameter(name, keyword, default=None) for name in takes]
        )
        # A model may name its task by an attribute of its class.
        self.task = getattr(getattr(objects[0].make, "factory", None), "task", None)

    def __call__(self, *, name: str, digest: str, **filled: Any) -> Any:
        found = self._by_key.get((name, digest))
        if found is None:
            known = ", ".join(
                dict.fromkeys(f"{o.name} ({o.digest})" for o in self._by_key.values())
            )
            raise ConfigError(f"{name} ({digest}) was not given, but {known}")
        taken = [key for key, needed in found.takes.items() if needed or key in filled]
        return found.make(**{key: filled.get(key) for key in taken})
