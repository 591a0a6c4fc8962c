"""What a process runs on, and whether two of them will agree.

A server tells its environment at `Hello`; the trainer compares it with its
own before round 0.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping

import attrs
import torch
from attrs import field, frozen
from attrs.validators import deep_mapping, instance_of, max_len

from byzpy_tw.errors import WireError
from byzpy_tw.plugins.registry import Registry


def _printable(_: object, attribute: attrs.Attribute, value: str) -> None:
    if not value.isprintable():  # it is shown to a user
        raise ValueError(f"{attribute.name} has control characters")


_text = [instance_of(str), max_len(200), _printable]


@frozen(kw_only=True)
class Environment:
    """Versions, instruction set and plugins of one process.

    ``probe`` is the digest of a fixed gradient; ``plugins`` maps each
    distribution that offers plugins to its version.
    """

    python: str = field(validator=_text)
    torch: str = field(validator=_text)
    instructions: str = field(validator=_text)
    probe: str = field(validator=_text)
    device: str = field(validator=_text)
    threads: int = field(validator=instance_of(int))
    plugins: Mapping[str, str] = field(
        validator=[
            max_len(1000),
            deep_mapping(
                attrs.validators.and_(*_text), attrs.validators.and_(*_text), instance_of(dict)
            ),
        ]
    )

    def to_json(self) -> str:
        return json.dumps(attrs.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Environment:
        """The environment that a peer told; `WireError` where it is none."""
        try:
            found = json.loads(text)
            known = {f.name for f in attrs.fields(cls)}
            return cls(**{key: value for key, value in found.items() if key in known})
        except (TypeError, ValueError, AttributeError, RecursionError) as e:
            raise WireError(f"no environment in the answer to Hello: {e}"[:300]) from e


def environment(registry: Registry, *, probe: str, device: str, threads: int) -> Environment:
    """The environment of this process."""
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
    """What may keep two environments from agreeing, in words; empty if nothing.

    `used` names the distributions whose plugins the run uses on servers: their
    versions matter.  One that is missing is found out by name, not here.
    """
    found = []
    for what, a, b in (
        ("Python", mine.python, theirs.python),
        ("torch", mine.torch, theirs.torch),
        ("instruction set", mine.instructions, theirs.instructions),
    ):
        if a != b:
            found.append(f"runs {what} {b}, the trainer {a}")
    for name in sorted(used & set(theirs.plugins)):
        if theirs.plugins[name] != mine.plugins.get(name):
            found.append(f"has {name} {theirs.plugins[name]}, the trainer {mine.plugins.get(name)}")
    if mine.probe != theirs.probe:
        found.append("computes a fixed gradient to other bits than the trainer")
    return found
