"""Files at an address such as ``s3://bucket/scans/``, through fsspec; paths are left to the disk.

The extra ``elboscope[remote]`` brings what S3 and HTTP need; other packages of fsspec's kind, such
as gcsfs, are used where they are installed.
"""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from vae.data.disk import replacing

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = [
    "Entry", "entries", "entry", "is_url", "matching", "place", "reached", "read_urls", "remove",
    "replaced", "tidied",
]  # fmt: skip

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")
# An address that nobody answers at is told of within a minute.
_OPTIONS = {"s3": {"config_kwargs": {"connect_timeout": 10, "retries": {"max_attempts": 2}}}}
# Bounds the memory that files take before they are decoded.
_FETCHED_AT_ONCE = 32
# By which a file is known to be another than before, the surest first.
_MARKS = ("ETag", "mtime", "LastModified", "last_modified", "updated", "created")


class Entry(NamedTuple):
    """What lies at an address.

    Attributes:
        name: The last part of it.
        url: The whole.
        is_folder: Whether it is a folder, or what stands for one.
        stamp: Of a file, its size in bytes and a digest of its version; (-1, -1) where unknown.
    """

    name: str
    url: str
    is_folder: bool
    stamp: tuple[int, int]


def is_url(path: str) -> bool:
    """Whether a path is an address rather than a place on this machine's disks."""
    return _SCHEME.match(path) is not None


def place(path: str) -> Path:
    """A path, or the like of one for an address.

    Raises:
        OSError: If there is no way to such addresses; the error's ``filename`` is the address.
    """
    if not is_url(path):
        return Path(path)
    with _available(path):
        from upath import UPath

        out = UPath(path, use_listings_cache=False, **_options(path))
        _ = out.fs  # opened when it is asked for
        return out


def tidied(url: str) -> str:
    """An address as the entries below it begin.

    Raises:
        OSError: If there is no way to such addresses.
    """
    fs, path = _system(url)
    tidy = fs.unstrip_protocol(path)
    return tidy if tidy.endswith("/") or not url.endswith("/") else f"{tidy}/"


@contextmanager
def reached(url: str, *more: type[Exception]) -> Iterator[None]:
    """Turns what fsspec and its kind raise about an address into one kind of error.

    Args:
        url: The address; of a path errors pass as they are.
        more: Other exceptions that tell of the address here.

    Raises:
        OSError: With the address as its ``filename`` and half a sentence as its ``strerror``.
    """
    try:
        yield
    except Exception as error:
        told = isinstance(error, (OSError, *more)) or _is_foreign(error)
        if not is_url(url) or not told or is_url(str(getattr(error, "filename", ""))):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        number = getattr(error, "errno", None) or errno.EIO
        raise OSError(number, " ".join(reason.split())[:200], url) from error


@contextmanager
def _available(url: str) -> Iterator[None]:
    """Tells of packages that are missing, and of a scheme that nobody knows."""
    try:
        with reached(url):
            yield
    except (ImportError, ValueError) as error:
        told = (
            f"it takes a package that is not installed ({error}); "
            "pip install 'elboscope[remote]' brings those for s3:// and https://"
        )
        raise OSError(errno.ENOSYS, told, url) from error


def entry(url: str) -> Entry | None:
    """What lies at an address; none where nothing does.

    Raises:
        OSError: If it cannot be reached.
    """
    with reached(url):
        fs, path = _system(url)
        if url.endswith("/") and fs.isdir(path):
            return Entry("", url, True, (-1, -1))
        try:
            return _entry(fs, fs.info(path))
        except FileNotFoundError as error:
            # Over HTTP a server that isn't there looks like a file that isn't.
            cause = error.__cause__
            if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
                raise cause from error
            return None


def entries(folder: str) -> list[Entry]:
    """What lies directly in a folder, sorted by name.

    Raises:
        OSError: If it cannot be reached.
    """
    with reached(folder):
        fs, path = _system(folder)
        found = [_entry(fs, info) for info in fs.ls(path, detail=True)]
    # Some stores hold an empty object of the folder's own name.
    inside = [one for one in found if one.url.rstrip("/") != folder.rstrip("/")]
    return sorted(inside, key=lambda one: one.name)


def matching(pattern: str) -> list[Entry]:
    """What matches a pattern, sorted by address.

    Raises:
        OSError: If it cannot be reached.
    """
    with reached(pattern):
        fs, path = _system(pattern)
        found = [_entry(fs, info) for info in fs.glob(path, detail=True).values()]
    return sorted(found, key=lambda one: one.url)


def read_urls(urls: Sequence[str], most: int) -> Iterator[bytes | OSError]:
    """The contents of files, or why there are none; some are fetched at once where that is faster.

    Args:
        urls: Their addresses, all of one kind.
        most: The most bytes of a file that are asked for.
    """
    for start in range(0, len(urls), _FETCHED_AT_ONCE):
        some = urls[start : start + _FETCHED_AT_ONCE]
        try:
            yield from _fetched(some, most)
        except OSError as error:
            yield from [error] * len(some)


def _fetched(urls: Sequence[str], most: int) -> list[bytes | OSError]:
    fs, _ = _system(urls[0])
    paths = [fs._strip_protocol(url) for url in urls]
    with reached(urls[0]):
        found = fs.cat_ranges(paths, [0] * len(paths), [most] * len(paths), on_error="return")
    return [
        one if isinstance(one, bytes) else _missing(fs, url, path, one)
        for url, path, one in zip(urls, paths, found, strict=True)
    ]


def _missing(fs: AbstractFileSystem, url: str, path: str, error: Exception) -> bytes | OSError:
    try:
        with reached(url):
            # A store may refuse to cut a piece out of nothing.
            if fs.info(path)["size"] == 0:
                return b""
            raise error
    except OSError as told:
        return told


@contextmanager
def replaced(out: Path, lasting: bool = True) -> Iterator[BinaryIO]:
    """A file to write that replaces what stands at a place when it is whole, and not before.

    Args:
        out: The place; see :func:`place`.
        lasting: Whether it outlives a power cut too.

    Raises:
        OSError: If it cannot; what stood there before stands there still.
    """
    if is_url(str(out)):
        with tempfile.NamedTemporaryFile() as file:
            yield file
            file.flush()
            out.fs.put_file(file.name, out.path)
        return
    with replacing(out, lasting) as file:
        yield file


def remove(folder: Path) -> None:
    """Removes a folder and all that is in it, as far as that can be done."""
    if is_url(str(folder)):
        folder.fs.rm(folder.path, recursive=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _system(url: str) -> tuple[AbstractFileSystem, str]:
    with _available(url):
        import fsspec

        return fsspec.url_to_fs(url, **_options(url))


def _options(url: str) -> dict[str, Any]:
    return _OPTIONS.get(_SCHEME.match(url)[1], {})


def _entry(fs: AbstractFileSystem, info: dict[str, Any]) -> Entry:
    url, is_folder = fs.unstrip_protocol(info["name"]), info["type"] == "directory"
    mark = next((info[key] for key in _MARKS if info.get(key)), "")
    version = int.from_bytes(blake2b(str(mark).encode(), digest_size=7).digest())
    stamp = (-1, -1) if is_folder or info.get("size") is None else (info["size"], version)
    return Entry(url.rstrip("/").rpartition("/")[2], url, is_folder, stamp)


def _is_foreign(error: Exception) -> bool:
    origin = type(error).__module__.partition(".")[0]
    return origin in {"aiobotocore", "aiohttp", "asyncio", "botocore", "fsspec", "s3fs"}
