"""Files that outlive a kill and a power cut, and whether the process that left one still runs."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["create_file", "flush_folder", "is_alive", "replace_file"]


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


def replace_file(path: Path, data: bytes) -> None:
    """Replaces a file for good: at every instant, and after a power cut, the old one or the new.

    Raises:
        OSError: If the disk refuses or alters what it was given; the old file stays.
    """
    fresh = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        # What an earlier process with our number left there.
        fresh.unlink(missing_ok=True)
        create_file(fresh, data)
        if fresh.read_bytes() != data:
            raise OSError(errno.EIO, f"{path.name} reads back otherwise than it was written")
        fresh.replace(path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def flush_folder(path: Path) -> None:
    """Flushes the names in a folder to the disk, which a rename alone doesn't."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has a number; also where it isn't ours to ask."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
