"""The server's log: lines for events, for people and for programs.

A line of an event is a sentence and a tail, ``event=NAME`` and further ``key=value`` pairs.  The
names of events and keys are documented, and stay.
"""

from __future__ import annotations

from typing import Any

from byzpy_tw.log_tail import key_values
from byzpy_tw.text import clean

_LONGEST = 600  # characters of a sentence


def event_line(sentence: str, event: str, **fields: Any) -> str:
    """Return one line: `sentence`, and a tail that begins at the line's first ``event=``."""
    # A peer chooses some words of a sentence: they must not look like a tail.
    words = clean(sentence, _LONGEST).replace("event=", "event:")
    return f"{words} {key_values({'event': event, **fields})}"
