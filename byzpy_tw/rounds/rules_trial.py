"""The trial of a run's rules before round 0, on a few made-up rows.

Plugins' rules are called three times, the third time with the rows of the first, each time
with an empty `state`.  A rule that answers otherwise then has a memory that no checkpoint
holds, or draws from a generator that no seed names; one that writes to its rows spoils them
for everyone else.  The methods of a plugin's attack that the trainer calls are tried too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from byzpy_tw import global_random, object_state, seeds
from byzpy_tw.aggregators.pipeline import Stage
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.config.run import RunConfig
from byzpy_tw.errors import BadRuleOutput, BrokenPlugin, ByzpyTwError, TooManyByzantine
from byzpy_tw.kernels.points import Points
from byzpy_tw.plugin_code import foreign_cause, plugin_call
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.contracts import PluginAttack
from byzpy_tw.rounds.aggregation import Aggregation
from byzpy_tw.rounds.resolved_rules import ResolvedRules, resolve_rules

COORDINATES = 1024  # of the made-up rows, where the rule allows
_LARGEST = 1 << 24  # numbers that a trial at the model's own size may take

# (rows, context, state) -> what the rule makes of them
Call = Callable[[Tensor, seeds.Context, dict[str, Any]], Tensor]


def try_rules(config: RunConfig, registry: Registry, rules: ResolvedRules, dimension: int) -> None:
    """Raise `BrokenPlugin` or `BadRuleOutput` where a plugin's rule or attack is unfit.

    `dimension` is the model's.  Rules that work at that size alone, and are too large to be
    tried, are taken as they are.
    """
    with global_random.hold_generators():
        try:
            _try_all(config, registry, rules, min(dimension, COORDINATES))
        except ByzpyTwError as e:
            if dimension <= COORDINATES or foreign_cause(e) is None:
                raise
            if dimension * config.n <= _LARGEST:  # they may be made for that size alone
                _try_all(config, registry, rules, dimension)


def _try_all(config: RunConfig, registry: Registry, rules: ResolvedRules, dimension: int) -> None:
    texts = [("pre-aggregator", text) for text in config.pre_aggregator]
    texts.append(("aggregator", config.aggregator))
    rows = [_rows(config, dimension, number) for number in (0, 1)]
    for place, (kind, text) in enumerate(texts):
        who = registry.owner(kind, text)

        def make(place: int = place, kind: str = kind) -> tuple[Any, Call]:
            chain = Aggregation(config, registry).chain(config.f)  # not the run's own
            rule = (*chain.pre, chain.aggregator)[place]
            return rule, _as_call(kind, rule)

        try:
            if registry.is_foreign(kind, text):
                rows = _try_rule(who, make, config, rows)
            elif kind == "aggregator":
                break
            else:
                rows = [make()[1](r, _context(config, i), {}) for i, r in enumerate(rows)]
        except TooManyByzantine:  # of fewer rows than there are: the run will tell
            break
    if isinstance(rules.attack, PluginAttack):
        _try_methods(config, registry, dimension)


def _try_rule(
    who: str, make: Callable[[], tuple[Any, Call]], config: RunConfig, rows: list[Tensor]
) -> list[Tensor]:
    """Return both `rows` as the rule of `make` transforms them."""

    def once(call: Call, number: int) -> Tensor:
        given = rows[number].clone()
        try:
            with plugin_call(who, BadRuleOutput):
                answer = call(given, _context(config, number), {})
        except BadRuleOutput as e:  # of the checks of outputs, which do not know whose they are
            raise e if who in str(e) else BadRuleOutput(f"{who}: {e}") from e.__cause__
        if not torch.equal(given, rows[number]):  # not through torch
            raise BadRuleOutput(
                f"{who} wrote to the vectors that it was given, which others use too: work on a "
                "copy, such as vectors.clone()"
            )
        return answer.clone()

    rule, call = make()

    def quietly(number: int) -> Tensor:
        result, moved = global_random.detect_draws(
            lambda: once(call, number), lambda: once(make()[1], number)
        )
        if moved:
            raise BrokenPlugin(
                f"{who} draws from {' and '.join(moved)} global generator, so no run could be "
                "repeated; take the keyword context and draw from context.stream('...')"
            )
        return result

    first = quietly(0)
    after = object_state.snapshot(rule)
    other = quietly(1)
    again = once(call, 0)
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


def _as_call(kind: str, rule: Any) -> Call:
    stage = Stage(rule, "")

    def call(rows: Tensor, context: seeds.Context, state: dict[str, Any]) -> Tensor:
        if kind == "pre-aggregator":
            return stage.preaggregate(Points(rows), context, state).materialise()
        return stage.aggregate(Points(rows), context, state).vector

    return call


def _try_methods(config: RunConfig, registry: Registry, dimension: int) -> None:
    """Have the attack choose and measure, as the trainer has it do each round."""

    def make() -> PluginAttack:
        attack: PluginAttack = resolve_rules(config, registry).attack
        return attack

    def once(attack: PluginAttack, number: int) -> Knowledge:
        honest = _rows(config, dimension, number)[: config.num_honest]
        given = honest.clone()
        chain = Aggregation(config, registry).chain(config.f)
        known = Knowledge.for_attack(
            attack, given, context=_context(config, number, pipeline=chain), state={}, memory={}
        )
        if not torch.equal(given, honest):
            raise BadRuleOutput(f"{attack.who} wrote to the honest vectors; work on a copy")
        return known

    def once_anew(number: int) -> Knowledge:
        return once(make(), number)

    def found(known: Knowledge) -> tuple[Any, ...]:
        pieces = (known.one, known.strength)
        return tuple(
            None if piece is None else object_state.tensor_digest(piece) for piece in pieces
        )

    attack = make()
    if not {"one", "strength"} & set(attack.pieces):
        return
    shown: list[tuple[Any, ...]] = []
    for number in (0, 1):
        known, moved = global_random.detect_draws(
            partial(once, attack, number), partial(once_anew, number)
        )
        shown.append(found(known))
        if moved:
            raise BrokenPlugin(
                f"{attack.who} draws from {' and '.join(moved)} global generator when it chooses "
                "or measures; take the keyword context and draw from context.stream('...')"
            )
    before = object_state.snapshot(attack.made)
    again = found(once(attack, 0))
    kept = object_state.compare_snapshots(before, object_state.snapshot(attack.made))
    if again != shown[0] or kept.memory or kept.grown:
        raise BrokenPlugin(
            f"{attack.who} chooses or measures otherwise when it is shown the same again, or "
            "keeps a count on itself: a run that is resumed would go another way; take the "
            "keyword state for what it remembers, and draw from context.stream('...')"
        )


def _rows(config: RunConfig, dimension: int, number: int) -> Tensor:
    stream = seeds.stream(config.seed, "trial of rules", number)
    return torch.from_numpy(stream.standard_normal((config.n, dimension), dtype="float32"))


def _context(config: RunConfig, number: int, pipeline: object = None) -> seeds.Context:
    nodes = range(config.n if pipeline is None else config.num_honest)
    last = max(1, config.rounds - 1)  # what is done only later is done then
    return seeds.Context(
        seed=config.seed, round=last if number else 0, nodes=tuple(nodes), n=config.n, f=config.f,
        byzantine=config.num_byz, pipeline=pipeline,
    )  # fmt: skip
