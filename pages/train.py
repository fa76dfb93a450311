"""Train: choose images, network and objective, and watch the bound rise."""

import streamlit as st

from vae.ui import widgets, words
from vae.ui.models import train as sections

widgets.opening(
    "Train",
    "Choose images and a recipe, and a new model learns in a process of its own, which goes on "
    "when this page is closed. A finished one appears in the model picker.",
    of_model=False,
)
st.caption(
    f"{words.OWN_FOLDER}, or here once the app was started with `--folders PATH`. "
    f"{words.ELSEWHERE}"
)
st.subheader("Runs", anchor=False)
sections.watch()
st.subheader("A new run", anchor=False)
sections.form()
