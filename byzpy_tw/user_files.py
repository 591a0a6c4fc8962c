"""Files that users give: opened where they are as expected, and described where they are not.

`FileFault` is raised with a clause that continues the file's name, such as ``is empty``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from byzpy_tw.errors import BadParameter

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
HEAD = 512  # bytes that `describe_content` needs

# First bytes, in lower case, of other kinds of files.
_KINDS = (
    ((b"<!doctype", b"<html", b"<head"), "an HTML page"),
    (b"<?xml", "an XML document, as a web server answers with"),
    (b"<", "a page of HTML or XML"),
    (b"version https://git-lfs", "a pointer of Git LFS: git lfs pull fetches the file"),
    (b"/annex/objects", "a pointer of git-annex: git annex get fetches the file"),
    (b"\x1f\x8b", "gzip data"),
    (b"pk\x03\x04", "a zip archive"),
    (b"bzh", "bzip2 data"),
    (b"\xfd7zxz", "xz data"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x28\xb5\x2f\xfd", "zstandard data"),
    (b"\x93numpy", "a NumPy array"),
    (b"\x89png", "a PNG image"),
)


class FileFault(Exception):
    """A data file is not as expected; the text continues its name."""


def check_name(name: str) -> None:
    """Raise `BadParameter` unless `name` is a file's name in any folder, and no path."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadParameter(
            f"name must be letters, digits, '_', '-' and '.', the name of files in the data root "
            f"without their ending and no path, got {name!r:.80}"
        )


def describe_content(head: bytes) -> str:
    """Return the kind of file that begins with `head`, as ``an HTML page``; empty if unknown."""
    plain = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, name in _KINDS:
        if plain.startswith(start):
            return name
    if head and not any(head):
        return "nothing but zeros at its beginning"
    text = head.split(b"\n")[0].strip()
    if text and all(32 <= byte < 127 or byte == 9 for byte in text):
        return f"text: {text[:40].decode('ascii')!r}"
    return ""


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open the regular file at `path`, which is not empty.

    Raises `FileFault` for anything else, and if reading fails.
    """
    try:
        found = os.stat(path)  # first: opening a pipe waits
        if stat.S_ISDIR(found.st_mode):
            raise FileFault("is a folder")
        if not stat.S_ISREG(found.st_mode):
            raise FileFault("is not a regular file")
        if not found.st_size:
            raise FileFault("is empty")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        if path.is_symlink():
            raise FileFault(f"is a link to {os.readlink(path)}, which is not there") from None
        raise FileFault("is not there") from None
    except OSError as e:
        raise FileFault(f"cannot be read: {error_reason(e)}") from e


@contextmanager
def open_safetensors(path: Path, framework: str) -> Iterator[Any]:
    """Open the safetensors file at `path`; raises `FileFault` for one that is none, or damaged.

    With the `framework` ``np`` tensors are NumPy's arrays, and with ``pt`` those of torch.
    """
    from safetensors import SafetensorError, safe_open

    with open_regular(path) as file:
        head = file.read(HEAD)
        try:
            with safe_open(str(path), framework=framework) as tensors:
                yield tensors
        except SafetensorError as e:
            size = os.fstat(file.fileno()).st_size
            what = describe_content(head) or f"damaged ({describe_error(e)})"
            # Such as of torch.save, which would run code when it is read.
            cure = ": torch.save wrote it? Use safetensors.torch.save_file" * (head[:2] == b"PK")
            raise FileFault(
                f"is {what}, {size} bytes in all, expected a safetensors file{cure}"
            ) from e


def size_fault(found: int, wanted: int, is_: str) -> str:
    """Return how a file of `found` bytes differs from what its header asks for; else nothing.

    It begins with `is_`, such as ``unpacks to``.
    """
    off = abs(found - wanted)
    if not off:
        return ""
    return (
        f"{is_} {found} bytes, its header asks for {wanted}: {off} "
        f"{'byte' if off == 1 else 'bytes'} too {'few' if found < wanted else 'many'}"
    )


def describe_error(e: Exception) -> str:
    """Return `e` with its type in one line of at most 160 characters."""
    return f"{type(e).__name__}: {' '.join(str(e).split())}"[:160]


def error_reason(e: OSError | ValueError) -> str:
    """Return the system's text for `e`, without number and path."""
    return getattr(e, "strerror", None) or str(e) or type(e).__name__


def exists(path: Path) -> bool:
    """Return whether `path` exists, also as a broken link."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # or no file can have this name
        return False
    except OSError:  # such as no permission: opening it gives the error later
        pass
    return True


def path_fault(folder: Path) -> str:
    """Return why `folder` cannot be a folder, such as ``/data is a file, not a folder``.

    Empty where it is one, or can be made.
    """
    for path in (*reversed(folder.parents), folder):
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            if path.is_symlink():
                return f"{path} is a link to {os.readlink(path)}, which is not there"
            return ""
        except (OSError, ValueError) as e:
            return f"{str(path)!r} cannot be looked into: {error_reason(e)}"
        if not stat.S_ISDIR(mode):
            return f"{path} is a file, not a folder"
    return ""
