"""Derivation: the ELBO from first principles, every line computed for the chosen image."""

import numpy as np
import streamlit as st

from vae.figures.frame import nats
from vae.ui import access, estimates, widgets
from vae.ui.lessons import derivation as sections
from vae.ui.missing_images import offer_images

model, sample = access.current()
seen, parts = access.seen(model, sample), access.receipt(model, sample)
lines = estimates.closed_forms(model, sample) if seen is None else estimates.derivation(seen)
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

sections.routes(model, by_key, parts is not None)
st.subheader("To the closed form", anchor=False)
sections.show_lines(by_key, ("two-forms", "entropy", "cross-entropy", "closed-form"))
st.markdown(
    "x stays **this one image** from the first line to the last; the mean over z is under its "
    f"own q. Training averages {nats(float(access.table(model).elbo[sample]), 2)} nats with the "
    "ELBOs of other images afterwards, once, outside of everything above."
)

st.subheader("The likelihood behind the loss", anchor=False)
sections.losses(model, sample, parts)
sections.beta_dial(int(np.prod(model.image.shape)))

st.subheader("Predict, then reveal", anchor=False)
sections.questions(model, sample, images=parts is not None)

sections.errata()
