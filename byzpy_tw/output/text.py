"""What a person sees of a run, line by line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import define

from byzpy_tw.config.run import RunConfig
from byzpy_tw.output.view import Places
from byzpy_tw.records.attack_calls import counted
from byzpy_tw.workers.spec import NodeSpec

_OFTEN = 3  # rounds in which a node was refused, for the summary to name it
_MOST_NAMED = 10
_MOST_LINES = 20  # of a listing; the rest is in config.json


@define(eq=False)
class TextOutput:
    """Plain lines.  `quiet` leaves the result and errors."""

    _write: Callable[[str], None]
    _quiet: bool = False

    def say(self, line: str) -> None:
        if not self._quiet:
            self._write(line)

    def notice(self, line: str) -> None:
        self.say(line if line.startswith("warning:") else f"notice: {line}")

    def event(self, line: str) -> None:
        """Something that happened to the run: a server lost, say."""
        self.say(f"! {line}")

    def tell(self, line: str) -> None:
        """Something that must be said, also when quiet."""
        self._write(line)

    def configuration(self, config: RunConfig, directory: str, threads: int) -> None:
        self.say(
            f"byzpy_tw: {config.rounds} rounds of {config.model} on {config.dataset}, "
            f"{config.num_honest} honest and {config.num_byz} Byzantine nodes "
            f"({config.attack}), {config.pipeline} with f = {config.f}"
        )
        where = (
            "in this process"
            if config.in_process
            else f"{config.local} local servers"
            if config.local
            else f"{len(config.remote_hosts)} servers"
        )
        self.say(
            f"  nodes {where}; batch {config.batch_size} in micro-batches of "
            f"{config.micro_batch_size}; lr {config.lr:g}, momentum {config.momentum:g}; "
            f"partition {config.partition}; seed {config.seed}; {threads} threads"
        )
        self.say(f"  records in {directory}")

    def placement(self, placement: Sequence[tuple[str, Sequence[NodeSpec]]]) -> None:
        lines = [
            f"  node {node.node} ({'honest' if node.honest else 'Byzantine'}) on {name}"
            for name, nodes in placement
            for node in nodes
        ]
        # By node, as the user counts them.
        lines.sort(key=lambda line: int(line.split()[1]))
        for line in lines[:_MOST_LINES]:
            self.say(line)
        if len(lines) > _MOST_LINES:
            self.say(f"  ... and {len(lines) - _MOST_LINES} more (config.json has them all)")

    def watch(self, servers: Places) -> None:
        pass

    def begun(self, description: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
        pass

    def round(self, record: Mapping[str, Any], elapsed: float) -> None:
        for refused in record["refused"]:
            self.refusal(record["round"], refused)
        if "accuracy" in record:
            self.say(
                f"round {record['round'] + 1:>5}  loss {record['test_loss']:.4f}  "
                f"accuracy {record['accuracy']:7.2%}  elapsed {elapsed:.1f} s"
            )

    def refusal(self, round: int, refused: Mapping[str, Any]) -> None:
        """One of a round's refusals, but for what was said when it began."""
        if refused["reason"] != "probation":
            self.say(
                f"round {round}: node {refused['node']} refused: "
                f"{refused['reason']}: {refused['detail']}"
            )

    def over(self, result: Mapping[str, Any]) -> None:
        pass

    def result(self, result: Mapping[str, Any], directory: str) -> None:
        """The last lines, also when quiet."""
        if result["final_accuracy"] is not None:
            self._write(
                f"final: loss {result['final_loss']:.4f}, accuracy "
                f"{result['final_accuracy']:.2%} (worst {result['worst_accuracy']:.2%} over "
                f"the last fifth of the evaluations, best {result['best_accuracy']:.2%})"
            )
        failures = result.get("attack_failures")
        if failures is not None:
            often = counted(failures["failed"], failures["of"], failures["probation"])
            self._write(f"the attack failed {often}: {failures['first']}")
        often = sorted(
            ((sum(why.values()), node, why) for node, why in result["refused"].items()),
            key=lambda found: (-found[0], int(found[1])),
        )
        for count, node, why in often[:_MOST_NAMED]:
            if count >= _OFTEN:
                told = ", ".join(f"{reason} {times}" for reason, times in why.items())
                self._write(
                    f"node {node} was refused in {count} of {result['rounds']} rounds ({told})"
                )
        pace = result["seconds_a_round"]
        self._write(
            f"{result['status']}: {result['rounds']} rounds in {result['seconds']:.1f} s"
            + (f", {pace * 1000:.1f} ms a round" if pace is not None else "")
            + f"; records in {directory}"
        )
