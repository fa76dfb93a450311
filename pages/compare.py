"""Compare models: rate against distortion, the β ladder, one image under two of them."""

from html import escape

import streamlit as st

from vae.figures.frame import adding_up, nats
from vae.ui import access, widgets
from vae.ui.models import compare as sections

model, sample = access.current()
cards = sections.comparable(model)
ladder = sections.ladder_of(model, cards)
metrics = model.card.metrics
code, drawing = adding_up((metrics.rate, metrics.distortion), 2)

widgets.opening(
    "Compare models",
    f"{sections.standing(model, cards)} {escape(model.name)} needs "
    f"<b>{nats(-metrics.elbo, 2)}</b> nats: <b>{nats(code, 2)}</b> for the code, "
    f"<b>{nats(drawing, 2)}</b> for drawing the image. Means over validation images; lower is "
    "better.",
)

st.subheader("What the code costs, and what it saves", anchor=False)
sections.plane(model, cards, ladder)

if len(ladder) > 1:
    st.subheader("One knob: the weight of the KL", anchor=False)
    sections.ladder_slider(model, ladder)

st.subheader("One image under two models", anchor=False)
sections.two_models(model, sample, list(cards))

st.subheader("All models", anchor=False)
sections.table_of_models()
