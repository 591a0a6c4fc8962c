"""A text file as sequences of bytes, and what is wrong with files."""

from __future__ import annotations

import os

import torch
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import BadParameter, DatasetUnavailable
from byzpy_tw.plugins import load
from tests.support import folder

GIVEN = bytes(range(256)) * 2
NAMES = load(only=())


class TextTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = folder(self)
        (self.root / "book.txt").write_bytes(GIVEN)

    def read(self, text: str) -> Dataset:
        found: Dataset = NAMES.make("dataset", text, root=self.root)
        return found

    def test_sequences(self) -> None:
        """Each target is the next byte; no sequence is in both splits, none is left out."""
        data = self.read("text:name=book,length=10")
        self.assertEqual((data.shape, data.target_shape), ((10,), (10,)))
        self.assertEqual((data.classes, data.outputs, data.task), (256, 256, "next-token"))
        self.assertEqual((len(data.train), len(data.test)), (46, 5))  # (512 - 1) // 10 = 51
        x, y = torch.cat([data.train.x, data.test.x]), torch.cat([data.train.y, data.test.y])
        self.assertEqual(bytes(x.flatten().tolist()), GIVEN[:510])
        self.assertEqual(bytes(y.flatten().tolist()), GIVEN[1:511])
        inputs = data.inputs(data.train.x[:2])
        assert isinstance(inputs, torch.Tensor)
        self.assertEqual((inputs.dtype, inputs.tolist()[1][0]), (torch.int64, 10))

    def test_the_last_byte(self) -> None:
        """A byte without one after it is no example."""
        (self.root / "short.txt").write_bytes(GIVEN[:20])
        self.assertEqual(len(self.read("text:name=short,length=1").train), 18)

    def test_faults(self) -> None:
        """One line with the file, what it is, and the cure."""
        (self.root / "few.txt").write_bytes(b"x" * 640)
        (self.root / "empty.txt").touch()
        (self.root / "folder.txt").mkdir()
        os.mkfifo(self.root / "pipe.txt")
        for name, words in (
            ("few", "few.txt holds 640 bytes, which are 9 sequences of 64 .* smaller length="),
            ("none", "none.txt is missing: put the text there, or give --data-root"),
            ("few.txt", "name=few.txt has the ending of a file, give name=few"),
            ("empty", "empty.txt is empty"), ("folder", "folder.txt is a folder"),
            ("pipe", "pipe.txt is not a regular file"),
        ):  # fmt: skip
            error = self.assertRaises(DatasetUnavailable, self.read, f"text:name={name}")
            self.assertRegex(str(error), words)
            self.assertIn(str(self.root), str(error))

    def test_parameters(self) -> None:
        """A name is a name, never a path."""
        for text, words in (
            ("text", "needs name"), ("text:name=book,length=0", "length must be from 1 to 65536"),
            ("text:name=../book", "name"), ("text:name=/etc/passwd", "name"),
        ):  # fmt: skip
            self.assertRegex(str(self.assertRaises(BadParameter, self.read, text)), words)
