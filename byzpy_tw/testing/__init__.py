"""Test tools for plugin authors.

`properties` has the tests of each kind of plugin, `FakeServer` a server as the trainer sees
it, `doubles` a clock, a pool of threads and a transport that a test drives.
"""

from __future__ import annotations

from typing import Any

__all__ = ["FakeServer"]


def __getattr__(name: str) -> Any:
    if name != "FakeServer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from byzpy_tw.testing.fake_server import FakeServer  # seconds to import

    return FakeServer
