"""The protocol of algorithms: the participants of a round, and the use of their vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.algorithms.aggregation import Aggregated
from byzpy_tw.algorithms.participation import Participants
from byzpy_tw.algorithms.state import State


@frozen(eq=False)
class Revealed:
    """The pieces of knowledge about honest rows, encoded for the wire.

    ``memory`` is the attack's memory after it.  ``honest`` is the number of these rows, where they
    are not those of the round's honest nodes.
    """

    pieces: Mapping[str, Tensor]
    memory: Mapping[str, Any]
    honest: int | None = None


class Algorithm(Protocol):
    """The arithmetic of a run's rounds, without I/O and without a clock.

    A round is `request` of the parameters for the `participants`, `receive` for each vector that
    comes, `reveal` of the honest rows to the attack, `aggregate`, and `advance` along the
    result.  All state is in the `State` that is passed, which only `advance` with ``reuse``
    changes.  No method writes to the vectors that it is given.
    """

    @property
    def wire(self) -> torch.dtype:
        """The type of vectors that travel."""

    def begin(self, parameters: Tensor) -> State:
        """Return the state before round 0; the ``(d,)`` `parameters` are not copied."""

    def resume(self, state: State) -> State:
        """Return a state that was read from a file, on the device that computes the steps."""

    def keeps_vector(self, node: int) -> bool:
        """Tell whether `receive` returns what `node` sends, so that it need not be called."""

    def participants(self, state: State) -> Participants:
        """Return the nodes that are asked in the round after `state`, and their fault budget.

        A function of the configuration and of ``state.round`` alone: it is known before round 0,
        and again when the round is verified.
        """

    def request(self, state: State) -> Tensor:
        """Return the parameters as they travel, ``(d,)``: their own memory where that fits."""

    def receive(self, state: State, node: int, sent: Tensor) -> Tensor:
        """Return the row that is aggregated for the vector that `node` sent.

        Both are ``(d,)`` float32.
        """

    def reveal(self, state: State, nodes: Sequence[int], rows: Tensor, f: int) -> Revealed:
        """Return what the attack is shown of the rows, ``(h, d)``, of the honest `nodes`.

        `f` is the budget that the rules are expected to have.
        """

    def past_vectors(self, state: State) -> Mapping[int, Tensor]:
        """Return the vectors that a replaying attack sends again, by Byzantine node."""

    def computable(self, n: int, f: int) -> str | None:
        """Return why the vectors of `n` nodes cannot be aggregated with budget `f`, or None."""

    def guarantee(self, n: int, f: int) -> str | None:
        """Return why the aggregate of `n` nodes gives no guarantee with budget `f`, or None."""

    def aggregate(self, state: State, nodes: tuple[int, ...], f: int, rows: Tensor) -> Aggregated:
        """Aggregate the ``(m, d)`` `rows`, one for each of the m `nodes` in order, with budget `f`.

        Raises the rules' errors.
        """

    def advance(
        self,
        state: State,
        nodes: Sequence[int],
        rows: Tensor,
        aggregated: Aggregated,
        attack: Mapping[str, Any],
        *,
        reuse: bool = False,
        lent: bool = False,
    ) -> State:
        """Return the state after a round, by the `rows` of `nodes`, in order, and their aggregate.

        `attack` is the attack's memory after the round.  With `reuse` the tensors of `state`
        become the new state's, and `state` is not to be used any more, but for its parameters
        where they are `lent` to a reader that is not done.  Raises `Diverged` where the
        parameters are no longer finite.
        """
