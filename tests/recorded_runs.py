"""Records of runs that never ran, for tests of what is drawn from them."""

from __future__ import annotations

from typing import Any

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.report.load import begin
from byzpy_tw.report.model import RunReport
from byzpy_tw.report.setting import Setting
from byzpy_tw.rounds.placement import ServerState

HTML = "<img src=x onerror='window.hurt=1'>&lt;<script>hurt=1< script>"


def record(number: int, **more: Any) -> dict[str, Any]:
    """A round of 4 honest nodes and 2 Byzantine ones, in which node 5 is excluded."""
    return {
        "round": number, "seconds": 0.1,
        "phases": {"honest": 0.06, "byzantine": 0.02, "aggregate": 0.015, "step": 0.005},
        "loss": 2.0 / (1 + number), "aggregate_norm": 1.0, "f": 1,
        "selected": [0, 1, 2, 3, 4], "excluded": [5], "refused": [],
        "bytes_sent": 1000, "bytes_received": 3000, "parameters_sha256": "0" * 64, **more,
    }  # fmt: skip


def refused(node: int, reason: str) -> dict[str, Any]:
    """Part of a record: `node` is refused, and everybody else selected."""
    return {
        "selected": [n for n in range(6) if n != node], "excluded": [],
        "refused": [{"node": node, "reason": reason, "detail": "it is so"}],
    }  # fmt: skip


def records(rounds: int) -> list[dict[str, Any]]:
    """A run in which something of everything happens."""
    made = []
    for number in range(rounds):
        more: dict[str, Any] = {}
        if number % 10 == 9:
            more = {"test_loss": 2.5 / (2 + number), "accuracy": 1 - 1 / (2 + number)}
        if number % 7 == 3:
            more.update(refused(2, "late"))
        elif number % 11 == 5:
            more.update(refused(4, "not-finite" if number < 40 else "probation"))
        elif number % 13 == 6:
            more.update(refused(1, "lost"))
        made.append(record(number, **more))
    return made


def sampled_report() -> RunReport:
    """Make the report of a run whose rounds ask five of its nodes, with weights."""
    made = run_report(participants=4, over_sample=1, weights="sites.csv", f=2)
    made.history = begin("run", made.options).history
    for number in range(20):
        asked = [node for node in range(6) if node != number % 6]
        away, by = asked[0], asked[-1]
        gone = [{"node": away, "reason": "late", "detail": ""}] * (number % 5 == 4)
        left = [node for node in asked if node != away or not gone]
        more = {"replaced": [{"node": away, "by": by}]} if gone else {}
        made.add(
            record(number, participants=asked, selected=left, excluded=[], refused=gone, **more)
        )
    made.setting = Setting.of(
        {
            "sampling": {"participants": 4, "over_sample": 1, "f": 1, "confidence": 0.9,
                         "excess": 0.083, "sufficient": True},
            "weights": {"largest": 0.3, "smallest": 0.05,
                        "shares": [0.3, 0.2, 0.25, 0.1, 0.1, 0.05]},
        }, 6,
    )  # fmt: skip
    return made


def run_report(name: str = "run", rounds: int = 100, **options: Any) -> RunReport:
    """Make the report of that run, finished, under `name`, which its server and an event have
    too."""
    config = RunConfig(
        in_process=True, num_honest=4, num_byz=2, rounds=rounds, data_root=name, **options
    )
    made = begin(name, config.to_dict())
    for each in records(rounds):
        made.add(each)
    made.add_event(f"{name} is lost", 3)
    made.servers = [ServerState(name, [0, 1, 2], True), ServerState("tcp://b:1", [3, 4, 5], False)]
    made.status, made.facts = "finished", {"torch": "2", "run": name}
    return made
