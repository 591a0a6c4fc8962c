"""Rules by name, for scripts and notebooks: ``byzpy_tw.aggregator("krum", f=1)``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from byzpy_tw.aggregators.pipeline import Pipeline
from byzpy_tw.attacks.aim import Other
from byzpy_tw.plugins.naming import Named, parse
from byzpy_tw.plugins.registry import Registry, load


@cache
def registry() -> Registry:
    """The registry of this process, loaded when first asked for."""
    return load()


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
        made = made.aimed_at(Other(pipeline(target, f=parameters.get("f"))))
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
        made.check(n=n, b=b)
    if run_pipeline is not None and hasattr(made, "aimed_at"):
        target = getattr(made, "target", None)
        rules = Other(build_pipeline(names, target, f=f)) if target else run_pipeline()
        made = made.aimed_at(rules)
    return made


def pipeline(text: str, **fill: Any) -> Pipeline:
    """The chain that `text` describes: ``"clipping:c=2.0 | nnm | krum"``.

    All but the last are pre-aggregators.  `fill` offers parameters, such as
    ``f``, to every rule that takes them.
    """
    return build_pipeline(registry(), text, **fill)


def build_pipeline(names: Registry, text: str, **fill: Any) -> Pipeline:
    """As `pipeline`, with the rules of the registry `names`."""
    *before, last = [part.strip() for part in text.split("|")]
    return Pipeline(
        pre=tuple(names.make("pre-aggregator", part, **fill) for part in before),
        aggregator=names.make("aggregator", last, **fill),
    )


def _made(kind: str, name: str, parameters: dict[str, Any]) -> Any:
    named = parse(name)
    plain = {k: v for k, v in parameters.items() if isinstance(v, (int, float, str, bool))}
    written = {key: str(value) for key, value in plain.items()}
    # Rules and lists of them cannot be written down: they are handed in as they are.
    rest = {key: value for key, value in parameters.items() if key not in plain}
    return registry().make(kind, Named(named.name, {**named.parameters, **written}), **rest)
