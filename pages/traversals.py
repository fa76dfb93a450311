"""Traversals: walks through the latent space, scrubbed at the screen's own rate."""

import streamlit as st

from vae.figures.frame import nats
from vae.ui import access, links, widgets
from vae.ui.walks.arithmetic import show_arithmetic
from vae.ui.walks.between import show_between
from vae.ui.walks.dimensions import show_dimensions
from vae.ui.walks.prior import show_manifold, show_prior
from vae.ui.walks.sliders import show_sliders

model, sample = access.current()
table = access.table(model)
mean_kl, strongest = table.kl_per_dim.mean(0), table.by_kl[0]

heading = st.container()
walks = {
    "Dimensions": show_dimensions,
    "Between two images": show_between,
    "Arithmetic": show_arithmetic,
    "Sliders": show_sliders,
    "Prior samples": show_prior,
    "Manifold": show_manifold,
}
if model.latent_dim != 2:
    del walks["Manifold"]
walk = links.choice("Walk", list(walks), "walk", label_visibility="collapsed")
with heading:
    if walk == "Dimensions":
        widgets.opening(
            "Traversals",
            "Move one latent dimension, leave the rest alone, and watch what it draws. "
            f"<b>{table.active.sum()}</b> of {model.latent_dim} dimensions are active "
            f"units; the strongest, dimension {strongest + 1}, costs "
            f"<b>{nats(mean_kl[strongest], 2)}</b> nats an image, the mean over all "
            f"{model.reference.size:,} held-out images.",
        )
    else:
        st.title("Traversals", anchor=False)


@st.fragment
def show() -> None:
    """Draws the chosen walk; letting go of a film runs this part of the screen alone."""
    walks[walk](model, sample)


show()
