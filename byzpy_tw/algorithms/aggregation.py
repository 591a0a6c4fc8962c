"""The run's pipeline of rules, with the budget and the memory that a round gives it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from attrs import define, field, frozen
from torch import Tensor

from byzpy_tw.aggregators.pipeline import Pipeline
from byzpy_tw.algorithms.node_weights import NodeWeights
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BadRuleOutput, ByzpyTwError, ConfigError, PluginError
from byzpy_tw.plugin_code import describe_exception, plugin_call
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.pipelines import NamedPipeline, budget_of
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import norm_fault, norm_of
from byzpy_tw.workers.device import Device, open_device
from byzpy_tw.workers.precision import FLOAT32, multiplication


@frozen(eq=False)
class Aggregated:
    """A round's ``(d,)`` vector, its norm, and the nodes that it was made from.

    ``selected`` is None where the rule does not choose between rows; ``memory`` is the rules'
    memory after the round.  ``byzantine_weight`` is the share of the rows' weight that Byzantine
    nodes have, None where the rule gives rows no weights, or there are no such nodes.
    """

    vector: Tensor
    norm: float
    selected: tuple[int, ...] | None
    memory: Mapping[str, Any]
    byzantine_weight: float | None = None


def byzantine_share(
    nodes: Sequence[int], weights: Sequence[float], num_honest: int
) -> float | None:
    """Return the share of the `weights` that is on Byzantine `nodes`; None without any weight.

    Weights count by their size: some rules subtract rows.
    """
    sizes = [abs(weight) for weight in weights]
    total = math.fsum(sizes)
    if not 0 < total < math.inf:
        return None
    pairs = zip(nodes, sizes, strict=True)
    return math.fsum(size for node, size in pairs if node >= num_honest) / total


@define(eq=False)
class Aggregation:
    """The run's pipeline for each f that is needed, and the device that computes it.

    ``node_weights`` are the nodes' weights, once they are known; None where all count alike.
    """

    config: RunConfig
    _registry: Registry
    node_weights: NodeWeights | None = field(default=None, init=False)
    _pipelines: dict[int, Pipeline] = field(factory=dict, init=False)
    _named: NamedPipeline = field(init=False)

    @_named.default
    def _parse(self) -> NamedPipeline:
        return NamedPipeline.parse(self.config.pipeline)

    @property
    def device(self) -> Device:
        """The trainer's device, of aggregation, steps and evaluation; `ConfigError` without it."""
        return open_device(self.config.device)

    def pipeline(self, f: int) -> Pipeline:
        """Return the pipeline with budget `f`, also where a rule's text names a larger one."""
        if f not in self._pipelines:
            fill = {**self.config.rule_parameters, "f": f}
            self._pipelines[f] = self._named.with_budget(f).build(self._registry, **fill)
        return self._pipelines[f]

    def use_weights(self, weights: NodeWeights | None) -> None:
        """Give nodes these weights, in all rounds."""
        self.node_weights = weights

    def computable(self, n: int, f: int) -> str | None:
        """Return why the pipeline cannot be computed with `n` rows and budget `f`, or None."""
        try:
            return self.pipeline(f).computable(n)
        except ValueError as e:  # such as q above n - f
            return str(e)

    def check_budgets(self) -> None:
        """Raise `ConfigError` where a rule's own text names a larger budget than the run's."""
        f = self.config.f
        for _, rule in self._named.stages:
            own = budget_of(rule)
            if own is not None and own > f:  # it would be lowered, in silence
                raise ConfigError(
                    f"{rule.text!r} is to tolerate {own} faulty nodes, and the run's "
                    f"budget is --f {f}: raise --f, or leave f={own} out"
                )

    def __call__(
        self,
        rows: Tensor,
        nodes: tuple[int, ...],
        f: int,
        round: int,
        memory: Mapping[str, Any] = MappingProxyType({}),
        **known: Any,
    ) -> Aggregated:
        """Aggregate the `rows` of `nodes`, in order; `memory` is the rules' before the round.

        `known` are further entries of the rules' context.

        Raises `BadRuleOutput` naming the distribution where the result is not
        a finite ``(d,)`` vector.
        """
        (there,) = self.device.put(rows)
        context = Context(
            seed=self.config.seed, round=round, nodes=nodes, n=self.config.n, f=f,
            byzantine=self.config.num_byz,
            weights=None if self.node_weights is None else self.node_weights.of_rows(nodes),
            **known,
        )  # fmt: skip
        memory = dict(memory)
        with (
            multiplication(FLOAT32, there),
            plugin_call(f"{self.owners()}:", BadRuleOutput),
        ):  # a plugin's code
            try:
                outcome = self.pipeline(f).outcome(there, context=context, state=memory)
            except PluginError as e:
                raise e.with_text(f"{self.owners()}: {e}") from e
            except ByzpyTwError as e:  # such as TooManyByzantine, of a rule that miscounts
                raise BadRuleOutput(f"{self.owners()}: raised {describe_exception(e)}") from e
        norm = self._checked_norm(outcome.vector, rows)
        selected = share = None
        if outcome.weights is not None:
            weights = outcome.weights.tolist()
            selected = tuple(node for node, weight in zip(nodes, weights) if weight != 0)
            if self.config.num_byz and len(weights) == len(nodes):
                share = byzantine_share(nodes, weights, self.config.num_honest)
        return Aggregated(outcome.vector, norm, selected, memory, share)

    def _checked_norm(self, vector: Tensor, rows: Tensor) -> float:
        """Return the norm of `vector`; `BadRuleOutput` where it is no result for `rows`."""
        if tuple(vector.shape) != (rows.shape[1],) or vector.dtype != rows.dtype:
            raise BadRuleOutput(
                f"{self.owners()}: returned {tuple(vector.shape)} of {vector.dtype}, "
                f"expected ({rows.shape[1]},) of {rows.dtype}"
            )
        norm = norm_of(vector)
        if norm_fault(norm) is not None:
            raise BadRuleOutput(f"{self.owners()}: {norm_fault(norm)} from finite rows")
        return norm

    def owners(self) -> str:
        """Return the rules and whose they are, for messages."""
        entries = [self._registry.entry(kind, rule.name) for kind, rule in self._named.stages]
        return ", ".join(f"{e.kind} {e.name!r} of {e.distribution}" for e in entries)
