"""What a visitor sends: limits that hold on the server, names that do no harm."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from itertools import accumulate, chain, count
from typing import Any

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from vae.data.images.decoding import Limits
from vae.data.images.listing import shortened

__all__ = [
    "INVITATION",
    "INVITATION_ONE",
    "MOST_BYTES",
    "MOST_FILES",
    "admitted",
    "display_name",
    "display_names",
    "uploads",
]

_LONGEST = 100
MOST_FILES = 64
MOST_BYTES = 32 * 2**20
INVITATION = (
    f"Drop images here: PNG, JPEG, WebP, BMP or GIF, up to {Limits().bytes // 2**20} MB each, "
    f"{MOST_FILES} files and {MOST_BYTES // 2**20} MB together"
)

INVITATION_ONE = (
    f"Drop an image here: PNG, JPEG, WebP, BMP or GIF, up to {Limits().bytes // 2**20} MB"
)


def uploads(label: str, key: str, **uploader: Any) -> list[UploadedFile]:  # noqa: ANN401
    """A file uploader whose files stay while a visitor is on another screen.

    Streamlit's own forgets them there; they are listed beside it until they are taken out.

    Args:
        label: The uploader's label.
        key: The uploader's key.
        uploader: What else ``st.file_uploader`` takes.
    """
    before, now = f"{key}_before", f"{key}_now"
    if key not in st.session_state:  # the first run of a visit
        st.session_state[before] = st.session_state.get(now, [])
    sent = st.file_uploader(label, key=key, **uploader)
    stay = earlier = st.session_state[before]
    if earlier:
        chosen = st.multiselect(
            "Sent before, and still here",
            range(len(earlier)),
            default=range(len(earlier)),
            format_func=lambda number: display_name(earlier[number].name),
            key=f"{key}_stay",
            placeholder="None of them",
        )
        stay = [earlier[number] for number in sorted(chosen)]
    files = [*stay, *sent]
    st.session_state[now] = files[: _fitting(files)]
    return files


def admitted(files: Sequence[UploadedFile]) -> tuple[list[tuple[str, bytes]], str]:
    """Takes the first files that fit the limits of one visit.

    The browser checks a size as well, but a visitor need not use the browser.

    Args:
        files: What Streamlit received.

    Returns:
        Names below what holds them all, as the command line has them, and bytes; and a sentence
        about those left out (empty when none were).
    """
    # One byte above the limit is enough for the reader to refuse the file by name.
    taken = [file.getvalue()[: Limits().bytes + 1] for file in files[: _fitting(files)]]
    left = len(files) - len(taken)
    sentence = (
        f"{left} of {len(files)} files were left out: at most {MOST_FILES} files and "
        f"{MOST_BYTES // 2**20} MB are scored at once here. For more, use the command line below."
    )
    names = display_names([file.name for file in files[: len(taken)]])
    folder = posixpath.commonpath([posixpath.dirname(name) for name in names]) if names else ""
    names = [posixpath.relpath(name, folder) if folder else name for name in names]
    return list(zip(names, taken, strict=True)), sentence if left else ""


def display_names(names: Sequence[str]) -> list[str]:
    """What a client calls its files, as text; a name that is there already gets a number."""
    shown: dict[str, None] = {}
    for name in map(display_name, names):
        numbered = (f"{name} ({number})" for number in count(2))
        shown[next(one for one in chain([name], numbered) if one not in shown)] = None
    return list(shown)


def _fitting(files: Sequence[UploadedFile]) -> int:
    """How many of the files, from the first, the limits of one visit let in."""
    sums = accumulate(file.size for file in files[:MOST_FILES])
    return sum(1 for total in sums if total <= MOST_BYTES)


def display_name(name: str) -> str:
    """A client's file name as text: no control or direction characters, no 4 KB.

    Folders stay, since files of two may share a name; what would lead out of them goes.
    """
    parts = re.split(r"[/\\]", "".join(char for char in name if char.isprintable()))
    plain = "/".join(part for part in parts if part.strip(".") and not part.endswith(":"))
    return shortened(plain, _LONGEST) or "unnamed"
