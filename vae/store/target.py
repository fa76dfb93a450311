"""Where a checkpoint may be written, and what its writers leave there.

A writer adds files named by their contents' sha256 and then replaces ``manifest.json`` by one
rename, so that a reader finds the old checkpoint or the new one at every instant. What no manifest
lists is left over, whoever left it: writers hold a lock, under which the next one tidies up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

__all__ = ["FILES", "LOCK", "check_target", "hashed_name", "remove_unlisted", "true_place"]

# What a checkpoint's files are, by the names that they once had.
FILES = ("model.safetensors", "reference.safetensors", "history.jsonl")
LOCK = ".lock"

_WRITTEN = re.compile(
    r"(?:model|reference|history)-[0-9a-f]{12}\.(?:safetensors|jsonl)|\..+\.tmp-.+"
)


def hashed_name(file: str, digest: str) -> str:
    """The name under which one of :data:`FILES` is written, from the sha256 of its contents."""
    stem, _, suffix = file.partition(".")
    return f"{stem}-{digest[:12]}.{suffix}"


def check_target(path: str | Path, overwrite: bool = False) -> Path:
    """Checks that a checkpoint may be written at a path.

    Args:
        path: The directory to make.
        overwrite: Whether a checkpoint that stands there may be replaced.

    Returns:
        Where the checkpoint truly lies, absolute; see :func:`true_place`.

    Raises:
        FileExistsError: If something stands there that may not be replaced.
        OSError: If what stands there cannot be looked at.
    """
    path = true_place(path)
    if not os.path.lexists(path) or _holds_nothing_finished(path):
        return path
    if not overwrite:
        raise FileExistsError(f"{path} exists already; choose another name or pass --overwrite.")
    # One wrong word must not cost a folder of something else.
    if not os.path.lexists(path / "manifest.json"):
        raise FileExistsError(f"{path} is not a checkpoint, so it is not replaced.")
    return path


def true_place(path: str | Path) -> Path:
    """A directory's absolute path, or that which a link leads to: a link is never replaced.

    A link that leads nowhere stands for itself, since its disk may only be missing for now.
    """
    path = Path(os.path.abspath(path))
    leads_there = os.path.islink(path) and os.path.isdir(path)
    return Path(os.path.realpath(path)) if leads_there else path


def remove_unlisted(path: Path, listed: Collection[str]) -> None:
    """Removes the files of a checkpoint that are not listed, as far as the disk allows."""
    with suppress(OSError):
        for name in set(os.listdir(path)).difference(listed):
            if name in FILES or _WRITTEN.fullmatch(name):
                with suppress(OSError):
                    (path / name).unlink()


def _holds_nothing_finished(path: Path) -> bool:
    """Whether all there is are a run under way and what a writer left that came to no end."""
    return (
        path.is_dir()
        and not path.is_symlink()
        and all(name in (".run", LOCK) or _WRITTEN.fullmatch(name) for name in os.listdir(path))
    )
