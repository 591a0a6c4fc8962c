"""How a command ends: with an exit code, and a line for what went wrong."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from byzpy_tw.errors import ByzpyTwError, message_of

INTERRUPTED = 130
UNWRITTEN = 74  # what was to be printed could not be: sysexits.h calls it EX_IOERR
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


def ended(command: Callable[[], int]) -> int:
    """The exit code of `command`, with all that it printed on its way."""
    try:
        code = command()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read the output, such as head, has enough
        sys.stdout = None  # type: ignore[assignment]  # or it is flushed once more
        return 141
    except KeyboardInterrupt:  # before a command has its own way to be interrupted
        return INTERRUPTED
    except ByzpyTwError as e:
        print(f"byzpy_tw: error: {message_of(e)}", file=sys.stderr)
        return e.exit_code
    except OSError as e:
        if e.filename is not None or e.errno not in _FULL:
            raise
        sys.stdout = None  # type: ignore[assignment]
        print(
            f"byzpy_tw: error: cannot print the answer: {e.strerror}; make room, or send it "
            "elsewhere",
            file=sys.stderr,
        )
        return UNWRITTEN
