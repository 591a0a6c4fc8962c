"""The run's chain of rules, with the budget and the memory that a round gives it."""

from __future__ import annotations

from typing import Any

from attrs import define, evolve, field, frozen
from torch import Tensor

from byzpy_tw.aggregators.pipeline import Pipeline
from byzpy_tw.config.run import RunConfig
from byzpy_tw.errors import (
    BadRuleOutput,
    ByzpyTwError,
    ConfigError,
    GuaranteeMissing,
    PluginError,
)
from byzpy_tw.kernels.cpu import resolve_device
from byzpy_tw.plugin_code import describe_exception, plugin_call
from byzpy_tw.plugins import Registry, parse
from byzpy_tw.plugins.shorthand import build_pipeline
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import norm_fault, norm_of


@frozen(eq=False)
class Aggregated:
    """A round's ``(d,)`` vector, its norm, and the nodes that it was made from.

    ``selected`` is None where the rule does not choose between rows.
    """

    vector: Tensor
    norm: float
    selected: tuple[int, ...] | None


@define(eq=False)
class Aggregation:
    """Makes the chain for each f that is needed, and keeps the rules' memory."""

    config: RunConfig
    _registry: Registry
    memory: dict[str, Any] = field(factory=dict, init=False)
    _chains: dict[int, Pipeline] = field(factory=dict, init=False)

    def chain(self, f: int) -> Pipeline:
        """The chain with budget `f`, also where a rule's text names a larger one."""
        if f not in self._chains:
            self._chains[f] = build_pipeline(
                self._registry,
                " | ".join(_with_budget(text, f) for text in self.config.pipeline.split("|")),
                **{**self.config.rule_parameters, "f": f},
            )
        return self._chains[f]

    def computable(self, n: int, f: int) -> str | None:
        """Why the chain cannot be computed with `n` rows and budget `f`, or None."""
        try:
            return self.chain(f).computable(n)
        except ValueError as e:  # such as q above n - f
            return str(e)

    def check(self) -> str | None:
        """What the user should know of the chain's guarantee, before round 0.

        Raises `ConfigError` where the chain cannot be computed at all, and
        `GuaranteeMissing` where ``--strict`` wants a guarantee.
        """
        n, f = self.config.n, self.config.f
        for text in self.config.pipeline.split("|"):
            asked = _budget_in(text)
            if asked is not None and asked > f:  # it would be lowered, in silence
                raise ConfigError(
                    f"{text.strip()!r} is to tolerate {asked} faulty nodes, and the run's "
                    f"budget is --f {f}: raise --f, or leave f={asked} out"
                )
        with plugin_call(self._blame()):
            why = self.chain(f).computable(n)
            missing = None if why is not None else self.chain(f).guarantee(n)
        if why is not None:
            raise ConfigError(
                f"{self.config.pipeline}: {why}; use more nodes, a smaller --f, or another rule"
            )
        if missing is None and self.config.num_byz > f:
            missing = f"{self.config.num_byz} Byzantine nodes are more than f = {f}"
        if missing is not None and self.config.strict:
            raise GuaranteeMissing(f"{self.config.pipeline}: {missing} (--strict)")
        return missing

    def __call__(self, matrix: Tensor, nodes: tuple[int, ...], f: int, round: int) -> Aggregated:
        """Aggregate the rows of `nodes`.  The memory changes only on success.

        Raises `BadRuleOutput` naming the distribution where the result is not
        a finite ``(d,)`` vector.
        """
        everyone = len(nodes) == matrix.shape[0]
        rows = matrix if everyone else matrix[list(nodes)]
        rows = rows.to(resolve_device(self.config.device))
        context = Context(
            seed=self.config.seed,
            round=round,
            nodes=nodes,
            n=self.config.n,
            f=f,
            byzantine=self.config.num_byz,
        )
        memory = dict(self.memory)
        with plugin_call(f"{self._blame()}:", BadRuleOutput):  # a plugin's code
            try:
                outcome = self.chain(f).outcome(rows, context=context, state=memory)
            except PluginError as e:
                raise type(e)(f"{self._blame()}: {e}") from e
            except ByzpyTwError as e:  # such as TooManyByzantine, of a rule that miscounts
                raise BadRuleOutput(f"{self._blame()}: raised {describe_exception(e)}") from e
        vector, norm = outcome.vector, norm_of(outcome.vector)
        if tuple(vector.shape) != (matrix.shape[1],) or vector.dtype != matrix.dtype:
            raise BadRuleOutput(
                f"{self._blame()}: returned {tuple(vector.shape)} of {vector.dtype}, "
                f"expected ({matrix.shape[1]},) of {matrix.dtype}"
            )
        if norm_fault(norm) is not None:
            raise BadRuleOutput(f"{self._blame()}: {norm_fault(norm)} from finite rows")
        self.memory = memory
        selected = None
        if outcome.weights is not None:
            selected = tuple(
                node for node, weight in zip(nodes, outcome.weights.tolist()) if weight != 0
            )
        return Aggregated(vector, norm, selected)

    def _blame(self) -> str:
        *before, last = [parse(text) for text in self.config.pipeline.split("|")]
        entries = [self._registry.entry("pre-aggregator", rule.name) for rule in before]
        entries.append(self._registry.entry("aggregator", last.name))
        return ", ".join(f"{e.kind} {e.name!r} of {e.distribution}" for e in entries)


def _with_budget(text: str, f: int) -> str:
    named, asked = parse(text), _budget_in(text)
    if asked is None:
        return named.text
    return evolve(named, parameters={**named.parameters, "f": str(min(f, asked))}).text


def _budget_in(text: str) -> int | None:
    """The f that a rule's text names, if it does; what is no number the registry refuses."""
    try:
        number = float(parse(text).parameters.get("f", "nan"))
    except ValueError:
        return None
    return int(number) if number.is_integer() else None
