"""Names -> checkpoints: what a folder of checkpoints holds, and the only way to a path.

A name that comes from a browser is looked up among the names found by scanning; it is never made
part of a path.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vae.paths import app_folder
from vae.store import checkpoint
from vae.store.card import Card
from vae.store.checkpoint import Checkpoint, read_card
from vae.store.contents import CheckpointError

__all__ = ["Entry", "default_root", "find", "load", "scan"]

_MAX_ENTRIES = 1_000


@dataclass(frozen=True)
class Entry:
    """One checkpoint found by scanning.

    Args:
        name: The directory's name, which identifies it.
        path: The directory.
        card: What its manifest says, or none where it cannot be used.
        damage: Why it cannot be used, or an empty string.
    """

    name: str
    path: Path
    card: Card | None
    damage: str = ""


def default_root() -> Path:
    """The folder of checkpoints: ``$ELBOSCOPE_CHECKPOINTS``, or the shipped one."""
    configured = os.environ.get("ELBOSCOPE_CHECKPOINTS")
    return Path(configured) if configured else app_folder() / "checkpoints"


def load(model: str | Path) -> Checkpoint:
    """Opens a checkpoint and verifies every byte of it.

    Args:
        model: The checkpoint's directory; what is none is the name of one in
            :func:`default_root`, such as ``"digits-2d"``.

    Returns:
        The checkpoint, its model frozen and in eval mode.

    Raises:
        CheckpointError: If it is missing, damaged, or of a newer format; the message says which.
    """
    folder = model if os.path.isdir(model) else find(str(model), default_root()).path
    return checkpoint.load(folder)


def scan(root: Path) -> dict[str, Entry]:
    """Lists the checkpoints directly below a folder, usable and damaged ones, by name."""
    if not root.is_dir():
        return {}
    entries = {}
    for path in sorted(root.iterdir())[:_MAX_ENTRIES]:
        if path.name.startswith("."):
            continue
        if path.is_symlink() and not path.exists():
            lost = CheckpointError("E-CKPT-01", "It is a link to a folder that isn't there.")
            entries[path.name] = Entry(path.name, path, None, str(lost))
            continue
        # Only directories that carry a manifest: a half-written one isn't a checkpoint yet.
        if not path.is_dir():
            continue
        if not os.path.lexists(path / "manifest.json"):
            continue
        try:
            entries[path.name] = Entry(path.name, path, read_card(path))
        except CheckpointError as error:
            if error.code == "E-CKPT-01":
                continue  # gone since it was listed
            entries[path.name] = Entry(path.name, path, None, str(error))
    return entries


def find(name: str, root: Path) -> Entry:
    """Finds a checkpoint by name.

    Raises:
        CheckpointError: If no such name was found by scanning; the message lists those that were.
    """
    entries = scan(root)
    if name not in entries:
        known = ", ".join(entries) or "none"
        raise CheckpointError(
            "E-CKPT-01", f"There is no checkpoint named {name[:80]!r}. There are: {known}."
        )
    return entries[name]
