"""Derivation: the ELBO from first principles, every line computed for the chosen image."""

import numpy as np
import streamlit as st

from vae.figures.frame import nats
from vae.ui import access, explained, widgets
from vae.ui.derivation import beta_dial, pixel_losses, questions, show_line
from vae.ui.errata import ERRATA
from vae.ui.missing import offer_images

model, sample = access.current()
lines = explained.derivation(model, sample)
if lines is None:
    widgets.opening("Derivation", "The score of one image, derived and checked line by line.")
    offer_images(model)
    st.stop()

by_key, parts = {line.key: line for line in lines}, access.receipt(model, sample)
widgets.opening(
    "Derivation",
    "Why a VAE's score is a lower bound, in lines that are not only stated: each one is computed "
    f"for sample {sample} on this model, and <b>{sum(line.holds for line in lines)}</b> of "
    f"{len(lines)} hold.",
)

if "split" in by_key:
    st.subheader("One route: the gap is a divergence", anchor=False)
    for key in ("split", "gibbs", "bound"):
        show_line(by_key[key])
    st.subheader("Another route: Jensen's inequality", anchor=False)
    for key in ("importance", "jensen"):
        show_line(by_key[key])
else:
    st.subheader("Jensen's inequality", anchor=False)
    st.caption(
        f"With {model.config.latent_dim} latent dimensions log p(x) has no exact value here, so "
        "the route through the true posterior is shown on the two-dimensional models."
    )
    show_line(by_key["jensen"])

st.subheader("To the closed form", anchor=False)
for key in ("two-forms", "entropy", "cross-entropy", "closed-form"):
    show_line(by_key[key])
st.markdown(
    f"x stays **this one image** from the first line to the last; the mean over z is under its "
    f"own q. Training averages {nats(parts.elbo, 2)} nats with the ELBOs of other images "
    "afterwards, once, outside of everything above."
)

st.subheader("The likelihood behind the loss", anchor=False)
pixel_losses(parts)
beta_dial(int(np.prod(parts.x.shape)))

st.subheader("Predict, then reveal", anchor=False)
questions(model, sample)

with st.expander("Errata of four texts that teach this"):
    st.table(
        {
            "Where": [one.where for one in ERRATA],
            "It says": [one.stated for one in ERRATA],
            "It should say": [one.correct for one in ERRATA],
        },
        hide_index=True,
    )
