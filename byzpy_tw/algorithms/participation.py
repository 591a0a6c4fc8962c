"""Participation: the nodes that a round asks, their fault budget, and the sizes of a run's rounds.

The participants of a round are a function of the configuration and of the round's number.  So
they can be looked at before round 0: the rules must be computable with each size, and a run
that gives no guarantee says so.  `sampling` has those of ``--participants``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import index
from typing import Any

import torch
from attrs import evolve, field, frozen
from attrs.converters import optional

from byzpy_tw.algorithms.sampling import Sampling
from byzpy_tw.algorithms.state import State
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BadRuleOutput, ConfigError
from byzpy_tw.text import clean_value, number_range

_MOST_ROUNDS = 1000  # of a run, that are looked at before round 0
_MOST_NODES = 1 << 20  # over all of these rounds
_NAMED = 5  # nodes in a message


def _integer(value: Any) -> int:
    return int(index(value))


def _integers(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(map(_integer, values))


@frozen
class Participants:
    """The nodes that are asked in a round, in order.

    At most `f` of the vectors that are aggregated are faulty: one of each participant, or `rows`,
    where the algorithm keeps vectors of earlier rounds.  The nodes of `spare` take the places of
    absent ones, in their order.
    """

    nodes: tuple[int, ...] = field(converter=_integers)
    f: int = field(converter=_integer)
    spare: tuple[int, ...] = field(default=(), converter=_integers)
    rows: int | None = field(default=None, converter=optional(_integer))


def check_participants(found: Any, round: int, config: RunConfig, who: str) -> Participants:
    """Return `found`, the participants that an algorithm names for `round`.

    Raises `BadRuleOutput`, which blames `who`, where they cannot be those of a round.
    """
    if not isinstance(found, Participants):
        raise BadRuleOutput(
            f"{who}: participants returned {type(found).__name__} for round {round}, expected "
            "Participants(nodes, f)"
        )
    error = _find_error(found, config)
    if error:
        raise BadRuleOutput(f"{who}: the participants of round {round} {error}")
    return found


def _find_error(found: Participants, config: RunConfig) -> str:
    """Return why `found` cannot be a round's participants, to follow these; empty if they can."""
    nodes, f, n = found.nodes, found.f, config.n
    if not nodes:
        return "are no nodes: a round needs at least one"
    if strange := [node for node in (*nodes, *found.spare) if not 0 <= node < n]:
        return f"name node {_list(strange)}: the run has nodes 0 to {n - 1}"
    if any(a >= b for a, b in zip(nodes, nodes[1:])):
        return f"are {_list(nodes)}: name each node once, in ascending order"
    if len({*nodes, *found.spare}) < len(nodes) + len(found.spare):
        return f"have the spare nodes {_list(found.spare)}: name others than the participants, once"
    if nodes[0] >= config.num_honest and config.participants is None:
        return f"are the Byzantine nodes {_list(nodes)} alone: let more nodes take part"
    told = clean_value(f, 20)
    if f < 0:
        return f"have f = {told}: a fault budget is 0 or more"
    if f > config.f:
        return f"have f = {told}, and the run has --f {config.f}: a part has no more faulty nodes"
    if f >= (rows := len(nodes) if found.rows is None else found.rows):
        return f"are {rows} with f = {f}, which leaves none honest: let more take part"
    return ""


def _list(nodes: Iterable[int]) -> str:
    nodes = list(nodes)
    more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
    return ", ".join(clean_value(node, 20) for node in nodes[:_NAMED]) + more


@frozen(order=True)
class RoundSize:
    """A number of participants, their f, and how many of them are Byzantine; one such round."""

    n: int
    f: int
    byzantine: int
    round: int


@frozen
class Participation:
    """The sizes of a run's rounds, each once; `seen` of its rounds were looked at.

    With a `sampling` all have the same.  `keeps` says that vectors of earlier rounds are
    aggregated for nodes that send none.  `asked` is how many nodes the largest round asks, those in
    the place of absent ones included.
    """

    sizes: tuple[RoundSize, ...]
    seen: int
    asked: int
    sampling: Sampling | None = None
    keeps: bool = False

    def sampling_entry(self, config: RunConfig) -> dict[str, Any]:
        """Return the entry ``sampling`` of config.json; empty where all nodes are asked."""
        if (sampling := self.sampling) is None:
            return {}
        asked = {"participants": sampling.size, "over_sample": sampling.spare}
        if self.keeps:
            return {**asked, "f": config.f}
        return {
            **asked, "f": sampling.f, "confidence": config.confidence, "excess": sampling.excess,
            "sufficient": sampling.budget is not None,
        }  # fmt: skip

    @property
    def gap(self) -> str | None:
        """Why a sample's budget gives no guarantee, or None."""
        return None if self.sampling is None or self.keeps else self.sampling.gap()

    def kept_vectors(self, config: RunConfig) -> int:
        """Return how many nodes' vectors are kept in the end, where that is more than are asked."""
        if self.keeps:
            return self.sizes[0].n
        asked = min(config.num_honest, self.asked * config.rounds)
        return asked if config.worker_momentum and self.asked < config.n else 0

    def describe(self, config: RunConfig) -> str:
        """Return how many nodes take part in a round, in words; empty for all, with ``--f``."""
        if self.sampling is not None and self.keeps:
            return (
                f"{self.sampling.size} of {config.n} nodes are asked in a round, and the last "
                f"vectors of all are aggregated, with f = {config.f}"
            )
        if self.sampling is not None:
            return self.sampling.describe()
        if all((size.n, size.f) == (config.n, config.f) for size in self.sizes):
            return ""
        take = "take part" if max(size.n for size in self.sizes) > 1 else "takes part"
        asked = number_range(size.n for size in self.sizes)
        faulty = number_range(size.f for size in self.sizes)
        told = "" if all(size.f == config.f for size in self.sizes) else f" (--f {config.f})"
        seen = "" if self.seen == config.rounds else (
            f", in the {self.seen} rounds of {config.rounds} that were looked at"
        )  # fmt: skip
        return (
            f"{asked} of {config.n} nodes {take} in a round, and f = {faulty} of them may be "
            f"faulty{told}{seen}"
        )


def survey_rounds(config: RunConfig) -> range:
    """Return the rounds of a run whose participants are looked at before round 0."""
    most = max(1, min(_MOST_ROUNDS, _MOST_NODES // config.n))
    return range(0, config.rounds, -(-config.rounds // most))


def survey(config: RunConfig, participants: Callable[[State], Participants]) -> Participation:
    """Return the sizes of a run's rounds; raise `ConfigError` where ``--participants`` has no use.

    The rounds of a sample are of one size.  The number of Byzantine nodes in each is left to the
    draws, of which the trainer of a real run knows no more.
    """
    if (sampling := Sampling.of(config)) is not None:
        found = participants(bare_state(0))
        if (found.nodes, found.spare) != sampling.draw(0):
            raise ConfigError(
                f"--participants has no use with --algorithm {config.algorithm}, which names the "
                "participants of each round itself: leave it out"
            )
        size = _size(found, config, 0)
        if found.rows is None:
            size = evolve(size, byzantine=min(config.num_byz, size.f))
        asked = sampling.size + sampling.spare
        return Participation((size,), config.rounds, asked, sampling, found.rows is not None)
    asked, sizes = 0, dict[tuple[int, int, int], RoundSize]()
    rounds, last = survey_rounds(config), None
    for round in rounds:
        found = participants(bare_state(round))
        if found is last:  # as where all take part in each round
            continue
        last = found
        size, asked = _size(found, config, round), max(asked, len(found.nodes) + len(found.spare))
        sizes.setdefault((size.n, size.f, size.byzantine), size)
    keeps = last is not None and last.rows is not None
    return Participation(tuple(sorted(sizes.values())), len(rounds), asked, keeps=keeps)


def _size(found: Participants, config: RunConfig, round: int) -> RoundSize:
    """Return the number of vectors that are aggregated, their f, and the Byzantine ones."""
    if found.rows is not None:  # those of all nodes, as far as is known
        return RoundSize(found.rows, found.f, config.num_byz, round)
    byzantine = sum(node >= config.num_honest for node in found.nodes)
    return RoundSize(len(found.nodes), found.f, byzantine, round)


def bare_state(round: int) -> State:
    """Return a state of which no more is known than its round."""
    return State(round, torch.zeros(0))
