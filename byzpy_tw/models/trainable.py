"""The parameters of a model that a run trains, and the constants that it leaves as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from byzpy_tw.models.statistics import statistics_of
from byzpy_tw.vectors import sha256_of


def trained_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that make up the vector, in the order of ``named_parameters()``.

    They are those that require a gradient.  A tied one is there once, under its first name.
    """
    return [(name, leaf) for name, leaf in model.named_parameters() if leaf.requires_grad]


def frozen_values(model: nn.Module) -> dict[str, Tensor]:
    """Return the frozen parameters by name, and the statistics of layers in eval mode."""
    found: dict[str, Tensor] = {
        name: leaf for name, leaf in model.named_parameters() if not leaf.requires_grad
    }
    return found | statistics_of(model, training=False)


def constant_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers by name, but for statistics of normalisation layers."""
    left_out = statistics_of(model).keys()
    return {name: b for name, b in model.named_buffers() if name not in left_out}


def constant_bytes(model: nn.Module) -> int:
    """Return the memory of all that a model keeps beside the parameters that it trains."""
    return sum(map(_bytes, (frozen_values(model) | dict(model.named_buffers())).values()))


def _bytes(tensor: Tensor) -> int:
    if tensor.layout in (torch.strided, torch.jagged):
        return tensor.nbytes
    # A sparse one has its values, and at most an index of each dimension for each of them.
    return tensor._nnz() * (tensor.element_size() + 8 * tensor.dim())


def digests_of_constants(model: nn.Module) -> dict[str, str | None]:
    """Return digests of what must be equal on all machines, of a model not called yet."""
    frozen = frozen_values(model)
    buffers = {name: b for name, b in constant_buffers(model).items() if name not in frozen}
    return {"frozen": digest_of_values(frozen), "buffers": digest_of_values(buffers)}


def digest_of_values(values: Mapping[str, Tensor]) -> str | None:
    """Return the hex SHA-256 of named tensors, of any kind; None where there are none."""
    if not values:
        return None
    digest = hashlib.sha256()
    for name, tensor in values.items():
        digest.update(f"{name!r}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(sha256_of(_plain(tensor)).encode())
    return digest.hexdigest()


def _plain(tensor: Tensor) -> Tensor:
    """Return the numbers of `tensor` as a strided one of at least one dimension."""
    found = tensor.detach()
    if found.is_quantized:
        found = found.int_repr()
    elif found.is_nested:
        found = found.to_padded_tensor(0)
    return found.to_dense().resolve_conj().resolve_neg().reshape(-1)
