"""MNIST's and CIFAR's files: reading them, as they are and compressed."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import datasets

from byzpy_tw.datasets import (
    cifar10,
    download,
    fashion_mnist,
    mnist,
    write_idx,
)
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
from tests.support import PATIENCE
from tests.test_datasets import tiny
from tests.test_docs import BLOCK, DOCS


class ReadTests(FilesTestCase):
    def assert_read(self) -> None:
        data = mnist(root=self.root)
        self.assertEqual(data.digest(), varied().digest())
        self.assertEqual((data.train.x.dtype, data.train.y.dtype), (torch.uint8, torch.int64))

    def test_as_torchvision(self) -> None:
        """Files are read to the bits that torchvision reads."""
        data = mnist(root=self.root)
        for split, train in ((data.train, True), (data.test, False)):
            theirs = datasets.MNIST(self.root, train=train)
            self.assertTrue(torch.equal(split.x, theirs.data.unsqueeze(1)))
            self.assertTrue(torch.equal(split.y, theirs.targets))
            self.assertEqual(split.x.shape[1:], (1, 28, 28))
        self.assert_read()

    def test_packed(self) -> None:
        """Files ending in .gz are read as they are, and nothing is unpacked beside them."""
        for name in NAMES:
            packed(self.raw / name)
            self.assert_read()
        self.assertEqual(sorted(os.listdir(self.raw)), sorted(f"{name}.gz" for name in NAMES))
        self.assertEqual(os.listdir(self.root), ["MNIST"])

    def test_packed_under_the_plain_name(self) -> None:
        """Gzip data are known by their first bytes, as are plain data that end in .gz."""
        for name in NAMES:
            packed(self.raw / name, plain=True)
        self.assert_read()
        (self.raw / TEST_Y).rename(self.raw / f"{TEST_Y}.gz")
        self.assert_read()
        (self.raw / TEST_Y).write_bytes(gzip.decompress((self.raw / f"{TEST_Y}.gz").read_bytes()))
        (self.raw / f"{TEST_Y}.gz").write_bytes((self.raw / TEST_Y).read_bytes())
        (self.raw / TEST_Y).unlink()
        self.assert_read()

    def test_read_only(self) -> None:
        """A root on a disk that is read-only is enough."""
        for name in NAMES:
            packed(self.raw / name)
        self.root.chmod(0o555)
        self.addCleanup(self.root.chmod, 0o755)
        self.assert_read()

    def test_the_plain_file_first(self) -> None:
        """Where there are both, the plain file is read, as torchvision does."""
        (self.raw / f"{TRAIN_X}.gz").write_bytes(b"not looked at")
        self.assert_read()

    def test_fashion(self) -> None:
        """Fashion-MNIST is read from its own folder, and told of by its name."""
        write_idx(tiny(), self.root, folder="FashionMNIST")
        raw = self.root / "FashionMNIST" / "raw"
        packed(raw / TRAIN_X)
        self.assertEqual(fashion_mnist(root=self.root).digest(), tiny().digest())
        (raw / TEST_X).write_bytes(b"")
        self.told("fashion-mnist", f"{raw / TEST_X} is empty", make=fashion_mnist)

    def test_the_older_layout(self) -> None:
        """Files of older versions of torchvision are read, and named where they are damaged."""
        shutil.rmtree(self.raw)
        made = self.root / "MNIST" / "processed"
        made.mkdir()
        for name, split in (("training.pt", varied().train), ("test.pt", varied().test)):
            torch.save((split.x.squeeze(1), split.y), made / name)
        self.assert_read()
        (made / "test.pt").write_bytes(b"<html>")
        self.told(f"{made / 'test.pt'} is an HTML page", f"missing: {TRAIN_X}, {TRAIN_Y}")
        write_idx(varied(), self.root)
        self.assert_read()

    def test_of_a_site_s_own(self) -> None:
        """The lines of docs/how-to/three-hospitals.md write files that are read."""
        text = (DOCS / "how-to" / "three-hospitals.md").read_text(encoding="utf-8")
        [code] = [block for language, block in BLOCK.findall(text) if language == "python"]
        made: dict[str, Any] = {}
        exec(code.replace("/srv/data", str(self.root)), made)  # documentation of ours
        data = mnist(root=self.root)
        self.assertEqual((len(data.train), len(data.test)), (400, 100))
        self.assertTrue(torch.equal(data.train.x, made["images"][:400]))


class ColourTests(FilesTestCase):
    """CIFAR-10, which torchvision reads after it has checked the files' MD5."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = self.root / "cifar-10-batches-py"
        self.patch(download, "fetch", unreachable)

    def test_damaged_or_missing(self) -> None:
        """Files whose MD5 is wrong are told apart from files that are missing."""
        self.folder.mkdir()
        content = b"\0\1cut short"
        (self.folder / "data_batch_3").write_bytes(content)
        (self.folder / "data_batch_4").write_bytes(b"<!doctype html>")
        (self.folder / "test_batch").mkdir()
        (self.folder / "batches.meta").write_bytes(b"")
        archive = self.root / "cifar-10-python.tar.gz"
        archive.write_bytes(gzip.compress(b"cut short"))
        self.told(
            "cifar10",
            f"{self.folder}/data_batch_3 is damaged, 11 bytes with MD5 "
            f"{hashlib.md5(content).hexdigest()}, expected 54ebc095f3ab1f0389bbae665268c751",
            f"{self.folder}/data_batch_4 is an HTML page, 15 bytes",
            f"{self.folder}/test_batch is a folder",
            f"{self.folder}/batches.meta is empty",
            "; missing: data_batch_1, data_batch_2, data_batch_5; download failed: no network",
            f"{archive} is damaged, {archive.stat().st_size} bytes",
            make=cifar10,
        )
        self.assertTrue(archive.exists())

    def test_nothing_is_left(self) -> None:
        """A failed download leaves no archive and no folder behind."""
        shutil.rmtree(self.root)

        def portal(source: str, root: Path) -> None:
            (root / "cifar-10-python.tar.gz").write_bytes(b"<html>Log in")
            raise OSError("download failed: File not found or corrupted.")

        self.patch(download, "fetch", portal)
        self.told("missing: data_batch_1, ", "batches.meta", "corrupted.", make=cifar10)
        self.assertFalse(self.root.exists())


@pytest.mark.slow
class ProcessTests(FilesTestCase):
    def test_without_torchvision(self) -> None:
        """Reading MNIST's files does not import torchvision."""
        code = (
            "import pathlib, sys; from byzpy_tw.datasets import mnist; "
            "mnist(root=pathlib.Path(sys.argv[1])); sys.exit('torchvision' in sys.modules)"
        )
        command = [sys.executable, "-c", code, str(self.root)]
        found = subprocess.run(command, timeout=PATIENCE, check=False)
        self.assertEqual(found.returncode, 0)
