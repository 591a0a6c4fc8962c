"""TLS, ``tls://HOST:PORT``: `tcp` that says in its address that keys are needed."""

from __future__ import annotations

from byzpy_tw.transports.tcp import TCP


class TLS(TCP):
    """TCP connections under mutual TLS, and no others."""

    scheme, form = "tls", "tls://HOST:PORT"
    requires_keys = True
