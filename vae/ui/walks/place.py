"""The place where the hand let go: its image, its code, and how far it can be trusted."""

from __future__ import annotations

import numpy as np
import streamlit as st

from vae.data.sets.image_data import label_text
from vae.figures.frame import nats
from vae.store.checkpoint import Checkpoint
from vae.ui import access, widgets
from vae.ui.walks import decoded
from vae.ui.walks.start import code_text, start_here

__all__ = ["show_place", "trust_lines"]


def show_place(model: Checkpoint, code: np.ndarray, text: str) -> None:
    """Draws one place: what it decodes to, the nearest data, and four numbers."""
    image = access.decode(model, code)
    found = decoded.profile_of(model, code[None])
    nearest = int(found.nearest[0])
    st.subheader("The chosen place", anchor=False)
    first, second, third = st.columns([0.8, 0.8, 1.9], gap="medium")
    with first:
        widgets.picture(image, text, f"The image decoded at the chosen place: {text}", 260)
    with second:
        originals = access.images(model, [nearest])
        closest = access.reconstructions(model, [nearest]) if originals is None else originals
        label = label_text(int(model.reference.labels[nearest]), model.label_names)
        widgets.picture(
            closest[0],
            f"Nearest held-out image: sample {nearest}, {label}",
            f"Sample {nearest}, whose code is nearest",
            260,
        )
    with third:
        trust_lines(model, code)
        st.code(code_text(code), language=None, wrap_lines=True)
        with st.container(horizontal=True):
            st.button(
                "Start from here",
                on_click=start_here,
                args=(code,),
                key="start_here",
                help="Puts this code into the link, and starts every walk from it.",
            )
            if st.button(
                f"Choose sample {nearest}",
                on_click=_choose_sample,
                args=(nearest,),
                key="choose_nearest",
            ):
                # The sample belongs to the whole screen, not to this part of it.
                st.rerun(scope="app")


def _choose_sample(sample: int) -> None:
    st.session_state["sample"] = sample


def trust_lines(model: Checkpoint, code: np.ndarray) -> None:
    """Four numbers of a place, each beside what is usual for the codes of data."""
    found, usual = decoded.profile_of(model, code[None]), decoded.typical_of(model)
    lines = [
        ("log p(z)", found.log_prior[0], usual.log_prior, "nats"),
        ("log q̄(z)", found.log_aggregate[0], usual.log_aggregate, "nats"),
        ("round trip", found.round_trip[0], usual.round_trip, "latent units"),
        ("nearest data", found.distance[0], usual.distance, "latent units"),
    ]
    rows = "".join(
        f"<tr><td>{name}</td><td>{nats(value, 2)} {unit} <small>usual {nats(median, 2)}</small>"
        "</td></tr>"
        for name, value, median, unit in lines
    )
    st.html(f'<table class="elb-sums">{rows}</table>')
    st.caption(
        "log q̄(z): density of all held-out codes together. Round trip: how far the code moves "
        "when its image is encoded again. Usual: the median over held-out images."
    )
