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
from operator import index
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.algorithms.aggregation import Aggregated
from byzpy_tw.algorithms.algorithm import Algorithm, Revealed
from byzpy_tw.algorithms.participation import Participants, check_participants
from byzpy_tw.algorithms.state import State, check_storable, map_leaves
from byzpy_tw.attacks.knowledge.codec import PIECES, wire_dtype_of
from byzpy_tw.attacks.knowledge.levels import shapes
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BadRuleOutput, Diverged
from byzpy_tw.plugin_code import plugin_call, write_guard
from byzpy_tw.text import clean, clean_value
from byzpy_tw.vectors import norm_fault, norm_of

_OWN = ("momenta", "history")  # of a state: what no rule, attack or optimizer has a part in
_MAPPINGS = ("optimizer", "aggregation", "attack", *_OWN)


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

    def _checking(self) -> plugin_call:
        """Look at an answer, which may be of any type and raise as it is looked at."""
        return plugin_call(self.who, BadRuleOutput)

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
                kind = "" if found.layout is torch.strided else f"{found.layout} "
                what = f"{kind}{tuple(found.shape)} of {found.dtype} on {found.device}"
            raise BadRuleOutput(f"{self.who}: {method} returned {what}, expected {wanted}")

    def begin(self, parameters: Tensor) -> State:
        with self._calling("begin"):
            state = self.made.begin(parameters)
        return self._checked_state(state, "begin", 0, parameters)

    def resume(self, state: State) -> State:
        with self._calling("resume"):
            resumed = self.made.resume(state)
        return self._checked_state(resumed, "resume", state.round, state.parameters)

    def _checked_state(
        self, found: Any, method: str, round: int, like: Tensor, rows: Tensor | None = None
    ) -> State:
        """Return the state `found`, with copies of what lies in the memory of `rows`."""
        self._check(isinstance(found, State), method, found, "a State")
        with self._checking():
            number = index(found.round)
            if number != round:
                raise BadRuleOutput(
                    f"{self.who}: {method} returned the state of round "
                    f"{clean_value(number, 40)}, expected {round}"
                )
            self._check_vector(found.parameters, f"{method} (its parameters)", like)
            for name in _MAPPINGS:
                kept = getattr(found, name)
                self._check(isinstance(kept, Mapping), f"{method} (its {name})", kept, "a dict")
            for name in _OWN:
                try:
                    check_storable(getattr(found, name))
                except TypeError as e:
                    raise BadRuleOutput(f"{self.who}: {method} returned, in its {name}, {e}") from e
            kept = _copy_from_rows(found.fields, rows)
            return State(**{**kept, "round": round, "parameters": _plain(kept["parameters"])})

    def _check_vector(self, found: Any, method: str, like: Tensor, *, moves: bool = False) -> None:
        """Raise an error unless `found` is a vector as `like`; on any device where it `moves`."""
        good = isinstance(found, Tensor) and found.layout is torch.strided and (
            (found.shape, found.dtype) == (like.shape, like.dtype)
            and (found.device.type != "meta" if moves else found.device == like.device)
        )  # fmt: skip
        where = "" if moves else f" on {like.device}"
        self._check(good, method, found, f"{tuple(like.shape)} of {like.dtype}{where}")

    def _check_finite(self, found: Tensor, method: str) -> None:
        """Raise an error where a number in `found`, which finite ones were made into, is not."""
        if (fault := norm_fault(norm_of(found))) is not None:
            raise BadRuleOutput(f"{self.who}: {method} returned a vector of finite ones: {fault}")

    def participants(self, state: State) -> Participants:
        with self._calling("participants", state):
            found = self.made.participants(state)
        return check_participants(found, state.round, self.config, self.who)

    def request(self, state: State) -> Tensor:
        with self._calling("request", state):
            found: Tensor = self.made.request(state)
        with self._checking():
            like = torch.empty(state.parameters.shape, dtype=self.wire)
            self._check_vector(found, "request", like)
            self._check_finite(found, "request")
            return _plain(found)

    def keeps_vector(self, node: int) -> bool:
        return False  # its `receive` decides

    def receive(self, state: State, node: int, sent: Tensor) -> Tensor:
        with self._calling("receive", sent, state.parameters):
            found: Tensor = self.made.receive(state, node, sent)
        with self._checking():
            self._check_vector(found, "receive", sent)
            self._check_finite(found, "receive")
            return _plain(found)

    def reveal(self, state: State, nodes: Sequence[int], rows: Tensor, f: int) -> Revealed:
        with self._calling("reveal", state, rows):
            found = self.made.reveal(state, nodes, rows, f)
        self._check(isinstance(found, Revealed), "reveal", found, "a Revealed")
        with self._checking():
            honest = None if found.honest is None else int(index(found.honest))
            if honest is not None and not 0 < honest <= self.config.num_honest:
                raise BadRuleOutput(
                    f"{self.who}: reveal returned pieces of {clean_value(honest, 20)} honest rows, "
                    f"expected 1 to {self.config.num_honest}"
                )
            h, d = rows.shape
            self._check_pieces(found.pieces, h if honest is None else honest, d)
            self._check(isinstance(found.memory, Mapping), "reveal (its memory)", found.memory,
                        "a dict")  # fmt: skip
            shown = {piece: _plain(tensor) for piece, tensor in found.pieces.items()}
            return Revealed(shown, _copy_from_rows(found.memory, rows), honest)

    def _check_pieces(self, found: Any, h: int, d: int) -> None:
        """Raise an error unless `found` are pieces of knowledge of `h` rows, as they travel."""
        self._check(isinstance(found, Mapping), "reveal (its pieces)", found, "a dict")
        if strange := [piece for piece in found if piece not in PIECES]:
            raise BadRuleOutput(
                f"{self.who}: reveal returned the piece {strange[0]!r:.80}, expected some of "
                f"{', '.join(PIECES)}"
            )
        for piece, shape in shapes(found, h, d).items():
            like = torch.empty(shape, dtype=wire_dtype_of(piece, self.wire), device="meta")
            self._check_vector(found[piece], f"reveal ({piece})", like, moves=True)

    def past_vectors(self, state: State) -> Mapping[int, Tensor]:
        with self._calling("past_vectors", state):
            found = self.made.past_vectors(state)
        self._check(isinstance(found, Mapping), "past_vectors", found, "a mapping")
        with self._checking():
            honest, n = self.config.num_honest, self.config.n
            like = torch.empty(state.parameters.shape, dtype=self.wire, device="meta")
            for node, vector in found.items():
                if type(node) is not int or not honest <= node < n:
                    raise BadRuleOutput(
                        f"{self.who}: past_vectors returned one of {node!r:.80}, expected those "
                        f"of Byzantine nodes, {honest} to {n - 1}"
                    )
                self._check_vector(vector, f"past_vectors (node {node})", like, moves=True)
        return dict(found)

    def computable(self, n: int, f: int) -> str | None:
        return self._condition("computable", n, f)

    def guarantee(self, n: int, f: int) -> str | None:
        return self._condition("guarantee", n, f)

    def _condition(self, method: str, n: int, f: int) -> str | None:
        with self._calling(method):
            why: str | None = getattr(self.made, method)(n, f)
        self._check(why is None or isinstance(why, str), method, why, "None or why not, as text")
        return None if why is None else clean(why) or "it does not say why"

    def aggregate(self, state: State, nodes: tuple[int, ...], f: int, rows: Tensor) -> Aggregated:
        with self._calling("aggregate", state, rows):
            found = self.made.aggregate(state, nodes, f, rows)
        self._check(isinstance(found, Aggregated), "aggregate", found, "an Aggregated")
        with self._checking():
            self._check_vector(found.vector, "aggregate (its vector)", rows[0], moves=True)
            self._check_finite(found.vector, "aggregate")
            self._check(isinstance(found.memory, Mapping), "aggregate (its memory)", found.memory,
                        "a dict")  # fmt: skip
            return Aggregated(
                _plain(found.vector), norm_of(found.vector),
                self._selected(found.selected, nodes), _copy_from_rows(found.memory, rows),
                self._byzantine_weight(found.byzantine_weight),
            )  # fmt: skip

    def _selected(self, found: Any, nodes: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the nodes that were selected, of `nodes`."""
        if found is None:
            return None
        try:
            selected = tuple(int(index(node)) for node in found)
        except TypeError:
            selected = (-1,)
        if not set(selected) <= set(nodes) or len(set(selected)) < len(selected):
            raise BadRuleOutput(
                f"{self.who}: aggregate selected {found!r:.100}, expected some of the nodes "
                f"{nodes!r:.100}, each once"
            )
        return selected

    def _byzantine_weight(self, found: Any) -> float | None:
        """Return the share of the weight that Byzantine nodes have."""
        if found is None:
            return None
        if type(found) not in (int, float) or not 0 <= found <= 1:
            raise BadRuleOutput(
                f"{self.who}: aggregate gave byzantine_weight {found!r:.100}, expected None or a "
                "share from 0 to 1"
            )
        return float(found)

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
        kept: Any = () if reuse else state
        if reuse and lent:
            kept = state.parameters
        diverged: Diverged | None = None
        with self._calling("advance", rows, kept):
            try:
                after = self.made.advance(
                    state, nodes, rows, aggregated, attack, reuse=reuse, lent=lent
                )
            except Diverged as e:  # not the plugin's failure
                diverged = e
        if diverged is not None:
            raise diverged
        after = self._checked_state(after, "advance", state.round + 1, state.parameters, rows)
        if not all(map(math.isfinite, map(float, torch.aminmax(after.parameters)))):
            raise Diverged("the parameters are no longer finite; try a smaller learning rate")
        return after


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


def _copy_from_rows(value: Any, rows: Tensor | None) -> Any:
    """Return `value` with a copy of each tensor in it that lies in the memory of `rows`."""
    memory = None if rows is None else rows.untyped_storage().data_ptr()

    def own(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.layout is not torch.strided:
            return leaf
        return leaf.clone() if leaf.untyped_storage().data_ptr() == memory else leaf

    return map_leaves(value, own)


def _plain(vector: Tensor) -> Tensor:
    """Return `vector` without a gradient, its numbers in memory as they are written."""
    return vector.detach().resolve_neg().contiguous()
