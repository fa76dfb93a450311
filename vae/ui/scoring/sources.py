"""Where the images to score come from: files, a folder, the drawing pad, or the chosen sample."""

from __future__ import annotations

from typing import NamedTuple

import streamlit as st

from vae.data.images.listing import SUFFIXES
from vae.store.checkpoint import Checkpoint
from vae.ui import access
from vae.ui.components.drawing import drawing_pad
from vae.ui.uploads import INVITATION, admitted, uploads

__all__ = ["Sent", "choose_images"]

_SOURCES = ("Files", "Folder", "Draw")
_SUFFIXES = tuple(suffix[1:] for suffix in SUFFIXES if not suffix.startswith(".tif"))


class Sent(NamedTuple):
    """What there is to score.

    Attributes:
        files: A name and the bytes of each.
        example: Whether it is the chosen sample, standing in for a file.
        empty: What to do, where there is nothing.
    """

    files: list[tuple[str, bytes]]
    example: bool
    empty: str


def choose_images(model: Checkpoint, sample: int) -> Sent:
    """Lets a visitor send files or a folder, or draw; the chosen sample until then."""
    source = st.radio(
        "What to score", _SOURCES, horizontal=True, key="source", bind="query-params"
    )
    if source == "Draw":
        png = drawing_pad(model.image, key=f"pad-{model.name}")
        # The limits above hold here as well: one picture of a pad is far below them.
        files = [] if png is None else [("drawing.png", png)]
        return Sent(files, False, "Draw something, and its score appears when you lift the pen.")
    if source == "Folder":
        sent = uploads(
            INVITATION.replace("Drop images here", "Choose a folder of images"),
            "upload_folder",
            accept_multiple_files="directory",
            type=_SUFFIXES,
        )
    else:
        sent = uploads(INVITATION, "upload", accept_multiple_files=True)
    files, left_out = admitted(sent)
    if left_out:
        st.warning(left_out)
    if files:
        return Sent(files, False, "")
    example = access.sample_png(model, sample)
    files = [] if example is None else [(f"sample-{sample}.png", example)]
    return Sent(files, True, "Drop an image to learn how well this model explains it.")
