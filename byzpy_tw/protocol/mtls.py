"""Mutual TLS 1.3: server and trainer must both show a certificate of their cluster.

The order of the checks decides which side knows the reason of a refusal:

1. The server's certificate reaches the trainer first.  If it is refused, the trainer knows
   why (`LimitedAMP.refusal`), and the server receives an alert in the handshake.
2. Then the trainer is done with the handshake and speaks, before the server has checked its
   certificate.  If that is refused, the server knows why, and the trainer receives an alert in
   place of its first answer.

So each side describes either its own finding or the alert that it received.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from attrs import define, field, frozen
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import Certificate
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey
from twisted.internet import ssl
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from zope.interface import implementer

from byzpy_tw.errors import BadKeys
from byzpy_tw.protocol.keys import (
    RENEW_HINT,
    SERVER,
    TRAINER,
    Keys,
    name_of,
    role_of,
    serial_of,
)
from byzpy_tw.text import clean

OPPOSITE_ROLE = {SERVER: TRAINER, TRAINER: SERVER}
_REQUIRE_CERTIFICATE = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
_SAME_FOLDER = "both sides' files must come from one 'python -m byzpy_tw keygen' folder"
# OpenSSL's error numbers for certificates (x509_vfy.h).
_NOT_YET, _EXPIRED = 9, 10
_UNKNOWN_ISSUER = {2, 7, 18, 19, 20, 21, 30}  # the issuer is not our CA


@frozen
class Peer:
    """The other end of a connection, by its certificate."""

    name: str
    fingerprint: str  # SHA-256 of the certificate, in hex
    serial: str  # of the certificate, in hex
    until: datetime | None = None  # when it expires


def authenticated_peer(certificate: Certificate | None, role: str) -> Peer | None:
    """Return the peer that showed a `certificate` of `role`; None for another one, or none."""
    if certificate is None or role_of(certificate) != role:
        return None
    fingerprint = certificate.fingerprint(SHA256()).hex()
    until = certificate.not_valid_after_utc
    return Peer(name_of(certificate), fingerprint, serial_of(certificate), until)


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
@define(eq=False)
class MutualTLS:
    """TLS connections that show `keys` and demand a certificate of the other role."""

    keys: Keys
    _context: SSL.Context = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.use(self.keys)

    def use(self, keys: Keys) -> None:
        """Make connections with `keys` from now on; those that exist go on.

        Raises `BadKeys` for keys that OpenSSL refuses, such as short ones.
        """
        ca = ssl.Certificate(X509.from_cryptography(keys.ca))
        options = ssl.CertificateOptions(
            privateKey=PKey.from_cryptography_key(keys.private_key),
            certificate=X509.from_cryptography(keys.certificate),
            trustRoot=ssl.trustRootFromCertificates([ca]),
            raiseMinimumTo=ssl.TLSVersion.TLSv1_3,
        )
        try:
            self._context = options.getContext()
        except SSL.Error as e:
            why = clean(str(e), 200)
            raise BadKeys(f"OpenSSL refuses the keys in {keys.path}: {why}; {RENEW_HINT}") from e
        self.keys = keys

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        connection = SSL.Connection(self._context)
        connection.set_app_data(protocol)  # Twisted's protocol around ours
        connection.set_verify(_REQUIRE_CERTIFICATE, self._verify)
        return connection

    clientConnectionForTLS = serverConnectionForTLS

    def _verify(
        self, connection: SSL.Connection, presented: X509, error: int, depth: int, good: int
    ) -> bool:
        """Accept or refuse a certificate of the chain; OpenSSL calls this from the CA's on."""
        try:
            why = self._refusal(presented, error, depth) if depth == 0 or not good else ""
        except Exception as e:  # a peer's bytes, and a parser stricter than OpenSSL's
            role = OPPOSITE_ROLE[self.keys.role]
            why = f"the {role}'s certificate does not parse ({type(e).__name__})"
        if why:
            connection.get_app_data().wrappedProtocol.refusal = why
        return not why

    def _refusal(self, presented: X509, error: int, depth: int) -> str:
        """Return why the other side's certificate is refused; it is sent an alert alone."""
        wanted = OPPOSITE_ROLE[self.keys.role]
        if error in _UNKNOWN_ISSUER:
            return f"the {wanted}'s certificate is of another cluster; {_SAME_FOLDER}"
        certificate = presented.to_cryptography()
        whose = f"the {wanted}'s certificate" if depth == 0 else f"the CA of the {wanted}"
        if error == _EXPIRED:
            return f"{whose} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; {RENEW_HINT}"
        if error == _NOT_YET:
            return (
                f"{whose} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} "
                "UTC; are both machines' clocks right?"
            )
        if depth == 0 and role_of(certificate) != wanted:
            is_for = role_of(certificate)
            kind = f"a {is_for}'s" if is_for else "none of this program's"
            return f"{whose} is {kind}; a {wanted} must have a {wanted}'s file"
        return f"{whose} was refused (OpenSSL's error {error}); {RENEW_HINT}" if error else ""


# The words of OpenSSL for a failure, and its meaning for the role `here`.
_REFUSALS = {
    "certificate expired": "it has expired by that machine's clock; " + RENEW_HINT,
    "bad certificate": "it is not valid yet by that machine's clock; are both clocks right?",
    "unknown ca": "it is of another cluster; " + _SAME_FOLDER,
    "unsupported certificate": "it is for another role; a {here} needs a {here}'s file",
    "certificate unknown": "it is not a {here}'s; a {here} needs a {here}'s file",
    "certificate required": "it was not shown; give --keys",
    "decrypt error": "it does not fit what was signed with it; " + RENEW_HINT,
}
_FAILURES = {
    f"alert {alert}": "the {there} refused this {here}'s certificate: " + why
    for alert, why in _REFUSALS.items()
} | {
    "alert access denied": "the {there} has no keys; "
    "start it with --keys, or leave --keys out here",
    "did not return a certificate": "the {there} showed no certificate; "
    "it needs --keys {there}.pem",
    "alert protocol version": "the {there} does not speak TLS 1.3",
    "unsupported protocol": "the {there} does not speak TLS 1.3",
}


def describe_tls_failure(protocol: Any, error: BaseException, here: str) -> str | None:
    """Describe a failure of TLS to the role `here`; None if TLS is not the cause.

    `protocol` is the connection's `LimitedAMP`.
    """
    there = OPPOSITE_ROLE[here]
    if protocol.refusal:
        return str(protocol.refusal)
    if isinstance(error, SSL.Error):
        said = " ".join(str(part) for entry in error.args[:1] for part in entry).lower()
        for words, meaning in _FAILURES.items():
            if words in said:
                return meaning.format(here=here, there=there)
        if not protocol.secured:
            return f"the {there} does not speak TLS; it needs --keys {there}.pem"
        return f"TLS failed: {said}"
    if isinstance(error, ConnectionClosed) and not protocol.secured:
        return f"the {there} hung up before the TLS handshake was over"
    return None
