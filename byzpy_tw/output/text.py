"""A run as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import islice, repeat
from typing import Any

from attrs import define, field

from byzpy_tw import events
from byzpy_tw.config.run_config import RunConfig, from_dict
from byzpy_tw.output.event_text import shown_line
from byzpy_tw.output.view import ServersKnown
from byzpy_tw.plugins.naming import parse
from byzpy_tw.records.metrics import (
    DEFAULT,
    KINDS,
    described_metrics,
    metrics_in,
    metrics_in_result,
)
from byzpy_tw.records.summary import Missed, format_attack_calls
from byzpy_tw.tasks.metric import VALIDATION, Metric

_OFTEN = 3  # rounds in which a node was refused, for the summary to name it
_MOST_NAMED = 10
_MOST_LINES = 20  # of a listing; the rest is in config.json


@define(eq=False)
class TextOutput:
    """Plain lines.  `quiet` leaves the result and errors."""

    _write: Callable[[str], None]
    _quiet: bool = False
    _metrics: Sequence[Metric] = field(default=DEFAULT, init=False)

    def handle(self, event: events.Event | ServersKnown) -> None:
        if isinstance(event, events.RunStarted):
            self._metrics = described_metrics(event.description)
        for line in self._lines(event):
            self._write(line)

    def _lines(self, event: events.Event | ServersKnown) -> Iterator[str]:
        match event:
            case events.Notice(kind=events.Kind.ALWAYS):
                yield shown_line(event)
            case events.RunFinished():
                yield from _result_lines(event.result, event.directory, self._metrics)
            case _ if self._quiet:
                pass
            case events.Incident():
                yield f"! {shown_line(event)}"
            case events.Notice():
                yield "notice: " * (event.kind is events.Kind.NOTICE) + shown_line(event)
            case events.RunConfigured():
                yield from _configuration_lines(event)
            case events.NodesPlaced():
                yield from _placement_lines(event)
            case events.RoundCompleted():
                record = event.record
                if values := metrics_in(record):
                    yield (
                        f"round {record['round'] + 1:>5}  loss {record['test_loss']:.4f}  "
                        f"{_evaluation(self._metrics, values)}  elapsed {event.elapsed:.1f} s"
                    )


def _configuration_lines(event: events.RunConfigured) -> Iterator[str]:
    config = from_dict(event.config)
    yield f"byzpy_tw: {describe_run(config)}"
    yield (
        f"  nodes {nodes_live(config)}; batch {config.batch_size} in micro-batches of "
        f"{config.micro_batch_size}; {_describe_steps(config)}; "
        f"partition {config.partition}; seed {config.seed}; {event.threads} threads"
    )
    yield f"  records in {event.directory}"


def _describe_steps(config: RunConfig) -> str:
    if config.local_steps is not None:
        return f"{config.algorithm}, steps of {config.optimizer} ({config.lr_schedule})"
    rate = parse(config.optimizer).parameters.get("lr", f"{config.lr:g}")
    if config.optimizer != "sgd" or config.lr_schedule != "milestones":
        return f"{config.optimizer}, lr {rate} ({config.lr_schedule})"
    return f"lr {rate}, momentum {config.momentum:g}"


def _placement_lines(event: events.NodesPlaced) -> Iterator[str]:
    found = merge(*(zip(there, repeat(name)) for name, there in event.placement.items()))
    for node, name in islice(found, _MOST_LINES):
        kind = "honest" if node < event.num_honest else "Byzantine"
        yield f"  node {node} ({kind}) on {name}"
    more = sum(map(len, event.placement.values())) - _MOST_LINES
    if more > 0:
        yield f"  ... and {more} more (config.json has them all)"


def _evaluation(metrics: Iterable[Metric], values: Mapping[str, float | None]) -> str:
    """Return the name and the value of each metric, in columns.

    The value on the validation data stands beside that on the test data.
    """
    columns = []
    for metric in metrics:
        if not metric.is_of_validation:
            aside = f"{VALIDATION}{metric.name}"
            more = f" (validation {metric.text(values[aside])})" if aside in values else ""
            columns.append(f"{metric.words} {metric.text(values.get(metric.name)):>7}{more}")
    return "  ".join(columns)


def _result_lines(
    result: Mapping[str, Any], directory: str, metrics: Iterable[Metric]
) -> Iterator[str]:
    if result["final_loss"] is not None:
        figures, when = metrics_in_result(result), " over the last fifth of the evaluations"
        parts = [f"final: loss {result['final_loss']:.4f}"]
        for metric in metrics:
            final, worst, best = (metric.text(figures[metric.name][kind]) for kind in KINDS)
            if metric.is_of_validation:
                parts.append(f"{metric.words} {final}")
                continue
            parts.append(f"{metric.words} {final} (worst {worst}{when}, best {best})")
            when = ""
        yield ", ".join(parts)
    weight = result.get("byzantine_weight")
    if weight is not None:
        yield f"Byzantine nodes had {weight:.1%} of the weight in the aggregates"
    if exceeded := result.get("exceeded"):
        yield f"{exceeded} of {result['rounds']} rounds had more Byzantine vectors than their f"
    failures = result.get("attack_failures")
    if failures is not None:
        often = format_attack_calls(failures["failed"], failures["of"], failures["probation"])
        yield f"the attack failed {often}: {failures['first']}"
    yield from _missing_lines(result)
    pace = result["seconds_a_round"]
    yield (
        f"{result['status']}: {result['rounds']} rounds in {result['seconds']:.1f} s"
        + (f", {pace * 1000:.1f} ms a round" if pace is not None else "")
        + (f"; records in {directory}" if directory else ", and no records")
    )


def _missing_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each node that was often refused or absent, those most often first."""
    missed = {int(node): Missed.of(reasons) for node, reasons in result["refused"].items()}
    asked = result.get("asked") or {}
    worst = sorted(missed, key=lambda node: (-missed[node].rounds, node))
    for node in worst[:_MOST_NAMED]:
        if missed[node].rounds >= _OFTEN:
            of = f" of {result['rounds']} rounds"
            if str(node) in asked:
                of = f" of the {asked[str(node)]} rounds that it took part in"
            yield f"node {node} was {missed[node].text(of)}"


def describe_run(config: RunConfig) -> str:
    """Return the rounds, the task, the nodes and the rule of a run, in one line."""
    nodes = f"{config.num_honest} honest nodes"
    if config.num_byz:
        kinds = f"{config.num_honest} honest and {config.num_byz} Byzantine nodes"
        nodes = f"{kinds} ({config.attack})"
    of_all = ""  # f is the budget of all nodes, and a sample has its own
    if config.participants is not None:
        nodes, of_all = f"{nodes}, {config.participants} of them a round", f" of {config.n}"
    return (
        f"{config.rounds} rounds of {config.model} on {config.dataset}, {nodes}, "
        f"{config.pipeline} with f = {config.f}{of_all}"
    )


def nodes_live(config: RunConfig) -> str:
    """Return where the nodes live, in words."""
    if config.in_process:
        return "in this process"
    servers = f"{config.local} local" if config.local else len(config.remote_hosts)
    return f"on {servers} servers"
