"""The trial of a run's rules before round 0, on a few made-up rows.

Plugins' rules are called three times, the third time with the rows of the first, each time
with an empty `state`.  A rule that answers otherwise then has a memory that no checkpoint
holds, or draws from a generator that no seed names; one that writes to its rows spoils them
for everyone else.  The methods of a plugin's attack that the trainer calls are tried too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from attrs import evolve
from torch import Tensor

from byzpy_tw import global_random, object_state, seeds
from byzpy_tw.aggregators.pipeline import Stage
from byzpy_tw.aggregators.trusted import with_made_up_root
from byzpy_tw.algorithms.aggregation import Aggregation
from byzpy_tw.algorithms.rules import ResolvedRules, resolve_rules
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BadRuleOutput, BrokenPlugin, ByzpyTwError, TooManyByzantine
from byzpy_tw.kernels.points import Points
from byzpy_tw.plugin_code import foreign_cause, plugin_call
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.contracts import PluginAttack

COORDINATES = 1024  # of the made-up rows, where the rule allows
_DRAW = "take the keyword context and draw from context.stream('...')"
_LARGEST = 1 << 24  # numbers that a trial at the model's own size may take

R = TypeVar("R")


def try_rules(config: RunConfig, registry: Registry, rules: ResolvedRules, dimension: int) -> None:
    """Raise `BrokenPlugin` or `BadRuleOutput` where a plugin's rule or attack is unfit.

    `dimension` is the model's.  Rules that work at that size alone, and are too large to be
    tried, are taken as they are.
    """
    config = _of_a_sample(config, rules)
    with global_random.hold_generators():
        at_trial_size(config, dimension, partial(_try_all, config, registry, rules))


def _of_a_sample(config: RunConfig, rules: ResolvedRules) -> RunConfig:
    """Return `config` with the nodes of one round alone, where rounds are sampled."""
    if rules.participation.sampling is None or rules.participation.keeps:
        return config
    (size,) = rules.participation.sizes
    byzantine = max(size.byzantine, min(1, config.num_byz))
    return evolve(
        config, num_honest=max(1, size.n - byzantine), num_byz=byzantine, f=size.f,
        participants=None, over_sample=0, min_servers=None, max_nodes_per_server=None,
    )  # fmt: skip


def at_trial_size(config: RunConfig, dimension: int, attempt: Callable[[int], None]) -> None:
    """Call `attempt` with a small dimension; where foreign code raises, with the model's own."""
    try:
        attempt(min(dimension, COORDINATES))
    except ByzpyTwError as e:
        if dimension <= COORDINATES or foreign_cause(e) is None:
            raise
        if dimension * config.n <= _LARGEST:  # it may be made for that size alone
            attempt(dimension)


def _try_all(config: RunConfig, registry: Registry, rules: ResolvedRules, dimension: int) -> None:
    texts = [("pre-aggregator", text) for text in config.pre_aggregator]
    texts.append(("aggregator", config.aggregator))
    rows = [_rows(config, dimension, number) for number in (0, 1)]
    contexts = [_context(config, number, rules) for number in (0, 1)]
    for place, (kind, text) in enumerate(texts):
        make = partial(_make_rule, config, registry, place)
        try:
            if registry.is_foreign(kind, text):
                rows = _try_rule(registry.owner(kind, text), kind, make, contexts, rows)
            elif kind == "aggregator":
                break
            else:
                rows = [_apply(kind, make(), *pair) for pair in zip(rows, contexts, strict=True)]
        except TooManyByzantine:  # of fewer rows than there are: the run will tell
            break
    if isinstance(rules.attack, PluginAttack):
        _try_methods(config, registry, rules, dimension)


def _make_rule(config: RunConfig, registry: Registry, place: int) -> Any:
    pipeline = Aggregation(config, registry).pipeline(config.f)  # not the run's own
    return (*pipeline.pre, pipeline.aggregator)[place]


def _apply(kind: str, rule: Any, rows: Tensor, context: seeds.Context) -> Tensor:
    stage, points = Stage(rule, ""), Points(rows)
    context = with_made_up_root(context, rule, rows)
    if kind == "pre-aggregator":
        return stage.preaggregate(points, context, {}).materialise()
    return stage.aggregate(points, context, {}).vector


def check_draws(
    call: Callable[[Any], R], made: Any, make: Callable[[], Any], who: str, cure: str
) -> R:
    """Return `call` of `made`; raise `BrokenPlugin` where it draws from a global generator."""
    result, moved = global_random.detect_draws(lambda: call(made), lambda: call(make()))
    if moved:
        raise BrokenPlugin(f"{who} draws from {' and '.join(moved)} global generator{cure}")
    return result


def _try_rule(
    who: str,
    kind: str,
    make: Callable[[], Any],
    contexts: Sequence[seeds.Context],
    rows: list[Tensor],
) -> list[Tensor]:
    """Return both `rows` as the rule of `make` transforms them."""

    def once(number: int, rule: Any) -> Tensor:
        given, call = rows[number].clone(), plugin_call(who, BadRuleOutput)
        try:
            with call:
                answer = _apply(kind, rule, given, contexts[number])
        except BadRuleOutput as e:  # of the checks of outputs, which do not know whose they are
            named = call.replaced is not None
            raise e if named else BadRuleOutput(f"{who}: {e}") from e.__cause__
        if not torch.equal(given, rows[number]):  # not through torch
            raise BadRuleOutput(
                f"{who} wrote to the vectors that it was given, which others use too: work on a "
                "copy, such as vectors.clone()"
            )
        return answer.clone()

    rule, draw = make(), f", so no run could be repeated; {_DRAW}"
    first = check_draws(partial(once, 0), rule, make, who, draw)
    after = object_state.snapshot(rule)
    other = check_draws(partial(once, 1), rule, make, who, draw)
    again = once(0, rule)
    kept = object_state.compare_snapshots(after, object_state.snapshot(rule))
    cure = (
        "a run that is resumed would go another way; take the keyword state for what it "
        "remembers, and draw from context.stream('...')"
    )
    if remembered := (*kept.memory, *kept.grown, *kept.shared):
        names = ", ".join(remembered[:3])
        raise BrokenPlugin(f"{who} changes {names} on itself from call to call: {cure}")
    if not torch.equal(first, again):
        raise BrokenPlugin(
            f"{who} answers otherwise when it is given the same vectors again: it remembers "
            f"something, or draws from a generator of its own, and {cure}"
        )
    return [first, other]


def _try_methods(
    config: RunConfig, registry: Registry, rules: ResolvedRules, dimension: int
) -> None:
    """Have the attack choose and measure, as the trainer has it do each round."""

    def make() -> PluginAttack:
        attack: PluginAttack = resolve_rules(config, registry).attack
        return attack

    def once(number: int, attack: PluginAttack) -> list[Any]:
        honest = _rows(config, dimension, number)[: config.num_honest]
        given = honest.clone()
        pipeline = Aggregation(config, registry).pipeline(config.f)
        context = _context(config, number, rules, pipeline=pipeline)
        known = Knowledge.for_attack(attack, given, context=context, state={}, memory={})
        if not torch.equal(given, honest):
            raise BadRuleOutput(f"{attack.who} wrote to the honest vectors; work on a copy")
        pieces = (known.one, known.strength)
        return [None if piece is None else object_state.tensor_digest(piece) for piece in pieces]

    attack = make()
    if not {"one", "strength"} & set(attack.pieces):
        return
    draw = f" when it chooses or measures; {_DRAW}"
    first, _ = (
        check_draws(partial(once, number), attack, make, attack.who, draw) for number in (0, 1)
    )
    before = object_state.snapshot(attack.made)
    again = once(0, attack)
    kept = object_state.compare_snapshots(before, object_state.snapshot(attack.made))
    if again != first or kept.memory or kept.grown:
        raise BrokenPlugin(
            f"{attack.who} chooses or measures otherwise when it is shown the same again, or "
            "keeps a count on itself: a run that is resumed would go another way; take the "
            "keyword state for what it remembers, and draw from context.stream('...')"
        )


def _rows(config: RunConfig, dimension: int, number: int) -> Tensor:
    stream = seeds.stream(config.seed, "trial of rules", number)
    return torch.from_numpy(stream.standard_normal((config.n, dimension), dtype="float32"))


def _context(
    config: RunConfig, number: int, rules: ResolvedRules, pipeline: object = None
) -> seeds.Context:
    nodes = range(config.n if pipeline is None else config.num_honest)
    weights = rules.aggregation.node_weights
    last = max(1, config.rounds - 1)  # what is done only later is done then
    return seeds.Context(
        seed=config.seed, round=last if number else 0, nodes=tuple(nodes), n=config.n, f=config.f,
        byzantine=config.num_byz, pipeline=pipeline,
        weights=None if weights is None else weights.of_rows(nodes),
        node_weights=None if weights is None or pipeline is None else weights.shares.clone(),
    )  # fmt: skip
