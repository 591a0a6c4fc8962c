"""The contents of lab.json: the axes of a study, and each cell with its runs, for programs."""

from __future__ import annotations

from typing import Any

from attrs import asdict

from byzpy_tw.records.folder import CELLS
from byzpy_tw.records.metrics import KINDS
from byzpy_tw.sweep.blocks import blocks, outcomes_of
from byzpy_tw.sweep.findings import Finding, findings, recorded_chance
from byzpy_tw.sweep.grid import command_line
from byzpy_tw.sweep.pivot import dimensions
from byzpy_tw.sweep.results import CellResult
from byzpy_tw.sweep.study_results import StudyResults


def figures(results: StudyResults) -> dict[str, Any]:
    """Return the contents of lab.json.

    A cell's ``findings`` come from the pipelines and attacks that differ from it in nothing else.
    """
    outcomes, found = results.outcomes, _findings(results)
    plan, metrics = results.plan, results.metrics
    return {
        "options": plan.runs[0].config.to_dict(),
        "axes": {d.name: d.values for d in dimensions(plan)},
        "attacks": list(dict.fromkeys(run.config.attack for run in plan.runs)),
        "defences": list(dict.fromkeys(run.config.pipeline for run in plan.runs)),
        "seeds": list(dict.fromkeys(run.config.seed for run in plan.runs)),
        "differences": [
            dict(zip(("key", "there", "here"), told, strict=True))
            for told in plan.study.differences
        ],
        "metrics": [asdict(metric) for metric in metrics],
        "chance": {metric.name: recorded_chance(outcomes, metric) for metric in metrics},
        "cells": [
            _cell(dict(point), outcome, found.get(runs[0].folder, frozenset()))
            for (point, runs), outcome in zip(plan.cells.items(), outcomes, strict=True)
        ],
    }


def _findings(results: StudyResults) -> dict[str, frozenset[Finding]]:
    """Return the findings about each cell that has any, by the folder of its first run."""
    told = {}
    for block in blocks(results.plan):
        outcomes = outcomes_of(results, block)
        found = findings(outcomes)
        for outcome in outcomes:
            at = outcome.cell.row, outcome.cell.column
            if at in found:
                told[outcome.cell.runs[0].folder] = found[at]
    return told


def _cell(point: dict[str, str], outcome: CellResult, found: frozenset[Finding]) -> dict[str, Any]:
    metrics = {metric.name: outcome.figures(metric) for metric in outcome.task_metrics}
    accuracy = metrics.get("accuracy", {})
    return {
        "defence": outcome.cell.defence,
        "attack": outcome.cell.attack,
        "point": point,
        "status": outcome.status,
        "why": outcome.reason,
        "no_guarantee": outcome.cell.missing_guarantee,
        "attack_failures": outcome.attack_failures or None,
        **{f"{kind}_accuracy": accuracy.get(kind) for kind in KINDS},
        "metrics": metrics,
        "findings": sorted(finding.value for finding in found),
        "byzantine_weight": outcome.byzantine_weight,
        "byzantine_left_out": outcome.left_out(honest=False),
        "honest_left_out": outcome.left_out(honest=True),
        "runs": [
            {
                "seed": ended.run.config.seed,
                "folder": f"{CELLS}/{ended.run.folder}",
                "status": ended.status,
                "final_accuracy": ended.metrics.get("accuracy", {}).get("final"),
                "metrics": ended.metrics,
                "seconds": ended.seconds,
                "parameters_sha256": ended.digest,
                "command": command_line(ended.run.config),
            }
            for ended in outcome.ended
        ],
    }
