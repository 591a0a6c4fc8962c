"""What happened in a run's rounds, as a page shows it, in memory that has a bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from attrs import define, field

from byzpy_tw.records.attack_calls import AttackCalls
from byzpy_tw.report.downsample import COLUMNS, Series
from byzpy_tw.rounds.round import Reason

SHOWN = 256  # nodes that have a strip of their own
_PHASES = 8  # more than a trainer writes; a file may hold anything

# What a node's round came to, and the letter that stands for it in a strip.
STATES = ("selected", "excluded", "refused", "late", "lost", "probation")
_LETTERS = np.frombuffer(b"sxrtlp", np.uint8)
_NOTHING = ord("-")
SELECTED, EXCLUDED, REFUSED, LATE, LOST, PROBATION = range(len(STATES))
_STATE_OF = {Reason.LATE: LATE, Reason.LOST: LOST, Reason.PROBATION: PROBATION}


def refusal_state(reason: str) -> int:
    """The state of a node that was refused for `reason`."""
    try:
        return _STATE_OF.get(Reason(reason), REFUSED)
    except ValueError:  # of another version
        return REFUSED


@define(eq=False)
class RoundHistory:
    """Fed with each line of rounds.jsonl, in order, by `add`.

    Raises `KeyError`, `TypeError`, `ValueError` or `IndexError` for what is no record.
    """

    honest: int
    byzantine: int
    planned: int
    done: int = field(default=0, init=False)
    width: int = field(default=1, init=False)  # rounds in a column
    loss: Series = field(factory=Series, init=False)
    test_loss: Series = field(factory=Series, init=False)
    accuracy: Series = field(factory=Series, init=False)
    seconds: Series = field(factory=Series, init=False)
    phases: dict[str, Series] = field(factory=dict, init=False)
    evaluated: int = field(default=0, init=False)  # rounds until the last evaluation
    last: Mapping[str, Any] = field(factory=dict, init=False)  # figures of the newest round
    phase_seconds: dict[str, float] = field(
        factory=dict, init=False
    )  # seconds by phase, of all rounds
    bytes: list[int] = field(factory=lambda: [0, 0], init=False)  # sent, received
    totals: np.ndarray = field(init=False)  # (n, states): rounds
    reasons: dict[int, Counter[str]] = field(factory=dict, init=False)  # of refusals
    choosing: int = field(default=0, init=False)  # rounds whose rule chose between nodes
    chosen: int = field(default=0, init=False)  # nodes that it chose, over all of these
    charged: int = field(default=0, init=False)  # nodes refused, over all rounds
    attack: AttackCalls = field(init=False)  # how those of the run's attack went
    now: np.ndarray = field(init=False)  # (n,): each node's state in the newest round
    shown: np.ndarray = field(init=False)  # the nodes that have a strip
    _strips: np.ndarray = field(init=False)  # (shown, columns, states): rounds

    def __attrs_post_init__(self) -> None:
        n = self.honest + self.byzantine
        self.attack = AttackCalls(self.honest, self.byzantine)
        self.totals = np.zeros((n, len(STATES)), np.int64)
        self.now = np.zeros(n, np.uint8)
        # Of too many, the first of each kind.
        byzantine = min(self.byzantine, max(SHOWN // 2, SHOWN - self.honest))
        honest = min(self.honest, SHOWN - byzantine)
        self.shown = np.r_[0:honest, self.honest : self.honest + byzantine]
        columns = min(COLUMNS, max(1, self.planned))
        self._strips = np.zeros((len(self.shown), columns, len(STATES)), np.uint32)

    @property
    def n(self) -> int:
        return self.honest + self.byzantine

    @property
    def columns(self) -> int:
        """How many there is anything in."""
        return -(-self.done // self.width)

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one more round."""
        states = self._states(record)
        self._room()
        column = self.done // self.width
        for series, name in (
            (self.loss, "loss"),
            (self.test_loss, "test_loss"),
            (self.accuracy, "accuracy"),
            (self.seconds, "seconds"),
        ):
            series.add(column, _number(record.get(name)))
        for name, value in record["phases"].items():
            if name not in self.phases and len(self.phases) < _PHASES:
                self.phases[name] = Series()
            if name in self.phases:
                seconds = _number(value)
                self.phases[name].add(column, seconds)
                self.phase_seconds[name] = self.phase_seconds.get(name, 0.0) + (seconds or 0.0)
        for i, name in enumerate(("bytes_sent", "bytes_received")):
            self.bytes[i] += int(record.get(name, 0))
        self.totals[np.arange(self.n), states] += 1
        self._strips[np.arange(len(self.shown)), column, states[self.shown]] += 1
        self.now = states
        self.attack.add(record)
        figures = ("round", "loss", "seconds", "f", "test_loss", "accuracy")
        # What was not evaluated in this round stands as it was.
        self.last = {**self.last, **{k: record[k] for k in figures if k in record}}
        self.done += 1
        if record.get("accuracy") is not None:
            self.evaluated = self.done

    def _states(self, record: Mapping[str, Any]) -> np.ndarray:
        """Each node's state in this round; also counts why nodes were refused."""
        states = np.zeros(self.n, np.uint8)
        excluded, refused = record["excluded"], record["refused"]
        if excluded:
            states[self._checked(excluded)] = EXCLUDED
        for each in refused:
            self._checked([each["node"]])
            states[each["node"]] = refusal_state(each["reason"])
        for each in refused:  # only now: a bad record changes nothing
            self.reasons.setdefault(each["node"], Counter())[str(each["reason"])[:40]] += 1
        self.charged += len(refused)
        if record["selected"] is not None:
            self.choosing += 1
            self.chosen += len(record["selected"])
        return states

    def _checked(self, nodes: list[int]) -> list[int]:
        for node in nodes:
            if type(node) is not int or not 0 <= node < self.n:
                raise ValueError(f"node {str(node)[:40]} of n = {self.n}")
        return nodes

    def _room(self) -> None:
        """Make the columns wider where the next round has none."""
        if self.done // self.width >= COLUMNS:
            self.width *= 2
            every = (self.loss, self.test_loss, self.accuracy, self.seconds)
            for series in (*every, *self.phases.values()):
                series.merge()
            strips = self._strips[:, 0::2] + self._strips[:, 1::2]
            self._strips = np.concatenate([strips, np.zeros_like(strips)], axis=1)
        elif self.done // self.width >= self._strips.shape[1]:  # more rounds than were planned
            room = np.zeros((len(self.shown), COLUMNS, len(STATES)), np.uint32)
            room[:, : self._strips.shape[1]] = self._strips
            self._strips = room

    def strips(self) -> list[tuple[int, str, str, str]]:
        """For each node shown: itself, and by column a letter of `STATES` and two digits.

        The letter is what it was refused for most often, or else whether it was excluded;
        the first digit (0 to 9) is the share of the column's rounds in which it was that,
        the second one the share in which it was excluded besides.
        """
        counts = self._strips[:, : self.columns].astype(np.int64)
        total = counts.sum(axis=2)
        excluded = counts[:, :, EXCLUDED]
        refused = total - counts[:, :, SELECTED] - excluded
        states = np.where(excluded > 0, EXCLUDED, SELECTED)
        # A refusal is rare, and must not hide behind exclusions.
        states = np.where(refused > 0, counts[:, :, REFUSED:].argmax(axis=2) + REFUSED, states)
        letters = np.where(total > 0, _LETTERS[states], _NOTHING).astype(np.uint8)
        first = _shares(np.where(refused > 0, refused, excluded), total)
        second = _shares(np.where(refused > 0, excluded, 0), total)
        return [
            (int(node), _text(letters[i]), _text(first[i]), _text(second[i]))
            for i, node in enumerate(self.shown)
        ]


def _shares(counts: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Digits from 0 to 9; rounded up, for one round must show."""
    return (-(-9 * counts // np.maximum(total, 1)) + ord("0")).astype(np.uint8)


def _text(codes: np.ndarray) -> str:
    return codes.tobytes().decode()


def _number(value: Any) -> float | None:
    """`value` as a float; None for null, and for a loss that was not finite."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{str(value)[:40]!r} is no number")
    return float(value)
