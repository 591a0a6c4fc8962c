"""A user's own arrays that are wrong: refused in one line."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import numpy as np
import torch
from safetensors.torch import save_file

from byzpy_tw.datasets import arrays
from byzpy_tw.datasets.array_files import open_arrays
from byzpy_tw.errors import (
    BadParameter,
    DatasetUnavailable,
    UnsuitableData,
)
from byzpy_tw.plugins.shorthand import registry
from tests.array_files import (
    WRITERS,
    ArraysCase,
    made,
    write_npy,
    write_npz,
    write_safetensors,
)
from tests.support import folder


class MistakeTests(ArraysCase):
    """Own data that is wrong: one line with the file, and what was expected."""

    def test_missing(self) -> None:
        """No file, several, or arrays of other names."""
        self.refused(DatasetUnavailable, "neither ours.npz nor ours.safetensors nor a folder ours/")
        write_npz(self.root, made(), "third")
        for name in ("third.npz", "fourth.safetensors"):
            with self.assertRaisesRegex(DatasetUnavailable, "the ending of a file, give name="):
                open_arrays(self.root, name)
        write_npz(self.root, made(), "other")
        self.refused(DatasetUnavailable, "ours/ of .npy files: put one there", "--data-root")
        given = made()
        given["X_train"] = given.pop("x_train")
        for write in WRITERS:
            place = write(self.root, given)
            words = (
                f"{place} has no x_train: it has X_train, x_test, y_test, y_train, expected x_tr"
            )
            self.refused(DatasetUnavailable, words)
            place.rename(self.root / f"aside-{place.name}")
        for write in WRITERS[:2]:
            write(self.root, made())
        self.refused(DatasetUnavailable, "has ours.npz and ours: rename all but the one to read")

    def test_names(self) -> None:
        """Nothing that could be a path."""
        for name in ("../ours", "a/b", "/etc", ".ours", "", "a b", "x" * 65, "ours\n"):
            error = self.assertRaises(BadParameter, arrays, root=self.root, name=name)
            self.assertIn("and no path, got", str(error))
        error = self.assertRaises(
            BadParameter, registry().make, "dataset", "arrays", root=self.root
        )
        self.assertIn("'arrays' needs name: write arrays:name=VALUE", str(error))

    def test_a_root_that_is_none(self) -> None:
        """A file in its place."""
        self.root = self.root / "file"
        self.root.write_text("")
        self.refused(DatasetUnavailable, "is a file, not a folder")

    def test_damaged_npz(self) -> None:
        """Not an archive, cut short, with wrong bytes, or encrypted."""
        whole = write_npz(self.root, made()).read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 3] ^= 255
        for content, words in (
            (b"", "ours.npz is empty"),
            (b"<!doctype html>", "is an HTML page, 15 bytes in all, expected an .npz file"),
            (whole[:-30], f"is a zip archive cut short, {len(whole) - 30} bytes in all"),
            (b"\x93NUMPY\1\0", "is a NumPy array, 8 bytes in all, expected an .npz file"),
            (bytes(flipped), "ours.npz: x_train is damaged"),
        ):
            (self.root / "ours.npz").write_bytes(content)
            self.refused(DatasetUnavailable, str(self.root), words)

    def test_members_that_lie(self) -> None:
        """A header that asks for terabytes takes no memory; other content is named."""
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 4)}
        )
        for content, words in (
            (
                header.getvalue() + b"abcd",
                "its header asks for 17592186044544: 17592186044412 bytes",
            ),
            (b"hello", "x_train is text: 'hello', 5 bytes in all, expected a .npy file"),
            (b"\x93NUMPY\1\0\x06\0{'a'}\n", "x_train has a damaged header: ValueError"),
            (b"\x93NUMPY\7\0\x06\0{'a'}\n", "x_train has a damaged header"),
        ):
            write_npz(self.root, {k: a for k, a in made().items() if k != "x_train"})
            with zipfile.ZipFile(self.root / "ours.npz", "a") as archive:
                archive.writestr("x_train.npy", content)
            self.refused(DatasetUnavailable, "ours.npz: x_train ", words)

    def test_no_pickles(self) -> None:
        """Arrays of objects are not read, since that may run code."""
        objects = np.array([object.__name__] * 40, dtype=object)
        for write, where in ((write_npz, "ours.npz: y_train"), (write_npy, "ours/y_train.npy")):
            self.root = folder(self)
            write(self.root, {**made(), "y_train": objects})
            words = f"{where} holds Python objects, which are not read, since they may run code"
            self.refused(DatasetUnavailable, words)

    def test_no_numbers(self) -> None:
        """Words, records, complex numbers and times."""
        for odd in (np.array(["a"] * 40), np.zeros(40, "f4,i4"), np.zeros(40, complex),
                    np.zeros(40, "M8[s]"), np.zeros(40, np.longdouble)):  # fmt: skip
            write_npy(self.root, {**made(), "y_train": odd})
            self.refused(
                DatasetUnavailable, "ours/y_train.npy holds (40,) of", "expected numbers or"
            )

    def test_damaged_npy(self) -> None:
        """Cut short, too long, of something else, a folder or unreadable link."""
        file = write_npy(self.root, made()) / "x_train.npy"
        whole = file.read_bytes()
        for content, words in (
            (
                whole[:-1],
                f"is {len(whole) - 1} bytes, its header asks for {len(whole)}: 1 byte too",
            ),
            (whole + b"abc", "3 bytes too many"),
            (whole[:20], "has a damaged header"),
            (b"PK\3\4....", "is a zip archive, 8 bytes in all, expected a .npy file"),
            (b"", "is empty"),
        ):
            file.write_bytes(content)
            self.refused(DatasetUnavailable, f"{file} ", words)
        file.unlink()
        file.symlink_to("nowhere")
        self.refused(DatasetUnavailable, "is a link to nowhere, which is not there")
        file.unlink()
        file.mkdir()
        self.refused(DatasetUnavailable, f"{file} is a folder")

    def test_damaged_safetensors(self) -> None:
        """Cut short, with a header that lies, of something else."""
        file = write_safetensors(self.root, made())
        whole = file.read_bytes()
        header = json.dumps({"x": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}).encode()
        for content, words in (
            (whole[:-5], "is damaged (SafetensorError"),
            (whole[:100], "is damaged (SafetensorError"),
            (struct.pack("<Q", 2**60) + b"{}", "expected a safetensors file"),
            (struct.pack("<Q", len(header)) + header + bytes(8), "is damaged (SafetensorError"),
            (b"<html>", "is an HTML page, 6 bytes in all, expected a safetensors file"),
            (b"", "is empty"),
        ):
            file.write_bytes(content)
            self.refused(DatasetUnavailable, f"{file} ", words)
        narrow = torch.zeros(40, 4).to(torch.float8_e4m3fn)
        given = {k: torch.from_numpy(a) for k, a in made().items()}
        save_file({**given, "x_train": narrow}, file)
        self.refused(DatasetUnavailable, "x_train is F8_E4M3, expected one of BOOL, U8")

    def test_arrays_that_do_not_fit(self) -> None:
        """Lengths, shapes, types, labels out of range, NaN: with the place."""
        given = made()
        hole = given["y_train"].astype(np.float32)
        hole[3] = np.nan
        for change, words in (
            ({"y_train": given["y_train"][:39]}, "x_train and y_train: 40 examples with 39 labels"),
            ({"x_test": given["x_test"][:, :3]}, "test examples differ in shape: (4,) and (3,)"),
            ({"x_train": given["x_train"].ravel()}, "examples are of shape (160,), expected"),
            ({"x_train": np.zeros((40, 4), np.int32)}, "(4,) of int32 and (4,) of float32"),
            ({"y_train": given["y_train"] - 1}, "whole numbers from -1 to 2: classes run from 0"),
            ({"y_train": hole, "y_test": hole[:10] * 0}, "NaN or infinity in 1 of 40 examples"),
            ({"x_train.more": given["x_train"]}, "it has x_train, x_train.more: one array, or"),
            ({"y_test": np.array([1500] * 10)}, "up to 1500, of 40 training examples: give"),
            ({"mean": np.zeros((2, 2))}, "mean is of shape (2, 2), expected a row of numbers"),
            ({"std": np.zeros(4)}, "std is (0.0, 0.0, 0.0, 0.0), expected finite"),
            ({"node_train": np.zeros(39, int)}, "nodes of its examples are int64 (39,)"),
            ({"node_train": np.zeros(40)}, "float64 (40,), expected a whole number for each"),
        ):  # fmt: skip
            place = write_npz(self.root, {**given, **change})
            self.refused(UnsuitableData, f"{place}: ", words)
        write_npz(self.root, given)
        words = "labels of the training data run from 0 to 2, expected 0 to 1 (classes=2)"
        self.refused(UnsuitableData, words, classes=2)
        self.refused(UnsuitableData, "classes is -1, expected at least 1", classes=-1)

    def test_told_before_a_run(self) -> None:
        """NaN in examples is a warning, or an error with --strict."""
        given = made()
        given["x_train"][7, 1] = np.nan
        write_npz(self.root, given)
        [line] = self.read().non_finite()
        self.assertIn("training data of 'ours' holds NaN or infinity in 1 of 40 examples", line)
