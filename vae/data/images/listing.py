"""Image files on disk, listed lazily: folders, files and patterns of any size."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from vae.data.remote import Entry, entries, entry, is_url, matching, tidied

__all__ = [
    "SUFFIXES", "ImageFile", "LeftOut", "chunks_of", "image_files", "shortened", "text_of",
    "walk_images",
]  # fmt: skip

# Inside a folder the names tell: these are taken for images, those without a suffix are where
# their first bytes are those of one, and all others are counted.
SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif",
    ".tiff",
)  # fmt: skip
_FIRST_BYTES = re.compile(
    rb"\x89PNG\r\n|\xff\xd8\xff|RIFF....WEBP|BM.{4}\0{4}|GIF8[79]a|II[*+]\0|MM\0[*+]", re.DOTALL
)
# A dot, a letter and a few more: what follows a date or a number is none.
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9_]*$")

# What other programs leave among images: thumbnails, waste baskets, resource forks. In lower case.
_LITTER = frozenset({
    "__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "@recycle",
    "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found", "icon\r",
})  # fmt: skip


class ImageFile(NamedTuple):
    """A file to score.

    Attributes:
        name: Its path below the lowest folder that holds everything named, as text.
        path: Where it lies, a path or an address.
        stamp: The size and version of what lies at an address, when it was listed.
    """

    name: str
    path: str
    stamp: tuple[int, int] | None = None


@dataclass
class LeftOut:
    """Counts what a folder holds besides the images that were listed.

    Attributes:
        hidden: Files and folders with a dot before their name, and what other systems leave.
        links: Links to folders that are searched anyway, or that hold the link itself.
        others: Files that are no images by their names or first bytes, by suffix.
    """

    hidden: int = 0
    links: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """One sentence; empty where nothing was left out."""
        said = []
        if count := self.others.total():
            kinds = [f"{kind} {n:,}" for kind, n in self.others.most_common(5)]
            more = ", ..." if len(self.others) > 5 else ""
            said.append(f"{count:,} no image by name ({', '.join(kinds)}{more})")
        if self.hidden:
            said.append(f"{self.hidden:,} hidden or another system's own")
        if self.links:
            said.append(f"{self.links:,} links to folders that are searched anyway")
        return f"left out of the folders: {'; '.join(said)}." if said else ""


def walk_images(folder: str, left_out: LeftOut | None = None) -> Iterator[str]:
    """The image files below a folder, in the order of their paths.

    One folder's names are held at a time, whatever their number in all. Hidden names, and those
    that other systems leave behind, are passed over. A link to a folder is followed once, and not
    where it leads back. A folder that cannot be read stands for itself: whoever opens it learns
    why.

    Args:
        folder: The folder.
        left_out: Where to count what was passed over.
    """
    real = os.path.realpath(folder)
    return _walk(folder, real, _Search(real, LeftOut() if left_out is None else left_out, set()))


class _Search(NamedTuple):
    """A walk through one folder: where it began, and the real folders where it has been."""

    root: str
    left_out: LeftOut
    been: set[str]


def _walk(folder: str, real: str, search: _Search) -> Iterator[str]:
    search.been.add(real)
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, _is_folder(entry), entry.is_symlink()) for entry in entries]
    except OSError:
        yield folder
        return
    left_out = search.left_out
    for name, is_folder, is_link in sorted(found):
        path = f"{folder}{os.sep}{name}"
        if _is_litter(name):
            left_out.hidden += 1
        elif is_folder:
            target = os.path.realpath(path) if is_link else os.path.join(real, name)
            if target in search.been or (is_link and _leads_back(target, real, search.root)):
                left_out.links += 1
            else:
                yield from _walk(path, target, search)
        elif _is_image(path, name):
            yield path
        else:
            left_out.others[os.path.splitext(text_of(name))[1].lower() or "no suffix"] += 1


def _leads_back(target: str, here: str, root: str) -> bool:
    """Whether a link's target holds the link itself, or is met below the root without it."""
    around = os.path.join(target, "")
    if f"{here}{os.sep}".startswith(around) or f"{root}{os.sep}".startswith(around):
        return True
    below = target.removeprefix(os.path.join(root, ""))
    return below != target and not any(map(_is_litter, below.split(os.sep)))


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER


def _is_image(path: str, name: str) -> bool:
    if _SUFFIX.search(name):
        return name.lower().endswith(SUFFIXES)
    try:
        # A pipe would keep a reader waiting for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return True  # whoever opens it learns why not
    try:
        return _FIRST_BYTES.match(os.read(descriptor, 16)) is not None
    except OSError:
        return False
    finally:
        os.close(descriptor)


def image_files(
    paths: Iterable[str | Path], left_out: LeftOut | None = None
) -> Iterator[ImageFile]:
    """Lists image files: folders are searched, patterns such as ``scans/*.png`` expanded.

    Args:
        paths: Files, folders and patterns, also at an address such as ``s3://bucket/scans``. A
            file is taken at its word; inside a folder see :func:`walk_images`. ``**`` in a pattern
            stands for any folders.
        left_out: Where to count what was passed over.

    Returns:
        The files, listed as they are asked for.

    Raises:
        FileNotFoundError: If a path isn't there, or a folder or pattern holds no image.
        OSError: If an address cannot be reached.
    """
    paths = [tidied(f"{path}") if is_url(f"{path}") else f"{path}" for path in paths]
    passed = LeftOut()
    for path in paths:
        if next(_under(path, passed), None) is None:
            if _is_top(path):
                sentence = f"the folder {text_of(path)!r} holds no image file."
                raise FileNotFoundError(f"{sentence[:-1]}; {passed}" if f"{passed}" else sentence)
            if glob.has_magic(path):
                raise FileNotFoundError(f"the pattern {text_of(path)!r} matches no image file.")
            raise FileNotFoundError(f"there is no file or folder {text_of(path)!r}.")
    return _named(paths, LeftOut() if left_out is None else left_out)


def _named(paths: Sequence[str], left_out: LeftOut) -> Iterator[ImageFile]:
    # An address counts as a place below the root, so that what holds everything can be found.
    bases = [os.path.abspath(f"/{_base(path)}" if is_url(path) else _base(path)) for path in paths]
    top = os.path.commonpath(bases)
    for path, base in zip(paths, bases, strict=True):
        prefix = os.path.relpath(base, top) if base != top else ""
        for name, found, stamp in _under(path, left_out):
            yield ImageFile(text_of(os.path.join(prefix, name)), found, stamp)


def chunks_of(files: Iterable[ImageFile], size: int) -> Iterator[list[ImageFile]]:
    """Cuts a listing into lists of one size, the last one shorter."""
    files = iter(files)
    while chunk := list(islice(files, size)):
        yield chunk


def shortened(name: str, most: int) -> str:
    """A name of at most so many letters: folders and numbers tell apart, so the middle goes."""
    tail = most * 2 // 3
    return name if len(name) <= most else f"{name[: most - tail - 1]}…{name[-tail:]}"


def text_of(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8 have no place in JSON or Parquet."""
    return name if name.isascii() else os.fsencode(name).decode(errors="replace")


def _base(path: str) -> str:
    """The folder below which a path's files have their names."""
    if _is_top(path):
        return path.rstrip("/") or "/"
    if os.path.lexists(path) or not glob.has_magic(path):
        return os.path.dirname(path)
    # A pattern's: the part before its first wildcard.
    return os.path.dirname(path[: re.search(r"[*?[]", path).start()])


def _is_top(path: str) -> bool:
    """Whether a path leads to a folder."""
    if is_url(path):
        return (found := entry(path)) is not None and found.is_folder
    return os.path.isdir(path)


def _under(path: str, left_out: LeftOut) -> Iterator[ImageFile]:
    """The files of a path, by their names below :func:`_base`."""
    if is_url(path):
        yield from _at(path, left_out)
    elif os.path.isfile(path):
        yield ImageFile(os.path.basename(path), path)
    elif os.path.isdir(path):
        top = path.rstrip(os.sep) or os.sep
        skip = len(path.rstrip(os.sep)) + 1
        for found in walk_images(top, left_out):
            yield ImageFile(found[skip:] or os.path.basename(top), found)
    elif glob.has_magic(path):
        for name, found in _matching(path, left_out):
            yield ImageFile(name, found)


def _at(url: str, left_out: LeftOut) -> Iterator[ImageFile]:
    skip = len(_base(url)) + 1
    found = entry(url)
    tops = [found] if found else matching(url) if glob.has_magic(url) else []
    for top in tops:
        if not found and any(map(_is_litter, top.url[skip:].split("/"))):
            left_out.hidden += 1
        elif not top.is_folder:
            yield ImageFile(top.url[skip:], top.url, top.stamp)
        elif found or "**" not in url:  # which matches the files in a folder too
            for one in _walk_at(top, left_out):
                yield ImageFile(one.url[skip:], one.url, one.stamp)


def _walk_at(folder: Entry, left_out: LeftOut) -> Iterator[Entry]:
    for one in entries(folder.url):
        if _is_litter(one.name):
            left_out.hidden += 1
        elif one.is_folder:
            yield from _walk_at(one, left_out)
        elif one.name.lower().endswith(SUFFIXES):
            yield one
        else:
            left_out.others[os.path.splitext(one.name)[1].lower() or "no suffix"] += 1


def _matching(pattern: str, left_out: LeftOut) -> Iterator[tuple[str, str]]:
    base, deep = _base(pattern), "**" in pattern
    skip = len(os.path.join(base, ""))
    paths = sorted(glob.iglob(pattern, recursive=True))
    # `**` goes through links to folders in circles: each folder counts by its shortest path.
    kept: dict[str, str] = {}
    for folder in sorted({os.path.dirname(path) for path in paths}, key=len) if deep else ():
        kept.setdefault(os.path.realpath(folder), folder)
    folders = set(kept.values())
    for path in paths:
        name = path[skip:]
        if any(part.lower() in _LITTER for part in name.split(os.sep)):
            left_out.hidden += 1
        elif not os.path.isdir(path):
            if not deep or (os.path.dirname(path) in folders and _is_image(path, name)):
                yield name, path
        elif not deep:  # `**` names the folders and what lies in them: each file once
            yield from ((found[skip:], found) for found in walk_images(path, left_out))
