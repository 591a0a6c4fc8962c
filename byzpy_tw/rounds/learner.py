"""The model that is being trained, and its optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from byzpy_tw import models
from byzpy_tw.config.run import RunConfig
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import Diverged
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.vectors import sha256_of
from byzpy_tw.workers.gradients import model_provider
from byzpy_tw.workers.loss import class_scores

# Test examples in one job, fewer of a large model: the output of a layer should not take more
# memory than the model itself.  A function of d alone, since it decides bits.  A layer of
# `small_cnn` takes 10 MB for a hundred examples (67 ms for a thousand digits), and for 500
# 50 MB, which the system hands out anew for each job (97 ms).
EVALUATED_AT_ONCE = 100
_AT_ONCE = 2**32


@frozen
class EvaluationShare:
    """The evaluation of a share of the test data: summed loss, right answers, examples."""

    loss: float
    right: int
    examples: int


@frozen
class Evaluation:
    """The evaluation of the whole test data: mean loss, and the share of right answers."""

    loss: float
    accuracy: float


@define(eq=False)
class Learner:
    """Parameters as one flat ``(d,)`` vector, stepped by SGD with momentum.

    The step is `torch.optim.SGD`'s, to the bit.  It stands here because making one of torch's
    optimizers imports its compiler: two seconds of every start.
    """

    model: nn.Module
    dataset: Dataset
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    milestones: tuple[int, ...] = ()  # rounds from which `lr` is multiplied by `decay`
    decay: float = 0.1
    copied: bool = False  # whether each call of the model needs a copy
    who: str = "the model"  # whose code it is, for its errors
    _call: Callable[[], nn.Module] = field(init=False)
    parameters: Tensor = field(init=False)
    velocity: Tensor = field(init=False)  # (d,), the momentum's memory

    def __attrs_post_init__(self) -> None:
        self.model.eval()
        self.parameters = models.flat_parameters(self.model)
        for leaf in self.model.parameters():
            leaf.requires_grad_(False)
        self.velocity = torch.zeros_like(self.parameters)
        self._call = model_provider(self.model, self.copied)

    @classmethod
    def of(
        cls, config: RunConfig, model: nn.Module, dataset: Dataset, *, copied: bool, who: str
    ) -> Learner:
        """Return the learner of a run of `config`."""
        return cls(
            model, dataset, config.lr, config.momentum, config.weight_decay,
            config.lr_milestones, config.lr_decay, copied, who,
        )  # fmt: skip

    @property
    def dimension(self) -> int:
        return self.parameters.numel()

    def learning_rate(self, round: int) -> float:
        """Return the learning rate of `round`."""
        return self.lr * self.decay ** sum(round >= m for m in self.milestones)

    def restore(self, parameters: Tensor, velocity: Tensor) -> None:
        """Go on from these ``(d,)`` tensors."""
        self.parameters.copy_(parameters)
        self.velocity.copy_(velocity)

    def step(self, vector: Tensor, round: int, *, lent: bool = False) -> None:
        """Take a step along the aggregated `vector`.

        Where the parameters are `lent`, to a reader that is not done, the new ones are other
        memory.  Raises `Diverged` where they are no longer finite.
        """
        vector = vector.to(self.velocity.device)
        if self.weight_decay:
            vector = vector.add(self.parameters, alpha=self.weight_decay)
        if lent:
            self.parameters = models.flat_parameters(self.model, torch.empty_like(self.parameters))
        self.velocity.mul_(self.momentum).add_(vector)
        self.parameters.add_(self.velocity, alpha=-self.learning_rate(round))
        # The sum of finite numbers may overflow.  Both ends of the range are NaN where
        # one number is; `isfinite` takes fifteen times as long.
        if not all(map(math.isfinite, map(float, torch.aminmax(self.parameters)))):
            raise Diverged("the parameters are no longer finite; try a smaller --lr")

    def digest(self) -> str:
        """Return the SHA-256 of the parameters."""
        return sha256_of(self.parameters)

    @property
    def _share(self) -> int:
        return max(20, min(EVALUATED_AT_ONCE, _AT_ONCE // self.dimension))

    @property
    def evaluation_jobs(self) -> int:
        return -(-len(self.dataset.test.y) // self._share)

    @torch.no_grad()
    def test(self, job: int) -> EvaluationShare:
        """Evaluate share `job` of the test data."""
        part = slice(job * self._share, (job + 1) * self._share)
        device = self.parameters.device
        labels = self.dataset.test.y[part].to(device)
        inputs = self.dataset.inputs(self.dataset.test.x[part]).to(device)
        with plugin_call(self.who):
            logits = class_scores(self._call(), inputs, self.dataset.classes, self.who)
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        right = int((logits.argmax(dim=1) == labels).sum())
        return EvaluationShare(float(loss), right, len(labels))


def add_up(shares: list[EvaluationShare]) -> Evaluation:
    """Return the evaluation that `shares`, in order, add up to."""
    examples = sum(share.examples for share in shares) or 1  # 0: nothing was evaluated
    return Evaluation(
        sum(share.loss for share in shares) / examples,
        sum(share.right for share in shares) / examples,
    )


def worker_momentum(old: Tensor | None, gradient: Tensor, beta: float) -> Tensor:
    """Return a node's next momentum, m = beta m + (1 - beta) g, from zero: ``(d,)``.

    Karimireddy et al., ICML 2021, Algorithm 1.
    """
    start = torch.zeros_like(gradient) if old is None else old * beta
    return start.add_(gradient, alpha=1 - beta)
