"""The data of a sweep's page: plain values, so compact that 10,000 runs are a few megabytes.

Cells stand in columns: an array for each axis, each seed and so on, with an entry for each cell.
Texts that several cells share are there once, and cells have their numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
from attrs import define, field

from byzpy_tw.config.run_config import RunConfig, flag
from byzpy_tw.records.metrics import DEFAULT, KINDS
from byzpy_tw.report.downsample import round_digits
from byzpy_tw.sweep import text
from byzpy_tw.sweep.findings import recorded_chance
from byzpy_tw.sweep.grid import Cell, command_words
from byzpy_tw.sweep.paired import t_quantiles
from byzpy_tw.sweep.pivot import (
    PIPELINE,
    Dimension,
    default_view,
    dimensions,
    pipeline_dimension,
)
from byzpy_tw.sweep.plan import Plan
from byzpy_tw.sweep.results import CellResult, RunResult
from byzpy_tw.sweep.study import RULE_OPTIONS
from byzpy_tw.sweep.study_results import StudyResults
from byzpy_tw.tasks.metric import Metric

_DETAILED = 600  # cells; of more there are no sentences and no bars of nodes
_MOST_NODES = 64  # with a bar
_NUMBERS = 300_000  # of all curves
_POINTS = (12, 256)  # of a curve, at least and at most
_CELLS_SHOWN = 300  # of the first view: with more, other axes begin with one value


@define
class _Texts:
    """Texts by number."""

    texts: dict[str, int] = field(factory=dict)

    def number(self, text: str) -> int | None:
        """Return the number of `text`; None of an empty one."""
        return self.texts.setdefault(text, len(self.texts)) if text else None


def page_data(results: StudyResults) -> dict[str, Any]:
    """Return all that the page's scripts draw."""
    cells, outcomes, texts = results.cells, results.outcomes, _Texts()
    shown = page_dimensions(results.plan)
    seeds = sorted({run.config.seed for run in results.plan.runs})
    metrics = results.metrics or DEFAULT
    return {
        "dimensions": [_dimension(d, results) for d in shown],
        "view": _first_view(results.plan, shown),
        "seeds": seeds,
        "span": max(run.config.rounds for run in results.plan.runs),
        "metrics": [_metric(metric, outcomes) for metric in metrics],
        "cells": {
            "at": [_numbers(d, results) for d in shown],
            "status": [outcome.status for outcome in outcomes],
            "why": [texts.number(outcome.reason) for outcome in outcomes],
            "failed": [texts.number(outcome.attack_failures) for outcome in outcomes],
            "no_guarantee": [texts.number(o.cell.missing_guarantee or "") for o in outcomes],
            "success": [_three_digits(outcome.attack_success) for outcome in outcomes],
            "weight": [_three_digits(outcome.byzantine_weight) for outcome in outcomes],
            "out": [[_three_digits(outcome.left_out(honest=kind)) for outcome in outcomes]
                    for kind in (True, False)],
            "values": [_values(outcomes, metric, seeds) for metric in metrics],
            **_details(outcomes),
        },
        "runs": [_runs(outcomes, seed) for seed in seeds],
        "command": _commands([cell for _, cell in cells]),
        "curves": _curves(outcomes),
        "quantiles": [round(q, 5) for q in t_quantiles(len(seeds) - 1)],
        "texts": list(texts.texts),
    }  # fmt: skip


def page_dimensions(plan: Plan) -> list[Dimension]:
    """Return the axes of `plan`, and whole pipelines where both of their parts are axes."""
    found = list(dimensions(plan))
    whole = pipeline_dimension(plan)
    rules = [d for d in found if d.name in RULE_OPTIONS]
    return [whole, *found] if whole is not None and len(rules) == 2 else found


def _dimension(dimension: Dimension, results: StudyResults) -> dict[str, Any]:
    return {
        "name": dimension.name,
        "title": dimension.title,
        "options": dimension.options,
        "values": dimension.values,
        "whole": dimension.name == PIPELINE
        and dimension.name not in {d.name for d in dimensions(results.plan)},
    }


def _numbers(dimension: Dimension, results: StudyResults) -> list[int]:
    """Return the number of each cell's label."""
    numbers = {label: i for i, label in enumerate(dimension.values)}
    return [numbers[dimension.of(run)] for run, _ in results.cells]


def _first_view(plan: Plan, shown: Sequence[Dimension]) -> dict[str, Any]:
    """Return the names of rows and columns, and whether other axes are all shown."""
    view, names = default_view(plan), {d.name for d in shown}

    def known(name: str) -> str:
        return name if name in names else next(iter(d.name for d in shown if name in _aliases(d)))

    rows, columns = ([known(name) for name in part] for part in (view.rows, view.columns))
    return {
        "rows": rows[0] if rows else None,
        "columns": columns[0] if columns else None,
        "each": len(plan.cells) <= _CELLS_SHOWN,
    }


def _aliases(dimension: Dimension) -> set[str]:
    rules = set(RULE_OPTIONS) & set(dimension.options)
    return {*dimension.options, *({PIPELINE} if rules else ())}


def _metric(metric: Metric, outcomes: Sequence[CellResult]) -> dict[str, Any]:
    return {
        **attrs.asdict(metric),
        "words": metric.words,
        "share": metric.is_share,
        "chance": recorded_chance(outcomes, metric),
    }


def _three_digits(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _values(
    outcomes: Iterable[CellResult], metric: Metric, seeds: Sequence[int]
) -> dict[str, list[list[float | None]]]:
    """Return by kind, for each seed, the value of each cell."""
    found: dict[str, list[list[float | None]]] = {}
    for kind in KINDS:
        by_seed = [outcome.by_seed(metric, kind) for outcome in outcomes]
        found[kind] = [[_short(values.get(seed)) for values in by_seed] for seed in seeds]
    return found


def _short(value: float | None) -> float | None:
    """Return `value` with seven digits: as many as float32 has."""
    return None if value is None else float(f"{value:.7g}")


def _details(outcomes: Sequence[CellResult]) -> dict[str, Any]:
    """Return sentences about nodes, and how often each was left out; nothing for many cells."""
    if len(outcomes) > _DETAILED:
        return {}
    return {
        "told": [text.exclusion_sentence(outcome) for outcome in outcomes],
        "nodes": [_nodes(outcome) for outcome in outcomes],
    }


def _nodes(outcome: CellResult) -> list[tuple[int, float]] | None:
    """Return for each node whether it is honest, and the share of rounds without it."""
    shares = outcome.shares
    if not any(share.left_out for share in shares):
        return None
    return [(int(share.honest), round(share.left_out, 3)) for share in shares[:_MOST_NODES]]


def _runs(outcomes: Sequence[CellResult], seed: int) -> dict[str, list[Any]]:
    """Return what is told of the run of each cell with `seed`; None where it has none."""
    planned = [
        next((run for run in outcome.cell.runs if run.config.seed == seed), None)
        for outcome in outcomes
    ]
    ended: list[RunResult | None] = [
        next((e for e in outcome.ended if run is not None and e.run.folder == run.folder), None)
        for outcome, run in zip(outcomes, planned, strict=True)
    ]

    def told(value: Callable[[RunResult], Any]) -> list[Any]:
        return [None if result is None else value(result) for result in ended]

    return {
        "folder": [None if run is None else run.folder for run in planned],
        "status": told(lambda result: result.status),
        "rounds": told(lambda result: result.rounds),
        "seconds": told(lambda result: round(result.seconds, 1)),
        "digest": told(lambda result: (result.digest or "")[:16]),
        "linked": told(lambda result: int(result.has_folder)),
    }


def _commands(cells: Sequence[Cell]) -> list[Any]:
    """Return the parts of the command that repeats a run.

    A part is a text, or texts with the number of each cell's; the last one is the seed's option.
    """
    configs: list[RunConfig | None] = [cell.runs[0].config if cell.runs else None for cell in cells]
    words = [{} if config is None else command_words(config) for config in configs]
    parts: list[Any] = []
    for name in dict.fromkeys(name for each in words for name in each):
        found = [each.get(name, "") for each in words]
        known = {text for text, config in zip(found, configs, strict=True) if config is not None}
        if name == "seed":
            continue
        if len(known) == 1:
            parts.append(known.pop())
        else:
            numbers = {text: i for i, text in enumerate(dict.fromkeys(found))}
            parts.append({"texts": list(numbers), "of": [numbers[text] for text in found]})
    return [*parts, {"seed": flag("seed")}]


def _curves(outcomes: Sequence[CellResult]) -> dict[str, Any]:
    """Return the curve of each cell's first metric over the seeds: mean, lowest and highest.

    Evaluations of several rounds are one point where all curves would have too many numbers.
    """
    several = any(len(outcome.ended) > 1 for outcome in outcomes)
    room = _NUMBERS // max(1, len(outcomes) * (3 if several else 1))
    most = max(_POINTS[0], min(_POINTS[1], room))
    xs: dict[tuple[int, ...], int] = {}
    found: list[Any] = []
    for outcome in outcomes:
        at, bands = _curve(outcome, most)
        number = xs.setdefault(at, len(xs)) if at else None
        found.append(None if number is None else [number, *bands])
    return {"rounds": list(xs), "of": found}


def _curve(outcome: CellResult, most: int) -> tuple[tuple[int, ...], list[Any]]:
    name = outcome.metric.name
    by_round: dict[int, list[float]] = {}
    for ended in outcome.ended:
        for rounds, value in ended.curve(name):
            by_round.setdefault(rounds, []).append(value)
    points = sorted(by_round.items())
    wide = -(-len(points) // most) or 1
    parts = [points[i : i + wide] for i in range(0, len(points), wide)]
    # A point of several evaluations stands at the last of them.
    at = tuple(part[-1][0] for part in parts)
    values = [[value for _, each in part for value in each] for part in parts]
    means = [round_digits(sum(each) / len(each)) for each in values]
    if all(len(each) == 1 for each in values):
        return at, [means]
    return at, [means, [round_digits(min(v)) for v in values],
                    [round_digits(max(v)) for v in values]]  # fmt: skip


def setting(results: StudyResults) -> str:
    """Return a sentence about what is the same in all runs."""
    runs, base = results.plan.runs, results.plan.runs[0].config
    seeds = sorted({run.config.seed for run in runs})

    def fixed(*names: str) -> bool:
        return all(len({getattr(run.config, name) for run in runs}) == 1 for name in names)

    told: Mapping[tuple[str, ...], str] = {
        ("model", "dataset"): f"{base.model} on {base.dataset}",
        ("partition",): f"cut up by {base.partition}",
        ("rounds",): f"{base.rounds} rounds",
        ("num_honest", "num_byz"): f"{base.num_honest} honest and {base.num_byz} Byzantine nodes",
        ("participants",): f"{base.participants} asked a round" * (base.participants is not None),
        ("f",): f"f = {base.f}",
        ("algorithm",): base.algorithm * (base.algorithm != "dsgd"),
        ("weights",): f"weights {base.weights}" * (base.weights != "equal"),
        ("root_examples",): f"{base.root_examples} root examples" * bool(base.root_examples),
        ("attack",): f"attack {base.attack}",
        RULE_OPTIONS: base.pipeline,
    }
    parts = [words for names, words in told.items() if words and fixed(*names)]
    numbers = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 5 else ", ".join(map(str, seeds))
    return f"{len(runs)} runs: {', '.join(parts)}; seed{'s' * (len(seeds) > 1)} {numbers}."
