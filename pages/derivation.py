"""Derivation: the ELBO from first principles, every line computed for the chosen image."""

import numpy as np
import streamlit as st

from vae.figures.frame import nats
from vae.ui import access, explained, widgets
from vae.ui.derivation import beta_dial, pixel_losses, questions, show_line
from vae.ui.errata import ERRATA
from vae.ui.missing import offer_images

model, sample = access.current()
lines, parts = explained.derivation(model, sample), access.receipt(model, sample)
by_key = {line.key: line for line in lines}
widgets.opening(
    "Derivation",
    "Why a VAE's score is a lower bound, in lines that are not only stated: each one is computed "
    f"for sample {sample} on this model, and <b>{sum(line.holds for line in lines)}</b> of "
    f"{len(lines)} hold. The two sides of a line come from separate computations, so a wrong "
    "number would show.",
)
if parts is None:
    offer_images(model)
    st.caption("Below stands what the stored code of this sample is enough for.")

if "split" in by_key:
    st.subheader("One route: the gap is a divergence", anchor=False)
    for key in ("split", "gibbs", "bound"):
        show_line(by_key[key])
    st.subheader("Another route: Jensen's inequality", anchor=False)
    for key in ("importance", "jensen"):
        show_line(by_key[key])
elif parts is not None:
    st.subheader("Jensen's inequality", anchor=False)
    st.caption(
        f"With {model.config.latent_dim} latent dimensions log p(x) has no exact value here, so "
        "the route through the true posterior is shown on the two-dimensional models."
        if model.config.latent_dim > 2
        else "This image's log p(x) lies out of the quadrature's reach, so the route through the "
        "true posterior cannot be shown for it."
    )
    show_line(by_key["jensen"])

st.subheader("To the closed form", anchor=False)
for key in ("two-forms", "entropy", "cross-entropy", "closed-form"):
    if key in by_key:
        show_line(by_key[key])
st.markdown(
    "x stays **this one image** from the first line to the last; the mean over z is under its "
    f"own q. Training averages {nats(float(access.table(model).elbo[sample]), 2)} nats with the "
    "ELBOs of other images afterwards, once, outside of everything above."
)

st.subheader("The likelihood behind the loss", anchor=False)
if parts is None:
    st.caption("In place of the image, a picture decoded from a draw of its q.")
    drawn = access.posterior_draws(model, sample, 1, seed=0)[0]
    pixel_losses(drawn, access.reconstructions(model, [sample])[0])
else:
    pixel_losses(parts.x, parts.reconstruction)
beta_dial(int(np.prod(model.config.image.shape)))

st.subheader("Predict, then reveal", anchor=False)
questions(model, sample, images=parts is not None)

with st.expander("Errata of four texts that teach this"):
    st.table(
        {
            "Where": [one.where for one in ERRATA],
            "It says": [one.stated for one in ERRATA],
            "It should say": [one.correct for one in ERRATA],
        },
        hide_index=True,
    )
