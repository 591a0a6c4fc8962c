"""The files that ``python -m byzpy_tw keygen`` writes, and those it never does."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.__main__ import main
from byzpy_tw.errors import BadKeys
from byzpy_tw.protocol.keygen import CA_FILE, Authority, generate, new_authority
from byzpy_tw.protocol.keys import SERVER, TRAINER, load_keys
from tests.support import folder


class GenerateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = folder(self) / "cluster"

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def test_a_new_cluster(self) -> None:
        """A server's file, a trainer's and the CA's key; each side's can be loaded."""
        written = generate(self.folder)
        self.assertEqual({path.name for path in written}, self.names())
        self.assertEqual(self.names(), {CA_FILE, "server.pem", "trainer.pem"})
        server = load_keys(self.folder / "server.pem", SERVER)
        trainer = load_keys(self.folder / "trainer.pem", TRAINER)
        self.assertEqual((server.name, trainer.name), ("server", "trainer"))
        self.assertEqual(server.ca, trainer.ca)
        self.assertEqual(server.warnings + trainer.warnings, ())

    def test_private_from_the_start(self) -> None:
        """Every file is its owner's alone, whatever the umask is."""
        self.addCleanup(os.umask, os.umask(0))
        generate(self.folder, ["a", "b"])
        for path in self.folder.iterdir():
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600, path)
        self.assertEqual(stat.S_IMODE(self.folder.stat().st_mode), 0o700)

    def test_only_the_cas_file_has_its_key(self) -> None:
        """A file that leaves the folder can prove one machine, and make no more."""
        generate(self.folder)
        for name in ("server.pem", "trainer.pem"):
            data = (self.folder / name).read_bytes()
            self.assertEqual(data.count(b"PRIVATE KEY-----"), 2)  # begin and end of one
            self.assertEqual(data.count(b"BEGIN CERTIFICATE"), 2)

    def test_a_file_for_each_server(self) -> None:
        """Each has its own name, and a key of its own."""
        generate(self.folder, ["a", "b.example-1"])
        self.assertEqual(self.names(), {CA_FILE, "a.pem", "b.example-1.pem", "trainer.pem"})
        a, b = (load_keys(self.folder / f"{n}.pem", SERVER) for n in ("a", "b.example-1"))
        self.assertEqual((a.name, b.name), ("a", "b.example-1"))
        self.assertNotEqual(a.private_key.public_key(), b.private_key.public_key())

    def test_later_it_adds_servers(self) -> None:
        """With the CA that is there, which stays as it was, and so does the trainer."""
        generate(self.folder)
        before = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        (self.folder / "trainer.pem").unlink()  # on its way to the trainer's machine
        self.assertEqual(generate(self.folder, ["c"]), [self.folder / "c.pem"])
        added = load_keys(self.folder / "c.pem", SERVER)
        self.assertIn(x509.load_pem_x509_certificate(before[CA_FILE]), [added.ca])
        for name in (CA_FILE, "server.pem"):
            self.assertEqual((self.folder / name).read_bytes(), before[name])

    def test_another_trainer(self) -> None:
        """``--trainer`` writes one for the CA that is there, as after a year."""
        generate(self.folder)
        self.assertRaises(BadKeys, generate, self.folder, trainer=True)
        (self.folder / "trainer.pem").unlink()
        self.assertEqual(generate(self.folder, trainer=True), [self.folder / "trainer.pem"])

    def test_never_overwrites(self) -> None:
        """A file that is there stays, and then nothing else is written either."""
        generate(self.folder)
        before = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        for servers in ((), ("server",), ("new", "server")):
            error = self.assertRaises(BadKeys, generate, self.folder, servers)
            self.assertIn("server.pem exists", str(error))
        (self.folder / "dangling.pem").symlink_to("nowhere")
        self.assertRaises(BadKeys, generate, self.folder, ["dangling"])
        (self.folder / "dangling.pem").unlink()
        self.assertEqual({p.name: p.read_bytes() for p in self.folder.iterdir()}, before)

    def test_all_or_nothing(self) -> None:
        """Where one file cannot be written the others are taken back."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        # The CA's file fits into 1,000 bytes, a server's does not.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            error = self.assertRaises(BadKeys, generate, self.folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        self.assertIn("cannot write", str(error))
        self.assertEqual(self.names(), set())
        (self.folder / "file").touch()
        self.assertRaises(BadKeys, generate, self.folder / "file")

    def test_names(self) -> None:
        """A name that is no plain file name is refused."""
        for name in ("", ".", "..", "../x", "a/b", "-x", ".x", "a b", "trainer", "ca-key",
                     "x" * 64, "a\n", "ä"):  # fmt: skip
            self.assertRaises(BadKeys, generate, self.folder, [name])
        self.assertRaises(BadKeys, generate, self.folder, ["a", "a"])
        self.assertFalse(self.folder.exists())

    def test_validity(self) -> None:
        """A year, or as many days as asked for, and no longer than the CA."""
        generate(self.folder)
        now = datetime.now(UTC)

        def days(name: str) -> float:
            keys = load_keys(self.folder / f"{name}.pem", SERVER)
            until = keys.certificate.not_valid_after_utc
            self.assertLessEqual(until, keys.ca.not_valid_after_utc)
            return (until - now) / timedelta(days=1)

        generate(self.folder, ["week"], days=7)
        generate(self.folder, ["ages"], days=30_000)
        self.assertApproximates(days("server"), 365, 0.1)
        self.assertApproximates(days("week"), 7, 0.1)
        self.assertApproximates(days("ages"), 3650, 0.1)

    def test_cas_that_are_none(self) -> None:
        """A CA file that cannot sign is said to be one, and nothing is written."""
        old = new_authority(1, datetime.now(UTC) - timedelta(days=3))
        mixed = Authority(new_authority().key, new_authority().certificate)
        self.folder.mkdir()
        for data, words in (
            (b"", "does not hold"),
            (old.pem(), "expired"),
            (mixed.pem(), "does not fit"),
        ):
            (self.folder / CA_FILE).write_bytes(data)
            self.assertIn(words, str(self.assertRaises(BadKeys, generate, self.folder, ["a"])))
        self.assertEqual(self.names(), {CA_FILE})


class CommandTests(SynchronousTestCase):
    def keygen(self, *words: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["keygen", *words])
        return code, out.getvalue(), err.getvalue()

    def test_says_what_each_file_is_for(self) -> None:
        """One line a file, with the command that takes it."""
        where = str(folder(self))
        code, out, _ = self.keygen(where, "--server", "a", "b", "--server", "c", "--days", "9")
        self.assertEqual(code, 0)
        self.assertEqual(len(out.splitlines()), 5)
        self.assertIn("byzpy-server --keys b.pem", out)
        self.assertIn(f"byzpy_tw.train --keys {Path(where) / 'trainer.pem'}", out)

    def test_mistakes_are_one_line(self) -> None:
        """With a code, and exit code 2."""
        where = str(folder(self))
        self.keygen(where)
        for words, said in (
            ((where,), "server.pem exists and is not overwritten"),
            ((where, "--server", "../x"), "cannot be a server's name"),
            ((where, "--server", "x", "--days", "0"), "--days must be at least 1"),
            ((where, "--server", "x", "--days", "9999999999"), "--days 9999999999 is too many"),
        ):
            code, _, err = self.keygen(*words)
            self.assertEqual(code, 2)
            self.assertTrue(err.startswith("byzpy_tw: error: BAD_KEYS: "), err)
            self.assertIn(said, err)
            self.assertEqual(len(err.splitlines()), 1)
