"""The evaluation of the model that is being trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from attrs import define, evolve, field, frozen
from torch import Tensor, nn

from byzpy_tw import models
from byzpy_tw.batches import Batch, cut, length, map_tensors, take
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import BadRuleOutput
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.rounds.statistics_sample import StatisticsSample
from byzpy_tw.tasks import ACCURACY, Metric, Task
from byzpy_tw.tasks.metric import ATTACK_SUCCESS, VALIDATION, VALIDATION_LOSS, with_validation
from byzpy_tw.tasks.task import chance_of
from byzpy_tw.workers.gradients import model_provider
from byzpy_tw.workers.loss import compute_outputs
from byzpy_tw.workers.model_trial import TrialOutcome
from byzpy_tw.workers.poisoning import Poisoning
from byzpy_tw.workers.spec import RunSpec
from byzpy_tw.workers.validation import validation_indices

# Test examples in one job, fewer of a large model: the output of a layer should not take more
# memory than the model itself.  A function of d alone, since it decides bits.  A layer of
# `small_cnn` takes 10 MB for a hundred examples (67 ms for a thousand digits), and for 500
# 50 MB, which the system hands out anew for each job (97 ms).
EVALUATED_AT_ONCE = 100
_AT_ONCE = 2**32


@frozen
class EvaluationShare:
    """The evaluation of a share of the data: summed loss, the task's sums, weight."""

    loss: float
    sums: Mapping[str, float]
    weight: int


@frozen
class Evaluation:
    """The evaluation of the whole test data: mean loss, and each metric, None if not finite.

    ``metrics`` has those of the validation data, too.
    """

    loss: float
    metrics: Mapping[str, float | None]

    @property
    def entries(self) -> dict[str, Any]:
        """The entries of a round's record.  ``accuracy`` has its own beside ``metrics``."""
        accuracy = self.metrics.get(ACCURACY.name)
        found = {} if accuracy is None else {"accuracy": accuracy}
        return {"test_loss": self.loss, **found, "metrics": dict(self.metrics)}


@define(eq=False)
class Evaluator:
    """The model that is being trained, evaluated in jobs of a fixed size.

    That is on the test data, on the training data at the indices `validation`, and, for the rate of
    success of an attack, on what its `poisoning` makes of the test data.
    """

    model: nn.Module
    dataset: Dataset
    task: Task
    needs_copies: bool = False  # whether each call of the model needs a copy
    who: str = "the model"  # whose code it is, for its errors
    sample: StatisticsSample = StatisticsSample(())  # for statistics of BatchNorm
    validation: Tensor = field(factory=partial(torch.empty, 0, dtype=torch.int64))
    poisoning: Poisoning | None = None
    parameters: Tensor = field(init=False)  # (d,), the memory of the model's parameters
    _leaves: list[Tensor] = field(init=False)  # the trained parameters
    _numbers: int = field(init=False)  # in all parameters, frozen ones too
    _call: Callable[[], nn.Module] = field(init=False)

    @classmethod
    def of_run(
        cls, spec: RunSpec, model: nn.Module, data: Dataset, trial: TrialOutcome, who: str,
        poisoning: Poisoning | None = None,
    ) -> Evaluator:  # fmt: skip
        """Return the evaluator of a run, whose model was tried with the outcome `trial`."""
        validation = torch.from_numpy(validation_indices(spec, data))
        sample = StatisticsSample.of(model, spec, data)
        return cls(
            model, data, trial.task, trial.needs_copies, who, sample, validation, poisoning
        )  # fmt: skip

    def __attrs_post_init__(self) -> None:
        self.model.eval()
        self._leaves = [leaf for _, leaf in models.trainable.trained_parameters(self.model)]
        self.parameters = models.building.flat_parameters(self.model)
        self._numbers = sum(leaf.numel() for leaf in self.model.parameters())
        for leaf in self._leaves:
            leaf.requires_grad_(False)
        self._call = model_provider(self.model, self.needs_copies)

    @property
    def dimension(self) -> int:
        return self.parameters.numel()

    def load(self, parameters: Tensor) -> None:
        """Evaluate with the ``(d,)`` `parameters` from now on, in their own memory."""
        if parameters is not self.parameters:
            pieces = parameters.split([leaf.numel() for leaf in self._leaves])
            for leaf, piece in zip(self._leaves, pieces, strict=True):
                leaf.data = piece.view(leaf.shape)
            self.parameters = parameters

    @property
    def _share(self) -> int:
        return max(20, min(EVALUATED_AT_ONCE, _AT_ONCE // self._numbers))

    @property
    def jobs(self) -> int:
        """The number of shares of the test data, of the validation data, and of poisoned ones."""
        return self._clean_jobs + (self._test_jobs if self._measures_success else 0)

    @property
    def _clean_jobs(self) -> int:
        return self._test_jobs - (-len(self.validation) // self._share)

    @property
    def _test_jobs(self) -> int:
        return -(-len(self.dataset.test) // self._share)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of an evaluation: the task's, of the validation data, and the attack's."""
        metrics = tuple(self.task.metrics)
        metrics = with_validation(metrics) if len(self.validation) else metrics
        return (*metrics, ATTACK_SUCCESS) if self._measures_success else metrics

    @property
    def _measures_success(self) -> bool:
        """True where an attack poisons data whose targets are one class for each example."""
        names = {metric.name for metric in self.task.metrics}
        return (
            self.poisoning is not None
            and self.dataset.classes is not None
            and self.dataset.target_shape == ()
            and ACCURACY.name in names
            and ATTACK_SUCCESS.name not in names
        )

    def chance(self) -> dict[str, float]:
        """Return the value of each metric for the best answer that ignores its input, if known."""
        found = dict(chance_of(self.task, self.dataset.test.y))
        if len(self.validation):
            aside = chance_of(self.task, take(self.dataset.train.y, self.validation))
            found |= {f"{VALIDATION}{name}": value for name, value in aside.items()}
        return found

    @property
    def statistics_jobs(self) -> int:
        """The number of parts of the sample for statistics; 0 where the model needs none."""
        return len(self.sample.parts)

    @torch.no_grad()
    def record_statistics(self, job: int) -> Mapping[str, models.statistics.Sums]:
        """Return what reaches each layer with statistics from part `job` of the sample."""
        device, examples = (
            self.parameters.device,
            take(self.dataset.train.x, self.sample.parts[job]),
        )
        inputs = map_tensors(lambda x: x.to(device), self.dataset.inputs(examples))
        with plugin_call(self.who), models.statistics.recording() as found:
            compute_outputs(self._call(), inputs, self.task, self.who)
        return found

    def write_statistics(self, found: Sequence[Mapping[str, models.statistics.Sums]]) -> None:
        """Evaluate with the statistics that the jobs `found`, in order, from now on."""
        models.statistics.write_statistics(self.model, found)

    def compute_statistics(self) -> None:
        """Do both for the whole sample, in this thread."""
        self.write_statistics([self.record_statistics(job) for job in range(self.statistics_jobs)])

    @torch.no_grad()
    def evaluate(self, job: int) -> EvaluationShare:
        """Evaluate share `job`, of the test data, then the validation data, then poisoned ones."""
        if job >= self._clean_jobs:
            x, y = self._poison_share(job - self._clean_jobs)
            if not length(y):
                return EvaluationShare(0.0, {}, 0)
        else:
            x, y = self._read_share(job)
        device = self.parameters.device
        # A task may write to targets.
        targets = map_tensors(lambda y: y.to(device, copy=True), y)
        inputs = map_tensors(lambda x: x.to(device), self.dataset.inputs(x))
        with plugin_call(self.who):
            outputs = compute_outputs(self._call(), inputs, self.task, self.who)
        loss = float(self.task.loss(outputs, targets))
        return EvaluationShare(loss, self.task.sums(outputs, targets), self.task.weight(targets))

    def _read_share(self, job: int) -> tuple[Batch, Batch]:
        """Return the examples of share `job`, and their targets."""
        if job < self._test_jobs:
            part, test = slice(job * self._share, (job + 1) * self._share), self.dataset.test
            return cut(test.x, part), cut(test.y, part)
        begin, train = (job - self._test_jobs) * self._share, self.dataset.train
        chosen = self.validation[begin : begin + self._share]
        return take(train.x, chosen), take(train.y, chosen)

    def _poison_share(self, job: int) -> tuple[Batch, Batch]:
        """Return what the attack makes of share `job` of the test data, with its targets.

        That is without the examples whose target stays as it was.
        """
        assert self.poisoning is not None
        x, y = self._read_share(job)
        poisoned, targets = self.poisoning(map_tensors(torch.clone, x), map_tensors(torch.clone, y))
        assert isinstance(y, Tensor) and isinstance(targets, Tensor)
        changed = (targets != y).nonzero().flatten()
        return take(poisoned, changed), take(targets, changed)

    def add_up(self, shares: Sequence[EvaluationShare]) -> Evaluation:
        """Return the evaluation that `shares`, in order, add up to."""
        if not self._measures_success:
            return self._add_up_clean(shares)
        found = self._add_up_clean(shares[: self._clean_jobs])
        poisoned = [share for share in shares[self._clean_jobs :] if share.weight]
        rate = self._add_up(poisoned, "poisoned test").metrics[ACCURACY.name]
        return evolve(found, metrics={**found.metrics, ATTACK_SUCCESS.name: rate})

    def _add_up_clean(self, shares: Sequence[EvaluationShare]) -> Evaluation:
        """Return the evaluation of the test data, with the metrics of the validation data."""
        if not len(self.validation):
            return self._add_up(shares, "test")
        found = self._add_up(shares[: self._test_jobs], "test")
        aside = self._add_up(shares[self._test_jobs :], "validation")
        more = {f"{VALIDATION}{name}": value for name, value in aside.metrics.items()}
        loss = aside.loss if math.isfinite(aside.loss) else None
        return evolve(found, metrics={**found.metrics, **more, VALIDATION_LOSS.name: loss})

    def _add_up(self, shares: Sequence[EvaluationShare], what: str) -> Evaluation:
        """Return the evaluation of one of the two.

        Nothing can be said of data of weight 0: then no number is finite.
        """
        weight = sum(share.weight for share in shares)
        if not weight:
            return Evaluation(math.nan, {metric.name: None for metric in self.task.metrics})
        names = list(shares[0].sums)
        if any(share.sums.keys() != shares[0].sums.keys() for share in shares):
            raise BadRuleOutput(
                f"the sums of the run's task are {', '.join(names)} for one part of the {what} "
                "data and others for another part, expected the same names each time"
            )
        sums = {name: sum(share.sums[name] for share in shares) for name in names}
        measured = self.task.measure(sums, weight)
        return Evaluation(
            sum(share.loss for share in shares) / weight,
            {name: value if math.isfinite(value) else None for name, value in measured.items()},
        )
