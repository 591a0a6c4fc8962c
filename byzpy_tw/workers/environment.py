"""The software and hardware of a process, and a comparison of two of them.

A server tells its environment at `Hello`; the trainer compares it with its own before round 0.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from functools import cache
from typing import Any

import attrs
import torch
from attrs import field, frozen
from torch import nn

from byzpy_tw import seeds
from byzpy_tw.errors import WireError
from byzpy_tw.kernels.parallel import run_single_threaded_with_grad
from byzpy_tw.parameters import Constraint, integer_in, validated
from byzpy_tw.plugins.registry import Registry
from byzpy_tw.vectors import sha256_of


def _printable(value: Any) -> str | None:  # it is shown to a user
    valid = isinstance(value, str) and len(value) <= 200 and value.isprintable()
    return None if valid else "a printable text of at most 200 characters"


def _versions(value: Any) -> str | None:
    valid = isinstance(value, dict) and len(value) <= 1000
    valid = valid and not any(map(_printable, [*value, *value.values()]))
    return None if valid else "at most 1000 names with their versions"


def _field(constraint: Constraint) -> Any:
    return field(validator=validated(constraint, WireError))


@frozen(kw_only=True)
class Environment:
    """Versions, instruction set and plugins of one process.

    ``probe`` is the digest of a fixed gradient; ``plugins`` maps each distribution that offers
    plugins to its version.
    """

    python: str = _field(_printable)
    torch: str = _field(_printable)
    instructions: str = _field(_printable)
    probe: str = _field(_printable)
    device: str = _field(_printable)
    threads: int = _field(integer_in(0, 1_000_000))
    plugins: Mapping[str, str] = _field(_versions)

    def to_json(self) -> str:
        return json.dumps(attrs.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Environment:
        """Decode what a peer sent; raises `WireError`.  Further entries are ignored."""
        try:
            found = json.loads(text)
            known = {f.name for f in attrs.fields(cls)}
            return cls(**{key: value for key, value in found.items() if key in known})
        except (TypeError, ValueError, AttributeError, RecursionError, WireError) as e:
            raise WireError(f"no environment in the answer to Hello: {e}"[:300]) from e


@cache
def probe() -> str:
    """Return the hex digest of a small convolutional gradient, on one torch thread.

    Equal in two processes whose library versions and instruction sets compute alike.  Cached.
    """
    return run_single_threaded_with_grad(_probe_gradient)


def _probe_gradient() -> str:
    """Return the digest of the gradient of a fixed convolution."""
    stream = seeds.stream(0, "probe")

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(stream.standard_normal(shape).astype("float32"))

    kernel, weight = draw(16, 1, 3, 3), draw(10, 16 * 14 * 14)
    for leaf in (kernel, weight):
        leaf.requires_grad_()
    hidden = nn.functional.conv2d(draw(8, 1, 28, 28), kernel, padding=1).relu()
    logits = nn.functional.max_pool2d(hidden, 2).flatten(1) @ weight.T
    loss = nn.functional.cross_entropy(logits, torch.arange(8))
    return sha256_of(*torch.autograd.grad(loss, [kernel, weight]))


def environment(registry: Registry, *, probe: str, device: str, threads: int) -> Environment:
    """Return the environment of this process."""
    return Environment(
        python=platform.python_version(),
        torch=torch.__version__,
        instructions=f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        probe=probe,
        device=device,
        threads=threads,
        plugins=dict(registry.distributions),
    )


def differences(mine: Environment, theirs: Environment, used: set[str]) -> list[str]:
    """Return a sentence for each difference that may lead to other bits.

    `used` names the distributions whose plugins the run uses on servers: their versions matter.
    A missing one is found when its name is looked up, not here.
    """
    compared = (
        ("Python", mine.python, theirs.python),
        ("torch", mine.torch, theirs.torch),
        ("instruction set", mine.instructions, theirs.instructions),
    )
    found = [f"runs {what} {b}, the trainer {a}" for what, a, b in compared if a != b]
    for name in sorted(used & set(theirs.plugins)):
        if theirs.plugins[name] != mine.plugins.get(name):
            found.append(f"has {name} {theirs.plugins[name]}, the trainer {mine.plugins.get(name)}")
    if mine.probe != theirs.probe:
        found.append("computes a fixed gradient to other bits than the trainer")
    return found
