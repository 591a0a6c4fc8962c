"""The origin of a run's records: when its trainer worked on it, where, and in whose name."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import byzpy_tw
from byzpy_tw.log_tail import utc
from byzpy_tw.protocol.keys import serial_of
from byzpy_tw.protocol.mtls import MutualTLS
from byzpy_tw.scheduling import clock
from byzpy_tw.text import clean
from byzpy_tw.trainer.reactor import ITrainerReactor

_MOST_PROCESSES = 1000  # that config.json keeps, the first one and the newest


def describe_process(reactor: ITrainerReactor, keys: MutualTLS | None) -> dict[str, Any]:
    """Return the entry of this process in config.json, as it begins."""
    found = {
        "started": now(reactor),
        "host": clean(socket.gethostname(), 255),
        "user": _user(),
        "byzpy_tw": byzpy_tw.__version__,
    }
    if keys is not None:
        certificate = keys.keys.certificate
        found["certificate_subject"] = clean(certificate.subject.rfc4514_string(), 255)
        found["certificate_serial"] = serial_of(certificate)
    return found


def now(reactor: ITrainerReactor) -> str:
    """Return the time of day in UTC."""
    return utc(clock.time_of_day(reactor))


def add_process(
    description: Mapping[str, Any], process: Mapping[str, Any], rounds: int = 0
) -> list[Mapping[str, Any]]:
    """Return the processes of a run that is begun, or resumed from `description`, in order.

    Where there are `rounds` whose process is not on record, as in runs of earlier versions, the
    first entry is empty.
    """
    before = description.get("processes")
    kept = [one for one in before if isinstance(one, dict)] if isinstance(before, list) else []
    if rounds and not kept:
        kept = [{}]
    return [*kept[:1], *kept[1:][2 - _MOST_PROCESSES :], *([process] if process else [])]


def begun_at(processes: Sequence[Mapping[str, Any]]) -> str | None:
    """Return when the first of a run's `processes` was started, if that is on record."""
    started = processes[0].get("started") if processes else None
    return started if isinstance(started, str) else None


def _user() -> str:
    try:
        return clean(getpass.getuser(), 255)
    except (OSError, KeyError, ImportError):  # one without a name
        return str(os.getuid())
