"""Studies as files: the options of a run in TOML, where a list is an axis, and ``[sweep]``.

They are read like any file of options.  What the command line says replaces what the file says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
from attrs import field, frozen

from byzpy_tw.config.merge import OPTIONS, convert_option, find_option, merge_options
from byzpy_tw.config.toml import FileOption, file_options, read_toml
from byzpy_tw.config.validators import toml_key
from byzpy_tw.errors import ConfigError
from byzpy_tw.parameters import integer_in, quote
from byzpy_tw.plugins.naming import suggest_nearest
from byzpy_tw.sweep.default_study import NO_PREAGGREGATOR, with_location
from byzpy_tw.sweep.plan import MOST_RUNS, value_text
from byzpy_tw.sweep.study import (
    OPTIONS_OF_ONE_RUN,
    Axis,
    Selection,
    Study,
    derivation_order,
    may_vary,
)
from byzpy_tw.text import clip

SECTION = "sweep"


@frozen(kw_only=True)
class _Settings:
    """The section ``[sweep]``, each entry as it stands in the file."""

    paired: Any = field(factory=list)
    exclude: Any = field(factory=list)
    derive: Any = field(factory=dict)
    repetitions: Any = 1
    select: Any = None


def read_study(
    path: Path, given: Mapping[str, Any] = MappingProxyType({}), lists: Sequence[Axis] = ()
) -> Study:
    """Read the study in `path`, with the options `given` and the axes `lists` in place of its own.

    Raises `ConfigError` with the file, the key, the value and what to do.
    """
    file, table = read_toml(path)
    where = f"{file}: [{SECTION}] "
    settings = _read_settings(table.pop(SECTION, {}), file, where)
    fixed: dict[str, Any] = {}
    several: dict[str, tuple[Any, ...]] = {}
    for name, option in file_options(table, file, more=(SECTION,)).items():
        if name in OPTIONS_OF_ONE_RUN:
            raise ConfigError(f"{option.place} is an option of a single run: leave it out")
        if _is_axis(option):
            several[name] = _read_axis(option)
        else:
            fixed[name] = _read_value(option)
    found = Study(
        options=fixed,
        axes=_pair(several, settings.paired, where),
        derive=_with_f(_read_derive(settings.derive, {**fixed, **several}, where), fixed, several),
        repetitions=_read_repetitions(settings.repetitions, several, where),
    )
    exclude = _read_exclude(settings.exclude, found, where)
    selection = _read_selection(settings.select, found, where)
    found = attrs.evolve(found, exclude=exclude, selection=selection)
    return replace_options(found, given, lists)


def _read_settings(table: Any, file: str, where: str) -> _Settings:
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: {SECTION!r} is a section: write [{SECTION}] above its entries")
    known = [f.name for f in attrs.fields(_Settings)]
    for key in table:
        name = key.replace("-", "_")
        if name in OPTIONS:
            section = OPTIONS[name].metadata["section"]
            raise ConfigError(f"{where}{key!r} is an option of a run: it belongs under [{section}]")
        if name not in known:
            raise ConfigError(
                f"{where}there is no {clip(key)!r}{suggest_nearest(key, known)} "
                f"(known: {', '.join(known)})"
            )
    return _Settings(**{key.replace("-", "_"): value for key, value in table.items()})


# -- axes -------------------------------------------------------------------------------------


def _is_list_option(name: str) -> bool:
    return isinstance(OPTIONS[name].default, tuple)


def _is_axis(option: FileOption) -> bool:
    """Return whether the value is several values; those of a list option are lists in a list."""
    if not isinstance(option.value, list):
        return False
    return not _is_list_option(option.name) or any(isinstance(v, list) for v in option.value)


def _read_axis(option: FileOption) -> tuple[Any, ...]:
    """Return the values of an axis, each once; raises `ConfigError`."""
    name = option.name
    if not may_vary(name):
        what = "where nodes live" if OPTIONS[name].metadata["section"] == "where" else "it"
        one = "list" if _is_list_option(name) else "value"
        raise ConfigError(
            f"{option.place} is no axis: {what} is the same in all runs; give one {one}"
        )
    if not option.value:
        raise ConfigError(f"{option.place} is an empty list: give it a value")
    return tuple(dict.fromkeys(option.convert(value) for value in option.value))


def _read_value(option: FileOption) -> Any:
    value = option.convert(option.value)
    if option.name == "pre_aggregator" and len(value) > 1 and NO_PREAGGREGATOR in value:
        raise ConfigError(
            f"{option.place} is one chain of rules, and {NO_PREAGGREGATOR!r} is none; for several "
            "chains write a list of lists, as [[], ['nnm']]"
        )
    return value


def _pair(several: Mapping[str, tuple[Any, ...]], pairs: Any, where: str) -> tuple[Axis, ...]:
    """Return the axes, those of `pairs` as one, in the order of the file."""
    partners: dict[str, tuple[str, ...]] = {}
    if not isinstance(pairs, list) or not all(isinstance(pair, list) for pair in pairs):
        raise ConfigError(f'{where}paired: write a list of lists, as [["f", "num-byz"]]')
    for pair in pairs:
        names = tuple(dict.fromkeys(_option(key, f"{where}paired: ") for key in pair))
        _check_pair(names, several, partners, f"{where}paired: ")
        partners |= dict.fromkeys(names, names)
    axes = dict.fromkeys(partners.get(name, (name,)) for name in several)
    return tuple(
        Axis(names, tuple(zip(*(several[name] for name in names), strict=True))) for names in axes
    )


def _check_pair(
    names: Sequence[str],
    several: Mapping[str, tuple[Any, ...]],
    partners: Collection[str],
    where: str,
) -> None:
    """Raise `ConfigError` unless the options `names` can be one axis."""
    if len(names) < 2:
        raise ConfigError(f"{where}{', '.join(map(toml_key, names)) or '[]'}: name two options")
    for name in names:
        if name not in several:
            raise ConfigError(f"{where}{toml_key(name)} has no list of values: give it one")
        if name in partners:
            raise ConfigError(f"{where}{toml_key(name)} stands in two pairs: make them one list")
    if len({len(several[name]) for name in names}) > 1:
        counts = " and ".join(f"{len(several[name])} of {toml_key(name)}" for name in names)
        raise ConfigError(f"{where}{counts} cannot advance together: give each as many values")


def _option(key: Any, where: str) -> str:
    """Return the name of an option that may be an axis; raises `ConfigError`."""
    if not isinstance(key, str):
        raise ConfigError(f"{where}{quote(key)} is no option's name: write it in quotes")
    try:
        name = find_option(key).name
    except ConfigError as e:
        raise ConfigError(f"{where}{e}") from None
    if not may_vary(name):
        raise ConfigError(f"{where}{toml_key(name)} is the same in all runs: leave it out")
    return name


# -- [sweep] ----------------------------------------------------------------------------------


def _read_repetitions(count: Any, several: Collection[str], where: str) -> int:
    if (wanted := integer_in(1, MOST_RUNS)(count)) is not None:
        raise ConfigError(f"{where}repetitions must be {wanted}, got {quote(count)}")
    if count > 1 and "seed" in several:
        raise ConfigError(f"{where}repetitions: seed is a list already: leave out one of them")
    return int(count)


def _read_derive(table: Any, given: Collection[str], where: str) -> dict[str, str]:
    if not isinstance(table, dict):
        raise ConfigError(f'{where}derive: write a table, as {{num-honest = "20 - num-byz"}}')
    found = {}
    for key, text in table.items():
        name = _option(key, f"{where}derive: ")
        if name in given or name in found:
            raise ConfigError(f"{where}derive: {toml_key(name)} has a value: leave out one of them")
        found[name] = text
    try:
        derivation_order(found)
    except ConfigError as e:
        raise ConfigError(f"{where}{e}") from None
    return found


def _with_f(derive: dict[str, str], *given: Collection[str]) -> dict[str, str]:
    """Return `derive` with ``f``, which is the number of Byzantine nodes unless it is given."""
    return derive if any("f" in names for names in (derive, *given)) else {**derive, "f": "num_byz"}


def _read_exclude(tables: Any, study: Study, where: str) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(tables, list) or not all(isinstance(t, dict) and t for t in tables):
        raise ConfigError(f'{where}exclude: write a list of tables, as [{{f = 2, attack = "ipm"}}]')
    return tuple(
        {
            name: _excluded_values(name, value, study, f"{where}exclude: ")
            for name, value in ((_option(k, f"{where}exclude: "), v) for k, v in table.items())
        }
        for table in tables
    )


def _excluded_values(name: str, value: Any, study: Study, where: str) -> tuple[Any, ...]:
    """Return the values of one option of an excluded combination, which must be on its axis."""
    option = FileOption(name, value, f"{where}{toml_key(name)}")
    values = _read_axis(option) if _is_axis(option) else (option.convert(value),)
    if name in study.derive:
        return values
    if not any(name in axis.options for axis in study.axes):
        raise ConfigError(f"{option.place} has one value in all runs: exclude names axes")
    known = study.values_of(name)
    for one in values:
        if one not in known:
            text, texts = value_text(one), list(map(value_text, known))
            raise ConfigError(
                f"{option.place} is never {text}{suggest_nearest(text, texts)} (its values: "
                f"{clip(', '.join(texts), 200)})"
            )
    return values


def _read_selection(table: Any, study: Study, where: str) -> Selection | None:
    if table is None:
        return None
    where, known = f"{where}select: ", ["over", "by", "worst-over"]
    if not isinstance(table, dict):
        raise ConfigError(f'{where}write a table, as {{over = ["lr"], by = "a metric"}}')
    entries = {key.replace("_", "-"): value for key, value in table.items()}
    for key in entries:
        if key not in known:
            raise ConfigError(
                f"{where}there is no {clip(key)!r}{suggest_nearest(key, known)} "
                f"(known: {', '.join(known)})"
            )
    by = entries.get("by")
    if not isinstance(by, str) or not by:
        raise ConfigError(f"{where}by must be a metric's name in quotes, got {quote(by)}")
    varies = any("attack" in axis.options for axis in study.axes)
    worst = entries.get("worst-over", ["attack"] if varies else [])
    selection = Selection(
        over=_axis_names(entries.get("over", []), study, f"{where}over"),
        by=by,
        worst_over=_axis_names(worst, study, f"{where}worst-over"),
    )
    if not selection.over:
        raise ConfigError(f'{where}over: name the options that are chosen, as ["lr"]')
    for name in set(selection.over) & set(selection.worst_over):
        raise ConfigError(f"{where}{toml_key(name)} is in over and in worst-over: leave out one")
    return selection


def _axis_names(keys: Any, study: Study, where: str) -> tuple[str, ...]:
    """Return the names of options that have axes; raises `ConfigError` for others."""
    if not isinstance(keys, list):
        raise ConfigError(f'{where}: write a list of options, as ["lr"]')
    names = tuple(dict.fromkeys(_option(key, f"{where}: ") for key in keys))
    for name in names:
        if not any(name in axis.options for axis in study.axes):
            raise ConfigError(f"{where}: {toml_key(name)} has no list of values: give it one")
    return names


# -- the command line -------------------------------------------------------------------------


def replace_options(study: Study, given: Mapping[str, Any], lists: Sequence[Axis]) -> Study:
    """Return `study` with the options `given` and the axes `lists` in place of its own.

    Nodes live in this process unless it is said where.
    """
    replaced = {*given, *(name for axis in lists for name in axis.options)}
    axes = [axis for axis in study.axes if not set(axis.options) & set(replaced)]
    for axis in study.axes:
        missing = [name for name in axis.options if name not in replaced]
        if axis not in axes and missing:
            told = ", ".join(toml_key(name) for name in axis.options if name in replaced)
            raise ConfigError(
                f"--{told} replaces one of the study's paired options: give "
                f"{', '.join(f'--{toml_key(name)}' for name in missing)} as well"
            )
    beneath = {name: value for name, value in study.options.items() if name not in replaced}
    options = {name: convert_option(name, value) for name, value in given.items()}
    return attrs.evolve(
        study,
        options=with_location(merge_options(options, beneath)),
        axes=(*axes, *lists),
        derive={name: text for name, text in study.derive.items() if name not in replaced},
        repetitions=1 if "seed" in replaced else study.repetitions,
    )
