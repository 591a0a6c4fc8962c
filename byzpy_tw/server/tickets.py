"""Tickets: permission to turn a second connection into a run's tensor stream."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Hashable

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime

from byzpy_tw.errors import BadTicket
from byzpy_tw.scheduling import clock
from byzpy_tw.server.server_run import ServerRun


@frozen(eq=False)
class _Ticket:
    secret: bytes
    run: ServerRun
    owner: Hashable
    expiry: float  # a reading of `clock.seconds`


@define(eq=False)
class Tickets:
    """The tickets that were issued and not used yet."""

    _reactor: IReactorTime
    _seconds: float  # until one expires
    _open: list[_Ticket] = field(factory=list, init=False)

    def issue(self, run: ServerRun, owner: Hashable) -> bytes:
        """Return a ticket for `run`, good for one use by `owner`.

        An owner is an address, and a certificate where there are keys.
        """
        secret = secrets.token_bytes(16)
        expiry = clock.seconds(self._reactor) + self._seconds
        self._open.append(_Ticket(secret, run, owner, expiry))
        return secret

    def redeem(self, secret: bytes, owner: Hashable) -> ServerRun:
        """Use a ticket up, and return its run.

        Raises `BadTicket` for one that is unknown, used, expired, or another peer's.
        """
        now = clock.seconds(self._reactor)
        for ticket in self._open:
            if now < ticket.expiry and hmac.compare_digest(ticket.secret, secret):
                if ticket.owner != owner:
                    raise BadTicket(
                        "this ticket was given to another peer: to another address, or "
                        "another certificate"
                    )
                self.revoke(ticket.run)
                return ticket.run
        raise BadTicket("this ticket is unknown, used or expired")

    def revoke(self, run: ServerRun) -> None:
        """Forget the tickets of `run`."""
        self._open = [ticket for ticket in self._open if ticket.run is not run]
