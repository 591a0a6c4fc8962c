"""Plugins for tests, made from plain objects."""

from __future__ import annotations

import torch
from attrs import field, frozen
from attrs.validators import ge
from hypothesis import strategies as st

VALUE = st.one_of(
    st.from_regex(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,63}", fullmatch=True),
    st.integers().map(str).filter(lambda text: len(text) < 64),
    st.floats(allow_nan=False, allow_infinity=False).map(str),
)


@frozen(kw_only=True)
class Rule:
    """An aggregator with parameters, for plugins in tests."""

    f: int = field(default=0, validator=ge(0))
    width: float = 1.0

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors[0]
