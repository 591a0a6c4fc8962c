"""A run's samples and weights in sentences, and each node's share of the weight.

They are taken from config.json, which may be damaged: an entry that is none is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen

from byzpy_tw.algorithms.sampling import format_probability
from byzpy_tw.records.schema import is_number
from byzpy_tw.records.summary import RoundCounts
from byzpy_tw.text import clean_value

_COUNTS = ("participants", "over_sample", "f")


@frozen
class Setting:
    """The entries ``sampling`` and ``weights`` of config.json, where it has them."""

    sampling: Mapping[str, Any] = field(factory=dict)
    shares: Sequence[float] = ()  # of each node in the weight of all, where they are on record
    weights: Mapping[str, Any] = field(factory=dict)

    @classmethod
    def of(cls, description: Mapping[str, Any], n: int) -> Setting:
        """Return what `description`, the content of a run's config.json, says of `n` nodes."""
        sampling, weights = description.get("sampling"), description.get("weights")
        if not isinstance(sampling, dict) or not all(
            type(sampling.get(name)) is int and sampling[name] >= 0 for name in _COUNTS
        ):
            sampling = {}
        if not isinstance(weights, dict) or not all(
            _is_share(weights.get(name)) for name in ("largest", "smallest")
        ):
            return cls(sampling)
        shares: Any = weights.get("shares")
        known = isinstance(shares, list) and len(shares) == n and all(map(_is_share, shares))
        return cls(sampling, shares if known else (), weights)

    def sentences(self, options: Mapping[str, Any], counts: RoundCounts) -> list[str]:
        """Return the samples, their budget, how often it was exceeded, and the weights."""
        return [*self._samples(options, counts), *self._weights(options, counts)]

    def _samples(self, options: Mapping[str, Any], counts: RoundCounts) -> list[str]:
        if not self.sampling:
            return []
        size, spare, f = (self.sampling[name] for name in _COUNTS)
        more = f", and up to {spare} more in the place of absent ones" if spare else ""
        said = [f"{size} of {counts.n} nodes are asked in a round{more}."]
        excess, confidence = self.sampling.get("excess"), self.sampling.get("confidence")
        if not _is_share(excess) or not _is_share(confidence):
            return [*said, f"The last vectors of all nodes are aggregated, with f = {f}."]
        faulty = f"{clean_value(options.get('f'), 20)} faulty node{'s' * (options.get('f') != 1)}"
        if not excess:
            return [*said, f"The rules have f = {f}: no round can draw more faulty nodes."]
        told = (
            f"The rules have f = {f}: of the {faulty} that there may be, some round "
            f"draws more with probability {format_probability(excess)}"
        )
        if self.sampling.get("sufficient") is False:
            told += f", which is no guarantee at --confidence {confidence:g}"
        said.append(f"{told}.")
        if counts.num_byz and counts.rounds and counts.exceeded is not None:
            met = f"{counts.exceeded} of {counts.rounds} rounds" if counts.exceeded else "no round"
            said.append(f"In this run {met} had more Byzantine vectors than that.")
        return said

    def _weights(self, options: Mapping[str, Any], counts: RoundCounts) -> list[str]:
        if not self.weights:
            return []
        low, high = (_percent(self.weights[name]) for name in ("smallest", "largest"))
        source = clean_value(options.get("weights"), 200)
        said = f"Nodes have from {low} to {high} of the weight (--weights {source})"
        if self.shares:
            f = options.get("f")
            heaviest = sorted(self.shares, reverse=True)[: f if type(f) is int and f > 0 else 1]
            many = f"{len(heaviest)} heaviest have" if len(heaviest) > 1 else "heaviest has"
            said += f"; the {many} {_percent(math.fsum(heaviest))}"
            if counts.num_byz:
                byzantine = _percent(math.fsum(self.shares[counts.num_honest :]))
                said += f", the Byzantine nodes {byzantine}"
        return [f"{said}."]


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
