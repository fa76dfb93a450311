"""Latent map: every image's own Gaussian on one plane, and the same plane decoded."""

import numpy as np
import streamlit as st

from vae.data.datasets import label_text
from vae.figures.frame import nats
from vae.figures.latent_map import latent_map, manifold
from vae.ui import access, widgets
from vae.ui.screens import link

model, sample = access.current()
table = access.table(model)
plane = model.config.latent_dim == 2

widgets.opening(
    "Latent map",
    "Each dot is one held-out image's code, and around it lies that image's own Gaussian. "
    f"Sample {sample} pays <b>{nats(table.kl[sample], 2)}</b> nats for its code; no other image "
    "has a say in that.",
)

quantities = {
    "label": (table.labels, ""),
    "KL": (table.kl, "KL, nats"),
    "expected log-likelihood": (table.expected_log_likelihood, "E log p(x|z), nats"),
    "ELBO": (table.elbo, "ELBO, nats"),
    "percentile": (table.percentile, "percentile, %"),
    "split": (table.split.astype(int), ""),
}
if not model.label_names:
    del quantities["label"]
with st.container(horizontal=True, vertical_alignment="bottom"):
    shown = st.selectbox(
        "Colour by", list(quantities), key="colour", bind="query-params", width=220
    )
    across, up = 0, 1
    if not plane:
        dims = {
            f"z{d + 1} (KL {nats(table.kl_per_dim.mean(0)[d], 2)} nats)": d for d in table.by_kl
        }
        across = dims[st.selectbox("Across", list(dims), key=f"across-{model.name}", width=200)]
        up = dims[st.selectbox("Up", list(dims), index=1, key=f"up-{model.name}", width=200)]
    everyone = st.toggle("Every image's Gaussian", key="ellipses", help="One standard deviation.")

colour, unit = quantities[shown]
names = {"label": model.label_names, "split": ("validation", "calibration")}.get(shown, ())
figure = latent_map(
    table.mu,
    table.sigma,
    (across, up),
    colour,
    unit,
    names,
    np.column_stack((table.kl, table.expected_log_likelihood, table.elbo)),
    sample,
    everyone,
)
left, right = st.columns(2) if plane else (st.container(), None)
with left:
    widgets.pick_on_click(
        figure,
        f"Posterior means of {len(table.mu)} images over latent dimensions {across + 1} and "
        f"{up + 1}, coloured by {shown}; sample {sample} is ringed. Click a dot to choose it.",
        key=f"map-{model.name}",
        samples=len(table.mu),
    )
    st.caption(
        "Click a dot to choose its image. Orange: the chosen image's own q(z|x), 1 and 2 standard "
        "deviations. Dotted: the prior's 1, 2 and 3."
    )
if right is not None:
    with right:
        span = round(figure.layout.xaxis.range[1], 1)
        widgets.chart(
            manifold(access.lattice(model, span, 15), span, table.mu[sample]),
            "What the decoder draws at each place of the same plane; the chosen sample is ringed",
        )
        st.caption("What the decoder draws at each place of the same plane.")

st.subheader(f"Sample {sample}", anchor=False)
distance = np.linalg.norm(table.mu - table.mu[sample], axis=1)
near = np.argsort(distance, kind="stable")[1:7]
first, second, third, fourth = st.columns([0.75, 0.75, 1.5, 1.1], gap="medium")
found = access.images(model, [sample])
label = label_text(int(table.labels[sample]), model.label_names)
with first:
    if found is not None:
        widgets.picture(found[0], f"The image: {label}", f"The chosen image, {label}", 260)
with second:
    decoded_mean = access.reconstructions(model, [sample])[0]
    widgets.picture(decoded_mean, "What its code decodes to", "Its reconstruction", 260)
with third:
    widgets.sums(
        [
            ("expected log-likelihood", table.expected_log_likelihood[sample], None),
            ("KL of this image", table.kl[sample], None),
            ("ELBO", table.elbo[sample], float(model.reference.elbo_se[sample])),
        ]
    )
    link("sample_elbo", "Its receipt, to the pixel", "receipt_long")
with fourth:
    st.markdown("**Nearest codes**")
    widgets.gallery(model, near, [f"{row}: {distance[row]:.2f} away" for row in near], 3)
