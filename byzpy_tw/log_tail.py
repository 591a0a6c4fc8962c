"""The tail of a line in a log: ``key=value`` pairs, which programs read and people skip."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from byzpy_tw.text import clean, clip, printable

EVENT_FORMAT = "{line}"  # of an entry in Twisted's log whose line may have a tail
_LONGEST_SENTENCE = 2_000  # characters; an error's remedy stands at its end
_LONGEST = 300  # characters of a value
_QUOTED = frozenset(' "=\\')


def event_line(sentence: str, event: str, **fields: Any) -> str:
    """Return one line: `sentence`, and a tail that begins at the line's first ``event=``."""
    words = without_tail(clean(sentence, _LONGEST_SENTENCE))
    return f"{words} {key_values({'event': event, **fields})}"


def without_tail(text: str) -> str:
    """Return `text`, some words of which a peer may have chosen, with nothing like a tail."""
    return text.replace("event=", "event:")


def log_text(text: str, log_format: object) -> str:
    """Return the lines of a log's entry with escapes for control characters.

    They look like a line of an event only where the entry has `EVENT_FORMAT`.
    """
    shown = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    return shown if log_format == EVENT_FORMAT else without_tail(shown)


def key_values(fields: Mapping[str, Any]) -> str:
    """Return `fields` as ``key=value`` pairs with spaces between, in one line.

    A value of None is left out; numbers of a sequence stand behind one another with commas.
    A value with a space, a quote or an equals sign, and an empty one, is quoted as in JSON.
    """
    return " ".join(f"{key}={_text(value)}" for key, value in fields.items() if value is not None)


def utc(seconds: float) -> str:
    """Return the time `seconds` after 1970 in UTC, as in ``2026-01-31T12:00:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        value = ",".join(map(_text, value))
    text = clip(printable(value), _LONGEST)
    return json.dumps(text) if not text or _QUOTED & set(text) else text
