"""What a visitor sends: limits that hold on the server, names that do no harm."""

from __future__ import annotations

import re
from collections.abc import Sequence

from streamlit.runtime.uploaded_file_manager import UploadedFile

from vae.data.decoding import Limits

__all__ = ["INVITATION", "INVITATION_ONE", "MOST_BYTES", "MOST_FILES", "admitted", "display_name"]

MOST_FILES = 64
MOST_BYTES = 32 * 2**20
INVITATION = (
    f"Drop images here: PNG, JPEG, WebP, BMP or GIF, up to {Limits().bytes // 2**20} MB each, "
    f"{MOST_FILES} files and {MOST_BYTES // 2**20} MB together"
)

INVITATION_ONE = (
    f"Drop an image here: PNG, JPEG, WebP, BMP or GIF, up to {Limits().bytes // 2**20} MB"
)


def admitted(files: Sequence[UploadedFile]) -> tuple[list[tuple[str, bytes]], str]:
    """Takes the first files that fit the limits of one visit.

    The browser checks a size as well, but a visitor need not use the browser.

    Args:
        files: What Streamlit received.

    Returns:
        Names and bytes, and a sentence about those left out (empty when none were).
    """
    taken: list[tuple[str, bytes]] = []
    room = MOST_BYTES
    for file in files[:MOST_FILES]:
        if file.size > room:
            break
        # One byte above the limit is enough for the reader to refuse the file by name.
        data = file.getvalue()[: Limits().bytes + 1]
        room -= file.size
        taken.append((display_name(file.name), data))
    left = len(files) - len(taken)
    sentence = (
        f"{left} of {len(files)} files were left out: at most {MOST_FILES} files and "
        f"{MOST_BYTES // 2**20} MB are scored at once here. For more, use the command line below."
    )
    return taken, sentence if left else ""


def display_name(name: str) -> str:
    """A client's file name as text: no folders, no control or direction characters, no 4 KB."""
    base = re.split(r"[/\\]", name)[-1]
    printable = "".join(char for char in base if char.isprintable() and char not in "\u202a\u202e")
    return printable[:100] or "unnamed"
