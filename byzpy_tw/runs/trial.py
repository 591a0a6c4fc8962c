"""The trial of a run's rules before round 0, on a few made-up rows.

Plugins' rules are called three times, the third time with the rows of the first, each time
with an empty `state`.  A rule that answers otherwise then has a memory that no checkpoint
holds, or draws from a generator that no seed names; one that writes to its rows spoils them
for everyone else.  The methods of a plugin's attack that the trainer calls are tried too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from byzpy_tw import generators, object_state, seeds
from byzpy_tw.aggregators.opaque import run_aggregator, run_preaggregator
from byzpy_tw.aggregators.rule import outcome_of, preaggregated
from byzpy_tw.attacks.knowledge import Knowledge
from byzpy_tw.errors import BadRuleOutput, BrokenPlugin, TooManyByzantine
from byzpy_tw.foreign import calling
from byzpy_tw.kernels.points import Points
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.outputs import PluginAttack
from byzpy_tw.runs.aggregation import Aggregation
from byzpy_tw.runs.config import RunConfig
from byzpy_tw.runs.rules import Rules

COORDINATES = 32

# (rows, context, state) -> what the rule makes of them
Call = Callable[[Tensor, seeds.Context, dict[str, Any]], Tensor]


def try_rules(config: RunConfig, registry: Registry, rules: Rules) -> None:
    """Raise `BrokenPlugin` or `BadRuleOutput` where a plugin's rule or attack is unfit."""
    chain = Aggregation(config, registry).chain(config.f)  # not the run's own
    texts = [("pre-aggregator", text) for text in config.pre_aggregator]
    texts.append(("aggregator", config.aggregator))
    rows = [_rows(config, number) for number in (0, 1)]
    with generators.alone():
        for (kind, text), rule in zip(texts, (*chain.pre, chain.aggregator), strict=True):
            who, call = registry.owner(kind, text), _called(kind, rule)
            try:
                if not registry.is_foreign(kind, text):
                    if kind == "aggregator":
                        break
                    rows = [call(r, _context(config, i), {}) for i, r in enumerate(rows)]
                else:
                    rows = _try_rule(who, rule, call, config, rows)
            except TooManyByzantine:  # of fewer rows than there are: the run will tell
                break
        if isinstance(rules.attack, PluginAttack):
            _try_methods(config, rules)


def _try_rule(
    who: str, rule: Any, call: Call, config: RunConfig, rows: list[Tensor]
) -> list[Tensor]:
    """What `rule` makes of both `rows`."""

    def once(number: int) -> Tensor:
        given = rows[number].clone()
        try:
            with calling(who, BadRuleOutput):
                answer = call(given, _context(config, number), {})
        except BadRuleOutput as e:  # of the checks of outputs, which do not know whose they are
            raise e if who in str(e) else BadRuleOutput(f"{who}: {e}") from e.__cause__
        if not torch.equal(given, rows[number]):  # not through torch
            raise BadRuleOutput(
                f"{who} wrote to the vectors that it was given, which others use too: work on a "
                "copy, such as vectors.clone()"
            )
        return answer.clone()

    first, moved = generators.draws(lambda: once(0))
    if moved:
        raise BrokenPlugin(
            f"{who} draws from {' and '.join(moved)} global generator, so no run could be "
            "repeated; take the keyword context and draw from context.stream('...')"
        )
    after = object_state.snapshot(rule)
    other = once(1)
    again = once(0)
    kept = object_state.changes(after, object_state.snapshot(rule))
    if not torch.equal(first, again) or kept.memory:
        where = f" (it changes {', '.join(kept.memory[:3])})" if kept.memory else ""
        raise BrokenPlugin(
            f"{who} answers otherwise when it is given the same vectors again{where}: it "
            "remembers something, or draws from a generator of its own, and a run that is "
            "resumed would go another way; take the keyword state for what it remembers, and "
            "draw from context.stream('...')"
        )
    return [first, other]


def _called(kind: str, rule: Any) -> Call:
    def call(rows: Tensor, context: seeds.Context, state: dict[str, Any]) -> Tensor:
        if kind == "pre-aggregator":
            if hasattr(rule, "matrix"):
                points = preaggregated(rule, Points(rows), context=context, state=state)
                return points.materialised()
            return run_preaggregator(rule, rows, context=context, state=state)
        if hasattr(rule, "outcome") or hasattr(rule, "weights"):
            return outcome_of(rule, Points(rows), context=context, state=state).vector
        return run_aggregator(rule, rows, context=context, state=state).vector

    return call


def _try_methods(config: RunConfig, rules: Rules) -> None:
    """Have the attack choose and measure, as the trainer has it do each round."""
    attack, chain = rules.attack, rules.aggregation.chain(config.f)
    honest = _rows(config, 0)[: config.num_honest]
    given = honest.clone()
    Knowledge.for_attack(
        attack, given, context=_context(config, 0, pipeline=chain), state={}, memory={}
    )
    if not torch.equal(given, honest):
        raise BadRuleOutput(f"{attack.who} wrote to the honest vectors; work on a copy")


def _rows(config: RunConfig, number: int) -> Tensor:
    stream = seeds.stream(config.seed, "trial of rules", number)
    return torch.from_numpy(stream.standard_normal((config.n, COORDINATES)).astype("float32"))


def _context(config: RunConfig, number: int, pipeline: object = None) -> seeds.Context:
    nodes = range(config.n if pipeline is None else config.num_honest)
    return seeds.Context(
        seed=config.seed, round=number, nodes=tuple(nodes), n=config.n, f=config.f,
        byzantine=config.num_byz, pipeline=pipeline,
    )  # fmt: skip
