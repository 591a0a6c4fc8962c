"""A run as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define

from byzpy_tw.config.run import RunConfig
from byzpy_tw.output.view import (
    Event,
    Kind,
    NodesPlaced,
    Notice,
    RoundCompleted,
    RunConfigured,
    RunFinished,
)
from byzpy_tw.records.summary import format_attack_calls

_OFTEN = 3  # rounds in which a node was refused, for the summary to name it
_MOST_NAMED = 10
_MOST_LINES = 20  # of a listing; the rest is in config.json
_SIGNS = {Kind.NOTICE: "notice: ", Kind.EVENT: "! "}


@define(eq=False)
class TextOutput:
    """Plain lines.  `quiet` leaves the result and errors."""

    _write: Callable[[str], None]
    _quiet: bool = False

    def handle(self, event: Event) -> None:
        match event:
            case Notice(kind=Kind.ALWAYS):
                self._write(event.line)
            case RunFinished():
                self._result(event.result, event.directory)
            case _ if self._quiet:
                pass
            case Notice():
                self._write(_SIGNS.get(event.kind, "") + event.line)
            case RunConfigured():
                self._configuration(event)
            case NodesPlaced():
                self._placement(event)
            case RoundCompleted():
                self._round(event.record, event.elapsed)

    def _configuration(self, event: RunConfigured) -> None:
        config = event.config
        steps = f"lr {config.lr:g}, momentum {config.momentum:g}"
        if config.optimizer != "sgd" or config.lr_schedule != "milestones":
            steps = f"{config.optimizer}, lr {config.lr:g} ({config.lr_schedule})"
        self._write(f"byzpy_tw: {describe_run(config)}")
        self._write(
            f"  nodes {nodes_live(config)}; batch {config.batch_size} in micro-batches of "
            f"{config.micro_batch_size}; {steps}; "
            f"partition {config.partition}; seed {config.seed}; {event.threads} threads"
        )
        self._write(f"  records in {event.directory}")

    def _placement(self, event: NodesPlaced) -> None:
        nodes = [(node, name) for name, there in event.placement for node in there]
        nodes.sort(key=lambda found: found[0].node)
        for node, name in nodes[:_MOST_LINES]:
            kind = "honest" if node.honest else "Byzantine"
            self._write(f"  node {node.node} ({kind}) on {name}")
        if len(nodes) > _MOST_LINES:
            self._write(f"  ... and {len(nodes) - _MOST_LINES} more (config.json has them all)")

    def _round(self, record: Mapping[str, Any], elapsed: float) -> None:
        for refused in record["refused"]:
            self.refusal(record["round"], refused)
        if "accuracy" in record:
            self._write(
                f"round {record['round'] + 1:>5}  loss {record['test_loss']:.4f}  "
                f"accuracy {record['accuracy']:7.2%}  elapsed {elapsed:.1f} s"
            )

    def refusal(self, round: int, refused: Mapping[str, Any]) -> None:
        """Write one of a round's refusals; probation was announced when it began."""
        if refused["reason"] != "probation":
            self._write(
                f"round {round}: node {refused['node']} refused: "
                f"{refused['reason']}: {refused['detail']}"
            )

    def _result(self, result: Mapping[str, Any], directory: str) -> None:
        if result["final_accuracy"] is not None:
            self._write(
                f"final: loss {result['final_loss']:.4f}, accuracy "
                f"{result['final_accuracy']:.2%} (worst {result['worst_accuracy']:.2%} over "
                f"the last fifth of the evaluations, best {result['best_accuracy']:.2%})"
            )
        failures = result.get("attack_failures")
        if failures is not None:
            often = format_attack_calls(failures["failed"], failures["of"], failures["probation"])
            self._write(f"the attack failed {often}: {failures['first']}")
        refused = sorted(
            ((sum(reasons.values()), node, reasons) for node, reasons in result["refused"].items()),
            key=lambda found: (-found[0], int(found[1])),
        )
        for count, node, reasons in refused[:_MOST_NAMED]:
            if count >= _OFTEN:
                each = ", ".join(f"{reason} {times}" for reason, times in reasons.items())
                self._write(
                    f"node {node} was refused in {count} of {result['rounds']} rounds ({each})"
                )
        pace = result["seconds_a_round"]
        self._write(
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
    return (
        f"on {config.local} local servers"
        if config.local
        else (f"on {len(config.remote_hosts)} servers")
    )
