"""The knowledge of a round's honest vectors that is sent to the attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from byzpy_tw.attacks.knowledge.codec import PIECES, encode_pieces
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.rounds.resolved_rules import ResolvedRules
from byzpy_tw.seeds import Context


def reveal(
    rules: ResolvedRules,
    round: int,
    nodes: tuple[int, ...],
    rows: Tensor,
    f: int,
    *,
    state: dict[str, Any],
    memory: dict[str, Any],
    wire: torch.dtype,
) -> Mapping[str, Tensor]:
    """Return the pieces of knowledge about `rows`, ``(h, d)`` of the honest `nodes`, for `wire`.

    `f` is the budget that the rules are expected to have, `memory` the rules' own, and `state`
    the attack's, which is changed.
    """
    config = rules.config
    context = Context(
        seed=config.seed, round=round, nodes=nodes, n=config.n, f=f, byzantine=config.num_byz,
        pipeline=rules.aggregation.chain(f),
    )  # fmt: skip
    with plugin_call(f"attack {config.attack!r}"):
        known = Knowledge.for_attack(
            rules.attack_with_budget(f), rows, context=context, state=state, memory=memory
        )
    found = {piece: getattr(known, piece) for piece in PIECES}
    return encode_pieces({p: t for p, t in found.items() if t is not None}, wire)
