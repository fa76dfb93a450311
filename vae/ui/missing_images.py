"""What to show where a model's own images are not on this machine, and how to fetch them."""

from __future__ import annotations

import numpy as np
import streamlit as st

from vae.data.sets.cache import CacheUnwritable
from vae.data.sets.image_data import DataMissing
from vae.data.sets.published import SETS
from vae.store.checkpoint import Checkpoint
from vae.store.originals import originals
from vae.ui.literal import literal
from vae.ui.train_gate import training_allowed

__all__ = ["offer_images", "where_images_are"]


def where_images_are(model: Checkpoint) -> str:
    """Why a model's own images cannot be shown, in one sentence."""
    whose = f"The images behind this model ({literal(model.card.data.title)})"
    try:
        originals(model, np.arange(1))
    except CacheUnwritable:
        # Which folder it is, the command line tells, to whoever runs the server.
        return (
            f"{whose} cannot be decoded, since this server's cache is full or cannot be written: "
            "let ELBOSCOPE_CACHE name another folder."
        )
    except DataMissing:
        pass
    return f"{whose} are not on this machine."


def offer_images(model: Checkpoint) -> None:
    """Says that the reference images aren't here; one click fetches those of a published set."""
    st.info(
        f"{where_images_are(model)} What needs the image itself cannot be shown; the map, the "
        "traversals and the table need none."
    )
    published = SETS.get(model.card.data.name.removesuffix(":full"))
    # It writes to this computer's disk, so it is offered only to those who sit before it.
    if published is None or not published.missing or not training_allowed():
        return
    label = f"Download {published.title} ({published.megabytes:,} MB)"
    if not st.button(label, icon=":material/download:", key="download_images"):
        return
    from vae.data.sets.download import download

    try:
        with st.spinner(f"Downloading {published.title}"):
            download(model.card.data.name.removesuffix(":full"))
    except DataMissing as error:
        st.error(literal(str(error)))
        return
    st.cache_data.clear()
    st.rerun()
