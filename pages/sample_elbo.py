"""One sample's ELBO: taken apart to the pixel, and its place among all samples."""

import streamlit as st

from vae.ui import access
from vae.ui.lessons import sample_elbo as sections

model, sample = access.current()
table, parts = access.table(model), access.receipt(model, sample)
if parts is None:
    sections.without_its_image(model, table, sample)
    st.stop()

sections.opening(table, sample, parts)
sections.pictures_and_sums(model, sample, parts)

st.subheader("The receipt", anchor=False)
sections.receipt_to_the_pixel(parts)

st.subheader("Among all images", anchor=False)
left, right = st.columns([1.5, 1], gap="large")
with left:
    sections.plane(model, table, sample)
with right:
    sections.extremes(model, table)

sections.spread(model, sample)
# Toggles rather than expanders: what an expander hides is computed and sent all the same.
if st.toggle("Why this image and not that one: two samples compared", key="compare"):
    sections.compare_with(model, sample, parts)
if st.toggle("All samples in a table", key="all_samples"):
    sections.all_samples(model, table)
sections.maths(parts)
