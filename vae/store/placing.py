"""A checkpoint's directory is made aside and put in its place at once.

At every instant a reader finds the old one, or the new one, or none, and never a mixture. Between
the two renames of a replacement the old one stands aside; if the writer is killed there, the next
reader on its machine puts it back, and on other machines one who comes a day later.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
from contextlib import suppress
from pathlib import Path

from vae.data.disk import flush_folder, is_leftover, own_mark, sweep

__all__ = [
    "aside",
    "check_target",
    "inode_of",
    "is_being_replaced",
    "move_into_place",
    "recover",
    "true_place",
]

_REPLACED = (errno.ENOTEMPTY, errno.EEXIST)


def check_target(path: str | Path, overwrite: bool = False) -> Path:
    """Checks that a checkpoint may be written at a path; makes the folder that it lies in.

    Args:
        path: The directory to make.
        overwrite: Whether a checkpoint that stands there may be replaced.

    Returns:
        Where the checkpoint truly lies, absolute; see :func:`true_place`.

    Raises:
        FileExistsError: If something stands there that may not be replaced.
        OSError: If nothing can be written there.
    """
    path = true_place(path)
    recover(path)
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


def true_place(path: str | Path) -> Path:
    """A directory's absolute path, or that which a link leads to: a link is never replaced.

    A link that leads nowhere stands for itself, since its disk may only be missing for now.
    """
    path = Path(os.path.abspath(path))
    if not path.is_symlink():
        return path
    there = Path(os.path.realpath(path))
    recover(there)
    return there if there.is_dir() else path


def recover(path: Path) -> None:
    """Puts back a checkpoint whose replacement was cut short between two renames."""
    if os.path.lexists(path):
        return
    for previous in path.parent.glob(f"{_hidden(path)}.previous-*"):
        # What a writer at work has set aside is the writer's.
        if is_leftover(previous):
            # Another process may be quicker, or this one may not write; the next one tries again.
            with suppress(OSError):
                previous.rename(path)
            return


def is_being_replaced(path: Path) -> bool:
    """Whether a writer of this checkpoint has files beside it."""
    return any(path.parent.glob(f"{_hidden(path)}.*"))


def inode_of(path: Path) -> int | None:
    """What tells a directory from another one of the same name; none where there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def aside(path: Path) -> Path:
    """Where this process makes the directory that shall stand at a path."""
    return path.parent / f".{path.name}.tmp-{own_mark()}"


def move_into_place(path: Path) -> None:
    """Puts what was made aside in its place.

    Raises:
        OSError: If the disk refuses; what stood there before stands there still.
    """
    fresh = aside(path)
    previous = path.parent / f".{path.name}.previous-{own_mark()}"
    for attempts_left in reversed(range(100)):
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)
            # From now on it stands aside, which is how others tell that it was not forgotten.
            with suppress(OSError):
                os.utime(path)
            path.rename(previous)
        try:
            fresh.rename(path)
            break
        except OSError as error:
            # Another writer has put one there between the two renames: once more.
            if error.errno not in _REPLACED or not attempts_left:
                with suppress(OSError):
                    previous.rename(path)
                raise
    flush_folder(path.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _hidden(path: Path) -> str:
    """How the names of all that belongs to a checkpoint's making begin, as a pattern."""
    return f".{glob.escape(path.name)}"


def _remove_leftovers(path: Path) -> None:
    """Removes what a writer of this name left behind that was killed or is ourselves."""
    shutil.rmtree(aside(path), ignore_errors=True)
    sweep(path.parent, f"{_hidden(path)}.tmp-*")
    # Without a checkpoint in its place, the one set aside may be all that there is.
    if os.path.lexists(path):
        sweep(path.parent, f"{_hidden(path)}.previous-*")


def _holds_only_a_run(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and os.listdir(path) == [".run"]
