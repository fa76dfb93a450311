"""Traversals: what each latent dimension does to the picture, strongest first."""

import numpy as np
import streamlit as st

from vae.figures.frame import nats
from vae.figures.pictures import film_html, gallery_html
from vae.ui import access, widgets

FRAMES = 11
# Below this mean KL a dimension says next to nothing about the image.
QUIET = 0.05

model, sample = access.current()
table = access.table(model)
mean_kl = table.kl_per_dim.mean(0)
speaking = [int(d) for d in table.by_kl if mean_kl[d] >= QUIET]
silent = [int(d) for d in table.by_kl if mean_kl[d] < QUIET]

widgets.opening(
    "Traversals",
    f"Each row moves one latent dimension and leaves the rest alone. <b>{len(speaking)}</b> of "
    f"{model.config.latent_dim} dimensions carry information; the strongest, dimension "
    f"{table.by_kl[0] + 1}, costs <b>{nats(mean_kl[table.by_kl[0]], 2)}</b> nats an image.",
)

with st.container(horizontal=True, vertical_alignment="bottom"):
    start = st.segmented_control(
        "Start from",
        ["the chosen sample", "the prior mean", "a random code"],
        default="the chosen sample",
        required=True,
        key="start",
        bind="query-params",
    )
    reach = st.segmented_control(
        "Range",
        ["prior quantiles", "± 3 posterior sd"],
        default="prior quantiles",
        required=True,
        key="reach",
        bind="query-params",
        help="The 1 % to 99 % quantiles of the prior, or around the sample's own Gaussian.",
    )
    seed = 0
    if start == "a random code":
        seed = st.number_input(
            "Seed", 0, 9_999, 0, key="start_seed", bind="query-params", width=130
        )

sigma = np.ones(model.config.latent_dim)
if start == "the chosen sample":
    code, sigma = table.mu[sample], table.sigma[sample]
elif start == "the prior mean":
    code = np.zeros(model.config.latent_dim)
else:
    code = np.random.default_rng(seed).standard_normal(model.config.latent_dim)


def film(dims: list[int]) -> None:
    """Rows of frames for some dimensions."""
    if reach == "prior quantiles":
        shares = np.linspace(0.01, 0.99, FRAMES)
        values = np.tile(access.prior_quantiles(FRAMES), (len(dims), 1))
        heads = [f"{share:.0%}" for share in shares]
    else:
        steps = np.linspace(-3, 3, FRAMES)
        values = code[dims, None] + steps * sigma[dims, None]
        heads = [f"{step:+.1f} sd".replace("-", "−") for step in steps]
    frames = access.traverse(model, code, tuple(dims), values)
    names = [f"dimension {d + 1}" for d in dims]
    notes = [(f"KL {nats(mean_kl[d], 2)} nats", f"starts at {nats(code[d], 2)}") for d in dims]
    st.html(film_html(frames, heads, names, notes))


film(speaking or [int(table.by_kl[0])])
st.caption(
    "Rows by falling mean KL over the reference set, in nats. "
    + (
        "Columns: quantiles of the prior."
        if reach == "prior quantiles"
        else "Columns: standard deviations of the sample's own q(z|x), or else of the prior."
    )
)
if silent:
    with st.expander(f"{len(silent)} dimensions that say next to nothing (KL below {QUIET} nats)"):
        film(silent)

st.subheader("Drawn from the prior", anchor=False)
draw = st.number_input(
    "Seed of the draws", 0, 9_999, 0, key="draw_seed", bind="query-params", width=160
)
drawn = access.prior_samples(model, 20, int(draw))
st.html(gallery_html(drawn, [""] * 20, ["An image drawn from the prior"] * 20, 10))
