"""A run as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from attrs import define

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.output import view
from byzpy_tw.records.summary import format_attack_calls

_OFTEN = 3  # rounds in which a node was refused, for the summary to name it
_MOST_NAMED = 10
_MOST_LINES = 20  # of a listing; the rest is in config.json
_SIGNS = {view.Kind.NOTICE: "notice: ", view.Kind.EVENT: "! "}


@define(eq=False)
class TextOutput:
    """Plain lines.  `quiet` leaves the result and errors."""

    _write: Callable[[str], None]
    _quiet: bool = False

    def handle(self, event: view.Event) -> None:
        for line in self._lines(event):
            self._write(line)

    def _lines(self, event: view.Event) -> Iterator[str]:
        match event:
            case view.Notice(kind=view.Kind.ALWAYS):
                yield event.line
            case view.RunFinished():
                yield from _result_lines(event.result, event.directory)
            case _ if self._quiet:
                pass
            case view.Notice():
                yield _SIGNS.get(event.kind, "") + event.line
            case view.RunConfigured():
                yield from _configuration_lines(event)
            case view.NodesPlaced():
                yield from _placement_lines(event)
            case view.RoundCompleted():
                record = event.record
                yield from refusal_lines(record["round"], record["refused"])
                if "accuracy" in record:
                    yield (
                        f"round {record['round'] + 1:>5}  loss {record['test_loss']:.4f}  "
                        f"accuracy {record['accuracy']:7.2%}  elapsed {event.elapsed:.1f} s"
                    )


def _configuration_lines(event: view.RunConfigured) -> Iterator[str]:
    config = event.config
    steps = f"lr {config.lr:g}, momentum {config.momentum:g}"
    if config.optimizer != "sgd" or config.lr_schedule != "milestones":
        steps = f"{config.optimizer}, lr {config.lr:g} ({config.lr_schedule})"
    yield f"byzpy_tw: {describe_run(config)}"
    yield (
        f"  nodes {nodes_live(config)}; batch {config.batch_size} in micro-batches of "
        f"{config.micro_batch_size}; {steps}; "
        f"partition {config.partition}; seed {config.seed}; {event.threads} threads"
    )
    yield f"  records in {event.directory}"


def _placement_lines(event: view.NodesPlaced) -> Iterator[str]:
    nodes = [(node, name) for name, there in event.placement for node in there]
    nodes.sort(key=lambda found: found[0].node)
    for node, name in nodes[:_MOST_LINES]:
        yield f"  node {node.node} ({'honest' if node.honest else 'Byzantine'}) on {name}"
    if len(nodes) > _MOST_LINES:
        yield f"  ... and {len(nodes) - _MOST_LINES} more (config.json has them all)"


def refusal_lines(round: int, refusals: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each of a round's `refusals`; probation was announced when it began."""
    for refused in refusals:
        if refused["reason"] != "probation":
            why = f"{refused['reason']}: {refused['detail']}"
            yield f"round {round}: node {refused['node']} refused: {why}"


def _result_lines(result: Mapping[str, Any], directory: str) -> Iterator[str]:
    if result["final_accuracy"] is not None:
        yield (
            f"final: loss {result['final_loss']:.4f}, accuracy "
            f"{result['final_accuracy']:.2%} (worst {result['worst_accuracy']:.2%} over "
            f"the last fifth of the evaluations, best {result['best_accuracy']:.2%})"
        )
    failures = result.get("attack_failures")
    if failures is not None:
        often = format_attack_calls(failures["failed"], failures["of"], failures["probation"])
        yield f"the attack failed {often}: {failures['first']}"
    refused = [
        (-sum(reasons.values()), int(node), reasons) for node, reasons in result["refused"].items()
    ]
    asked = result.get("asked") or {}
    for count, node, reasons in sorted(refused, key=lambda found: found[:2])[:_MOST_NAMED]:
        if -count >= _OFTEN:
            each = ", ".join(f"{reason} {times}" for reason, times in reasons.items())
            of = f"{result['rounds']} rounds"
            if str(node) in asked:
                of = f"the {asked[str(node)]} rounds that it took part in"
            yield f"node {node} was refused in {-count} of {of} ({each})"
    pace = result["seconds_a_round"]
    yield (
        f"{result['status']}: {result['rounds']} rounds in {result['seconds']:.1f} s"
        + (f", {pace * 1000:.1f} ms a round" if pace is not None else "")
        + f"; records in {directory}"
    )


def describe_run(config: RunConfig) -> str:
    """Return the rounds, the task, the nodes and the rule of a run, in one line."""
    return (
        f"{config.rounds} rounds of {config.model} on {config.dataset}, {config.num_honest} honest "
        f"and {config.num_byz} Byzantine nodes ({config.attack}), {config.pipeline} with "
        f"f = {config.f}"
    )


def nodes_live(config: RunConfig) -> str:
    """Return where the nodes live, in words."""
    if config.in_process:
        return "in this process"
    servers = f"{config.local} local" if config.local else len(config.remote_hosts)
    return f"on {servers} servers"
