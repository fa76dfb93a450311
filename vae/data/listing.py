"""Image files on disk, listed lazily: folders, files and patterns of any size."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

__all__ = ["SUFFIXES", "ImageFile", "chunks_of", "image_files", "walk_images"]

# Inside a folder only these are taken for images.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class ImageFile(NamedTuple):
    """A file to score.

    Attributes:
        name: Its path relative to the argument that named it, as text.
        path: Where it lies.
    """

    name: str
    path: str


def walk_images(folder: str) -> Iterator[str]:
    """The image files below a folder, in the order of their paths; links to folders are left out.

    One folder's names are held at a time, whatever their number in all.
    """
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    except OSError:  # gone or not ours to read, like everything below it
        return
    for name, is_folder in sorted(found):
        path = f"{folder}{os.sep}{name}"
        if is_folder:
            yield from walk_images(path)
        elif name.lower().endswith(SUFFIXES):
            yield path


def image_files(paths: Iterable[str | Path]) -> Iterator[ImageFile]:
    """Lists image files: folders are searched, patterns such as ``scans/*.png`` expanded.

    Args:
        paths: Files, folders and patterns. A file is taken at its word; inside a folder the
            suffix tells. ``**`` in a pattern stands for any folders.

    Returns:
        The files, listed as they are asked for.

    Raises:
        FileNotFoundError: If a path isn't there, or a folder or pattern holds no image.
    """
    paths = [str(path) for path in paths]
    for path in paths:
        if next(_under(path), None) is None:
            if os.path.isdir(path):
                raise FileNotFoundError(f"the folder {path!r} holds no image file.")
            if glob.has_magic(path):
                raise FileNotFoundError(f"the pattern {path!r} matches no image file.")
            raise FileNotFoundError(f"there is no file or folder {path!r}.")
    return chain.from_iterable(map(_under, paths))


def chunks_of(files: Iterable[ImageFile], size: int) -> Iterator[list[ImageFile]]:
    """Cuts a listing into lists of one size, the last one shorter."""
    files = iter(files)
    while chunk := list(islice(files, size)):
        yield chunk


def _under(path: str) -> Iterator[ImageFile]:
    if os.path.isfile(path):
        yield ImageFile(_text(os.path.basename(path)), path)
    elif os.path.isdir(path):
        skip = len(path.rstrip(os.sep)) + 1
        for found in walk_images(path.rstrip(os.sep) or os.sep):
            yield ImageFile(_text(found[skip:]), found)
    elif glob.has_magic(path):
        yield from _matching(path)


def _matching(pattern: str) -> Iterator[ImageFile]:
    # Names are relative to the part of the pattern before its first wildcard.
    first = next(i for i, letter in enumerate(pattern) if letter in "*?[")
    skip, deep = pattern[:first].rfind(os.sep) + 1, "**" in pattern
    for path in sorted(glob.iglob(pattern, recursive=True)):
        if os.path.isdir(path):
            # `**` names the folders and what lies in them: each file once.
            found: Iterable[str] = () if deep else walk_images(path)
        else:
            found = (path,) if not deep or path.lower().endswith(SUFFIXES) else ()
        for one in found:
            yield ImageFile(_text(one[skip:]), one)


def _text(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8 have no place in JSON or Parquet."""
    return name if name.isascii() else os.fsencode(name).decode(errors="replace")
