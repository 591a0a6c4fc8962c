"""What a run's records come to, however many processes wrote them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from attrs import define, field

from byzpy_tw.config.run import RunConfig
from byzpy_tw.records.attack_calls import AttackCalls
from byzpy_tw.rounds.learner import Evaluation


@define(eq=False)
class RunSummary:
    """Fed with each line of rounds.jsonl, in order; `figures` are the result's.

    Make one with `summarize`.
    """

    attack: AttackCalls
    rounds: int = 0
    _seconds: float = 0.0
    _evaluations: list[Evaluation] = field(factory=list)
    _refused: dict[int, Counter[str]] = field(factory=dict)  # node -> reason -> rounds
    _digest: str | None = None

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one more round."""
        self.rounds += 1
        self._seconds += record["seconds"]
        self._digest = record["parameters_sha256"]
        self.attack.add(record)
        for refused in record["refused"]:
            self._refused.setdefault(refused["node"], Counter())[refused["reason"]] += 1
        if "accuracy" in record:
            loss = record["test_loss"]  # null on disk, where it was not finite
            self._evaluations.append(
                Evaluation(math.nan if loss is None else loss, record["accuracy"])
            )

    def figures(self) -> dict[str, Any]:
        """The part of result.json that the records decide."""
        accuracies = [e.accuracy for e in self._evaluations]
        # Worst over the last fifth: the best alone flatters a run that collapsed.
        tail = accuracies[-max(1, len(accuracies) // 5) :]
        final = self._evaluations[-1] if self._evaluations else None
        failures = self.attack.failures
        return {
            "rounds": self.rounds,
            "final_accuracy": final.accuracy if final else None,
            "final_loss": final.loss if final else None,
            "worst_accuracy": min(tail) if tail else None,
            "best_accuracy": max(accuracies) if accuracies else None,
            "refused": {str(n): dict(why) for n, why in sorted(self._refused.items())},
            "attack_failures": None if failures is None else failures.to_plain(),
            "seconds_a_round": self._seconds / self.rounds if self.rounds else None,
            "parameters_sha256": self._digest,
        }


def summarize(config: RunConfig) -> RunSummary:
    """An empty tally for a run of `config`."""
    return RunSummary(AttackCalls(config.num_honest, config.num_byz))
