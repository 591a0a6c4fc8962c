"""Folders of a user's pictures as a dataset, decoded once into the user's cache.

1. Pictures are listed and hashed.  The hash of names, contents and parameters is the cache's key,
   so that a changed picture is never missed.
2. Where the cache has that key, its arrays are mapped, as those of `array_files`.
3. Otherwise every picture is decoded, with the key's lock held: processes that start together
   decode once.  An unfinished folder has another name, and is replaced.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.datasets.array_files import open_arrays
from byzpy_tw.datasets.augmentation import Augment
from byzpy_tw.datasets.core import Dataset, Split
from byzpy_tw.datasets.download import download_lock
from byzpy_tw.datasets.picture_cache import UNFINISHED, cache_folder, hold, make_room
from byzpy_tw.errors import BadParameter, DatasetUnavailable
from byzpy_tw.user_files import (
    HEAD,
    FileFault,
    check_name,
    describe_content,
    describe_error,
    error_reason,
    open_regular,
    path_fault,
)

_LARGEST = 4096  # pixels of a side, of pictures that are scaled
_BILINEAR = 2  # of Pillow's ways to scale, with antialiasing
# Those of the endings that are read; Pillow's others may start programs.
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_DEEP = ("I", "F")  # first letters of Pillow's modes of more than 8 bits


def images(
    *,
    root: Path,
    name: str,
    size: int = 0,
    grey: bool = False,
    mean: float = 0.0,
    std: float = 1.0,
    augment: Augment = "none",
) -> Dataset:
    """Pictures of your own: `name/train/CLASS/*.png` and `name/test/CLASS/*.png` in the data root.

    Classes are the folders of ``train``, by name.  All pictures have one size, or are scaled until
    their shorter side has `size` pixels and cut to a square in the middle.  They become bytes
    ``(3, height, width)``, or with `grey` of one channel, kept in the user's cache folder.
    """
    check_name(name)
    if isinstance(size, bool) or size != int(size) or not 0 <= size <= _LARGEST:
        raise BadParameter(f"size must be a whole number from 1 to {_LARGEST}, got {size!r}")
    pictures = _Pictures(Path(root).absolute() / name, int(size), bool(grey))
    try:
        listed = {part: pictures.list_part(part) for part in ("train", "test")}
        classes = sorted({label for label, _ in listed["train"]})
        _check_classes(pictures.folder, classes, listed["test"])
        decoded, held = pictures.map_decoded(
            {part: [p for _, p in found] for part, found in listed.items()}
        )
    except FileFault as fault:
        raise DatasetUnavailable(str(fault)) from fault
    train, test = (
        Split(decoded[part], torch.tensor([classes.index(label) for label, _ in found]).long())
        for part, found in listed.items()
    )
    if held is not None:
        with held:  # for as long as one of the splits is there, in this dataset or in others
            for split in (train, test):
                weakref.finalize(split, os.close, os.dup(held.fileno()))
    return Dataset(
        name, train, test, len(classes),
        mean=(mean,), std=(std,), mapped=True, class_names=tuple(classes), augment=augment,
    )  # fmt: skip


def _check_classes(folder: Path, classes: list[str], test: list[tuple[str, Path]]) -> None:
    unknown = sorted({label for label, _ in test} - set(classes))
    if unknown:
        raise DatasetUnavailable(
            f"{folder / 'test'} has {', '.join(unknown[:5])}, and {folder / 'train'} has no folder "
            f"of that name: expected test pictures of {', '.join(classes[:5])}"
        )


@frozen
class _Pictures:
    """The pictures below `folder`, and how they become arrays."""

    folder: Path
    size: int  # 0: as they are
    grey: bool

    def list_part(self, part: str) -> list[tuple[str, Path]]:
        """Return class and path of each picture of `part`, sorted; `FileFault` without any."""
        from torchvision.datasets.folder import IMG_EXTENSIONS  # seconds to import

        top = self.folder / part
        wanted = f"expected {self.folder}/{part}/CLASS/PICTURE for each class"
        if fault := path_fault(top):
            raise FileFault(f"{fault}: {wanted}")
        try:
            folders = [path for path in _shown(top) if path.is_dir()]
            found = [
                (folder.name, path)
                for folder in folders
                for path in _shown(folder)
                if path.suffix.lower() in IMG_EXTENSIONS
            ]
        except FileNotFoundError:
            raise FileFault(f"{top} is not there: {wanted}") from None
        except OSError as e:
            raise FileFault(f"{e.filename or top} cannot be read: {error_reason(e)}") from e
        if part == "train" and not found:
            raise FileFault(f"{top} has no pictures in folders: {wanted}")
        empty = [folder for folder in folders if folder.name not in {label for label, _ in found}]
        if empty:
            raise FileFault(
                f"{empty[0]} holds no pictures: expected files ending in "
                f"{', '.join(IMG_EXTENSIONS)}"
            )
        return found

    def map_decoded(
        self, paths: dict[str, list[Path]]
    ) -> tuple[dict[str, Tensor], IO[bytes] | None]:
        """Return the pictures of each part as ``(N, channels, height, width)`` bytes.

        The cache keeps them for as long as the file is open that is returned, too.
        """
        key, cache = self._key(paths), cache_folder() / "images"
        try:
            held = self._hold(paths, cache, key)
        except OSError as e:
            raise DatasetUnavailable(
                f"the pictures in {self.folder} cannot be decoded into {cache}: "
                f"{e.filename or cache}: {error_reason(e)}: set the environment's XDG_CACHE_HOME "
                "to a folder that can be written to, with room for them"
            ) from e
        arrays = open_arrays(cache, key)
        return {part: arrays.read(part) for part in paths}, held

    def _hold(self, paths: dict[str, list[Path]], cache: Path, key: str) -> IO[bytes] | None:
        """Decode the pictures where no process has, and keep them from being removed."""
        while True:
            with suppress(FileNotFoundError):
                return hold(cache / key)
            with download_lock(cache, key) as lock:
                try:
                    if not (cache / key).is_dir():
                        self._decode(paths, cache, key)
                finally:
                    lock.remove()

    def _key(self, paths: dict[str, list[Path]]) -> str:
        import PIL

        digest = hashlib.sha256(f"1 {PIL.__version__} {self.size} {self.grey}".encode())
        for part, found in paths.items():
            digest.update(f"\0{part}".encode())
            for path in found:
                try:
                    with open_regular(path) as file:
                        content = hashlib.file_digest(file, "sha256").hexdigest()
                except FileFault as fault:
                    raise FileFault(f"{path} {fault}") from fault
                # The class is part of the dataset's own digest.
                digest.update(f"\0{content}".encode())
        return digest.hexdigest()[:32]

    def _decode(self, paths: dict[str, list[Path]], cache: Path, key: str) -> None:
        """Write an array of each part to the folder `key` of `cache`."""
        unfinished = cache / f".{key}{UNFINISHED}"
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
        unfinished.mkdir()
        try:
            count = sum(map(len, paths.values()))
            first: tuple[Path, tuple[int, ...]] | None = None
            for part, found in paths.items():
                with (unfinished / f"{part}.npy").open("wb") as out:
                    for number, (path, picture) in enumerate(self._pictures(found)):
                        if first is None:
                            first = path, picture.shape
                            make_room(
                                cache, count * picture.nbytes, f"the pictures in {self.folder}"
                            )
                        self._check_size(path, picture.shape, *first)
                        if not number:
                            _write_header(out, (len(found), *picture.shape))
                        out.write(picture.tobytes())
                    if not found and first:
                        _write_header(out, (0, *first[1]))
            unfinished.rename(cache / key)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _check_size(
        self, path: Path, shape: tuple[int, ...], other: Path, wanted: tuple[int, ...]
    ) -> None:
        if shape != wanted:
            raise FileFault(
                f"{path} is {shape[2]} x {shape[1]} pixels, and {other} {wanted[2]} x {wanted[1]}: "
                "give size=N, to which all are scaled and cut"
            )

    def _pictures(self, paths: list[Path]) -> Iterator[tuple[Path, np.ndarray]]:
        for path in paths:
            try:
                yield path, self._picture(path)
            except FileFault as fault:
                raise FileFault(f"{path} {fault}") from fault

    def _picture(self, path: Path) -> np.ndarray:
        """Return the picture at `path`; `FileFault` for one that is damaged, or none."""
        from PIL import Image, UnidentifiedImageError

        with open_regular(path) as file:
            head = file.read(HEAD)
            file.seek(0)
            try:
                with Image.open(file, formats=_FORMATS) as picture:
                    if picture.mode[0] in _DEEP:
                        raise FileFault(
                            f"has pixels of mode {picture.mode}, expected 8 bits a channel: read "
                            "such pictures as arrays (arrays:name=NAME)"
                        )
                    found: Any = picture.convert("L" if self.grey else "RGB")
            except FileFault:
                raise
            except UnidentifiedImageError:
                what = describe_content(head) or "damaged, or of a format that Pillow cannot read"
                raise FileFault(f"is {what}, expected a picture") from None
            except Exception as e:  # Pillow raises anything
                raise FileFault(f"is damaged: {describe_error(e)}") from e
        if self.size:
            found = scale_and_cut(found, self.size)
        pixels = np.array(found)
        return pixels[None] if self.grey else pixels.transpose(2, 0, 1)


def scale_and_cut(picture: Any, size: int) -> Any:
    """Return the middle square of a Pillow `picture`, scaled to `size` x `size` pixels.

    Nothing else is scaled: a picture may be a thousand times as long as wide.
    """
    shorter = min(picture.size)
    left, top = ((side - shorter) / 2 for side in picture.size)
    box = (left, top, left + shorter, top + shorter)
    return picture.resize((size, size), _BILINEAR, box=box)


def _shown(folder: Path) -> list[Path]:
    """Return what is in `folder`, sorted, but for hidden things, such as those of macOS."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _write_header(out: Any, shape: tuple[int, ...]) -> None:
    entries = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, entries)
