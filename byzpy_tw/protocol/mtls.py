"""TLS 1.3 between two that must both show a certificate of their cluster.

Who refuses whom, and when, decides where the reason can be seen:

1. The server's certificate reaches the trainer first.  Where it is not good, the
   trainer knows exactly why (`LimitedAMP.refusal`), and the server hears an alert, a
   word or two, in the handshake.
2. Then the trainer is done with the handshake and speaks, though the server has not
   looked at its certificate yet.  Where that one is not good, the server knows exactly
   why, and the trainer hears an alert in place of its first answer.

So both sides turn into words either what they found out or the alert that they were sent.
"""

from __future__ import annotations

from typing import Any

from attrs import define, field, frozen
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from byzpy_tw.protocol.keys import RENEW_HINT, SERVER, TRAINER, Keys, name_of, role_of

_DEMAND = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
_OTHER = "both sides' files must come from one 'python -m byzpy_tw keygen' folder"
_HANDSHAKE = b"\x16"  # how a client begins TLS
_NOT_TLS = b"\x15\x03\x03\x00\x02\x02\x46"  # a fatal alert, "protocol version"
# OpenSSL's numbers of what is wrong with a certificate (x509_vfy.h).
_NOT_YET, _EXPIRED = 9, 10
_UNKNOWN_ISSUER = {2, 7, 18, 19, 20, 21, 30}  # its issuer is not our CA, in one way or another


def opposite_role(role: str) -> str:
    """Whom one of `role` talks to."""
    return TRAINER if role == SERVER else SERVER


@frozen
class Peer:
    """Who is at the other end, by its certificate."""

    name: str
    fingerprint: str  # SHA-256 of the certificate, in hex


def authenticated_peer(transport: Any, role: str) -> Peer | None:
    """Who is at the other end of `transport`, which must be in `role`; None if nobody is.

    Only once the handshake is completed.
    """
    shown = getattr(transport, "getPeerCertificate", lambda: None)()
    if shown is None or role_of(shown.to_cryptography()) != role:
        return None
    certificate = shown.to_cryptography()
    return Peer(name_of(certificate), certificate.fingerprint(SHA256()).hex())


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
@define(eq=False)
class MutualTLS:
    """Makes the TLS of connections on which `keys` are shown, and the other role's demanded."""

    keys: Keys
    _context: SSL.Context = field(init=False)

    def __attrs_post_init__(self) -> None:
        ca = Certificate(X509.from_cryptography(self.keys.ca))
        self._context = CertificateOptions(
            privateKey=PKey.from_cryptography_key(self.keys.private_key),
            certificate=X509.from_cryptography(self.keys.certificate),
            trustRoot=trustRootFromCertificates([ca]),
            raiseMinimumTo=TLSVersion.TLSv1_3,
        ).getContext()

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return self._connection(protocol)

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return self._connection(protocol)

    def _connection(self, protocol: Any) -> SSL.Connection:
        connection = SSL.Connection(self._context)
        connection.set_app_data(protocol)  # Twisted's, around ours
        connection.set_verify(_DEMAND, self._verify)
        return connection

    def _verify(
        self, connection: SSL.Connection, shown: X509, number: int, depth: int, good: int
    ) -> bool:
        """OpenSSL's question, for each certificate of the chain, from the CA's on."""
        try:
            why = self._refusal(shown, number, depth) if depth == 0 or not good else ""
        except Exception as e:  # anyone's bytes, and a parser that OpenSSL's is laxer than
            why = f"the {opposite_role(self.keys.role)}'s certificate does not parse ({type(e).__name__})"
        if why:
            connection.get_app_data().wrappedProtocol.refusal = why
        return not why

    def _refusal(self, shown: X509, number: int, depth: int) -> str:
        """What is wrong with the other side's certificate; empty where nothing is."""
        wanted = opposite_role(self.keys.role)
        if number in _UNKNOWN_ISSUER:
            return f"the {wanted}'s certificate is of another cluster; {_OTHER}"
        certificate = shown.to_cryptography()
        whose = f"the {wanted}'s certificate" if depth == 0 else f"the CA of the {wanted}"
        if number == _EXPIRED:
            return f"{whose} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; {RENEW_HINT}"
        if number == _NOT_YET:
            return (
                f"{whose} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} "
                "UTC; are both machines' clocks right?"
            )
        if depth == 0 and role_of(certificate) != wanted:
            is_for = role_of(certificate)
            kind = f"a {is_for}'s" if is_for else "none of this program's"
            return f"{whose} is {kind}; a {wanted} must have a {wanted}'s file"
        return f"{whose} was refused (OpenSSL's error {number}); {RENEW_HINT}" if number else ""


class _ServerTLS(TLSMemoryBIOFactory.protocol):  # type: ignore[name-defined,misc]
    """The server's end of TLS, which also tells a peer without TLS what it met.

    OpenSSL would close the connection without a word.  An alert is what `LimitedAMP`
    knows TLS by.
    """

    _received_any = False

    def dataReceived(self, data: bytes) -> None:
        if not self._received_any and data[:1] != _HANDSHAKE:
            self.transport.write(_NOT_TLS)
        self._received_any = True
        super().dataReceived(data)


def wrap_in_tls(factory: Any, keys: Keys) -> TLSMemoryBIOFactory:
    """`factory` for a server, its protocols behind mutual TLS."""
    wrapped = TLSMemoryBIOFactory(MutualTLS(keys), False, factory)
    wrapped.protocol = _ServerTLS
    return wrapped


# What the other side's alert says of our certificate, by the words of OpenSSL's reason.
_ALERTS = {
    "certificate expired": "it has expired by that machine's clock; " + RENEW_HINT,
    "bad certificate": "it is not valid yet by that machine's clock; are both clocks right?",
    "unknown ca": "it is of another cluster; " + _OTHER,
    "unsupported certificate": "it is for another role; a {here} needs a {here}'s file",
    "certificate unknown": "it is not a {here}'s; a {here} needs a {here}'s file",
    "certificate required": "it was not shown; give --keys",
    "decrypt error": "it does not fit what was signed with it; " + RENEW_HINT,
}


def describe_tls_failure(protocol: Any, error: BaseException, here: str) -> str | None:
    """Why TLS failed on a connection, for one that is the `here` of it.

    `protocol` is its `LimitedAMP`.  None where the failure has nothing to do with TLS.
    """
    there = opposite_role(here)
    if protocol.refusal:
        return str(protocol.refusal)
    if isinstance(error, SSL.Error):
        said = " ".join(str(part) for entry in error.args[:1] for part in entry).lower()
        for word, why in _ALERTS.items():
            if f"alert {word}" in said:
                return f"the {there} refused this {here}'s certificate: " + why.format(here=here)
        if "alert access denied" in said:
            return f"the {there} has no keys; start it with --keys, or leave --keys out here"
        if "did not return a certificate" in said:
            return f"the {there} showed no certificate; it needs --keys {there}.pem"
        if "alert protocol version" in said or "unsupported protocol" in said:
            return f"the {there} does not speak TLS 1.3"
        if not protocol.secured:
            return f"the {there} does not speak TLS; it needs --keys {there}.pem"
        return f"TLS failed: {said}"
    if isinstance(error, ConnectionClosed) and not protocol.secured:
        return f"the {there} hung up before the TLS handshake was over"
    return None
