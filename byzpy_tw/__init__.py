"""Byzantine-robust distributed training of PyTorch models on Twisted.

Importing this package is cheap: no torch, no Twisted, until a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Module -> the public names that it defines.  It is imported when one of them is first used.
_NAMES = {
    "seeds": ("Context",),
    "errors": ("ByzpyTwError",),
    "report.result": ("Result",),
    "config.run_config": ("RunConfig",),
    "plugins.hookspecs": ("Registration", "hookimpl"),
    "attacks.knowledge.view": ("Knowledge",),
    "datasets": ("Dataset", "Split"),
    "plugins.shorthand": ("aggregator", "preaggregator", "pipeline", "attack"),
    "tasks.function_task": ("FunctionTask",),
    "api": ("run", "run_async", "verify"),
}
_HOMES = {name: f"byzpy_tw.{module}" for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'byzpy_tw' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
