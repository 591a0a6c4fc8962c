"""Pipelines by the names of their rules: ``clipping:c=2.0 | nnm | krum``, parsed once."""

from __future__ import annotations

from typing import Any

from attrs import evolve, frozen

from byzpy_tw.aggregators.pipeline import Pipeline
from byzpy_tw.plugins.naming import ParsedName, parse
from byzpy_tw.plugins.registry import Registry


@frozen
class NamedPipeline:
    """The names of pre-aggregators, in order, and of an aggregator, with their parameters."""

    pre: tuple[ParsedName, ...]
    aggregator: ParsedName

    @classmethod
    def parse(cls, text: str) -> NamedPipeline:
        """Return the pipeline that `text` names; `BadParameter` where it is no such text."""
        *pre, aggregator = map(parse, text.split("|"))
        return cls(tuple(pre), aggregator)

    @property
    def stages(self) -> tuple[tuple[str, ParsedName], ...]:
        """The kind and the name of each rule."""
        return (*(("pre-aggregator", rule) for rule in self.pre), ("aggregator", self.aggregator))

    def with_budget(self, f: int) -> NamedPipeline:
        """Return the pipeline for budget `f`: a larger f in the parameters of a rule is lowered."""
        *pre, aggregator = (
            evolve(rule, parameters={**rule.parameters, "f": str(f)})
            if (budget_of(rule) or 0) > f
            else rule
            for _, rule in self.stages
        )
        return NamedPipeline(tuple(pre), aggregator)

    def build(self, names: Registry, **fill: Any) -> Pipeline:
        """Return the pipeline of the registry's rules; `fill` offers parameters to each.

        Its guarantee is asked for the f of `fill`, also where a rule's text has a smaller one.
        """
        f = fill.get("f") or 0
        *pre, aggregator = (names.make(kind, rule, **fill) for kind, rule in self.stages)
        return Pipeline(pre=pre, aggregator=aggregator, budget=f, shortfall=self._shortfall(f))

    def _shortfall(self, f: int) -> str | None:
        """Return which rule is told by its own text to withstand less than `f`, or None."""
        for _, rule in self.stages:
            own = budget_of(rule)
            if own is not None and own < f:
                return f"{rule.text} is run with less than f = {f}: it promises nothing for {f}"
        return None


def budget_of(rule: ParsedName) -> int | None:
    """Return the f among the parameters of `rule`; None for none, or what is no whole number."""
    try:
        number = float(rule.parameters.get("f", "nan"))
    except ValueError:  # the registry refuses it
        return None
    return int(number) if number.is_integer() else None
