"""Overview: what the model learned, in one sentence, five numbers and three rows of pictures."""

import streamlit as st

from vae.ui import access
from vae.ui.models import overview as sections
from vae.ui.walks.dimensions import strongest_film
from vae.ui.walks.start import of_sample

model, sample = access.current()
sections.opening(model)
sections.numbers(model)
sections.terms(model)

st.subheader("What its strongest dimensions draw", anchor=False)
strongest_film(model, of_sample(model, sample), 3, play=True)
st.caption(
    f"The KL beside each dimension is its mean over all {model.reference.size:,} held-out images."
)

sections.pictures(model)
sections.what_holds(model)
sections.where_next()
sections.about(model)
