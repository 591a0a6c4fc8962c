"""The trial of a model before round 0: two of its gradients and evaluations, thrown away.

Models are foreign code.  Errors and differences that would appear in the middle of a run are
found here, on an instance made for the trial, and raised as one line with the cure.  See
`model_examiner` for the steps, and `TrialDigests` for the comparison with servers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from attrs import frozen
from torch import nn

from byzpy_tw import global_random
from byzpy_tw.errors import UnsuitableModel
from byzpy_tw.kernels.parallel import run_single_threaded_with_grad
from byzpy_tw.object_state import tensor_digest
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.workers.model_examiner import UNSEEDED, ModelExaminer, TrialSubject
from byzpy_tw.workers.trial_digests import TrialDigests, trial_digests


@frozen(eq=False)
class TrialOutcome:
    """The outcome of a trial."""

    trial: TrialDigests
    copied: bool  # each call of the model needs a copy of it
    initial: tuple[Any, ...]  # digests of the first parameters
    seconds: float
    warnings: tuple[str, ...] = ()  # for the user

    def check_initial(self, model: nn.Module, who: str) -> None:
        """Raise `UnsuitableModel` if another model of the same seed has other first values."""
        if tuple(map(tensor_digest, model.parameters())) != self.initial:
            raise UnsuitableModel(f"{who}: {UNSEEDED}")


def try_model(subject: TrialSubject, shards: Sequence[Any]) -> TrialOutcome:
    """Try the model of `subject`; raises `UnsuitableModel` or `BrokenPlugin`."""

    def work() -> TrialOutcome:
        begun = time.perf_counter()
        with plugin_call(subject.who), global_random.hold_generators(), torch.enable_grad():
            examiner = ModelExaminer(subject)
            keeps, first, initial = examiner.examine(), examiner.first, examiner.initial
            del examiner  # its memory, before another takes as much
            if keeps:
                ModelExaminer(subject).examine_copies(first, keeps)
        warnings: tuple[str, ...] = ()
        if not first.finite:
            warnings = (f"{subject.who}: its gradient of two examples is not finite",)
        digests = trial_digests(first, subject.data, shards)
        return TrialOutcome(digests, bool(keeps), initial, time.perf_counter() - begun, warnings)

    return run_single_threaded_with_grad(work)
