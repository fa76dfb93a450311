"""A checkpoint's directory is made aside and put in its place at once.

At every instant a reader finds the old one, or the new one, or none, and never a mixture. Between
the two renames of a replacement the old one stands aside, from where the next reader puts it back.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
from contextlib import suppress
from pathlib import Path

from vae.data.disk import flush_folder, is_alive

__all__ = ["aside", "check_target", "inode_of", "is_being_replaced", "move_into_place", "recover"]

_REPLACED = (errno.ENOTEMPTY, errno.EEXIST)


def check_target(path: str | Path, overwrite: bool = False) -> Path:
    """Checks that a checkpoint may be written at a path; makes the folder that it lies in.

    Args:
        path: The directory to make.
        overwrite: Whether a checkpoint that stands there may be replaced.

    Returns:
        The path, absolute.

    Raises:
        FileExistsError: If something stands there that may not be replaced.
        OSError: If nothing can be written there.
    """
    path = Path(os.path.abspath(path))
    # A run under way keeps its files in the place of the checkpoint that it will become.
    if os.path.lexists(path) and not _holds_only_a_run(path):
        if not overwrite:
            raise FileExistsError(
                f"{path} exists already; choose another name or pass --overwrite."
            )
        # One wrong word must not cost a folder of something else.
        if not os.path.lexists(path / "manifest.json"):
            raise FileExistsError(f"{path} is not a checkpoint, so it is not replaced.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Tried rather than asked for: permissions don't tell of a full disk or a read-only mount.
    _remove_leftovers(path)
    aside(path).mkdir()
    aside(path).rmdir()
    return path


def recover(path: Path) -> None:
    """Puts back a checkpoint whose replacement was cut short between two renames."""
    previous = _previous(path)
    if os.path.isdir(previous) and not os.path.lexists(path):
        # Another process may be quicker, or this one may not write; the next reader tries again.
        with suppress(OSError):
            previous.rename(path)


def is_being_replaced(path: Path) -> bool:
    """Whether a writer of this checkpoint has files beside it."""
    return any(path.parent.glob(f".{glob.escape(path.name)}.*"))


def inode_of(path: Path) -> int | None:
    """What tells a directory from another one of the same name; none where there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def aside(path: Path) -> Path:
    """Where this process makes the directory that shall stand at a path."""
    return path.parent / f".{path.name}.tmp-{os.getpid()}"


def move_into_place(path: Path) -> None:
    """Puts what was made aside in its place.

    Raises:
        OSError: If the disk refuses; what stood there before stands there still.
    """
    fresh = aside(path)
    previous = _previous(path)
    for attempts_left in reversed(range(100)):
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)
            path.rename(previous)
        try:
            fresh.rename(path)
            break
        except OSError as error:
            # A reader that came between the two renames has put the old one back: once more.
            if error.errno not in _REPLACED or not attempts_left:
                recover(path)
                raise
    flush_folder(path.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _previous(path: Path) -> Path:
    return path.parent / f".{path.name}.previous"


def _remove_leftovers(path: Path) -> None:
    """Removes what a writer of this name left behind that was killed or is ourselves."""
    prefix = f".{path.name}.tmp-"
    for name in os.listdir(path.parent):
        if not name.startswith(prefix):
            continue
        pid = name.removeprefix(prefix)
        if not (pid.isdecimal() and int(pid) != os.getpid() and is_alive(int(pid))):
            shutil.rmtree(path.parent / name, ignore_errors=True)


def _holds_only_a_run(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and os.listdir(path) == [".run"]
