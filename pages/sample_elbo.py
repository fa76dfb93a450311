"""One sample's ELBO: taken apart to the pixel, and its place among all samples."""

import streamlit as st

from vae.figures.frame import adding_up, nats, plus_minus
from vae.figures.palette import ELBO, EXPECTED_LOG_LIKELIHOOD, KL, tex
from vae.figures.sample_elbo import pixel_map
from vae.ui import access, widgets
from vae.ui import sample_elbo as sections

model, sample = access.current()
table, parts = access.table(model), access.receipt(model, sample)
if parts is None:
    sections.without_its_image(model, table, sample)
    st.stop()

error = plus_minus(parts.elbo_uncertainty)
code, drawing = adding_up((parts.kl, -parts.expected_log_likelihood))
widgets.opening(
    "One sample's ELBO",
    f"Sample {sample} costs <b>{nats(-parts.elbo, 1)}</b>{error} nats to describe: "
    f"<b>{nats(code)}</b> to say which code, <b>{nats(drawing)}</b> to draw it from the code. "
    f"It is cheaper than <b>{table.percentile[sample]:.0f}\u00a0%</b> of the calibration images.",
)

first, second, third, fourth = st.columns([1, 1, 1, 1.6], gap="medium")
with first:
    widgets.picture(parts.x, "The image, as the model sees it", f"Sample {sample}", 300)
with second:
    widgets.picture(parts.reconstruction, "What the code keeps of it", "Its reconstruction", 300)
with third:
    widgets.chart(
        pixel_map(parts.pixels, 250),
        f"Cost of each pixel; together {-parts.expected_log_likelihood:.1f} nats",
    )
    st.caption("Where the cost is: nats for each pixel.")
with fourth:
    widgets.sums(parts.expected_log_likelihood, parts.kl, parts.elbo_uncertainty)
    st.caption(
        "ELBO = expected log-likelihood − KL, in nats; higher is better. "
        + (
            "Exact: the expectation is by quadrature, and ± is its numerical error."
            if model.config.latent_dim <= 2
            else f"Mean over {access.draws_of(model):,} draws of this image's own noise, and ± is "
            "its standard error."
        )
    )

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
with st.expander("The maths"):
    st.latex(
        tex(ELBO, r"\mathrm{ELBO}(x)")
        + " = "
        + tex(EXPECTED_LOG_LIKELIHOOD, r"E_{q(z|x)}[\log p(x|z)]")
        + " - "
        + tex(KL, r"\sum_d \tfrac12 (\mu_d^2 + \sigma_d^2 - 1 - \log \sigma_d^2)")
    )
    st.markdown(
        "One x is fixed; the expectation is over z for that x alone, and the KL is that x's own. "
        "The average over images comes after, outside of both."
    )
    st.dataframe(
        {
            "dimension": [f"z{d + 1}" for d in range(len(parts.mu))],
            "μ": parts.mu.round(4),
            "σ": parts.sigma.round(4),
            "KL, nats": parts.kl_per_dim.round(4),
        },
        hide_index=True,
        width="content",
    )
