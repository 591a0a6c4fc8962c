"""``python -m byzpy_tw keygen``: the keys of a cluster.

The CA's key is made once and stays in its folder; it is needed to add servers, and never to
run one.  Files are readable by their owner alone from the moment they exist, and no file is
overwritten.
"""

from __future__ import annotations

import datetime
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from byzpy_tw.errors import BadKeys
from byzpy_tw.protocol.keys import SERVER, TRAINER, USAGES, dns_name

CA_FILE = "ca-key.pem"
CA_DAYS = 3650  # so that certificates of a year can be renewed without a new CA
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@frozen(eq=False)
class Authority:
    """The cluster's CA, with its key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def pem(self) -> bytes:
        return _key_pem(self.key) + self.certificate.public_bytes(serialization.Encoding.PEM)


def new_authority(days: int = CA_DAYS, now: datetime.datetime | None = None) -> Authority:
    """Return the CA of a new cluster."""
    key = ec.generate_private_key(ec.SECP256R1())
    # With one name for all, only signatures would tell files of two clusters apart.
    certificate = _certify(f"byzpy_tw cluster {secrets.token_hex(8)}", key, days, now)
    return Authority(key, certificate)


def new_keys(
    authority: Authority,
    role: str,
    name: str,
    days: int = 365,
    now: datetime.datetime | None = None,
) -> bytes:
    """Return a key file for `name` in `role`: key, certificate, and the CA's certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.ExtendedKeyUsage([USAGES[role]])
    shared = x509.SubjectAlternativeName([x509.DNSName(dns_name(role))])
    signed = _certify(name, key, days, now, authority, (usage, True), (shared, False))
    chain = signed, authority.certificate
    return _key_pem(key) + b"".join(c.public_bytes(serialization.Encoding.PEM) for c in chain)


def generate(
    folder: Path, servers: Sequence[str] = (), *, trainer: bool = False, days: int = 365
) -> list[Path]:
    """Write the keys of `servers` into `folder`, with a new CA unless it has one.

    Without names there is one server, ``server``.  With a new CA a trainer's keys are written as
    well.  With `trainer` a known CA writes a trainer's keys, and servers' only where they are
    named.  Returns the files written; raises `BadKeys`.
    """
    known = (folder / CA_FILE).exists()
    if not servers and not (known and trainer):
        servers = ["server"]
    for name in servers:
        if not _NAME.fullmatch(name) or name in (TRAINER, "ca-key"):
            raise BadKeys(
                f"{name[:80]!r} cannot be a server's name: up to 63 letters, digits, '.', '_' "
                "and '-', the first a letter or digit, and neither 'trainer' nor 'ca-key'"
            )
        if list(servers).count(name) > 1:
            raise BadKeys(f"the server {name!r} is named twice")
    roles = dict.fromkeys(servers, SERVER)
    if trainer or not known:
        roles[TRAINER] = TRAINER
    for name in roles:
        path = folder / f"{name}.pem"
        if os.path.lexists(path):
            other = "name another with --server NAME" if name in servers else "keep it"
            raise BadKeys(f"{path} exists and is not overwritten: {other}, or move it away first")
    authority = _load_authority(folder / CA_FILE) if known else new_authority(max(CA_DAYS, days))
    files = {} if known else {CA_FILE: authority.pem()}
    files |= {f"{name}.pem": new_keys(authority, role, name, days) for name, role in roles.items()}
    return _write_all(folder, files)


def _load_authority(path: Path) -> Authority:
    try:
        data = path.read_bytes()
        key = serialization.load_pem_private_key(data, None)
        certificate = x509.load_pem_x509_certificate(data)
    except OSError as e:
        raise BadKeys(f"cannot read the CA's key in {path}: {e.strerror or e}") from None
    except (ValueError, TypeError):
        raise BadKeys(f"{path} does not hold a CA's key and certificate") from None
    if (
        not isinstance(key, ec.EllipticCurvePrivateKey)
        or key.public_key() != certificate.public_key()
    ):
        raise BadKeys(f"{path}: the CA's key does not fit its certificate")
    if certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        raise BadKeys(
            f"{path}: this CA expired on {certificate.not_valid_after_utc:%Y-%m-%d}; make a "
            "new cluster in another folder, and give every machine its new file"
        )
    return Authority(key, certificate)


def _write_all(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """Write all of `files` or none, each readable by its owner alone."""
    written: list[Path] = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, data in files.items():
            path = folder / name
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            written.append(path)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
    except OSError as e:
        for path in written:
            path.unlink(missing_ok=True)
        raise BadKeys(f"cannot write {e.filename or folder}: {e.strerror or e}") from None
    return written


def _certify(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    days: int,
    now: datetime.datetime | None,
    authority: Authority | None = None,
    *extensions: tuple[x509.ExtensionType, bool],  # and whether it is critical
) -> x509.Certificate:
    """Return the certificate of `key`, signed by `authority`, or as a CA by itself."""
    now = now or datetime.datetime.now(datetime.UTC)
    try:
        end = now + datetime.timedelta(days=days)
    except OverflowError:
        raise BadKeys(f"--days {days} is too many") from None
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signer, ca = subject, key, authority is None
    if authority is not None:
        issuer, signer = authority.certificate.subject, authority.key
        # A certificate that outlived its CA would be refused for an obscure reason.
        end = min(end, authority.certificate.not_valid_after_utc)
    usage = x509.KeyUsage(
        digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    start = now - datetime.timedelta(hours=1)  # machines' clocks differ
    made = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(start).not_valid_after(end)
    for extension, critical in (
        (x509.BasicConstraints(ca, path_length=0 if ca else None), True),
        (usage, True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
        *extensions,
    ):
        made = made.add_extension(extension, critical)
    return made.sign(signer, hashes.SHA256())


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())
