"""IPM and ALIE with the strength that moves a given pipeline furthest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import attrs
from attrs import field, frozen
from torch import Tensor

from byzpy_tw.aggregators.rule import State
from byzpy_tw.attacks.adapter import attack
from byzpy_tw.attacks.alie import ddof_factor, shift_vector
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.attacks.simple import scale_vector
from byzpy_tw.attacks.target import find_strength, is_geometric
from byzpy_tw.parameters import NONE, boolean, integer, real
from byzpy_tw.seeds import Context

T = TypeVar("T", bound="_Search")


def _rules(value: Any) -> tuple[Any, ...]:
    """Return rules, or their names, in order; names in one text are separated by ``|``."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split("|") if name.strip())
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


@frozen(kw_only=True)
class _Search:
    """The parameters of the search, and its target.

    A base class: both attacks have these parameters, by name, in their own signature.  Each has
    a ``direction`` and two methods: ``at(known, tau)`` is its vector at a strength,
    ``coefficients(known, tau)`` gives that vector, less the mean, as multiples of the mean and
    of the direction.
    """

    evals: int = integer(20, least=1, most=1000)
    start: float = real(0.0)
    delta: float = real(10.0, above=0.0)
    ratio: float = real(0.8, above=0.0, below=1.0)
    f: int | None = integer(
        None,
        none="the run's number of Byzantine nodes, which goes before a number given here; "
        "outside a run f must be given",
    )
    exact: bool | None = boolean(
        None,
        none="the run's --search; true outside a run: all coordinates are searched, however many",
    )
    aggregator: str | None = field(default=None, metadata={NONE: "the run's aggregator"})
    pre: str | None = field(
        default=None,
        converter=_rules,
        metadata={NONE: "no pre-aggregators; the run's own where aggregator is none too"},
    )

    @property
    def rules(self) -> tuple[Any, ...]:
        """The target's rules or their names, in order; (None,) for the run's own."""
        pre: Any = self.pre
        return (*pre, self.aggregator)

    @property
    def target(self) -> str | None:
        """The pipeline that the attack names, as text; None where it is the run's own."""
        return " | ".join(rule for rule in self.rules if isinstance(rule, str)) or None

    def aimed_at(self: T, pipeline: Callable[..., Any]) -> T:
        """Return the attack with its target: the level of its knowledge depends on that.

        For code that looks up names, where the trainer is: `pipeline` is the one that
        ``target`` names, or the run's.
        """
        target: dict[str, Any] = {"aggregator": pipeline, "pre": ()}
        return attrs.evolve(self, **target)

    @property
    def knowledge(self) -> str:
        return "gram" if is_geometric(self.rules) else "all"

    def strength(
        self, known: Knowledge, *, context: Context | None = None, memory: State = None
    ) -> float:
        """Return the tau that moves the pipeline, with its `memory`, furthest."""
        return find_strength(self, known, context, memory)

    def vector(self: Any, known: Knowledge, context: Context | None) -> Tensor:
        return self.at(known, float(known.strength))


@attack(None, "mean", "strength")
class OptimalIPM(_Search):
    """``-tau`` times the honest mean, tau chosen against a pipeline.

    The pipeline is the run's own, or `aggregator` after the pre-aggregators `pre`.  It is tried
    with as many copies of the vector as there are Byzantine nodes: the context's number, else `f`.
    A geometric pipeline is tried on inner products alone; any other needs all honest vectors.  A
    coordinate-wise rule is tried on a sample of more than 65,536 coordinates where `exact` is
    false.  The trainer searches, and only the tau that it finds travels.

    References
    ----------
    Xie et al., UAI 2020; the search is ByzFL's (`line_search.line_maximize`).
    """

    direction: ClassVar[str] = "mean"

    def at(self, known: Knowledge, tau: float) -> Tensor:
        return scale_vector(known.mean, -tau)

    def coefficients(self, known: Knowledge, tau: float) -> tuple[float, float]:
        return -1.0 - tau, 0.0


@attack(None, "mean", "std", "strength")
class OptimalALIE(_Search):
    """The honest mean plus ``tau`` standard deviations, tau chosen against a pipeline.

    Parameters as for `OptimalIPM`, and `ddof` as for `ALittleIsEnough`.

    References
    ----------
    Baruch et al., NeurIPS 2019; the search is ByzFL's (`line_search.line_maximize`).
    """

    ddof: int = integer(0, most=1)

    direction: ClassVar[str] = "std"

    def at(self, known: Knowledge, tau: float) -> Tensor:
        return shift_vector(known.mean, known.std, tau * ddof_factor(known.h, self.ddof))

    def coefficients(self, known: Knowledge, tau: float) -> tuple[float, float]:
        return 0.0, tau * ddof_factor(known.h, self.ddof)
