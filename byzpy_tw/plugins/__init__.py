"""Hooks, and the names that plugins and built-ins offer through them."""

from byzpy_tw.plugins.hookspecs import Registration, hookimpl
from byzpy_tw.plugins.loading import load, load_and_warn
from byzpy_tw.plugins.naming import ParsedName, parse
from byzpy_tw.plugins.registry import KINDS, BrokenDistribution, Entry, Registry

__all__ = [
    "KINDS",
    "BrokenDistribution",
    "Entry",
    "ParsedName",
    "Registration",
    "Registry",
    "hookimpl",
    "load",
    "load_and_warn",
    "parse",
]
