"""Latent map: every image's own Gaussian on one plane that decodes under the cursor."""

import streamlit as st

from vae.figures.frame import nats
from vae.ui import access, widgets
from vae.ui.map import latent_map, maps
from vae.ui.map import sections as map_sections

model, sample = access.current()
table = access.table(model)

widgets.opening(
    "Latent map",
    "Each dot is one held-out image's code, and around it lies that image's own Gaussian. "
    f"Sample {sample} pays <b>{nats(table.kl[sample], 2)}</b> nats for its code; no other image "
    "has a say in that.",
)

chosen = latent_map.settings(model, table)
found = latent_map.scene(model, table, sample, chosen)
latent_map.draw(model, sample, found, chosen)
map_sections.words(model, sample, found, chosen)

group = maps.group(model)
if group is not None:
    map_sections.circled(model, table, group)
map_sections.card(model, table, sample)
if latent_map.HOLES in chosen.layers:
    map_sections.holes(model, found)
if model.latent_dim > 2 and st.toggle("All pairs of dimensions", key="pairs"):
    map_sections.pairs(model, table, sample)
