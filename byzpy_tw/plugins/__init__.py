"""Hooks, and the names that plugins and built-ins offer through them."""

from byzpy_tw.plugins.hookspecs import Registration, hookimpl
from byzpy_tw.plugins.naming import Named, parse
from byzpy_tw.plugins.registry import KINDS, Entry, Registry, load

__all__ = ["KINDS", "Entry", "Named", "Registration", "Registry", "hookimpl", "load", "parse"]
