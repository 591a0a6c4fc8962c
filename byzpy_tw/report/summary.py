"""The conclusion of a report: a run in a few sentences."""

from __future__ import annotations

import numpy as np

from byzpy_tw.records.schema import EXCLUDED, NOT_ASKED, SELECTED
from byzpy_tw.records.summary import Missed
from byzpy_tw.report.history import RoundHistory
from byzpy_tw.text import clean_value

_LONGEST = 300  # characters of a cause
_NAMED = 3  # nodes; the others are counted
NO_CHOICE = (
    "{} treats each coordinate by itself, or tells no weights: which nodes counted is not recorded."
)


def conclusion(history: RoundHistory, rule: str, status: str, error: str | None) -> list[str]:
    """Return sentences, the most telling one first; the last ones say how the run ended."""
    # A rule that met fewer attackers than it seems is not praised.
    choices = _failed_attack(history, rule) or [*_choices(history, rule), *_weight(history)]
    whole = _rounds(history.done)
    of = "" if any(whole in choice for choice in choices) else f" of {whole}"
    said = [*choices, *_refusals(history, of)]
    found = [(metric, history.counts.metrics.get(metric.name)) for metric in history.metrics]
    measured = ", ".join(f"{m.words} {m.text(value)}" for m, value in found if value is not None)
    if measured:
        after = _rounds(history.counts.evaluated)
        said.append(f"{measured[0].upper()}{measured[1:]} after {after}{_near_chance(history)}.")
    if not history.done:
        said = ["No round was completed."]
    ended = {
        "paused": "paused", "interrupted": "was interrupted", "failed": "failed",
        "diverged": "diverged", "unfinished": "has not come to an end",
    }.get(status)  # fmt: skip
    if ended:
        after = f" after {history.done} of {_rounds(history.planned)}" if history.done else ""
        said.append(f"The run {ended}{after}{': ' + error if error else ''}.")
    return said


def _near_chance(history: RoundHistory) -> str:
    """Return that the last value of a metric is near chance; empty for none."""
    for metric in history.metrics:
        value, chance = history.counts.metrics.get(metric.name), history.chance.get(metric.name)
        if value is not None and chance is not None and metric.is_near_chance(value, chance):
            return f": {metric.words} is near chance ({metric.text(chance)})"
    return ""


def _failed_attack(history: RoundHistory, rule: str) -> list[str]:
    """Return the number of failed attack calls; nothing for none."""
    failures = history.counts.attack_failures
    if failures is None:
        return []
    what = "Nothing" if failures.all_failed else "Little"
    return [
        f"The attack failed {failures.calls}: {clean_value(failures.first, _LONGEST).rstrip('.')}.",
        f"{what} can be concluded about {rule}.",
    ]


def _choices(history: RoundHistory, rule: str) -> list[str]:
    """Return the nodes that the rule left out."""
    h, done, counts = history.num_honest, history.done, history.counts
    if not done:
        return []
    if not counts.chooses:
        return [NO_CHOICE.format(rule)]
    totals = history.totals
    out, taken = totals[:, EXCLUDED], totals[:, SELECTED]
    asked = done - totals[:, NOT_ASKED]
    # For a rule that takes few nodes, these are named.
    takes_few = counts.selected / counts.selecting < asked.sum() / done / 2
    if counts.sampled:
        chosen, verb = (taken, "took") if takes_few else (out, "excluded")
        return [f"{rule} {verb} {_of_vectors(chosen, out + taken, h)}."]
    if takes_few:
        parts = _byzantine(taken[h:], (out + taken)[h:], h, done)
        mean = taken[:h].sum() / done
        parts.append(f"{mean:.3g} honest node{'s' * bool(mean != 1)} a round")
        return [f"{rule} took {', '.join(parts)}."]
    parts = _byzantine(out[h:], (out + taken)[h:], h, done)
    wronged = [int(node) for node in np.argsort(-out[:h], kind="stable") if out[node]]
    of = "" if parts else f" of {_rounds(done)}"
    if not wronged:
        parts.append("no honest node")
    elif len(wronged) <= _NAMED:
        first, *rest = [f"honest node {node} in {out[node]}" for node in sorted(wronged)]
        parts += [first + of, *rest]
    else:
        low, high = out[:h].min(), out[:h].max()
        parts.append(f"honest nodes in {low} to {high}{of} (node {wronged[0]} most)")
    return [f"{rule} excluded {', '.join(parts)}."]


def _weight(history: RoundHistory) -> list[str]:
    """Return the share of the weight that Byzantine nodes had; nothing where it is not known.

    A rule that takes one of several equal vectors rejects most Byzantine nodes, and follows them.
    """
    counts = history.counts
    if counts.byzantine_weight is None:
        return []
    return [
        f"Byzantine nodes, {counts.num_byz} of {counts.n}, had {counts.byzantine_weight:.1%} of "
        "the weight in the aggregates."
    ]


def _byzantine(counts: np.ndarray, came: np.ndarray, first: int, done: int) -> list[str]:
    """Return in how many rounds each Byzantine node was selected, or excluded.

    `counts` has that number by node, `came` the rounds in which the rule was given its vector;
    `first` is the first node's number.
    """
    if not came.any():
        return []  # there are none, or they were refused in every round
    if len(counts) == 1:
        count, of = int(counts[0]), int(came[0])
        if of == done:
            return [f"the Byzantine node in {count} of {_rounds(done)}"]
        return [f"the Byzantine node in {count} of the {_rounds(of)} that it took part in"]
    low, high = int(counts.min()), int(counts.max())
    if low == high:
        return [f"each of the {len(counts)} Byzantine nodes in {low} of {_rounds(done)}"]
    if len(counts) <= _NAMED:
        each = " and ".join(f"{c} (node {first + i})" for i, c in enumerate(counts.tolist()))
        return [f"the Byzantine nodes in {each} of {_rounds(done)}"]
    return [f"the {len(counts)} Byzantine nodes in {low} to {high} of {_rounds(done)}"]


def _of_vectors(counts: np.ndarray, came: np.ndarray, first: int) -> str:
    """Return how many vectors `counts` has of those that `came`, by kind of node."""
    kinds = {"Byzantine": slice(first, None), "honest": slice(first)}
    found = [(kind, counts[k].sum(), came[k].sum()) for kind, k in kinds.items()]
    return " and ".join(f"{count} of {of} {kind} vectors" for kind, count, of in found if of)


def _rounds(count: int) -> str:
    return f"{count} round{'s' * (count != 1)}"


def _refusals(history: RoundHistory, of: str) -> list[str]:
    """Return nodes refused or absent, and why; `of` is " of N rounds" unless said before."""
    found = sorted(history.counts.refused.items(), key=lambda item: (-item[1].total(), item[0]))
    told = []
    for node, why in found[:_NAMED]:
        kind = "honest" if node < history.num_honest else "Byzantine"
        if history.counts.sampled:
            of = f" of the {_rounds(history.counts.rounds_asked(node))} that it took part in"
        told.append(f"{kind} node {node} was {Missed.of(dict(why.most_common())).text(of)}")
        of = ""
    if len(found) > _NAMED:
        told.append(f"{len(found) - _NAMED} more nodes were refused or absent in fewer")
    text = "; ".join(told)
    return [f"{text[0].upper()}{text[1:]}."] if told else []
