"""Key files: their contents, and their checks.

A file has all that one side needs: a private key, its certificate, and the certificate of the
cluster's CA, which signs all certificates.  The two roles are kept apart twice: by the
extended key usage, which OpenSSL checks, and by a DNS name that all certificates of a role
share, which `role_of` checks as well.  A certificate's subject is the name of its machine.
"""

from __future__ import annotations

import datetime
import os
import re
import stat
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from byzpy_tw.errors import BadKeys

SERVER, TRAINER = "server", "trainer"
USAGES = {SERVER: ExtendedKeyUsageOID.SERVER_AUTH, TRAINER: ExtendedKeyUsageOID.CLIENT_AUTH}
KEYGEN_HINT = "make one with 'python -m byzpy_tw keygen DIR'"
RENEW_HINT = "make a new one with 'python -m byzpy_tw keygen' where the cluster's CA is"
_CONTENTS = "it must hold a private key, its certificate and the cluster's CA"
_MINUTE = "%Y-%m-%d %H:%M UTC"
_BLOCK = re.compile(rb"(-----BEGIN ([A-Z ]+)-----.*?-----END \2-----)", re.DOTALL)
_MAX_BYTES = 100_000  # of a file; ours have about 2,000


def dns_name(role: str) -> str:
    """Return the DNS name that all certificates of `role` share, for any address."""
    return f"{role}.byzpy-tw.internal"


def role_of(certificate: x509.Certificate) -> str | None:
    """Return the role of `certificate`, None unless it has exactly one."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None
    shown = list(usages), names.get_values_for_type(x509.DNSName)
    roles = [role for role, usage in USAGES.items() if shown == ([usage], [dns_name(role)])]
    return roles[0] if roles else None


def name_of(certificate: x509.Certificate) -> str:
    """Return the holder's name, as it was given to `keygen`."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def serial_of(certificate: x509.Certificate) -> str:
    """Return the serial number of `certificate` in hex, as ``openssl x509 -serial`` shows it."""
    digits = f"{certificate.serial_number:X}"
    return digits.zfill(len(digits) + len(digits) % 2)


def expiry_warning(until: datetime.datetime, now: datetime.datetime | None = None) -> str:
    """Return a warning such as "expires today; ..."; empty where 30 days or more are left."""
    now = now or datetime.datetime.now(datetime.UTC)
    days = (until - now).days
    if days >= 30:
        return ""
    today = until.date() <= now.date()
    when = "today" if today else f"in {days} days" if days > 1 else "tomorrow"
    return f"expires {when}; {RENEW_HINT}"


@frozen(eq=False)
class Keys:
    """The certificate that one end of a connection shows, and the CA that it accepts."""

    path: Path
    role: str
    private_key: EllipticCurvePrivateKey
    certificate: x509.Certificate
    ca: x509.Certificate
    warnings: tuple[str, ...] = ()  # for the user of this end

    @property
    def name(self) -> str:
        return name_of(self.certificate)

    @property
    def serial(self) -> str:
        return serial_of(self.certificate)

    @property
    def until(self) -> str:
        """The last day on which it is valid."""
        return f"{self.certificate.not_valid_after_utc:%Y-%m-%d}"


def load_keys(path: Path, role: str, now: datetime.datetime | None = None) -> Keys:
    """Load the keys in `path` for this end's `role`.

    Raises `BadKeys` for keys that the other end would not accept.  A file that others may read
    is a warning.
    """
    data, warnings = _read(path)
    key, certificate, ca = _parse_pem(path, data)
    if key.public_key() != certificate.public_key():
        raise BadKeys(f"{path}: its private key does not fit its certificate; {RENEW_HINT}")
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        raise BadKeys(
            f"{path}: its certificate was not signed by the CA beside it; {RENEW_HINT}"
        ) from None
    found = role_of(certificate)
    if found != role:
        whose = f"is a {found}'s file" if found else "is no file of this program's"
        raise BadKeys(f"{path} {whose}, and a {role} needs a {role}'s: use the {role}.pem "
                      f"or NAME.pem that keygen wrote for it")  # fmt: skip
    now = now or datetime.datetime.now(datetime.UTC)
    for what, one in (("certificate", certificate), ("CA", ca)):
        if now > one.not_valid_after_utc:
            raise BadKeys(f"{path}: its {what} expired on {one.not_valid_after_utc:%Y-%m-%d}; "
                          f"{RENEW_HINT}")  # fmt: skip
        if now < one.not_valid_before_utc:
            raise BadKeys(
                f"{path}: its {what} is not valid before {one.not_valid_before_utc:{_MINUTE}}, "
                f"and here it is {now:{_MINUTE}}; is this machine's clock right?"
            )
    if soon := expiry_warning(certificate.not_valid_after_utc, now):
        warnings += (f"{path}: its certificate {soon}",)
    return Keys(path, role, key, certificate, ca, warnings)


def reload_keys(keys: Keys) -> Keys:
    """Load the file of `keys` as it is now; raises `BadKeys`."""
    if keys.path.exists() and not keys.path.is_file():  # a pipe, which would be waited for
        raise BadKeys(f"{keys.path} is no file now, and cannot be read again")
    return load_keys(keys.path, keys.role)


def changes_of(old: Keys, new: Keys) -> list[str]:
    """Return warnings where the file of `old` has keys of another cluster or server now."""
    warnings = []
    if new.ca != old.ca:
        warnings.append(
            f"{new.path} has another CA than before: trainers of the old cluster are refused "
            "from now on"
        )
    if new.name != old.name:
        warnings.append(
            f"{new.path} has the keys of server {new.name!r}, and before it had those of "
            f"{old.name!r}: is it another server's file?"
        )
    return warnings


def _read(path: Path) -> tuple[bytes, tuple[str, ...]]:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_BYTES + 1)
    except OSError as e:
        raise BadKeys(f"cannot read the keys in {path}: {e.strerror or e}; {KEYGEN_HINT}") from None
    if len(data) > _MAX_BYTES:
        raise BadKeys(
            f"{path} holds over {_MAX_BYTES:,} bytes: it is no file of keys; {KEYGEN_HINT}"
        )
    if stat.S_ISREG(mode) and mode & 0o077:
        return data, (
            f"{path} may be read by others (mode {stat.S_IMODE(mode):04o}): run 'chmod 600 {path}'",
        )
    return data, ()


def _parse_pem(
    path: Path, data: bytes
) -> tuple[EllipticCurvePrivateKey, x509.Certificate, x509.Certificate]:
    """Return the file's key, its certificate and the CA's, which may be in any order."""
    blocks = _BLOCK.findall(data)
    keys = [block for block, kind in blocks if kind.endswith(b"PRIVATE KEY")]
    if not keys:
        raise BadKeys(f"{path} lacks a private key: {_CONTENTS}; {KEYGEN_HINT}")
    if len(keys) > 1:
        raise BadKeys(f"{path} holds {len(keys)} private keys, not one; {KEYGEN_HINT}")
    try:
        key = load_pem_private_key(keys[0], None)
    except TypeError:
        raise BadKeys(f"{path}: its private key has a passphrase, which nobody is there to "
                      f"type; {KEYGEN_HINT}") from None  # fmt: skip
    except (ValueError, UnsupportedAlgorithm) as e:
        raise BadKeys(f"{path}: its private key does not parse; {KEYGEN_HINT}") from e
    if not isinstance(key, EllipticCurvePrivateKey):
        raise BadKeys(f"{path}: its private key is not an ECDSA key; {KEYGEN_HINT}")
    try:
        pems = [block for block, kind in blocks if kind == b"CERTIFICATE"]
        found = [x509.load_pem_x509_certificate(pem) for pem in pems]
        kinds = [_is_ca(certificate) for certificate in found]
    except ValueError as e:
        raise BadKeys(f"{path}: a certificate in it does not parse; {KEYGEN_HINT}") from e
    for kind, what in ((False, "a certificate"), (True, "the cluster's CA certificate")):
        if kind not in kinds:
            raise BadKeys(f"{path} lacks {what}: {_CONTENTS}; {KEYGEN_HINT}")
    if len(found) != 2:
        raise BadKeys(
            f"{path} holds {len(found)} certificates, not its own and the CA's; {KEYGEN_HINT}"
        )
    return key, found[kinds.index(False)], found[kinds.index(True)]


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return found.value.ca
