"""Folders of pictures: decoded once, and refused in one line."""

from __future__ import annotations

import gc
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import evolve
from PIL import Image
from torchvision.datasets import ImageFolder
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import files
from byzpy_tw.datasets import Dataset, image_folders
from byzpy_tw.datasets import images as make_images
from byzpy_tw.datasets.download import download_lock
from byzpy_tw.datasets.image_folders import _Pictures
from byzpy_tw.datasets.picture_cache import USED, _lock_alone, cache_folder
from byzpy_tw.errors import BadParameter, DatasetUnavailable, UnsuitableData
from byzpy_tw.plugins.shorthand import registry
from byzpy_tw.workers.trial_digests import GradientDigests, TrialDigests
from tests.support import as_another_user, folder


def write_pictures(root: Path, *, side: int = 6, classes: str = "ab", each: int = 3) -> Path:
    """Write `each` training pictures, and one for testing, of each of `classes`."""
    draws = np.random.default_rng(0)
    for part, count in (("train", each), ("test", 1)):
        for label in classes:
            place = root / "ours" / part / label
            place.mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 256, (side, side + 1, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return root / "ours"


class ImagesCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.root, self.cache = folder(self) / "data", folder(self) / "cache"
        self.patch(os, "environ", {**os.environ, "XDG_CACHE_HOME": str(self.cache)})
        self.ours = write_pictures(self.root)

    def read(self, **options: Any) -> Dataset:
        return make_images(root=self.root, name="ours", **options)

    def refused(self, *words: str, **options: Any) -> None:
        """Reading fails with one line that has `words`, and leaves nothing half done."""
        text = str(self.assertRaises(DatasetUnavailable, self.read, **options))
        self.assertNotIn("\n", text)
        for word in words:
            self.assertIn(word, text)
        self.assertEqual([p.name for p in self.cache.rglob(".*")], [])


class ReadTests(ImagesCase):
    def test_as_torchvision(self) -> None:
        """Pixels and classes are those of `ImageFolder`."""
        (self.ours / "train/.ipynb_checkpoints").mkdir()
        (self.ours / "train/a/._0.png").write_bytes(b"of macOS")
        data = self.read()
        (self.ours / "train/.ipynb_checkpoints").rmdir()
        (self.ours / "train/a/._0.png").unlink()
        for part, split in (("train", data.train), ("test", data.test)):
            theirs = ImageFolder(str(self.ours / part))
            for number, (picture, label) in enumerate(theirs):
                pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
                self.assertTrue(torch.equal(split.x[number], pixels))
                self.assertEqual(int(split.y[number]), label)
            self.assertEqual(len(split), len(theirs))
        self.assertEqual((data.shape, data.classes, data.mapped), ((3, 6, 7), 2, True))

    def test_decoded_once(self) -> None:
        """The second time nothing is decoded; after a change everything is."""
        first = self.read().digest()
        kept = sorted(self.cache.rglob("*"))
        self.patch(_Pictures, "_picture", None)
        self.assertEqual(self.read().digest(), first)
        self.assertEqual(sorted(self.cache.rglob("*")), kept)
        (self.ours / "train/a/0.png").write_bytes((self.ours / "train/a/1.png").read_bytes())
        self.assertRaises(TypeError, self.read)

    def test_another_process_was_first(self) -> None:
        """A process that waits for the lock finds the work done."""
        expected = self.read()
        made = next(p for p in (self.cache / "byzpy-tw/images").iterdir() if p.is_dir())
        made.rename(self.cache / "aside")

        def lock(root: Path, source: str) -> Any:
            (self.cache / "aside").rename(made)
            return download_lock(root, source)

        self.patch(_Pictures, "_decode", None)
        self.patch(image_folders, "download_lock", lock)
        self.assertEqual(self.read().digest(), expected.digest())

    def test_scaled(self) -> None:
        """Pictures of any size become squares, of one channel if wanted."""
        Image.new("RGB", (30, 20), (0, 0, 255)).save(self.ours / "train/a/wide.jpg")
        data = self.read(size=4, grey=True, mean=0.5, std=0.25)
        self.assertEqual((data.shape, len(data.train)), ((1, 4, 4), 7))
        self.assertEqual((data.mean, data.std), ((0.5,), (0.25,)))
        self.assertEqual(self.read(size=5).shape, (3, 5, 5))
        self.assertLess(int(data.train.x[3].float().std()), 2)  # the wide one is plain

    def test_a_long_picture(self) -> None:
        """The middle alone is scaled, of one a thousand times as long as wide."""
        Image.new("RGB", (2000, 2), (0, 9, 255)).save(self.ours / "train/a/long.png")
        resize, sizes = Image.Image.resize, []

        def recorded(picture: Any, size: Any, *more: Any, **named: Any) -> Any:
            sizes.append(tuple(size))
            return resize(picture, size, *more, **named)

        self.patch(Image.Image, "resize", recorded)
        self.assertEqual(self.read(size=512).shape, (3, 512, 512))
        self.assertEqual(set(sizes), {(512, 512)})

    def test_read_only_root(self) -> None:
        """Nothing is written into the data root."""
        before = sorted(self.root.rglob("*"))
        for path in (self.root, *self.root.rglob("*")):
            path.chmod(0o555)
            self.addCleanup(path.chmod, 0o755)
        self.read()
        self.assertEqual(sorted(self.root.rglob("*")), before)

    def test_no_test_pictures(self) -> None:
        """An empty folder says that nothing is evaluated."""
        for path in sorted((self.ours / "test").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        data = self.read()
        self.assertEqual((len(data.test), data.shape), (0, (3, 6, 7)))

    def test_names_of_classes(self) -> None:
        """Places with data of their own compare them: as many classes are not the same ones."""
        data = self.read()
        self.assertEqual(data.class_names, ("a", "b"))
        gradient = GradientDigests.of([torch.ones(3)], 1.0, sha256=True)
        one, other = (
            TrialDigests.of(gradient, d, [], "classification")
            for d in (data, evolve(data, class_names=("a", "c")))
        )
        [told] = one.differences(other, exact=True, local=True)
        self.assertIn("the number or names of classes", told)
        self.assertRaises(UnsuitableData, evolve, data, class_names=("a",))

    def test_cache_of_the_user(self) -> None:
        """Below the home folder, unless the environment names an absolute one."""
        self.assertEqual(cache_folder(), self.cache / "byzpy-tw")
        for given in ("", "relative"):
            self.patch(os, "environ", {"HOME": "/home/one", "XDG_CACHE_HOME": given})
            self.assertEqual(cache_folder(), Path("/home/one/.cache/byzpy-tw"))


class MistakeTests(ImagesCase):
    def test_folders(self) -> None:
        """No folder, no part, no classes, no pictures in one, another one for testing."""
        (self.ours / "test").rename(self.ours / "val")
        self.refused(f"{self.ours}/test is not there: expected {self.ours}/test/CLASS/PICTURE")
        (self.ours / "val").rename(self.ours / "test")
        (self.ours / "test/a").rename(self.ours / "test/dog")
        self.refused("test has dog, and ", "train has no folder of that name: expected", "of a, b")
        (self.ours / "test/dog").rename(self.ours / "test/a")
        (self.ours / "train/empty").mkdir()
        (self.ours / "train/empty/notes.txt").write_text("")
        self.refused("train/empty holds no pictures: expected files ending in .jpg, .jpeg, .png")
        for label in ("a", "b", "empty"):
            (self.ours / "train" / label).rename(self.root / label)
        self.refused("train has no pictures in folders: expected")
        error = self.assertRaises(DatasetUnavailable, make_images, root=self.root, name="others")
        self.assertIn("others/train is not there", str(error))

    def test_pictures(self) -> None:
        """Damaged, of something else, empty, or deeper than bytes: the file is named."""
        file = self.ours / "train/a/1.png"
        whole = file.read_bytes()
        for content, words in (
            (whole[:60], "is damaged: OSError"),
            (b"<html>", "is an HTML page, expected a picture"),
            (b"\1\2\3\4", "is damaged, or of a format that Pillow cannot read, expected a picture"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 7\n", "is text: '%!PS-Adobe"),
            (b"", "is empty"),
        ):
            file.write_bytes(content)
            self.refused(f"{file} {words}")
        Image.fromarray(np.zeros((6, 7), np.uint16)).save(file)
        self.refused(f"{file} has pixels of mode I;16, expected 8 bits a channel")
        file.unlink()
        file.symlink_to("nowhere")
        self.refused(f"{file} is a link to nowhere, which is not there")

    def test_sizes(self) -> None:
        """Pictures that differ in size are named, with the cure."""
        Image.new("RGB", (8, 9)).save(self.ours / "train/b/0.png")
        self.refused("train/b/0.png is 8 x 9 pixels, and ", "train/a/0.png 7 x 6: give size=N")
        Image.new("RGB", (7, 6)).save(self.ours / "train/b/0.png")
        Image.new("RGB", (8, 9)).save(self.ours / "test/a/0.png")
        self.refused("test/a/0.png is 8 x 9 pixels, and ", "train/a/0.png 7 x 6: give size=N")

    def test_parameters(self) -> None:
        """Names that could be paths, and sizes that make no sense."""
        self.assertRaises(BadParameter, make_images, root=self.root, name="../ours")
        for size in (-1, 5000):
            error = self.assertRaises(BadParameter, self.read, size=size)
            self.assertIn(f"size must be a whole number from 1 to 4096, got {size}", str(error))
        text = "images:name=ours,size=4,gray=true"
        error = self.assertRaises(BadParameter, registry().make, "dataset", text, root=self.root)
        self.assertIn("did you mean 'grey'", str(error))

    def test_no_room(self) -> None:
        """Pictures take at most half of what the disk has left."""
        free = shutil.disk_usage(self.root)._replace(free=2 * 8 * 126 - 1)
        self.patch(shutil, "disk_usage", lambda _: free)
        words = f"the pictures in {self.ours} take 0 MiB when decoded, and {self.cache}/byzpy-tw/"
        self.refused(words, "may have 0 MiB, half of what", "0 are in use: give a smaller size=N")
        self.patch(shutil, "disk_usage", lambda _: free._replace(free=2 * 8 * 126))
        self.read()

    def test_the_oldest_make_room(self) -> None:
        """Sets of pictures that nobody reads are removed, the one unused longest first."""
        place, kept, held = self.cache / "byzpy-tw/images", [], []
        for number, size in enumerate((4, 5, 6)):
            data = self.read(size=size)
            kept += [path for path in place.iterdir() if path not in kept]
            os.utime(kept[-1] / USED, (number, number))
            held += [evolve(data, name="copy")] if size == 5 else []
            del data
        gc.collect()

        def limit(room: int) -> None:
            """Let the disk have so much left that all sets together may take `room` bytes."""
            taken = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
            usage = shutil.disk_usage(self.root)._replace(free=2 * room - taken)
            self.patch(shutil, "disk_usage", lambda _: usage)

        def there() -> list[bool]:
            gc.collect()
            return [path.exists() for path in kept]

        sizes = [sum(path.stat().st_size for path in each.iterdir()) for each in kept]
        needed = 8 * 3 * 3 * 3
        limit(sizes[1] + sizes[2] + needed)
        self.read(size=3)
        self.assertEqual(there(), [False, True, True])
        shutil.rmtree(next(path for path in place.iterdir() if path not in kept))
        limit(sizes[1] + needed - 1)
        self.refused("are in use: give a smaller size=N", size=3)
        self.assertEqual(there(), [False, True, True])
        held.clear()
        gc.collect()
        self.read(size=3)
        self.assertEqual(there(), [False, False, False])

    def leave(self, name: str, size: int = 1000) -> Path:
        """Make the folder of half a set in the cache."""
        path = self.cache / "byzpy-tw/images" / name
        path.mkdir(parents=True)
        (path / "train.npy").write_bytes(bytes(size))
        return path

    def test_leftovers(self) -> None:
        """Half a set of a killed process is removed; one that another decodes stays, and counts."""
        self.read()
        gc.collect()
        [kept] = (self.cache / "byzpy-tw/images").iterdir()
        old, new = self.leave(f".{kept.name}.old"), self.leave(".killed.new")
        new.with_suffix(".lock").touch()
        other, needed = self.leave(".other.new"), 8 * 3 * 3 * 3
        size = sum(path.stat().st_size for path in kept.iterdir())
        usage = shutil.disk_usage(self.root)
        free = 2 * (1000 + needed) - (1000 + size)  # so that `needed` fit beside the other's
        with download_lock(other.parent, "other") as lock:
            self.patch(shutil, "disk_usage", lambda _: usage._replace(free=free - 1))
            error = self.assertRaises(DatasetUnavailable, self.read, size=3)
            self.assertIn("half of what its disk has left", str(error))
            self.assertEqual([path.exists() for path in (kept, old, new)], [True, False, False])
            self.patch(shutil, "disk_usage", lambda _: usage._replace(free=free))
            self.read(size=3)
            self.assertEqual([path.exists() for path in (kept, other)], [False, True])
            lock.remove()
        shutil.rmtree(other)
        self.assertEqual([p.name for p in self.cache.rglob(".*")], [])

    def test_removed_by_two(self) -> None:
        """A set that another process removes before it is locked is left to that one."""
        self.read()
        gc.collect()
        [kept] = (self.cache / "byzpy-tw/images").iterdir()
        lock = files.lock

        def late(*args: Any, **options: Any) -> bool:
            shutil.rmtree(kept, ignore_errors=True)
            return lock(*args, **options)

        with ExitStack() as locks:
            self.assertTrue(_lock_alone(kept, locks))
        self.patch(files, "lock", late)
        with ExitStack() as locks:
            self.assertFalse(_lock_alone(kept, locks))

    def test_no_place_to_decode_to(self) -> None:
        """A cache folder that cannot be made: how to name another."""
        self.cache.parent.chmod(0o755)
        self.cache.write_text("")
        self.refused(f"the pictures in {self.ours} cannot be decoded into {self.cache}/byzpy-tw",
                     "set the environment's XDG_CACHE_HOME")  # fmt: skip
        self.cache.unlink()
        self.cache.mkdir(0o555)
        for path in (self.root.parent, self.cache.parent):
            path.chmod(0o755)
        as_another_user(lambda: self.refused("Permission denied", "XDG_CACHE_HOME"))
