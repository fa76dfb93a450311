r"""Decoded images on disk: one ``uint8`` array, made once, and found again by what it holds.

An entry is a folder named after the SHA-256 of the decoded images. Its readers map ``levels`` into
memory, so that a set larger than memory trains and a second start decodes nothing. A note named
after the sources (their names, sizes and times) leads to the entry without reading them, and holds
what belongs to the sources rather than to the images: names and labels. So images that were
moved, sorted anew, or copied with new times are recognised by their content.

An entry is written to a hidden sibling, by plain writes rather than through a map (a full disk
under a map kills the process), flushed, and renamed: an interrupted decoding leaves nothing that
looks whole. Of two processes that want the same entry the second waits for the first.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from time import time as now
from typing import Any, NamedTuple

import numpy as np

from vae.data.disk import create_file, locked, replace_file, sweep, temporary_folder
from vae.data.sets.image_data import DataMissing
from vae.data.spec import ImageSpec

__all__ = [
    "CacheUnwritable",
    "CachedImages",
    "Removed",
    "cache_home",
    "cached",
    "facts_of",
    "find",
    "key_of",
    "prune",
]

_LEVELS, _FACTS = "levels.uint8", "contents.json"
# An entry without a note may be about to get one.
_NOTED_WITHIN = 3600


class CacheUnwritable(DataMissing):
    """Raised where decoded images cannot be kept; the message says what to do."""


class CachedImages(NamedTuple):
    r"""Decoded images.

    Attributes:
        levels: The levels, ``uint8``, mapped from disk, with shape :math:`(N, C, H, W)`.
        digest: The SHA-256 of what the array holds.
        facts: What the decoder noted about their sources: names, labels, ... as JSON values;
            empty where they were found by their content.
    """

    levels: np.ndarray
    digest: str
    facts: dict[str, Any]


class Removed(NamedTuple):
    """Decoded images that were removed.

    Attributes:
        title: What they were called.
        count: Their number.
        size: What they took, in bytes.
    """

    title: str
    count: int
    size: int


def cache_home() -> Path:
    """The folder of all caches: ``$ELBOSCOPE_CACHE``, else ``~/.cache/elboscope``.

    Raises:
        CacheUnwritable: If neither names a folder, since there is no home.
    """
    try:
        return Path(os.environ.get("ELBOSCOPE_CACHE") or "~/.cache/elboscope").expanduser()
    except RuntimeError as error:
        raise CacheUnwritable(
            "There is no home folder in which decoded images could be kept: let ELBOSCOPE_CACHE "
            "name a folder for them."
        ) from error


def key_of(spec: ImageSpec, kind: str, sources: Iterable[tuple[str, int, int]]) -> str:
    """Names a state of some files without reading them.

    Args:
        spec: What their images are brought to.
        kind: What decodes them; another decoder makes other images of the same files.
        sources: Name, size in bytes and time of change in nanoseconds of each file.
    """
    digest = sha256(f"{spec!r}|{kind}\n".encode())
    for name, size, time in sources:
        digest.update(f"{name}|{size}|{time}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def cached(
    key: str,
    spec: ImageSpec,
    title: str,
    count: int,
    decode: Callable[[], Iterable[np.ndarray]],
    facts: Callable[[], dict[str, Any]],
    source: str = "",
) -> CachedImages:
    r"""Finds decoded images by their key, or decodes them.

    Args:
        key: The key, see :func:`key_of`.
        spec: The shape and levels of the images.
        title: What they are called in messages.
        count: How many there are at most, for the room they need.
        decode: Yields them in order, in parts ``uint8`` of shape :math:`(n, C, H, W)`.
        facts: What is noted about their sources, asked for when the last part has been taken.
        source: Where they come from: of one source only the newest images survive :func:`prune`.

    Returns:
        The images.

    Raises:
        CacheUnwritable: If the disk is full or doesn't let itself be written.
    """
    home = cache_home() / "decoded"
    if (found := _by_key(home, key, spec)) is not None:
        return found
    try:
        (home / "by-key").mkdir(parents=True, exist_ok=True)
        waiting = f"another process is decoding {title}; waiting"
        with locked(home / "by-key" / f"{key}.lock", waiting):
            if (found := _by_key(home, key, spec)) is not None:
                return found
            digest = _write(home, spec, title, count, decode)
            note = {"digest": digest, "source": source, "spec": repr(spec), "facts": facts()}
            replace_file(home / "by-key" / f"{key}.json", json.dumps(note).encode())
    except OSError as error:
        raise CacheUnwritable(
            f"The decoded images of {title} cannot be kept in {str(home)!r} "
            f"({error.strerror or error}): make room there, or let ELBOSCOPE_CACHE name another "
            "folder."
        ) from error
    if (found := _by_key(home, key, spec)) is None:
        raise CacheUnwritable(
            f"The decoded images of {title} were written to {str(home)!r} but don't read back as "
            "written; let ELBOSCOPE_CACHE name a folder on another disk."
        )
    return found


def find(digest: str, spec: ImageSpec) -> CachedImages | None:
    """Finds decoded images by what they hold, wherever their files lie now.

    Args:
        digest: The SHA-256 of the images.
        spec: Their shape and levels.

    Returns:
        The images; none where they aren't there, or are not whole.
    """
    try:
        return _open(cache_home() / "decoded" / digest[:32], digest, spec)
    except (OSError, ValueError, KeyError, TypeError):
        return None


# Exceptions aren't kept, so what isn't there yet is looked for again.
@lru_cache(maxsize=8)
def _open(folder: Path, digest: str, spec: ImageSpec) -> CachedImages:
    contents = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    count = contents["count"]
    if contents["digest"] != digest or contents["spec"] != repr(spec):
        raise ValueError("other images than those looked for")
    if (folder / _LEVELS).stat().st_size != count * spec.pixels:
        raise ValueError("not all of the images are there")
    shape = (count, *spec.shape)
    # An empty file cannot be mapped.
    if not count:
        return CachedImages(np.empty(shape, np.uint8), digest, {})
    return CachedImages(np.memmap(folder / _LEVELS, np.uint8, "r", shape=shape), digest, {})


def _by_key(home: Path, key: str, spec: ImageSpec) -> CachedImages | None:
    note = _note(home / "by-key" / f"{key}.json")
    if note is None or (found := find(note["digest"], spec)) is None:
        return None
    return found._replace(facts=note["facts"])


def facts_of(digest: str, source: str) -> dict[str, Any] | None:
    """What is noted about the sources of decoded images: of one source, the newest note.

    Args:
        digest: The SHA-256 of the images.
        source: Where they came from.
    """
    for path in _notes():
        note = _note(path)
        if note is not None and (note["digest"], note["source"]) == (digest, source):
            return note["facts"]
    return None


def prune(keep: Collection[str]) -> list[Removed]:
    """Removes decoded images that newer ones of the same source have replaced.

    Args:
        keep: Digests of images that stay whatever replaced them.

    Returns:
        What was removed.

    Raises:
        OSError: If the disk refuses.
    """
    home = cache_home() / "decoded"
    kept, noted, sources = set(keep), set(), set()
    for path in _notes():
        if (note := _note(path)) is None:
            path.unlink(missing_ok=True)
            continue
        source = note["source"], note["spec"]
        noted.add(note["digest"])
        # Images without a source cannot have been replaced by others.
        if source not in sources or not note["source"]:
            kept.add(note["digest"])
        elif note["digest"] not in kept:
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
        sources.add(source)
    removed = []
    for entry in sorted(home.glob("[!.]*")):
        try:
            contents = json.loads((entry / _FACTS).read_text(encoding="utf-8"))
            digest, one = contents["digest"], (contents["title"], contents["count"])
            fresh = now() - (entry / _FACTS).stat().st_mtime < _NOTED_WITHIN
        except (OSError, ValueError, LookupError, TypeError):
            continue  # no entry, such as the folder of notes
        if digest not in kept and (digest in noted or not fresh):
            size = sum(file.stat().st_size for file in entry.iterdir())
            shutil.rmtree(entry)
            removed.append(Removed(*one, size))
    for folder in (home, home / "by-key"):
        sweep(folder, ".*tmp-*")
    return removed


def _notes() -> list[Path]:
    """The notes, newest first."""
    found = []
    for path in (cache_home() / "decoded" / "by-key").glob("*.json"):
        with suppress(OSError):  # another process may prune too
            found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)]


def _note(path: Path) -> dict[str, Any] | None:
    """A note; none where it isn't there, is damaged, or of a version that noted less."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return note if {"digest", "source", "spec", "facts"} <= set(note) else None
    except (OSError, ValueError, TypeError):
        return None


def _write(
    home: Path,
    spec: ImageSpec,
    title: str,
    count: int,
    decode: Callable[[], Iterable[np.ndarray]],
) -> str:
    """Decodes into a hidden folder and renames it; returns the digest."""
    with temporary_folder(home, ".tmp-") as fresh:
        needed, free = count * spec.pixels, shutil.disk_usage(home).free
        if needed > free:
            room = f"they need {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free"
            raise OSError(errno.ENOSPC, room)
        digest, kept = sha256(f"{spec!r}\n".encode()), 0
        with (fresh / _LEVELS).open("xb") as file:
            for part in decode():
                part = np.ascontiguousarray(part, dtype=np.uint8).reshape(-1, *spec.shape)
                digest.update(part)
                file.write(part)
                kept += len(part)
            file.flush()
            os.fsync(file.fileno())
        name = digest.hexdigest()
        contents = {"title": title, "count": kept, "digest": name, "spec": repr(spec)}
        create_file(fresh / _FACTS, json.dumps(contents).encode())
        target = home / name[:32]
        if find(name, spec) is None:
            shutil.rmtree(target, ignore_errors=True)  # damaged, whatever it was
        try:
            fresh.rename(target)
        except OSError as error:
            # The same images under another key: they are there already.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    return name
