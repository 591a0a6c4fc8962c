"""The section of a sweep's page about what was selected, in HTML."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from byzpy_tw.records.metrics import KINDS
from byzpy_tw.sweep.selected import Selected
from byzpy_tw.sweep.selection import Choice, Score, values_text
from byzpy_tw.tasks.metric import Metric

_MOST_ROWS = 200


def selected_section(selected: Selected) -> str:
    """Return the rule, the choices and what they reached; empty where a study asks for none."""
    if not (lines := selected.lines):
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines[1:])
    told = f'<p class="note">{escape(lines[0])}</p>'
    if items:
        told += f'<ul class="found">{items}</ul>{_table(selected)}'
    return f'<section id="selected"><h2>Selected by validation</h2>{told}</section>'


def _table(selected: Selected) -> str:
    """Return what the chosen ones reached on the test data, which took no part in the choice."""
    chosen = [choice for choice in selected.choices if choice.chosen is not None]
    if not chosen:
        return ""
    metrics = list(selected.test_scores(chosen[0]))
    heads = [f"{metric.words}, {kind}" for metric in metrics for kind in KINDS]
    columns = "".join(f'<th class="n" scope="col">{escape(head)}</th>' for head in heads)
    rows = "".join(
        f"<tr>{''.join(_row(selected, choice, metrics))}</tr>" for choice in chosen[:_MOST_ROWS]
    )
    more = len(chosen) - _MOST_ROWS
    note = "On the test data, which took no part in the choice"
    note += f"; {more} more are in lab.json." if more > 0 else "."
    return (
        f'<p class="note">{note}</p><div class="shadowed"><div class="scroll" id="selected-table" '
        f'role="group" aria-label="{note}"><table><thead><tr><th scope="col">for</th>'
        f'<th scope="col">selected</th>{columns}</tr></thead><tbody>{rows}</tbody></table>'
        "</div></div>"
    )


def _row(selected: Selected, choice: Choice, metrics: list[Metric]) -> Iterator[str]:
    assert choice.chosen is not None
    yield f'<th scope="row">{escape(values_text(choice.point) or "all")}</th>'
    yield f"<td>{escape(values_text(choice.chosen.values))}</td>"
    scores = selected.test_scores(choice)
    for metric in metrics:
        for kind in KINDS:
            yield f'<td class="n">{escape(_value(metric, scores[metric][kind]))}</td>'


def _value(metric: Metric, score: Score) -> str:
    """Return a value, and where it is the worst one."""
    value = "diverged" if score.value is None else metric.text(score.value)
    return f"{value} ({values_text(score.where)})" if score.where else value
