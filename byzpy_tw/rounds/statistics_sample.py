"""The training data that statistics of BatchNorm are computed from before an evaluation.

Nodes have none, and no node's word is taken for them.  The trainer calls the model with a sample
of its own training data, in parts as large as a run's micro-batches, which a job each takes.
What reaches a layer is added up in the order of the parts, so the statistics have the same bits
on any number of threads.
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor, nn

from byzpy_tw import seeds
from byzpy_tw.datasets import Dataset
from byzpy_tw.models.statistics import needs_statistics
from byzpy_tw.workers.micro_batch import cut_batch
from byzpy_tw.workers.spec import RunSpec
from byzpy_tw.workers.validation import training_indices

# Examples of a run, drawn once by its seed: enough for the mean of a layer of single numbers to
# be within 2 % of its deviation, and fewer than most test data have, which takes as long.
MOST_EXAMPLES = 2048


@frozen(eq=False)
class StatisticsSample:
    """The sample, as parts: indices into the training data."""

    parts: tuple[Tensor, ...]

    @classmethod
    def of(cls, model: nn.Module, spec: RunSpec, data: Dataset) -> StatisticsSample:
        """Return the sample of a run; one without parts where `model` needs no statistics."""
        if not needs_statistics(model):
            return cls(())
        kept = training_indices(spec, data)
        count = len(data.train) if kept is None else len(kept)
        order = seeds.stream(spec.seed, "statistics").permutation(count)[:MOST_EXAMPLES]
        chosen = torch.from_numpy(order if kept is None else kept[order])
        most = min(spec.micro_batch_size, spec.batch_size)
        return cls(tuple(chosen[c] for c in cut_batch(len(chosen), most, join_single=True)))
