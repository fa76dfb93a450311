"""KL is per sample: five proofs that the KL acts on each image's own code, never on the batch."""

import streamlit as st

from vae.figures.frame import nats
from vae.ui import access, widgets
from vae.ui.lessons import kl_per_sample as sections
from vae.ui.lessons import mistaken_reading

model, sample = access.current()
table = access.table(model)

widgets.opening(
    "KL is per sample",
    "Every image is charged for its own code, and the batch is never asked. "
    f"Sample {sample} pays <b>{nats(table.kl[sample], 4)}</b> nats, whoever stands beside it.",
)

st.subheader("1. From a table of charges to one number", anchor=False)
sections.reduction_lens(model, sample)

st.subheader("2. The same image in other company", anchor=False)
company = st.container()

st.subheader("3. Why the batch cannot stand in for its images", anchor=False)
mistaken_reading.misconception()

st.subheader("4. What the mistaken reading really trains", anchor=False)
mistaken_reading.contrast()

st.subheader("5. Where this model's KL goes", anchor=False)
sections.surgery(model, sample)

# Last, though it stands second: scoring four companies takes longest, and nothing waits for it.
with company:
    sections.company(model, sample)
