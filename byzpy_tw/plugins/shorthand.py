"""Rules by name, for scripts and notebooks: ``byzpy_tw.aggregator("krum", f=1)``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from byzpy_tw.aggregators.pipeline import Pipeline
from byzpy_tw.attacks.target import TargetPipeline
from byzpy_tw.errors import BadParameter
from byzpy_tw.parameters import quote, to_plain
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.plugins.loading import load
from byzpy_tw.plugins.naming import ParsedName, parse, suggest_nearest
from byzpy_tw.plugins.pipelines import NamedPipeline
from byzpy_tw.plugins.plugin_files import PluginFile
from byzpy_tw.plugins.registry import Registry, with_article
from byzpy_tw.plugins.signatures import Parameter, check_known
from byzpy_tw.text import clip


@cache
def registry(disabled: tuple[str, ...] = (), files: tuple[PluginFile, ...] = ()) -> Registry:
    """The registry of this process, with these `files` and without `disabled` distributions.

    Warns of broken ones.
    """
    names = load(disabled=disabled, files=files)
    for broken in names.broken:
        warnings.warn(broken.text, RuntimeWarning, stacklevel=3)
    return names


def aggregator(name: str, **parameters: Any) -> Callable[..., Any]:
    """The aggregator called `name`: a callable ``(n, d) -> (d,)``."""
    return _make("aggregator", name, parameters)


def preaggregator(name: str, **parameters: Any) -> Callable[..., Any]:
    """The pre-aggregator called `name`: a callable ``(n, d) -> (m, d)``."""
    return _make("pre-aggregator", name, parameters)


def attack(name: str, **parameters: Any) -> Callable[..., Any]:
    """The attack called `name`: a callable from honest vectors to the attack's."""
    made = _make("attack", name, parameters)
    target = getattr(made, "target", None)
    if target:
        rules = build_pipeline(registry(), target, f=to_plain(parameters.get("f")))
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
    exact: bool | None = None,
    updates: bool = True,
) -> Any:
    """The attack that `text` names, in a run of `n` nodes, `b` of them Byzantine.

    With `run_pipeline`, on the trainer, an attack on rules is aimed at those that it names, or at
    the run's own.  Servers need not have them: the trainer finds the attack's ``strength``, which
    travels.  `exact` is the run's own for an attack that searches, if its text has none.  Nodes
    send `updates` after local steps, or gradients.  Raises `BadParameter` where the attack makes
    no sense for these numbers, or for gradients.
    """
    made = names.make("attack", text, f=f, exact=exact)
    if getattr(made, "needs_updates", False) and not updates:
        raise BadParameter(
            f"{text} needs nodes that train a model of their own and send its update, and these "
            "send gradients: use --algorithm fedavg:steps=K,lr=RATE, or another attack"
        )
    if hasattr(made, "check"):
        with plugin_call(names.owner("attack", text)):
            made.check(n=n, b=b)
    if run_pipeline is not None and hasattr(made, "aimed_at"):
        target = getattr(made, "target", None)
        rules = TargetPipeline(build_pipeline(names, target, f=f)) if target else run_pipeline()
        with plugin_call(names.owner("attack", text)):
            made = made.aimed_at(rules)
    return made


def pipeline(text: str | Sequence[str], **fill: Any) -> Pipeline:
    """The pipeline that `text` describes: ``"clipping:c=2.0 | nnm | krum"``, or a list of names.

    All but the last are pre-aggregators.  `fill` offers parameters, such as ``f``, to every
    rule that takes them.  Raises `BadParameter` for one that no rule takes, or that a rule's own
    text has with another value.
    """
    if isinstance(text, (list, tuple)) and all(isinstance(name, str) for name in text):
        text = " | ".join(text)
    if not isinstance(text, str):
        raise BadParameter(
            "a pipeline is a text such as 'nnm | krum', or a list of such names, got "
            f"{with_article(type(text).__name__)}"
        )
    names, named = registry(), NamedPipeline.parse(text)
    known = {rule.name: names.entry(kind, rule.name).parameters for kind, rule in named.stages}
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
                offered[key] = parameters[key].convert(owner, value)
        for _, rule in named.stages:
            _check_given_once(rule, key, known[rule.name], offered[key])
    return named.build(names, **offered)


def build_pipeline(names: Registry, text: str, **fill: Any) -> Pipeline:
    """The pipeline that `text` describes, with the rules of the registry `names`."""
    return NamedPipeline.parse(text).build(names, **fill)


def _check_given_once(
    rule: ParsedName, key: str, known: Mapping[str, Parameter], value: Any
) -> None:
    """Raise `BadParameter` where the text of `rule` gives `key` another value."""
    if key in rule.parameters:
        written = known[key].read(rule.name, rule.parameters[key])
        if written != value:
            raise BadParameter(
                f"in {rule.text!r}: {key} is given twice, {quote(written)} and {quote(value)}"
            )


def _make(kind: str, name: str, parameters: Mapping[str, Any]) -> Any:
    if not isinstance(name, str):
        raise BadParameter(
            f"{with_article(kind)} is named by a text such as 'NAME:key=value', got a "
            f"{type(name).__name__}"
        )
    named, names = parse(name), registry()
    known = names.entry(kind, named.name).parameters
    written, rest = dict(named.parameters), {}
    for key, value in parameters.items():
        check_known(named.name, key, known)
        if value is None:  # where it is no value: not given
            if known[key].nullable and known[key].default is not None:
                written[key] = "none"
            continue
        value = known[key].convert(named.name, value)
        _check_given_once(named, key, known, value)
        written.pop(key, None)
        if not known[key].writable:  # rules and lists of them cannot be written down
            rest[key] = value
            continue
        try:
            written[key] = str(value)
        except ValueError:  # Python formats no integer of such a length
            why = f"{named.name}: {key} is a number of thousands of digits"
            raise BadParameter(why) from None
    return names.make(kind, ParsedName(named.name, written), **rest)
