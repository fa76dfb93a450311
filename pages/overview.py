"""Overview: what the model learned, in one sentence, five numbers and three rows of pictures."""

import numpy as np
import streamlit as st

from vae.figures.frame import nats
from vae.figures.pictures import gallery_html
from vae.model.likelihoods import facts_of
from vae.ui import access, widgets
from vae.ui.screens import link
from vae.ui.walks.dimensions import strongest_film
from vae.ui.walks.start import of_sample

model, sample = access.current()
table, metrics, card = access.table(model), model.manifest["metrics"], model.manifest["card"]

widgets.opening(
    card["title"],
    f"{card['description']} On {metrics['images']:,} held-out images it needs "
    f"<b>{nats(-metrics['elbo'])}</b> nats an image: <b>{nats(metrics['rate'])}</b> to say which "
    f"code, and <b>{nats(metrics['distortion'])}</b> to draw the image from it.",
)

numbers = {
    "ELBO": ("elbo", "The bound on log p(x), higher is better; the mean over held-out images."),
    "Rate (KL)": (
        "rate",
        "What naming the code costs: each image's own KL to the prior, averaged.",
    ),
    "Distortion": ("distortion", "What drawing the image from its code costs."),
    f"Bound L, k = {metrics['importance_samples']:,}": (
        "iwae_bound",
        "The importance-weighted bound: closer to log p(x) than the ELBO.",
    ),
}
if "log_evidence" in metrics:
    numbers["log p(x), exact"] = ("log_evidence", "By quadrature over the latent space.")
with st.container(horizontal=True):
    for title, (key, explanation) in numbers.items():
        # A run may leave out the bound, which takes longest to compute.
        if key not in metrics:
            continue
        st.metric(
            title,
            f"{nats(metrics[key])} nats",
            delta=f"± {metrics[f'{key}_se']:.1f} (standard error)",
            delta_color="off",
            delta_arrow="off",
            help=explanation,
        )
    st.metric(
        "Active dimensions",
        f"{metrics['active_units']} of {model.config.latent_dim}",
        delta="mean moves with the image",
        delta_color="off",
        delta_arrow="off",
        help="Latent dimensions whose mean varies by more than 0.01 over images.",
    )

st.subheader("What its strongest dimensions draw", anchor=False)
strongest_film(model, of_sample(model, sample), 3, play=True)

# Evenly spread from the worst to the best explained, so that the strip is no advertisement.
rows = np.argsort(table.elbo)[np.linspace(0, len(table.elbo) - 1, 10).round().astype(int)]
originals, decoded = access.images(model, rows), access.reconstructions(model, rows)
if originals is not None:
    st.subheader("Held-out images, from the worst explained to the best", anchor=False)
    captions = [f"{nats(table.elbo[row])} nats" for row in rows]
    st.html(gallery_html(originals, captions, [f"Sample {row}" for row in rows], 10))
st.subheader("What the decoder makes of their codes", anchor=False)
st.html(gallery_html(decoded, [f"sample {row}" for row in rows], ["A reconstruction"] * 10, 10))
st.subheader("Images drawn from the prior: nobody's picture", anchor=False)
drawn = access.prior_samples(model, 10, seed=0)
st.html(gallery_html(drawn, [""] * 10, ["An image drawn from the prior"] * 10, 10))

st.subheader("Where to go next", anchor=False)
with st.container(horizontal=True):
    link("latent_map", "See all codes on a map", "scatter_plot")
    link("traversals", "Walk through what it learned", "slow_motion_video")
    link("sample_elbo", "Take one image's ELBO apart", "receipt_long")
    link("score_images", "Score your own image", "upload")

with st.expander("About this model"):
    training, likelihood = model.manifest["training"], facts_of(model.config.likelihood)
    st.markdown(
        f"**Likelihood**: {likelihood.title}. {likelihood.valid_for}\n\n"
        f"**Data**: {model.data_title}, "
        + ", ".join(
            f"{split['images']:,} {name}"
            for name, split in model.manifest["data"]["splits"].items()
        )
        + f" images.\n\n**Training**: objective `{model.manifest['config']['objective']}`, "
        f"{training['seconds']:.0f} s on {training['device']}, best step "
        f"{training['best_step']:,}, "
        f"{training['parameters']:,} parameters.\n\n**Made by**"
    )
    st.code(model.manifest["command"], language="bash")
