"""Byzantine-robust distributed training of PyTorch models on Twisted.

Importing this package is cheap: no torch, no Twisted, until a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> the module that defines it, imported when first asked for.
_HOMES = {
    "Context": "byzpy_tw.seeds",
    "ByzpyTwError": "byzpy_tw.errors",
    "Result": "byzpy_tw.report.result",
    "RunConfig": "byzpy_tw.config.run",
    "Registration": "byzpy_tw.plugins.hookspecs",
    "hookimpl": "byzpy_tw.plugins.hookspecs",
    "Knowledge": "byzpy_tw.attacks.knowledge.view",
    "Dataset": "byzpy_tw.datasets",
    "Split": "byzpy_tw.datasets",
    "aggregator": "byzpy_tw.plugins.shorthand",
    "preaggregator": "byzpy_tw.plugins.shorthand",
    "pipeline": "byzpy_tw.plugins.shorthand",
    "attack": "byzpy_tw.plugins.shorthand",
    "run": "byzpy_tw.api",
    "run_async": "byzpy_tw.api",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'byzpy_tw' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
