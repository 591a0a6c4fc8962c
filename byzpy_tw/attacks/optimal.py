"""IPM and ALIE with the strength that moves a given pipeline furthest."""

from __future__ import annotations

from typing import Any, TypeVar

import attrs
from attrs import field, frozen
from torch import Tensor

from byzpy_tw.attacks.adapter import call_attack
from byzpy_tw.attacks.alie import ddof_factor, shift_vector
from byzpy_tw.attacks.checks import number, whole
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.attacks.simple import scale_vector
from byzpy_tw.attacks.target import Memory, Rule, find_strength, geometric
from byzpy_tw.seeds import Context

T = TypeVar("T", bound="OptimalIPM | OptimalALIE")


def _rules(value: Any) -> tuple[Any, ...]:
    """Rules, or their names, in order; names in one text are parted by ``|``."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split("|") if name.strip())
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _target(attack: OptimalIPM | OptimalALIE) -> str | None:
    """The pipeline that the attack names, as text; None where it is the run's own."""
    named = [r for r in (*attack.pre, attack.aggregator) if isinstance(r, str)]
    return " | ".join(named) or None


def _aimed_at(attack: T, pipeline: Rule) -> T:
    """The attack with its target found: what it is to be shown depends on that.

    For whoever looks up names, where the trainer is: `pipeline` is what ``target``
    names, or the run's.
    """
    return attrs.evolve(attack, aggregator=pipeline, pre=())


@frozen(kw_only=True)
class OptimalIPM:
    """``-tau`` times the honest mean, tau chosen against a pipeline.

    The pipeline is the run's own, or `aggregator` after the pre-aggregators
    `pre`.  It is tried with as many copies of the vector as there are Byzantine
    nodes: the context's number, else `f`.  A geometric pipeline is tried on
    inner products alone; any other needs all honest vectors.  The search is
    the trainer's, and what it finds is all of it that travels.

    References
    ----------
    Xie et al., UAI 2020; the search is ByzFL's (`search.line_maximize`).
    """

    evals: int = whole("evals", 20, least=1, most=1000)
    start: float = number("start", 0.0)
    delta: float = number("delta", 10.0, above=0.0)
    ratio: float = number("ratio", 0.8, above=0.0, below=1.0)
    f: int | None = whole("f", None)
    aggregator: str | None = None
    pre: str | None = field(default=(), converter=_rules)

    behaviour = "attack"
    direction = "mean"
    target = property(_target)
    aimed_at = _aimed_at

    @property
    def knowledge(self) -> str:
        return "gram" if geometric(self) else "all"

    pieces = ("mean", "strength")

    __call__ = call_attack

    def strength(
        self, known: Knowledge, *, context: Context | None = None, memory: Memory = None
    ) -> float:
        """The tau that moves the pipeline furthest, `memory` being what it remembers."""
        # Less the mean, -tau times the mean is -(1 + tau) times it.
        return find_strength(
            self,
            known,
            context,
            memory,
            vector=lambda tau: scale_vector(known.mean, -tau),
            place=lambda tau: (-1.0 - tau, 0.0),
        )

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return scale_vector(known.mean, -float(known.strength))


@frozen(kw_only=True)
class OptimalALIE:
    """The honest mean plus ``tau`` standard deviations, tau chosen against a pipeline.

    Parameters as for `OptimalIPM`, and `ddof` as for `ALittleIsEnough`.

    References
    ----------
    Baruch et al., NeurIPS 2019; the search is ByzFL's (`search.line_maximize`).
    """

    evals: int = whole("evals", 20, least=1, most=1000)
    start: float = number("start", 0.0)
    delta: float = number("delta", 10.0, above=0.0)
    ratio: float = number("ratio", 0.8, above=0.0, below=1.0)
    ddof: int = whole("ddof", 0, most=1)
    f: int | None = whole("f", None)
    aggregator: str | None = None
    pre: str | None = field(default=(), converter=_rules)

    behaviour = "attack"
    direction = "std"
    target = property(_target)
    aimed_at = _aimed_at

    @property
    def knowledge(self) -> str:
        return "gram" if geometric(self) else "all"

    pieces = ("mean", "std", "strength")

    __call__ = call_attack

    def strength(
        self, known: Knowledge, *, context: Context | None = None, memory: Memory = None
    ) -> float:
        """The tau that moves the pipeline furthest, `memory` being what it remembers."""
        unit = ddof_factor(known.h, self.ddof)
        return find_strength(
            self,
            known,
            context,
            memory,
            vector=lambda tau: shift_vector(known.mean, known.std, tau * unit),
            place=lambda tau: (0.0, tau * unit),
        )

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        unit = ddof_factor(known.h, self.ddof)
        return shift_vector(known.mean, known.std, float(known.strength) * unit)
