r"""Decoded images on disk: one ``uint8`` array, made once, and found again by what it holds.

An entry is a folder named after the SHA-256 of the decoded images. Its readers map ``levels`` into
memory, so that a set larger than memory trains and a second start decodes nothing. A note named
after the sources (their names, sizes and times) leads to the entry without reading them; so images
that were moved, or copied with new times, are recognised by their content.

An entry is written to a hidden sibling, by plain writes rather than through a map (a full disk
under a map kills the process), flushed, and renamed: an interrupted decoding leaves nothing that
looks whole. Of two processes that want the same entry the second waits for the first.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae.data.datasets import DataMissing
from vae.data.disk import create_file, is_alive
from vae.data.spec import ImageSpec

__all__ = ["CacheUnwritable", "Decoded", "cache_home", "cached", "find", "key_of"]

_LEVELS, _FACTS = "levels.uint8", "contents.json"


class CacheUnwritable(DataMissing):
    """Raised where decoded images cannot be kept; the message says what to do."""


class Decoded(NamedTuple):
    r"""Decoded images.

    Attributes:
        levels: The levels, ``uint8``, mapped from disk, with shape :math:`(N, C, H, W)`.
        digest: The SHA-256 of what the array holds.
        facts: What the decoder noted about the images: names, labels, ... as JSON values.
    """

    levels: np.ndarray
    digest: str
    facts: dict[str, Any]


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
) -> Decoded:
    r"""Finds decoded images by their key, or decodes them.

    Args:
        key: The key, see :func:`key_of`.
        spec: The shape and levels of the images.
        title: What they are called in messages.
        count: How many there are at most, for the room they need.
        decode: Yields them in order, in parts ``uint8`` of shape :math:`(n, C, H, W)`.
        facts: What is noted about them, asked for when the last part has been taken.

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
        with _lock(home / "by-key" / f"{key}.lock", title):
            if (found := _by_key(home, key, spec)) is not None:
                return found
            digest = _write(home, spec, title, count, decode, facts)
            note = home / "by-key" / f"{key}.{os.getpid()}"
            note.write_text(json.dumps({"digest": digest}))
            note.replace(home / "by-key" / f"{key}.json")
    except OSError as error:
        raise CacheUnwritable(
            f"The decoded images of {title} cannot be kept in {str(home)!r} "
            f"({error.strerror or error}): make room there, or let ELBOSCOPE_CACHE name another "
            "folder."
        ) from error
    if (found := find(digest, spec)) is None:
        raise CacheUnwritable(
            f"The decoded images of {title} were written to {str(home)!r} but don't read back as "
            "written; let ELBOSCOPE_CACHE name a folder on another disk."
        )
    return found


def find(digest: str, spec: ImageSpec) -> Decoded | None:
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
def _open(folder: Path, digest: str, spec: ImageSpec) -> Decoded:
    contents = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    count = contents["count"]
    if contents["digest"] != digest or contents["spec"] != repr(spec):
        raise ValueError("other images than those looked for")
    if (folder / _LEVELS).stat().st_size != count * spec.pixels:
        raise ValueError("not all of the images are there")
    shape = (count, *spec.shape)
    # An empty file cannot be mapped.
    if not count:
        return Decoded(np.empty(shape, np.uint8), digest, contents["facts"])
    return Decoded(
        np.memmap(folder / _LEVELS, np.uint8, "r", shape=shape), digest, contents["facts"]
    )


def _by_key(home: Path, key: str, spec: ImageSpec) -> Decoded | None:
    try:
        note = json.loads((home / "by-key" / f"{key}.json").read_text(encoding="utf-8"))
        return find(note["digest"], spec)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(
    home: Path,
    spec: ImageSpec,
    title: str,
    count: int,
    decode: Callable[[], Iterable[np.ndarray]],
    facts: Callable[[], dict[str, Any]],
) -> str:
    """Decodes into a hidden folder and renames it; returns the digest."""
    _remove_leftovers(home)
    needed, free = count * spec.pixels, shutil.disk_usage(home).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"they need {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free",
        )
    fresh = Path(tempfile.mkdtemp(prefix=f".tmp-{os.getpid()}-", dir=home))
    try:
        digest, kept = sha256(f"{spec!r}\n".encode()), 0
        with (fresh / _LEVELS).open("xb") as file:
            for part in decode():
                part = np.ascontiguousarray(part, dtype=np.uint8).reshape(-1, *spec.shape)
                digest.update(part)
                file.write(part)
                kept += len(part)
            file.flush()
            os.fsync(file.fileno())
        contents = {
            "title": title,
            "count": kept,
            "digest": digest.hexdigest(),
            "spec": repr(spec),
            "facts": facts(),
        }
        create_file(fresh / _FACTS, json.dumps(contents).encode())
        target = home / digest.hexdigest()[:32]
        if find(digest.hexdigest(), spec) is None:
            shutil.rmtree(target, ignore_errors=True)  # damaged, whatever it was
        try:
            fresh.rename(target)
        except OSError as error:
            # The same images under another key: they are there already.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        return digest.hexdigest()
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _remove_leftovers(home: Path) -> None:
    """Removes what a decoder left behind that was killed."""
    for folder in home.glob(".tmp-*"):
        pid = folder.name.split("-")[1]
        if not (pid.isdecimal() and is_alive(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _lock(path: Path, title: str) -> Iterator[None]:
    """Lets one process at a time decode the same images; the system frees a dead one's lock."""
    try:
        import fcntl
    except ImportError:
        # Without locks two processes both decode, and one of them finds its work done already.
        yield
        return
    with path.open("w") as file:
        # A network disk may know no locks.
        with suppress(OSError):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"another process is decoding {title}; waiting", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
