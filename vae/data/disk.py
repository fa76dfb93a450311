"""Files that outlive a kill and a power cut, locks, and what a killed process left behind.

Disks that know no locks, or cannot flush the names in a folder (network disks), are used without.
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from filelock import lock_descriptor

__all__ = [
    "create_file",
    "flush_folder",
    "is_alive",
    "is_leftover",
    "locked",
    "machine_mark",
    "own_mark",
    "replace_file",
    "replacing",
    "sweep",
    "temporary_folder",
]

# What a disk answers that cannot do what it is asked for, rather than fails at it.
_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_NO_LOCKS = _CANNOT | {errno.ENOLCK}
# Some systems open no folders, and some flush none that is open for reading.
_NO_FLUSHING = _CANNOT | {errno.EACCES, errno.EBADF, errno.EISDIR}
# Nobody works longer than so many seconds on one file without writing to it.
_OLD = 24 * 3600


def create_file(path: Path, data: bytes) -> None:
    """Writes a new file and flushes it to the disk.

    Raises:
        FileExistsError: If there is such a file.
        OSError: If the disk refuses.
    """
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path, lasting: bool = True) -> Iterator[BinaryIO]:
    """A file to write that takes a place when it is whole: until then the old one stays there.

    Args:
        path: The place.
        lasting: Whether it outlives a power cut; what is soon replaced again need not.

    Yields:
        The file, open for writing and reading; where the block fails it is dropped.

    Raises:
        OSError: If the disk refuses.
    """
    fresh = path.with_name(f".{path.name}.tmp-{own_mark()}")
    try:
        with fresh.open("w+b") as file:
            yield file
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise
    if lasting:
        flush_folder(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Replaces a file for good: at every instant, and after a power cut, the old one or the new.

    Raises:
        OSError: If the disk refuses or alters what it was given; the old file stays.
    """
    with replacing(path) as file:
        file.write(data)
        file.flush()
        if Path(file.name).read_bytes() != data:
            raise OSError(errno.EIO, f"{path.name} reads back otherwise than it was written")


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A folder in another, for what is renamed once it is whole; removed in the end.

    Those that killed processes left there are removed before.

    Args:
        parent: Where it is made.
        prefix: How its name begins: with a dot, so that nobody takes it for something whole.

    Raises:
        OSError: If the disk refuses.
    """
    sweep(parent, f"{prefix}*")
    fresh = Path(tempfile.mkdtemp(prefix=prefix, suffix=f"-{own_mark()}", dir=parent))
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def flush_folder(path: Path) -> None:
    """Flushes the names in a folder to the disk, where it can: a rename alone doesn't.

    Raises:
        OSError: If the disk fails.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSHING:
            raise


def locked(path: Path, waiting: str = "") -> BinaryIO:
    """Opens a file and locks it until it is closed or this process ends, however it does.

    Where the disk knows no locks the file is opened all the same.

    Args:
        path: The file; made where there is none, and left as it is otherwise.
        waiting: What to print before waiting for another process; without it there is no waiting.

    Returns:
        The file, open for reading and appending.

    Raises:
        BlockingIOError: If another process holds the lock and is not waited for.
        OSError: If the disk refuses.
    """
    file = path.open("a+b")
    try:
        if not lock_descriptor(file.fileno(), blocking=False):
            if not waiting:
                raise BlockingIOError(errno.EAGAIN, "another process holds it")
            print(waiting, file=sys.stderr)
            lock_descriptor(file.fileno())
    except BaseException as error:
        if not isinstance(error, OSError) or error.errno not in _NO_LOCKS:
            file.close()
            raise
    return file


@cache
def machine_mark() -> str:
    """What tells this machine from others on the same disk, and from itself before it restarted.

    A container counts as a machine: it numbers its processes by itself.
    """
    facts = [platform.node()]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        facts.append(os.readlink("/proc/self/ns/pid"))
    return sha256("\n".join(facts).encode()).hexdigest()[:12]


def own_mark() -> str:
    """The end of the name of what this process is making; see :func:`is_leftover`."""
    return f"{machine_mark()}-{os.getpid()}"


def is_leftover(path: Path) -> bool:
    """Whether the process by whose mark a name ends has ended without tidying up.

    Another machine's processes cannot be asked for; what they make is left over when nothing has
    been written to it for a day.
    """
    start, _, pid = path.name.rpartition("-")
    if start.endswith(f"-{machine_mark()}") and pid.isdecimal():
        return not is_alive(int(pid))
    try:
        written = [one.lstat().st_mtime for one in (path, *path.rglob("*"))]
    except OSError:
        return False
    return max(written) < time.time() - _OLD


def sweep(folder: Path, pattern: str) -> None:
    """Removes what is left over (:func:`is_leftover`) of those in a folder that match."""
    for path in folder.glob(pattern):
        if is_leftover(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has a number; also where it isn't ours to ask."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
