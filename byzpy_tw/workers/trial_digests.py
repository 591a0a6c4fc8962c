"""Digests of all that decides a run's bits and is not in its configuration.

The trainer compares its own with each server's before round 0.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import deep_iterable, instance_of, matches_re, max_len, optional
from torch import Tensor

from byzpy_tw.batches import map_tensors, tensors_of
from byzpy_tw.datasets import Dataset
from byzpy_tw.datasets.tensors import input_dtype
from byzpy_tw.errors import WireError
from byzpy_tw.object_state import tensor_digest
from byzpy_tw.vectors import norm_of, sha256_of
from byzpy_tw.workers.precision import FLOAT32, ROUNDING

TOLERANCE = ROUNDING[FLOAT32]  # relative, between processes whose bits may differ
_STRETCHES = 16  # of a gradient, whose norms are compared
_HEX = matches_re(r"[0-9a-f]{64}")
OPTIONAL_HEX = optional([instance_of(str), _HEX])
_CONSTANTS = ("frozen", "buffers")  # fields after 0.1, which travel apart from the others


def is_finite(gradient: TrialDigests | GradientDigests) -> bool:
    """Return whether the loss and all numbers of a gradient are finite."""
    return all(map(math.isfinite, (gradient.loss, *gradient.norms)))


def nearly_equal(
    one: TrialDigests | GradientDigests,
    other: TrialDigests | GradientDigests,
    least_loss: float,
    rounding: float = TOLERANCE,
) -> bool:
    """Return whether loss and norms of two gradients agree but for `rounding`.

    Two that are not finite agree.  The loss may differ by `rounding` of itself, or of
    `least_loss` if that is more.
    """
    if len(one.norms) != len(other.norms):
        return False
    if not is_finite(one) or not is_finite(other):
        return is_finite(one) == is_finite(other)
    size = max((1e-30, *map(abs, one.norms)))
    close = all(abs(a - b) <= rounding * size for a, b in zip(one.norms, other.norms))
    return close and abs(one.loss - other.loss) <= rounding * max(least_loss, abs(one.loss))


@frozen(kw_only=True)
class TrialDigests:
    """Digests of what decides a run's bits in one process.

    ``shards``: each node's examples; ``classes``: number and names of classes and shape of an
    example, and the task and shape of a target where these are not classes; ``normalisation``: the
    numbers that inputs are made with; ``gradient``: of two examples, with its ``loss`` and the
    ``norms`` of its stretches, for processes that round otherwise.  ``frozen`` and ``buffers``: the
    model's frozen parameters, and its constant buffers; None where it has none, and of byzpy_tw
    0.1.
    """

    shards: str = field(validator=[instance_of(str), _HEX])
    classes: str = field(validator=[instance_of(str), _HEX])
    normalisation: str = field(validator=[instance_of(str), _HEX])
    gradient: str = field(validator=[instance_of(str), _HEX])
    loss: float = field(validator=instance_of(float))
    norms: tuple[float, ...] = field(
        validator=[max_len(_STRETCHES), deep_iterable(instance_of(float), instance_of(tuple))]
    )
    frozen: str | None = field(default=None, validator=OPTIONAL_HEX)
    buffers: str | None = field(default=None, validator=OPTIONAL_HEX)

    @classmethod
    def of(
        cls, gradient: GradientDigests, data: Dataset, shards: Sequence[np.ndarray], task: str,
        *, frozen: str | None = None, buffers: str | None = None,
    ) -> TrialDigests:  # fmt: skip
        """Return the digests of this process, of a run whose task is written as `task`."""
        numbers = hashlib.sha256()
        for shard in shards:
            numbers.update(f"{len(shard)}:".encode() + shard.astype("<i8").tobytes())
        kinds: tuple[Any, ...] = (data.classes, data.shape)
        x, y = data.train.x, data.train.y
        if data.classes is None or task != "classification":  # or as before there were tasks
            kinds = (*kinds, data.target_shape, map_tensors(lambda t: str(t.dtype), y), task)
        dtypes = set(map(input_dtype, tensors_of(x)))
        if dtypes != {torch.float32}:  # or as before there were others
            kinds = (*kinds, map_tensors(lambda t: str(input_dtype(t)), x))
        if data.class_names:
            kinds = (*kinds, data.class_names)
        return cls(
            shards=numbers.hexdigest(),
            classes=hashlib.sha256(repr(kinds).encode()).hexdigest(),
            normalisation=sha256_of(torch.tensor(data.mean), torch.tensor(data.std)),
            gradient=gradient.sha256,
            loss=gradient.loss,
            norms=gradient.norms,
            frozen=frozen,
            buffers=buffers,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the fields' names, without those that are None."""
        return attrs.asdict(self, filter=lambda _, value: value is not None)

    def to_json(self) -> str:
        """Encode what a trainer of 0.1 knows, which refuses any other key."""
        known = {name: value for name, value in self.to_dict().items() if name not in _CONSTANTS}
        return json.dumps(known, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TrialDigests:
        """Decode the trial that a peer sent; raises `WireError` for anything else."""
        try:
            found = json.loads(text)
            norms = tuple(math.nan if norm is None else norm for norm in found["norms"])
            loss = math.nan if found["loss"] is None else found["loss"]  # as records have it
            return cls(**{**found, "norms": norms, "loss": loss})
        except (TypeError, ValueError, KeyError, RecursionError) as e:
            why = str(e.args[0] if e.args else e)
            raise WireError(f"no trial in the answer to OpenRun: {why}"[:300]) from e

    def has_other_frozen(self, other: TrialDigests) -> bool:
        """Return whether frozen parameters are other ones in the process of `other`."""
        return None not in (self.frozen, other.frozen) and self.frozen != other.frozen

    def differences(
        self, other: TrialDigests, *, exact: bool, local: bool, precision: str = FLOAT32
    ) -> list[str]:
        """Name the differences between this trial and a server's, for users.

        `exact` demands equal bits of the gradient; otherwise it may differ by the rounding of
        `precision`.
        With `local` data only the parts that do not depend on the data are compared.
        """
        found = []
        if self.classes != other.classes:
            found.append(
                "the number or names of classes, the shape of an example or target, or the task"
            )
        if self.has_other_frozen(other):
            found.append("the values of its frozen parameters")
        if exact and None not in (self.buffers, other.buffers) and self.buffers != other.buffers:
            found.append("the model's buffers")
        if local:
            return found
        if self.normalisation != other.normalisation:
            found.append("the normalisation of inputs")
        if self.shards != other.shards:
            found.append("the partition's shards")
        alike = self.gradient == other.gradient
        if not exact:
            alike = nearly_equal(self, other, 1e-30, ROUNDING[precision])
        if not alike and not found:
            found.append("a gradient of the model on the same examples")
        return found


@frozen(eq=False)
class GradientDigests:
    """Digests of a gradient, whose memory is not kept."""

    digests: tuple[Any, ...]  # cheap, equal for equal bits
    loss: float
    norms: tuple[float, ...]  # of its stretches
    sha256: str

    @classmethod
    def of(cls, pieces: Sequence[Tensor], loss: float, *, sha256: bool) -> GradientDigests:
        """Return digests of the flat `pieces`; the SHA-256 only if it is asked for."""
        step = -(-len(pieces) // _STRETCHES)
        parts = [pieces[i : i + step] for i in range(0, len(pieces), step)]
        norms = tuple(math.hypot(*map(norm_of, part)) for part in parts)
        digests = (loss.hex(), *map(tensor_digest, pieces))
        return cls(digests, loss, norms, sha256_of(*pieces) if sha256 else "")
