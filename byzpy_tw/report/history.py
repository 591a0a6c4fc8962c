"""Each node's state by round, and the curves, in memory of bounded size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from attrs import define, field

from byzpy_tw.records.metrics import DEFAULT, metrics_in
from byzpy_tw.records.schema import (
    EXCLUDED,
    NOT_ASKED,
    PLOTTED,
    REFUSED,
    REPLACED,
    SELECTED,
    STATES,
    refusal_state,
)
from byzpy_tw.records.summary import RoundCounts
from byzpy_tw.report.downsample import COLUMNS, Series
from byzpy_tw.tasks.metric import Metric

SHOWN = 256  # nodes that have a strip of their own

LETTERS = "sxrtlpen"  # in a strip: of STATES


@define(eq=False)
class RoundHistory:
    """Fed with each record of a run in order, by `add`; records are not checked here."""

    num_honest: int
    num_byz: int
    planned: int
    counts: RoundCounts = field(init=False)
    width: int = field(default=1, init=False)  # rounds in a column
    series: dict[str, Series] = field(init=False)  # by the name of the entry
    phases: dict[str, Series] = field(factory=dict, init=False)
    metrics: Sequence[Metric] = field(default=DEFAULT, init=False)
    chance: Mapping[str, float] = field(factory=dict, init=False)  # by metric, where it is known
    _measured: dict[str, Series] = field(factory=dict, init=False)  # by the metric's name
    _totals: np.ndarray = field(init=False)  # (n, states): rounds that asked a node
    # The nodes that have a strip: of too many the first of each kind, or the first that are asked.
    shown: np.ndarray = field(init=False)
    _strips: np.ndarray = field(init=False)  # (shown, columns, states): rounds

    def __attrs_post_init__(self) -> None:
        self.counts = RoundCounts(self.num_honest, self.num_byz)
        self.series = {name: Series() for name in PLOTTED}
        self._totals = np.zeros((self.counts.n, len(STATES)), np.int64)
        byzantine = min(self.num_byz, max(SHOWN // 2, SHOWN - self.num_honest))
        honest = min(self.num_honest, SHOWN - byzantine)
        self.shown = np.r_[0:honest, self.num_honest : self.num_honest + byzantine]
        self._strips = np.zeros((len(self.shown), COLUMNS, len(STATES)), np.uint32)

    def metric_series(self, metric: Metric) -> Series:
        """Return the values of one of `metrics`."""
        return self._measured.setdefault(metric.name, Series())

    @property
    def totals(self) -> np.ndarray:
        """The number of rounds by node and state, ``(n, states)``."""
        found = self._totals.copy()
        found[:, NOT_ASKED] = self.done - found.sum(axis=1)
        return found

    @property
    def done(self) -> int:
        """The number of rounds."""
        return self.counts.rounds

    @property
    def columns(self) -> int:
        """The number of columns with a round."""
        return -(-self.done // self.width)

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one more round."""
        if self.done // self.width >= COLUMNS:  # no column is left
            self.width *= 2
            kept = (self.series, self.phases, self._measured)
            for series in chain.from_iterable(found.values() for found in kept):
                series.merge()
            strips = self._strips[:, 0::2] + self._strips[:, 1::2]
            self._strips = np.concatenate([strips, np.zeros_like(strips)], axis=1)
        column = self.done // self.width
        self.counts.add(record)
        for name, series in self.series.items():
            series.add(column, record.get(name))
        values = metrics_in(record)
        for metric in self.metrics:
            self.metric_series(metric).add(column, values.get(metric.name))
        for phase in self.counts.phase_seconds:  # not more than are counted
            self.phases.setdefault(phase, Series()).add(column, record["phases"].get(phase))
        states = np.zeros(self.counts.n, np.uint8)
        states[record["excluded"]] = EXCLUDED
        for refused in record["refused"]:
            states[refused["node"]] = refusal_state(refused["reason"])
        states[[pair["node"] for pair in record.get("replaced", ())]] = REPLACED
        asked = np.arange(self.counts.n)
        if (participants := record.get("participants")) is not None:
            asked = np.asarray(participants)
            others = np.ones(self.counts.n, bool)
            others[asked] = False
            states[others] = NOT_ASKED
            if self.counts.n > SHOWN:
                self._show(asked)
        self._totals[asked, states[asked]] += 1
        self._strips[np.arange(len(self.shown)), column, states[self.shown]] += 1

    def _show(self, asked: np.ndarray) -> None:
        """Give the nodes of `asked` the strips of nodes of their kind that never were."""
        never = ~self._totals[self.shown].any(axis=1)
        places = np.flatnonzero(never & ~np.isin(self.shown, asked))
        new = np.setdiff1d(asked, self.shown)
        for honest in (True, False):
            free = places[(self.shown[places] < self.num_honest) == honest]
            wanted = new[(new < self.num_honest) == honest][: len(free)]
            self.shown[free[: len(wanted)]] = wanted

    def strips(self) -> list[tuple[int, str, str, str]]:
        """Return each node shown, and by column a letter for a state and two digits.

        Of too many nodes, those that were asked.

        The letter is the node's most frequent refusal, or else exclusion or selection; that of
        a node that took part in no round of the column says so.  The first digit (0 to 9) is
        the share of the column's rounds with that state, the second one the share of
        exclusions besides; rounds in which the node did not take part are left out of both.
        """
        counts = self._strips[:, : self.columns, :NOT_ASKED].astype(np.int64)
        total = counts.sum(axis=2)
        excluded = counts[:, :, EXCLUDED]
        refused = total - counts[:, :, SELECTED] - excluded
        states = np.where(excluded > 0, EXCLUDED, SELECTED)
        # A refusal is rare, and must not hide behind exclusions.
        states = np.where(refused > 0, counts[:, :, REFUSED:].argmax(axis=2) + REFUSED, states)
        states = np.where(total > 0, states, NOT_ASKED)
        letters = np.frombuffer(LETTERS.encode(), np.uint8)[states]
        first = _share_digits(np.where(refused > 0, refused, excluded), total)
        second = _share_digits(np.where(refused > 0, excluded, 0), total)
        return [
            (int(self.shown[i]), _text(letters[i]), _text(first[i]), _text(second[i]))
            for i in np.argsort(self.shown)
            if self.counts.n <= SHOWN or not self.done or total[i].any()
        ]


def _share_digits(counts: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return each share as a digit from 0 to 9, rounded up so that a single round is seen."""
    return (-(-9 * counts // np.maximum(total, 1)) + ord("0")).astype(np.uint8)


def _text(codes: np.ndarray) -> str:
    return codes.tobytes().decode()
