"""Files of data that are damaged or missing: one line that says which, and what to do."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
from pathlib import Path
from threading import Thread

import pytest
import torch

from byzpy_tw.datasets import (
    Dataset,
    Split,
    download,
    mnist,
    write_idx,
)
from byzpy_tw.errors import DatasetUnavailable, UnsuitableData
from byzpy_tw.plugins import load
from byzpy_tw.workers.data import make_dataset
from tests.data_files import (
    NAMES,
    TEST_X,
    TEST_Y,
    TRAIN_X,
    TRAIN_Y,
    FilesTestCase,
    packed,
    unreachable,
    varied,
)
from tests.support import PATIENCE, as_another_user


class DamagedTests(FilesTestCase):
    def test_other_things(self) -> None:
        """A file that is something else is called by what it is."""
        for content, words in (
            (b"<!DOCTYPE html>\n<title>404", "is an HTML page, 26 bytes in all"),
            (b"\n  <HTML><body>", "is an HTML page, 15 bytes in all"),
            (b"<?xml version='1.0'?><Error>", "is an XML document"),
            (
                b"version https://git-lfs.github.com/spec/v1\n",
                "is a pointer of Git LFS: git lfs",
            ),
            (b"404: Not Found", "is text: '404: Not Found', 14 bytes in all"),
            (b"PK\3\4" + bytes(100), "is a zip archive"),
            (b"\0" * 5000, "is nothing but zeros at its beginning, 5000 bytes in all"),
            (b"\1\2\3\4", "begins with 01020304, expected the magic number 00000803"),
            (b"", "is empty"),
        ):
            (self.raw / TRAIN_X).write_bytes(content)
            self.damaged(TRAIN_X, f"{TRAIN_X} {words}")

    def test_lengths(self) -> None:
        """A byte short or long is told with both sizes."""
        for name, size in ((TRAIN_X, 20 * 784 + 16), (TEST_Y, 30 + 8)):
            whole = (self.raw / name).read_bytes()
            self.assertEqual(len(whole), size)
            for content, words in (
                (
                    whole[:-1],
                    f"is {size - 1} bytes, its header asks for {size}: 1 byte too few",
                ),
                (
                    whole + b"ab",
                    f"is {size + 2} bytes, its header asks for {size}: 2 bytes too",
                ),
                (whole[:6], "is 6 bytes, its header alone takes"),
                (whole[:3], "is 3 bytes, its header alone takes"),
            ):
                (self.raw / name).write_bytes(content)
                self.damaged(name, words)
            (self.raw / name).write_bytes(whole)

    def test_a_header_that_lies(self) -> None:
        """A header that asks for terabytes takes no memory."""
        (self.raw / TRAIN_X).write_bytes(struct.pack(">4I", 0x803, 2**32 - 1, 28, 28) + b"a")
        self.damaged(TRAIN_X, f"is 17 bytes, its header asks for {(2**32 - 1) * 784 + 16}")

    def test_magic_numbers(self) -> None:
        """Values of another type, and labels where images belong."""
        (self.raw / TRAIN_X).write_bytes(struct.pack(">4I", 0xD03, 1, 28, 28) + bytes(3136))
        self.damaged(TRAIN_X, "00000d03 (float32, 3 axes), expected 00000803 (uint8, 3 axes)")
        shutil.copy(self.raw / TRAIN_Y, self.raw / TRAIN_X)
        self.damaged(TRAIN_X, "00000801 (uint8, 1 axis), expected 00000803 (uint8, 3 axes)")

    def test_damaged_gzip(self) -> None:
        """Gzip data with a wrong checksum, cut short, or of something else."""
        whole = gzip.compress((self.raw / TEST_X).read_bytes())
        size = 30 * 784 + 16
        for name in (TEST_X, f"{TEST_X}.gz"):
            (self.raw / TEST_X).unlink()
            for content, words in (
                (whole[:-8] + bytes(4) + whole[-4:], "is damaged gzip data: CRC check failed"),
                (whole[:-30], f"is gzip data cut short, at {len(whole) - 30} bytes"),
                (whole[:2], "is gzip data cut short, at 2 bytes"),
                (whole + b"more", "is damaged gzip data"),
                (whole[:10] + b"\xff" * 50 + whole[60:], "is damaged gzip data"),
                (gzip.compress(b"<html>"), "unpacks to an HTML page, 6 bytes in all"),
                (gzip.compress(whole), "unpacks to gzip data"),
                (gzip.compress(b""), "unpacks to 0 bytes, its header alone takes 16"),
                (
                    gzip.compress(gzip.decompress(whole)[:-1]),
                    f"unpacks to {size - 1} bytes, its header asks for {size}: 1 byte too few",
                ),
            ):
                (self.raw / name).write_bytes(content)
                self.damaged(name, f"{name} {words}")
            (self.raw / TEST_X).write_bytes(gzip.decompress(whole))

    def test_a_whole_one_beside(self) -> None:
        """Where a .gz beside the damaged file could be read instead, the error says so."""
        path = self.raw / TRAIN_X
        (self.raw / f"{TRAIN_X}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.write_bytes(b"<html>")
        self.damaged(TRAIN_X, f"(delete it, and {TRAIN_X}.gz beside it is read)")
        (self.raw / f"{TRAIN_X}.gz").write_bytes(b"")
        self.damaged(TRAIN_X, "HTML page, 6 bytes in all", f"{TRAIN_X}.gz beside it is empty")
        path.unlink()
        self.damaged(f"{TRAIN_X}.gz", f"{TRAIN_X}.gz is empty")

    def test_no_files(self) -> None:
        """Folders, pipes and links that lead nowhere are called that."""
        path = self.raw / TEST_Y
        nowhere, itself = self.root / "nowhere", path
        for put, words in (
            (path.mkdir, "is a folder"),
            (lambda: os.mkfifo(path), "is not a regular file"),
            (lambda: path.symlink_to(nowhere), f"is a link to {nowhere}, which is not there"),
            (lambda: path.symlink_to(itself), "cannot be read: Too many levels of symbolic"),
        ):
            path.rmdir() if path.is_dir() else path.unlink()
            put()
            self.damaged(TEST_Y, f"{TEST_Y} {words}")

    def test_not_allowed(self) -> None:
        """A file that may not be read is told with the system's reason."""
        (self.raw / TEST_Y).chmod(0)
        self.root.parent.chmod(0o755)
        as_another_user(lambda: self.told(f"{TEST_Y} cannot be read: Permission denied"))

    def test_content(self) -> None:
        """Images of another size, labels that are no digits, and files that hold nothing."""
        x = torch.zeros(20, 1, 32, 30, dtype=torch.uint8)
        large = Split(x, varied().train.y)
        write_idx(Dataset("large", large, large, 10), self.root / "other")
        write = self.root / "other" / "MNIST" / "raw"
        shutil.copy(write / TRAIN_X, self.raw / TRAIN_X)
        self.damaged(TRAIN_X, "holds images of 32 x 30, expected 28 x 28")
        write_idx(varied(), self.root)
        labels = bytearray((self.raw / TEST_Y).read_bytes())
        labels[8 + 3], labels[8 + 5] = 10, 255
        (self.raw / TEST_Y).write_bytes(labels)
        self.damaged(TEST_Y, "holds labels outside of 0 to 9, first 10 for image 3")
        (self.raw / TEST_Y).write_bytes(struct.pack(">2I", 0x801, 0))
        self.damaged(TEST_Y, "holds nothing: its header says 0")

    def test_counts(self) -> None:
        """Images and labels that are not as many are told with both numbers."""
        shutil.copy(self.raw / TEST_Y, self.raw / TRAIN_Y)
        self.told(
            f"{self.raw / TRAIN_X} holds 20 images, but {self.raw / TRAIN_Y} 30 labels",
            "replace what is damaged",
        )

    def test_all_at_once(self) -> None:
        """Every damaged file is named, and so are those that are missing."""
        (self.raw / TRAIN_X).write_bytes(b"<html>")
        packed(self.raw / TRAIN_Y).write_bytes(b"")
        (self.raw / TEST_X).unlink()
        self.told(f"{TRAIN_X} is an HTML page", f"{TRAIN_Y}.gz is empty", f"; missing: {TEST_X}: ")

    def test_nothing_is_changed(self) -> None:
        """Damaged files stay as they are, and no lock is left beside them."""
        (self.raw / TRAIN_X).write_bytes(b"<html>")
        before = sorted(self.root.rglob("*"))
        self.damaged(TRAIN_X)
        self.assertEqual(sorted(self.root.rglob("*")), before)
        self.assertEqual((self.raw / TRAIN_X).read_bytes(), b"<html>")

    def test_still_being_written(self) -> None:
        """Files that another process is downloading are waited for."""
        whole = (self.raw / TRAIN_X).read_bytes()
        (self.raw / TRAIN_X).write_bytes(whole[:1000])
        found: list[str] = []
        with download.download_lock(self.root, "MNIST"):
            reader = Thread(target=lambda: found.append(mnist(root=self.root).digest()))
            reader.start()
            reader.join(0.5)
            self.assertEqual(found, [])
            (self.raw / TRAIN_X).write_bytes(whole)
        reader.join(PATIENCE)
        self.assertEqual(found, [varied().digest()])


class MissingTests(FilesTestCase):
    @pytest.mark.slow
    def test_some(self) -> None:
        """Missing files are named, with where to put them, and nothing is left."""
        (self.raw / TEST_X).unlink()
        (self.raw / TEST_Y).unlink()
        before = sorted(self.root.rglob("*"))
        text = self.told(
            f"from {self.raw}/: missing: {TEST_X}, {TEST_Y}; download failed: ",
            "put what is missing there, each as it is or as .gz",
        )
        self.assertNotIn(TRAIN_X, text)
        self.assertEqual(sorted(self.root.rglob("*")), before)

    @pytest.mark.slow
    def test_nothing_is_left(self) -> None:
        """A root that was made only for a download that failed is removed."""
        there = self.root.parent
        shutil.rmtree(self.root)
        self.root = there / "a" / "b"
        self.told(*NAMES, "download failed")
        self.assertEqual(os.listdir(there), [])

    def test_a_site_of_its_own(self) -> None:
        """With --partition local nothing is downloaded: public examples are not the site's."""
        self.patch(download, "fetch", lambda source, root: self.fail("a download"))
        (self.raw / TEST_X).unlink()
        before = sorted(self.root.rglob("*"))
        for name, files in (("mnist", [TEST_X]), ("fashion-mnist", NAMES)):
            with self.assertRaises(DatasetUnavailable) as caught:
                make_dataset(load(), name, "local", self.root)
            text = str(caught.exception)
            for word in (*files, "not downloaded: with --partition local each place trains on its "
                         "own files", str(self.root), "put what is missing there"):  # fmt: skip
                self.assertIn(word, text)
            self.assertNotIn("mnist5k", text)
        self.assertEqual(sorted(self.root.rglob("*")), before)
        write_idx(varied(), self.root)
        self.assertEqual(make_dataset(load(), "mnist", "local", self.root).digest(),
                         varied().digest())  # fmt: skip

    def test_only_what_is_missing(self) -> None:
        """A download fills in what is missing and touches nothing else."""
        packed(self.raw / TRAIN_X)
        (self.raw / TEST_X).unlink()
        whole = gzip.decompress((self.raw / f"{TRAIN_X}.gz").read_bytes())
        labels = struct.pack(">2I", 0x801, 20) + bytes(20)
        (self.raw / TRAIN_Y).write_bytes(labels)
        self.patch(download, "fetch", lambda source, root: write_idx(varied(), root))
        data = mnist(root=self.root)
        self.assertEqual(data.train.y.tolist(), [0] * 20)
        self.assertTrue(torch.equal(data.test.x, varied().test.x))
        self.assertEqual(gzip.decompress((self.raw / f"{TRAIN_X}.gz").read_bytes()), whole)
        self.assertFalse((self.raw / TRAIN_X).exists())
        self.assertEqual(os.listdir(self.root), ["MNIST"])

    def test_a_page_instead(self) -> None:
        """A download that brings something else leaves nothing to trip over."""
        shutil.rmtree(self.root)

        def portal(source: str, root: Path) -> None:
            raw = root / "MNIST" / "raw"
            raw.mkdir(parents=True)
            (raw / f"{TRAIN_X}.gz").write_bytes(b"<html>Log in")
            raise OSError("download failed: File not found or corrupted.")

        self.patch(download, "fetch", portal)
        self.told("download failed: File not found or corrupted.")
        self.assertFalse(self.root.exists())

    def test_another_failed(self) -> None:
        """A process that waited for a download hears why it failed, though all is tidied."""
        shutil.rmtree(self.root)
        told: list[str] = []

        def wait() -> None:
            try:
                mnist(root=self.root)
            except DatasetUnavailable as e:
                told.append(str(e))

        self.patch(download, "fetch", lambda source, root: self.fail("a second download"))
        with download.download_lock(self.root, "MNIST") as lock:
            waiting = Thread(target=wait)
            waiting.start()
            waiting.join(0.5)
            lock.record_failure("download failed: no route")
            lock.remove()
        waiting.join(PATIENCE)
        self.assertIn("download failed: no route", told[0])
        self.assertFalse(self.root.exists())

    def test_in_the_way(self) -> None:
        """Files and broken links where folders belong are told as that."""
        nowhere = self.root.parent / "nowhere"
        for place in (self.root, self.root / "MNIST", self.raw):
            shutil.rmtree(self.root)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("a file")
            words = f"{place} is a file, not a folder"
            self.told(words, TRAIN_X, f"{self.root}/MNIST/raw/")
            place.unlink()
            place.symlink_to(nowhere)
            self.told(f"{place} is a link to {nowhere}, which is not there")
            place.unlink()
            self.root.mkdir(exist_ok=True)
        self.root = self.root / "\0"
        self.assertIn("null", str(self.assertRaises(DatasetUnavailable, mnist, root=self.root)))

    def test_not_allowed(self) -> None:
        """Roots that may not be looked into or written to are told as that."""
        (self.raw / TEST_X).unlink()
        self.root.parent.chmod(0o755)
        words = f"missing: {TEST_X}; not downloaded, since {self.root} cannot be written to"
        as_another_user(lambda: self.told(words))
        self.root.chmod(0)
        self.addCleanup(self.root.chmod, 0o755)
        words = f"{str(self.root / 'MNIST')!r} cannot be looked into: Permission denied"
        as_another_user(lambda: self.told(words))

    def test_elsewhere(self) -> None:
        """Files a level off, or with a dot in their names, are pointed out."""
        self.patch(download, "fetch", unreachable)
        for name in NAMES:
            (self.raw / name).rename(self.raw / name.replace("-idx", ".idx"))
        self.told(
            f"{self.raw} has t10k-images.idx3-ubyte,", f"move them to {self.raw}/ as {TEST_X},"
        )
        for name in NAMES:
            (self.raw / name.replace("-idx", ".idx")).rename(self.root / f"{name}.gz")
        self.told(f"{self.root} has {TEST_X}.gz,", f"move them to {self.raw}/")
        self.root = self.root / "MNIST"

    def test_what_bytes_cannot_hold(self) -> None:
        """Labels over 255 are not written."""
        split = Split(varied().train.x, torch.full((20,), 300))
        wide = Dataset("wide", split, split, 301)
        error = self.assertRaises(UnsuitableData, write_idx, wide, self.root)
        self.assertIn("301 classes", str(error))
