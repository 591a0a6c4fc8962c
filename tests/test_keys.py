"""A file of keys that cannot work says why, before anything is started."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import BadKeys
from byzpy_tw.protocol.keygen import new_authority, new_keys
from byzpy_tw.protocol.keys import SERVER, TRAINER, expiry_warning, load_keys, serial_of
from tests.support import as_another_user, folder

NOW = datetime.now(UTC)


def parts(pem: bytes) -> tuple[bytes, bytes, bytes]:
    """The key, its certificate and the CA's in a file."""
    key, mark, rest = pem.partition(b"-----BEGIN CERTIFICATE-----")
    own, _, ca = rest.partition(mark)
    return key, mark + own, mark + ca


def private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, word: bytes = b"") -> bytes:
    hidden = BestAvailableEncryption(word) if word else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)


class LoadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = folder(self) / "keys.pem"
        self.authority = new_authority()
        self.good = new_keys(self.authority, SERVER, "a")

    def write(self, data: bytes) -> None:
        self.path.write_bytes(data)
        self.path.chmod(0o600)

    def assertBad(self, data: bytes, *words: str, role: str = SERVER) -> None:
        self.write(data)
        said = str(self.assertRaises(BadKeys, load_keys, self.path, role))
        for word in (str(self.path), *words):
            self.assertIn(word, said)
        self.assertEqual(len(said.splitlines()), 1)

    def test_a_good_file(self) -> None:
        """In whatever order its parts are."""
        for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
            self.write(b"".join(parts(self.good)[i] for i in order))
            keys = load_keys(self.path, SERVER)
            self.assertEqual((keys.name, keys.role, keys.warnings), ("a", SERVER, ()))

    def test_serial(self) -> None:
        """It has two digits for each byte, as OpenSSL shows it."""
        for number, shown in ((0xA, "0A"), (0xABC, "0ABC"), (0xAB, "AB")):
            certificate: Any = SimpleNamespace(serial_number=number)
            self.assertEqual(serial_of(certificate), shown)

    def test_missing_and_unreadable(self) -> None:
        """It says which file, and how to make one."""
        error = self.assertRaises(BadKeys, load_keys, self.path, SERVER)
        self.assertIn("No such file", str(error))
        self.assertIn("keygen DIR", str(error))
        self.path.mkdir()
        self.assertIn("directory", str(self.assertRaises(BadKeys, load_keys, self.path, SERVER)))

    def test_no_permission(self) -> None:
        """So it does for a file of somebody else."""
        self.write(self.good)
        self.path.parent.chmod(0o755)
        self.path.chmod(0)
        errors: list[str] = []

        def load() -> None:
            errors.append(str(self.assertRaises(BadKeys, load_keys, self.path, SERVER)))

        as_another_user(load)
        self.assertIn("Permission denied", errors[0])

    def test_a_part_is_missing(self) -> None:
        """It says which."""
        key, own, ca = parts(self.good)
        self.assertBad(b"", "lacks a private key")
        self.assertBad(own + ca, "lacks a private key")
        self.assertBad(key, "lacks a certificate")
        self.assertBad(key + ca, "lacks a certificate")
        self.assertBad(key + own, "lacks the cluster's CA certificate")
        self.assertBad(key + own + own + ca, "3 certificates")
        self.assertBad(key + own[:200] + ca, "a certificate in it does not parse")
        self.assertBad(key.replace(b"M", b"!") + own + ca, "private key does not parse")
        self.assertBad(key + key + own + ca, "2 private keys")

    def test_parts_that_do_not_belong_together(self) -> None:
        """Another key, or another cluster's CA."""
        key, own, ca = parts(self.good)
        stray = private(ec.generate_private_key(ec.SECP256R1()))
        self.assertBad(stray + own + ca, "does not fit its certificate")
        other = parts(new_keys(new_authority(), SERVER, "a"))[2]
        self.assertBad(key + own + other, "was not signed by the CA beside it")

    def test_keys_of_other_kinds(self) -> None:
        """Nobody is there to type a passphrase; keygen makes ECDSA keys."""
        _, own, ca = parts(self.good)
        word = private(ec.generate_private_key(ec.SECP256R1()), b"secret")
        self.assertBad(word + own + ca, "passphrase")
        wide = private(rsa.generate_private_key(65537, 2048))
        self.assertBad(wide + own + ca, "not an ECDSA key")

    def test_what_is_no_file_of_keys(self) -> None:
        """A file that is no file of keys is refused, at any size."""
        self.assertBad(b"\xff\x00" * 99, "lacks a private key")
        self.assertBad(b"#" * 200_000, "no file of keys")

    def test_the_other_role(self) -> None:
        """A server's file is no trainer's, nor the reverse."""
        self.assertBad(self.good, "is a server's file", "a trainer needs", role=TRAINER)
        trainers = new_keys(self.authority, TRAINER, "trainer")
        self.assertBad(trainers, "is a trainer's file", "server.pem", role=SERVER)

    def test_outside_its_time(self) -> None:
        """Expired, and not yet valid, with the date."""
        old = new_authority(9999, NOW - timedelta(days=900))
        ended = NOW - timedelta(days=10)
        self.assertBad(
            new_keys(old, SERVER, "a", 10, ended - timedelta(days=10)),
            f"expired on {ended:%Y-%m-%d}", "keygen",
        )  # fmt: skip
        self.assertBad(
            new_keys(self.authority, SERVER, "a", 10, NOW + timedelta(days=5)),
            "not valid before", "clock",
        )  # fmt: skip
        short = new_authority(10, NOW - timedelta(days=20))
        self.assertBad(new_keys(short, SERVER, "a", 5, NOW - timedelta(days=15)), "expired")

    def test_warnings(self) -> None:
        """Others may read it; it expires soon."""
        self.write(new_keys(self.authority, SERVER, "a", 20))
        self.path.chmod(0o644)
        open_to_all, soon = load_keys(self.path, SERVER).warnings
        self.assertIn("read by others (mode 0644)", open_to_all)
        self.assertIn(f"chmod 600 {self.path}", open_to_all)
        self.assertIn("expires in 19 days", soon)

    def test_expiry(self) -> None:
        """Dates count where a day is not full."""
        now = datetime(2026, 5, 1, 22, tzinfo=UTC)
        for left, shown in (
            (timedelta(hours=1), "expires today; "),
            (timedelta(hours=3), "expires tomorrow; "),
            (timedelta(days=2), "expires in 2 days; "),
            (timedelta(days=29, hours=23), "expires in 29 days; "),
            (timedelta(days=30), ""),
        ):
            warning = expiry_warning(now + left, now)
            self.assertTrue(warning.startswith(shown) and bool(warning) == bool(shown), warning)
