"""SIGHUP on a server's process: the log's file is opened again, and the keys are read again."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.internet.interfaces import IReactorCore
from twisted.logger import Logger

from byzpy_tw.log_tail import event_line
from byzpy_tw.server.log import LogFile

if TYPE_CHECKING:
    from byzpy_tw.server.service import ByzpyServer


@define(eq=False)
class Reload:
    """Handles SIGHUP, and SIGUSR1, which only opens the log's file again.

    It is there before the server, whose modules take seconds to import: a signal in this time
    must not end the process.  A server in a terminal ends with it, as any program does, unless
    SIGHUP is ignored there (nohup).
    """

    _reactor: Any
    _in_terminal: bool = False
    server: ByzpyServer | None = field(default=None, init=False)
    log_file: LogFile | None = field(default=None, init=False)

    log = Logger()

    @classmethod
    def install(cls, reactor: Any, foreground: bool) -> Reload:
        """Handle the signals from now on."""
        dies = signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        reload = cls(reactor, foreground and dies and _has_terminal())
        for number, action in (
            (signal.SIGHUP, reload.on_hangup), (signal.SIGUSR1, reload.reopen_log),
        ):  # fmt: skip
            signal.signal(number, lambda *_, action=action: reactor.callFromThread(action))
        return reload

    def on_hangup(self) -> None:
        if self._in_terminal and not _has_terminal():
            self.log.info("the terminal is gone: stopping")
            IReactorCore(self._reactor).stop()
            return
        self.reopen_log()
        if self.server is not None:
            self.server.reload_keys()

    def reopen_log(self) -> None:
        """Open the log's file again, or say in the old one why not."""
        if self.log_file is None:
            return
        path = self.log_file.path
        try:
            self.log_file.reopen()
        except OSError as e:
            why = f"cannot open {path} again: {e.strerror or e}; the old file stays in use"
            line = event_line(why, "log-kept", path=path, why=e.strerror)
            self.log.warn("{line}", line=line)
        else:
            line = event_line(f"opened {path} again", "log-reopened", path=path)
            self.log.info("{line}", line=line)


def _has_terminal() -> bool:
    """Return whether this process has a terminal that can end it."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
