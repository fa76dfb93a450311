"""Downloads published data sets, when asked to, through torchvision."""

from __future__ import annotations

import errno
import http.client
import importlib.util
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vae.data.disk import temporary_folder
from vae.data.sets.cache import CacheUnwritable
from vae.data.sets.image_data import DataMissing
from vae.data.sets.published import SETS, PublishedSet, data_home

__all__ = ["download"]

# A server that says nothing for so long isn't there.
_SILENCE = 30
# What a disk says, and no network.
_UNWRITABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST,
    errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENOENT,
)  # fmt: skip


def download(name: str) -> Path:
    """Downloads a published data set, unless its files are there already.

    Files arrive in a hidden folder and are moved when all of them are whole.

    Args:
        name: A name in ``SETS``.

    Returns:
        The folder of its files.

    Raises:
        DataMissing: If they cannot be fetched; the message says why and what to do.
        CacheUnwritable: If there is no room for them.
    """
    published = SETS[name]
    if not published.missing:
        return published.home
    if name == "celeba" and importlib.util.find_spec("gdown") is None:
        problem = "comes from Google Drive: install gdown (pip install gdown) and try again"
        raise DataMissing(_by_hand(published, problem))
    home = data_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with temporary_folder(home, ".download-") as place:
            with _impatient():
                published.read(place, download=True)
            for file in published.files:
                target = published.home / file
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    os.replace(place / published.folder / file, target)
    except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) in _UNWRITABLE:
            raise CacheUnwritable(
                f"{published.title} cannot be kept in {str(home)!r} ({error.strerror}): "
                "make room there, or let ELBOSCOPE_DATA, or ELBOSCOPE_CACHE for all that is kept, "
                "name another folder."
            ) from error
        reason = str(getattr(error, "reason", error)).strip().splitlines() or [""]
        if "corrupted" in str(error):
            problem = "did not arrive whole: try again"
        else:
            why = reason[-1].strip("<> ") or type(error).__name__
            problem = f"cannot be reached ({why}): check the connection and try again"
        raise DataMissing(_by_hand(published, problem)) from error
    return published.home


def _by_hand(published: PublishedSet, problem: str) -> str:
    place = (published.home / published.files[0]).parent
    names = ", ".join(Path(file).name for file in published.files)
    return (
        f"{published.title} {problem}, or put {names} from {published.source} into {str(place)!r}."
    )


@contextmanager
def _impatient() -> Iterator[None]:
    """torchvision waits for a silent server without end; only the default can be set from here."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
