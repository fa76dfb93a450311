"""The bound: how far the ELBO lies below log p(x), and what lies between."""

import math
from html import escape

import streamlit as st

from vae.figures.frame import nats
from vae.ui import access, explained, widgets
from vae.ui import bound as sections
from vae.ui.missing import offer_images

model, sample = access.current()
heading = st.empty()
levels, name = sections.pick_image(model, sample)
if levels is None:
    with heading.container():
        widgets.opening("The bound", "How far one image's score lies below the truth, and why.")
    offer_images(model)
    st.stop()

found = explained.gap(model, levels)
exact = not math.isnan(found.log_evidence)
with heading.container():
    if exact:
        widgets.opening(
            "The bound",
            f"The exact score of {escape(name)} is <b>{nats(found.log_evidence, 2)}</b> nats, and "
            f"the ELBO says <b>{nats(found.elbo[0], 2)}</b>. Of the "
            f"<b>{nats(found.log_evidence - found.elbo[0], 2)}</b> nats between, a better encoder "
            f"could mend <b>{nats(found.amortization, 2)}</b>, and no Gaussian of its kind the "
            "rest.",
        )
    else:
        widgets.opening(
            "The bound",
            f"The ELBO of {escape(name)} is <b>{nats(found.elbo[0], 2)}</b> ± "
            f"{found.elbo[1]:.2f} nats, a floor under the truth. The best code of the same kind "
            f"would raise it to <b>{nats(found.best_elbo[0], 2)}</b>; 5,000 draws of the "
            f"encoder's own reach <b>{nats(float(found.ladder.values[-1]), 2)}</b>.",
        )

left, right = st.columns([1.15, 1], gap="large")
with left:
    sections.rungs(found)
with right:
    sections.densities(model, levels, found)

sections.two_forms(found)
st.markdown(
    "**The gap in two parts** (Cremer et al. 2018). Amortization, ELBO(q*) − ELBO(q): "
    f"**{nats(found.amortization, 3)} nats**, what this encoder leaves on the table for this image"
    + (
        ". Approximation, log p(x) − ELBO(q*): "
        f"**{nats(found.approximation, 3)} nats**, what no diagonal Gaussian "
        "can reach. Together they are KL(q ‖ p(z|x)); numerical error "
        f"{found.error:.0e} nats."
        if exact
        else f" (± {found.amortization_se:.2f}). With more than two latent dimensions the rest of "
        "the gap has no exact value."
    )
)
if exact:
    sections.tilted(model, levels, found)
else:
    sections.second_opinion(model, levels)
