"""A plugin's algorithm behind the interface of the built-in ones, with its answers checked.

It works on the run's own memory: the state and the vectors of a round are too large to be
copied for each call.  A write to what is not its to change raises (`write_guard`), and the
trial before round 0 finds writes that torch does not count.  What it keeps in a state is
copied where it lies in the vectors of the round, whose memory the next round uses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor

from byzpy_tw.algorithms.aggregation import Aggregated
from byzpy_tw.algorithms.algorithm import Algorithm, Revealed
from byzpy_tw.algorithms.participation import Participants, check_participants
from byzpy_tw.algorithms.state import State, map_leaves
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BadRuleOutput, Diverged
from byzpy_tw.plugin_code import plugin_call, write_guard
from byzpy_tw.vectors import norm_fault, norm_of


@frozen(eq=False)
class GuardedAlgorithm:
    """The algorithm `made` of the distribution that `who` names; see `Algorithm` for methods.

    Each raises `BadRuleOutput` for an exception, an answer that is none, and a forbidden write.
    """

    made: Algorithm
    config: RunConfig
    who: str

    @property
    def wire(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.config.wire_dtype)
        return dtype

    @contextmanager
    def _calling(self, method: str, *given: Any) -> Iterator[None]:
        """Call `method` of the plugin, which must write to no tensor in `given`."""
        with plugin_call(self.who, BadRuleOutput):
            with write_guard(f"{self.who}: {method}", *_tensors(given)):
                yield

    def _check(self, good: bool, method: str, found: Any, wanted: str) -> None:
        if not good:
            what = type(found).__name__
            if isinstance(found, Tensor):
                what = f"{tuple(found.shape)} of {found.dtype} on {found.device}"
            raise BadRuleOutput(f"{self.who}: {method} returned {what}, expected {wanted}")

    def begin(self, parameters: Tensor) -> State:
        with self._calling("begin"):
            state = self.made.begin(parameters)
        self._check_state(state, "begin", 0, parameters)
        return state

    def resume(self, state: State) -> State:
        with self._calling("resume"):
            resumed = self.made.resume(state)
        self._check_state(resumed, "resume", state.round, None)
        return resumed

    def _check_state(self, found: Any, method: str, round: int, like: Tensor | None) -> None:
        self._check(isinstance(found, State), method, found, "a State")
        if found.round != round:
            raise BadRuleOutput(
                f"{self.who}: {method} returned the state of round {found.round}, expected {round}"
            )
        if like is not None:
            self._check_vector(found.parameters, f"{method} (its parameters)", like)

    def _check_vector(self, found: Any, method: str, like: Tensor) -> None:
        good = isinstance(found, Tensor) and found.layout is torch.strided and (
            (found.shape, found.dtype, found.device) == (like.shape, like.dtype, like.device)
        )  # fmt: skip
        wanted = f"{tuple(like.shape)} of {like.dtype} on {like.device}"
        self._check(good, method, found, wanted)

    def participants(self, state: State) -> Participants:
        with self._calling("participants", state):
            found = self.made.participants(state)
        return check_participants(found, state.round, self.config, self.who)

    def request(self, state: State) -> Tensor:
        with self._calling("request", state):
            found = self.made.request(state)
        like = torch.empty(state.parameters.shape, dtype=self.wire, device="meta")
        good = isinstance(found, Tensor) and found.device.type == "cpu"
        self._check_vector(found.to("meta") if good else found, "request", like)
        return found

    def keeps_vector(self, node: int) -> bool:
        return False  # its `receive` decides

    def receive(self, state: State, node: int, sent: Tensor) -> Tensor:
        with self._calling("receive", sent, state.parameters):
            found = self.made.receive(state, node, sent)
        self._check_vector(found, "receive", sent)
        return found

    def reveal(self, state: State, nodes: Sequence[int], rows: Tensor, f: int) -> Revealed:
        with self._calling("reveal", state, rows):
            found = self.made.reveal(state, nodes, rows, f)
        self._check(isinstance(found, Revealed), "reveal", found, "a Revealed")
        return evolve(found, memory=_copy_from_rows(found.memory, rows))

    def past_vectors(self, state: State) -> Mapping[int, Tensor]:
        with self._calling("past_vectors", state):
            found = self.made.past_vectors(state)
        self._check(isinstance(found, Mapping), "past_vectors", found, "a mapping")
        return found

    def computable(self, n: int, f: int) -> str | None:
        return self._condition("computable", n, f)

    def guarantee(self, n: int, f: int) -> str | None:
        return self._condition("guarantee", n, f)

    def _condition(self, method: str, n: int, f: int) -> str | None:
        with self._calling(method):
            why: str | None = getattr(self.made, method)(n, f)
        self._check(why is None or isinstance(why, str), method, why, "None or why not, as text")
        return why

    def aggregate(self, state: State, nodes: tuple[int, ...], f: int, matrix: Tensor) -> Aggregated:
        with self._calling("aggregate", state, matrix):
            found = self.made.aggregate(state, nodes, f, matrix)
        self._check(isinstance(found, Aggregated), "aggregate", found, "an Aggregated")
        self._check_vector(found.vector.cpu(), "aggregate (its vector)", matrix[0])
        norm = norm_of(found.vector)
        if (fault := norm_fault(norm)) is not None:
            raise BadRuleOutput(f"{self.who}: aggregate returned a vector of finite rows: {fault}")
        if found.selected is not None and not set(found.selected) <= set(nodes):
            raise BadRuleOutput(
                f"{self.who}: aggregate selected {found.selected}, not all of them among {nodes}"
            )
        return evolve(found, norm=norm, memory=_copy_from_rows(found.memory, matrix))

    def advance(
        self,
        state: State,
        nodes: Sequence[int],
        matrix: Tensor,
        aggregated: Aggregated,
        attack: Mapping[str, Any],
        *,
        reuse: bool = False,
        lent: bool = False,
    ) -> State:
        kept: Any = () if reuse else state
        if reuse and lent:
            kept = state.parameters
        diverged: Diverged | None = None
        with self._calling("advance", matrix, kept):
            try:
                after = self.made.advance(
                    state, nodes, matrix, aggregated, attack, reuse=reuse, lent=lent
                )
            except Diverged as e:  # not the plugin's failure
                diverged = e
        if diverged is not None:
            raise diverged
        self._check_state(after, "advance", state.round + 1, state.parameters)
        if not all(map(math.isfinite, map(float, torch.aminmax(after.parameters)))):
            raise Diverged("the parameters are no longer finite; try a smaller --lr")
        return State(**_copy_from_rows(after.fields, matrix))


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in `value`, also those of states."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, State):
        yield from _tensors(value.fields)
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _copy_from_rows(value: Any, matrix: Tensor) -> Any:
    """Return `value` with a copy of each tensor in it that lies in the memory of `matrix`."""
    rows = matrix.untyped_storage().data_ptr()

    def own(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.layout is not torch.strided:
            return leaf
        return leaf.clone() if leaf.untyped_storage().data_ptr() == rows else leaf

    return map_leaves(value, own)
