"""Nobody's pictures: draws from the prior, and the whole plane of a two-dimensional model."""

from __future__ import annotations

import numpy as np
import streamlit as st

from vae.explore.traversals import manifold_codes, prior_codes
from vae.figures.frame import nats
from vae.figures.pictures import contact_sheet, gallery_html
from vae.store.checkpoint import Checkpoint
from vae.ui import access, links, widgets
from vae.ui.walks import decoded
from vae.ui.walks.export import codes_csv, export_grid
from vae.ui.walks.place import show_place
from vae.ui.walks.trust import profile_columns

__all__ = ["show_manifold", "show_prior"]

_DRAWS, _COLUMNS = 24, 8


def show_prior(model: Checkpoint, sample: int) -> None:
    """Seeded draws at a temperature, each with its distance to the data."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        seed = int(links.number("Seed of the draws", 0, 9_999, 0, "draw_seed", width=160))
        temperature = float(
            links.number(
                "Temperature",
                0.0,
                2.0,
                1.0,
                "temperature",
                step=0.1,
                width=160,
                help="Codes are T·ε with ε from the prior: 1 is the prior itself.",
            )
        )
        closer = st.selectbox(
            "Look closer at",
            ["none", *(f"draw {i + 1}" for i in range(_DRAWS))],
            key="closer",
            width=160,
        )
    codes = prior_codes(model.latent_dim, _DRAWS, seed, temperature)
    images, found = access.decode(model, codes), decoded.profile_of(model, codes)
    usual = decoded.typical_of(model)
    middle = float(np.median(found.distance))
    widgets.lead(
        "Nobody's pictures: the codes of half of these draws lie farther than "
        f"<b>{nats(middle, 2)}</b> latent units from any held-out code; between neighbours there "
        f"<b>{nats(float(usual.distance), 2)}</b> is usual."
    )
    captions = [f"draw {i + 1}, distance {nats(away, 2)}" for i, away in enumerate(found.distance)]
    alts = [f"Draw {i + 1} from the prior" for i in range(_DRAWS)]
    st.html(gallery_html(images, captions, alts, _COLUMNS))
    columns = {"draw": np.arange(1, _DRAWS + 1), **profile_columns(found)}
    export_grid(model, images, _COLUMNS, f"prior-{seed}", lambda: codes_csv(codes, columns))
    if closer != "none":
        draw = int(closer.split()[1]) - 1
        show_place(model, codes[draw], f"Draw {draw + 1}, temperature {temperature:g}")


def show_manifold(model: Checkpoint, sample: int) -> None:
    """The classic grid: what the decoder draws at even quantiles of the prior."""
    side = int(links.number("Images on a side", 5, 31, 17, "side", step=2, width=170))
    codes = manifold_codes(side)
    widgets.lead(
        f"The whole plane at a glance: <b>{side * side}</b> places, each of which stands for the "
        "same share of the prior, decoded."
    )
    images = access.decode(model, codes.reshape(-1, 2))
    widgets.picture(
        contact_sheet(images, side, gap=1, ground=0.5),
        "Across: z1 from the prior's 1 % quantile to its 99 %. Upwards: z2 likewise.",
        f"{side} by {side} decoded images over the two latent dimensions",
        860,
    )
    flat = codes.reshape(-1, 2)
    columns = {"row": np.repeat(np.arange(side), side), "column": np.tile(np.arange(side), side)}
    export_grid(model, images, side, "manifold", lambda: codes_csv(flat, columns))
