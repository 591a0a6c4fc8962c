"""Text made fit for one line of a terminal, a log or a page, also of other processes and files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

DIGITS = 12  # of a digest that people see


def clean(text: str, length: int = 500) -> str:
    """Return the first `length` characters of `text` as one line without control characters."""
    words = "".join(c if c.isprintable() else " " for c in text[:length])
    return " ".join(words.split())


def clean_value(value: Any, length: int = 120) -> str:
    """Return a value read from a file as clean text; a SHA-256 is cut to `DIGITS`."""
    try:
        text = value[:DIGITS] if isinstance(value, str) and len(value) == 64 else str(value)
    except (ValueError, RecursionError):  # of thousands of digits, or nested as deep
        text = f"({type(value).__name__})"
    return clean(text, length)


def printable(text: object) -> str:
    """Return `text`, such as a path, with ``?`` for each control character."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def encodable(text: str) -> str:
    """Return `text` with ``?`` for characters that UTF-8 cannot encode, such as surrogates."""
    return text.encode("utf-8", "replace").decode()


def clip(text: str, length: int = 80) -> str:
    """Return `text`, cut to `length` characters with ``...`` at its end where it is longer."""
    return text if len(text) <= length else text[: length - 3] + "..."


def shorten(text: str, length: int = 300) -> str:
    """Return `text` as one line of `length` characters, and ``...`` for more."""
    words = " ".join(text.split())
    return words if len(words) <= length else f"{words[:length]}..."


def number_range(numbers: Iterable[int]) -> str:
    """Return the range of `numbers` in words: ``3``, or ``3 to 5``."""
    found = sorted(set(numbers))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def join_numbers(numbers: Iterable[int]) -> str:
    """Return `numbers` with commas between, in a bounded length."""
    return clip(", ".join(map(str, numbers)))


def count_rounds(count: int) -> str:
    """Return how many rounds, in words: ``60 rounds``."""
    return f"{count} round{'s' * (count != 1)}"
