"""Rules by name, for scripts and notebooks: ``byzpy_tw.aggregator("krum", f=1)``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from byzpy_tw.aggregators.pipeline import Pipeline
from byzpy_tw.attacks.target import TargetPipeline
from byzpy_tw.errors import BadParameter
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.plugins.naming import ParsedName, parse, suggest_nearest
from byzpy_tw.plugins.parameters import check_known
from byzpy_tw.plugins.plain import plain
from byzpy_tw.plugins.registry import Registry, _article, load
from byzpy_tw.text import clip


def registry(disabled: Iterable[str] = ()) -> Registry:
    """The registry of this process without `disabled` distributions, loaded when first asked for.

    Warns of distributions that are broken.
    """
    return _loaded(tuple(disabled))


@cache
def _loaded(disabled: tuple[str, ...]) -> Registry:
    names = load(disabled=disabled)
    for broken in names.broken:
        warnings.warn(broken.text, RuntimeWarning, stacklevel=4)
    return names


def aggregator(name: str, **parameters: Any) -> Callable[..., Any]:
    """The aggregator called `name`: a callable ``(n, d) -> (d,)``."""
    return _made("aggregator", name, parameters)


def preaggregator(name: str, **parameters: Any) -> Callable[..., Any]:
    """The pre-aggregator called `name`: a callable ``(n, d) -> (m, d)``."""
    return _made("pre-aggregator", name, parameters)


def attack(name: str, **parameters: Any) -> Callable[..., Any]:
    """The attack called `name`: a callable from honest vectors to the attack's."""
    made = _made("attack", name, parameters)
    target = getattr(made, "target", None)
    if target:
        rules = build_pipeline(registry(), target, f=plain(parameters.get("f")))
        made = made.aimed_at(TargetPipeline(rules))
    return made


def build_attack(
    names: Registry,
    text: str,
    *,
    n: int,
    b: int,
    f: int,
    run_pipeline: Callable[[], Pipeline] | None = None,
) -> Any:
    """The attack that `text` names, in a run of `n` nodes, `b` of them Byzantine.

    With `run_pipeline`, which the trainer has, aimed at the pipeline that it names
    itself, or at the run's own, where it takes aim.  Servers need not have the rules:
    what an attack finds out about them is the trainer's to find and travels as its
    ``strength``.  Raises `BadParameter` where it makes no sense for these numbers.
    """
    made = names.make("attack", text, f=f)
    if hasattr(made, "check"):
        with _of(names, text):
            made.check(n=n, b=b)
    if run_pipeline is not None and hasattr(made, "aimed_at"):
        target = getattr(made, "target", None)
        rules = TargetPipeline(build_pipeline(names, target, f=f)) if target else run_pipeline()
        with _of(names, text):
            made = made.aimed_at(rules)
    return made


def _of(names: Registry, text: str) -> plugin_call:
    """Foreign code's errors, as those of the attack that `text` names."""
    entry = names.entry("attack", parse(text).name)
    return plugin_call(f"{entry.distribution}: attack {entry.name!r}")


def pipeline(text: str, **fill: Any) -> Pipeline:
    """The chain that `text` describes: ``"clipping:c=2.0 | nnm | krum"``.

    All but the last are pre-aggregators.  `fill` offers parameters, such as
    ``f``, to every rule that takes them.  Raises `BadParameter` for one that none takes.
    """
    names = registry()
    stages = [(kind, parse(part)) for kind, part in _stages(text)]
    known = {named.name: names.entry(kind, named.name).parameters for kind, named in stages}
    taken = sorted({key for parameters in known.values() for key in parameters})
    offered = {}
    for key, value in fill.items():
        if value is None:
            continue
        if key not in taken:
            raise BadParameter(
                f"no rule of {clip(text)!r} has a parameter {key!r}{suggest_nearest(key, taken)} "
                f"(they take: {', '.join(taken) or 'none'})"
            )
        for owner, parameters in known.items():
            if key in parameters:
                offered[key] = parameters[key].fitting(owner, value)
    return build_pipeline(names, text, **offered)


def build_pipeline(names: Registry, text: str, **fill: Any) -> Pipeline:
    """As `pipeline`, with the rules of the registry `names`."""
    *before, last = _stages(text)
    return Pipeline(
        pre=tuple(names.make(kind, part, **fill) for kind, part in before),
        aggregator=names.make(*last, **fill),
    )


def _stages(text: str) -> list[tuple[str, str]]:
    """The kind and the text of each rule of a chain."""
    *before, last = [part.strip() for part in text.split("|")]
    return [*(("pre-aggregator", part) for part in before), ("aggregator", last)]


def _made(kind: str, name: str, parameters: Mapping[str, Any]) -> Any:
    if not isinstance(name, str):
        raise BadParameter(
            f"{_article(kind)} is named by a text such as 'NAME:key=value', got a "
            f"{type(name).__name__}"
        )
    named, names = parse(name), registry()
    known = names.entry(kind, named.name).parameters
    written, rest = dict(named.parameters), {}
    for key, value in parameters.items():
        check_known(named.name, key, known)
        if value is None:
            if known[key].nullable and known[key].default is not None:
                written[key] = "none"
            continue  # otherwise it means: not given
        value = known[key].fitting(named.name, value)
        written.pop(key, None)  # the keyword goes before the text
        if known[key].writable:
            written[key] = _text(named.name, key, value)
        else:  # rules and lists of them cannot be written down
            rest[key] = value
    return names.make(kind, ParsedName(named.name, written), **rest)


def _text(owner: str, key: str, value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # Python writes no number as long as that
        raise BadParameter(f"{owner}: {key} is a number of thousands of digits") from None
