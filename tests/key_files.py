"""Keys for tests, good and bad, without the checks that keep bad ones from being used."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import define, field

from byzpy_tw.protocol.keygen import Authority, new_authority, new_keys
from byzpy_tw.protocol.keys import SERVER, TRAINER, Keys, _parse_pem

NOW = datetime.now(UTC)


@define(eq=False)
class ClusterKeys:
    """A CA, and files signed by it."""

    # Ten years old, so that what it signed may be over.
    authority: Authority = field(factory=lambda: new_authority(7000, NOW - timedelta(days=3500)))

    def pem(self, role: str, name: str = "", *, starts: float = 0, days: int = 30) -> bytes:
        """A file of one that is good from `starts` days from now, for `days` days."""
        begin = NOW + timedelta(days=starts)
        return new_keys(self.authority, role, name or role, days, begin)

    def keys(self, role: str, name: str = "", *, shown: str = "", **when: float) -> Keys:
        """Make TLS options for `role` that may show another role's certificate."""
        data = self.pem(shown or role, name, **when)  # type: ignore[arg-type]
        return Keys(Path("unchecked.pem"), role, *_parse_pem(Path("unchecked.pem"), data))

    def server(self, name: str = "alpha", **more: float) -> Keys:
        return self.keys(SERVER, name, **more)

    def trainer(self, name: str = "trainer", **more: float) -> Keys:
        return self.keys(TRAINER, name, **more)

    def context(self, role: str, where: Path, most: ssl.TLSVersion) -> ssl.SSLContext:
        """The standard library's TLS with a good file, up to the version `most`."""
        path = where / f"{role}.pem"
        path.write_bytes(self.pem(role))
        kind = ssl.PROTOCOL_TLS_SERVER if role == SERVER else ssl.PROTOCOL_TLS_CLIENT
        context = ssl.SSLContext(kind)
        context.check_hostname = False
        context.maximum_version = most
        context.load_cert_chain(path)
        context.load_verify_locations(path)
        return context
