"""The bound: how far the ELBO lies below log p(x), and what lies between."""

import math
from html import escape

import streamlit as st

from vae.figures.frame import adding_up, nats, plus_minus
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
        # The difference of the two numbers as they stand there, and parts that add up to it.
        cost, truth = round(-found.elbo[0], 2), round(-found.log_evidence, 2)
        encoder, shape = adding_up((found.amortization, found.approximation), 2, cost - truth)
        widgets.opening(
            "The bound",
            f"By its ELBO {escape(name)} costs <b>{nats(cost, 2)}</b> nats, and exactly, by "
            f"log p(x), <b>{nats(truth, 2)}</b> nats. Of the <b>{nats(cost - truth, 2)}</b> "
            f"between them a better encoder could save <b>{nats(encoder, 2)}</b>; the other "
            f"<b>{nats(shape, 2)}</b> remain with any code of this encoder's kind.",
        )
    else:
        widgets.opening(
            "The bound",
            f"By its ELBO {escape(name)} costs <b>{nats(-found.elbo[0], 2)}</b>"
            f"{plus_minus(found.elbo[1])} nats, and in truth at most that. The best code of the "
            f"same kind would bring it down to <b>{nats(-found.best_elbo[0], 2)}</b>, and 5,000 "
            f"draws of the encoder's own to <b>{nats(-float(found.ladder.values[-1]), 2)}</b>.",
        )

left, right = st.columns([1.15, 1], gap="large")
with left:
    sections.rungs(found)
with right:
    sections.densities(model, levels, found)

sections.two_forms(found)
st.markdown(
    "**The gap in two parts** (Cremer et al. 2018). Amortisation, ELBO(q*) − ELBO(q): "
    f"**{nats(found.amortization, 3)}{plus_minus(found.amortization_error, 3)} nats**, what this "
    "encoder loses on this image. "
    + (
        f"Approximation, log p(x) − ELBO(q*): **{nats(found.approximation, 3)}"
        f"{plus_minus(found.approximation_error, 3)} nats**, what no diagonal Gaussian can reach. "
        "Together they are KL(q ‖ p(z|x))."
        if exact
        else "With more than two latent dimensions the rest of the gap has no exact value."
    )
)
if exact:
    sections.tilted(model, levels, found)
else:
    sections.second_opinion(model, levels)
