"""The bound: how far the ELBO lies below log p(x), and what lies between."""

import math

import streamlit as st

from vae.ui import access, estimates, widgets
from vae.ui.lessons import bound as sections
from vae.ui.missing_images import offer_images

model, sample = access.current()
heading = st.empty()
seen, name = sections.pick_image(model, sample)
if seen is None:
    with heading.container():
        widgets.opening("The bound", "How far one image's score lies below the truth, and why.")
    offer_images(model)
    st.stop()

found = estimates.gap(seen)
exact = not math.isnan(found.log_evidence)
with heading.container():
    sections.opening(name, found, exact)

left, right = st.columns([1.15, 1], gap="large")
with left:
    sections.rungs(found)
with right:
    sections.densities(model, seen, found)

sections.two_forms(found)
sections.gap_in_two_parts(found, exact)
if exact:
    sections.tilted(seen, found)
else:
    sections.second_opinion(model, seen)
