"""The pieces of the screen about one sample: the tilted plane, two samples, the whole table."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import streamlit as st

from vae.data.sets.image_data import label_text
from vae.elbo.expectation import Receipt
from vae.figures import palette
from vae.figures.frame import adding_up, nats, plus_minus
from vae.figures.pictures import gallery_html, thumbnail_url
from vae.figures.plane import Fact
from vae.figures.sample_elbo import (
    KL_AND_DISTORTION,
    block_map,
    blocks,
    difference,
    iso_lines,
    pixel_map,
    receipt,
)
from vae.store.checkpoint import Checkpoint
from vae.store.contents import SPLITS
from vae.ui import access, widgets
from vae.ui.components.plane import scatter
from vae.ui.components.thumbnails import captions_of, thumbnails
from vae.ui.literal import frame_csv
from vae.ui.missing_images import offer_images

__all__ = [
    "all_samples",
    "compare_with",
    "extremes",
    "maths",
    "opening",
    "pictures_and_sums",
    "plane",
    "receipt_to_the_pixel",
    "spread",
    "without_its_image",
]

# Thumbnails of more rows than this would weigh more than they show: 800 colour ones of 32 pixels a
# side, as high as a row, are three megabytes at most.
_MOST_THUMBNAILS, _THUMBNAIL = 800, 32


def opening(table: access.Table, sample: int, parts: Receipt) -> None:
    """What a sample costs, in which part, and its place among others."""
    error = plus_minus(parts.elbo_uncertainty)
    code, drawing = adding_up((parts.kl, -parts.expected_log_likelihood))
    widgets.opening(
        "One sample's ELBO",
        f"Sample {sample} costs <b>{nats(-parts.elbo, 1)}</b>{error} nats to describe: "
        f"<b>{nats(code)}</b> to say which code, <b>{nats(drawing)}</b> to draw it from the "
        f"code. It is cheaper than <b>{table.percentile[sample]:.0f}\u00a0%</b> of the "
        "calibration images.",
    )


def pictures_and_sums(model: Checkpoint, sample: int, parts: Receipt) -> None:
    """The image, its reconstruction, what each pixel costs, and the two terms."""
    first, second, third, fourth = st.columns([1, 1, 1, 1.6], gap="medium")
    with first:
        widgets.picture(parts.x, "The image, as the model sees it", f"Sample {sample}", 300)
    with second:
        widgets.picture(
            parts.reconstruction, "What the code keeps of it", "Its reconstruction", 300
        )
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
                if model.latent_dim <= 2
                else f"Mean over {access.draws_of(model):,} draws of this image's own noise, and "
                "± is its standard error."
            )
        )


def maths(parts: Receipt) -> None:
    """The formula and each dimension's part, folded away."""
    with st.expander("The maths"):
        st.latex(
            palette.tex(palette.ELBO, r"\mathrm{ELBO}(x)")
            + " = "
            + palette.tex(palette.EXPECTED_LOG_LIKELIHOOD, r"E_{q(z|x)}[\log p(x|z)]")
            + " - "
            + palette.tex(
                palette.KL, r"\sum_d \tfrac12 (\mu_d^2 + \sigma_d^2 - 1 - \log \sigma_d^2)"
            )
        )
        st.markdown(
            "One x is fixed; the expectation is over z for that x alone, and the KL is that x's "
            "own. The average over images comes after, outside of both."
        )
        st.dataframe(
            {
                "dimension": [f"z{d + 1}" for d in range(len(parts.mu))],
                "μ": parts.mu,
                "σ": parts.sigma,
                "KL, nats": parts.kl_per_dim,
            },
            column_config={
                name: st.column_config.NumberColumn(format="%.4f")
                for name in ("μ", "σ", "KL, nats")
            },
            hide_index=True,
            width="content",
        )


def without_its_image(model: Checkpoint, table: access.Table, sample: int) -> None:
    """What the stored numbers tell of a sample whose image isn't on this machine."""
    error = float(model.reference.elbo_uncertainty[sample])
    code, drawing = adding_up((table.kl[sample], -table.expected_log_likelihood[sample]))
    widgets.opening(
        "One sample's ELBO",
        f"Sample {sample} costs <b>{nats(-table.elbo[sample], 1)}</b>"
        f"{plus_minus(error)} nats to describe: "
        f"<b>{nats(code)}</b> to say which code, <b>{nats(drawing)}</b> to draw it from the code.",
    )
    offer_images(model)
    st.subheader("Among all images", anchor=False)
    left, right = st.columns([1.5, 1], gap="large")
    with left:
        plane(model, table, sample)
    with right:
        extremes(model, table)
    spread(model, sample)
    if st.toggle("All samples in a table", key="all_samples"):
        all_samples(model, table)


@st.fragment
def receipt_to_the_pixel(parts: Receipt) -> None:
    """The waterfall of the ELBO, and on request one of its blocks pixel by pixel."""
    names = list(blocks(*parts.pixels.shape[1:]))

    def open_block() -> None:
        points = st.session_state["receipt"]["selection"]["points"]
        name = str(points[0].get("x", "")).removeprefix("pixels ") if points else ""
        # What a browser sends is checked like any other input.
        if name in names:
            st.session_state["block"] = name

    widgets.chart(
        receipt(parts.pixels, parts.kl_per_dim, parts.elbo),
        f"Waterfall from 0 to the ELBO {parts.elbo:.2f} nats: minus the KL of each latent "
        "dimension, then the expected log-likelihood of each block of pixels.",
        key="receipt",
        on_select=open_block,
        selection_mode="points",
    )
    st.caption(
        f"Sums to {nats(parts.expected_log_likelihood - parts.kl, 4)} nats; residual "
        f"{nats(parts.residual, 4)}. Orange: what each latent dimension charges for this image. "
        "Blue: its pixels in 16 blocks, columns a to d from the left and rows 1 to 4 from the top."
    )
    name = st.selectbox(
        "Open a block of pixels, here or by a click on its bar",
        names,
        index=None,
        key="block",
        placeholder="none open",
        width=380,
    )
    if name is None:
        return
    rows, columns = blocks(*parts.pixels.shape[1:])[name]
    part = parts.pixels[:, rows, columns].sum(0)
    left, middle, right = st.columns([1, 1, 1.6], gap="large")
    with left:
        shown = parts.x[:, rows, columns]
        widgets.picture(shown, f"Block {name} of the image", f"Block {name} of the image", 260)
    with middle:
        shown = parts.reconstruction[:, rows, columns]
        widgets.picture(shown, "What the code keeps of it", f"Block {name}, reconstructed", 260)
    with right:
        widgets.chart(
            block_map(parts.pixels, name),
            f"Expected log-likelihood of each pixel of block {name}, {part.sum():.2f} nats in all",
        )
        st.caption(
            f"{part.size:,} pixels sum to **{nats(part.sum(), 4)} nats**, the bar “pixels {name}”"
            f"; the dearest costs {nats(-part.min(), 4)} nats."
        )


def plane(model: Checkpoint, table: access.Table, sample: int) -> None:
    """All samples by KL and likelihood, under lines of equal cost that a slider tilts."""
    beta = st.slider(
        "Weight β of the KL",
        0.0,
        10.0,
        1.0,
        0.1,
        format="%.3g",  # as the sentences about it write it
        key="beta",
        bind="query-params",
        help="At 1 the lines join images of equal ELBO. Any other weight is another objective, "
        "not a bound on log p(x).",
    )
    distortion = -table.expected_log_likelihood
    alt = (
        f"{len(table.kl):,} images by KL and minus expected log-likelihood; sample {sample} is "
        "ringed."
    )
    name = "ELBO" if beta == 1 else "−cost"
    scatter(
        np.column_stack((table.kl, distortion)),
        key=f"plane-{model.name}",
        alt=alt,
        axes=KL_AND_DISTORTION,
        names=("KL", "−expected log-likelihood"),
        facts=[Fact("ELBO", table.elbo)],
        selected=sample,
        lines=[
            {
                "points": np.column_stack((ends, level - beta * ends)).tolist(),
                "colour": palette.ELBO,
                "dash": True,
                "width": 1,
                "label": f"{name} {nats(-level)}",
            }
            for ends, level in iso_lines(table.kl, distortion, beta)
        ],
    )
    if beta == 1:
        st.caption(
            "Dotted: equal ELBO. Two images on one line cost the same, for different reasons."
        )
        return
    usual = np.argsort(np.argsort(table.kl + distortion))
    tilted = np.argsort(np.argsort(beta * table.kl + distortion))
    gain = usual - tilted
    best, worst = int(gain.argmax()), int(gain.argmin())
    st.caption(
        f"Dotted: equal cost at β = {beta:g}. This weight favours sample {best} most, up "
        f"{gain[best]:,} places of {len(gain):,} (KL {nats(table.kl[best], 2)} nats), and sample "
        f"{worst} least, down {-gain[worst]:,} (KL {nats(table.kl[worst], 2)} nats)."
    )


def extremes(model: Checkpoint, table: access.Table) -> None:
    """The worst, the most typical and the best explained samples."""
    order = np.argsort(table.elbo, kind="stable")
    middle = len(order) // 2
    st.caption(
        "Click a picture to choose it."
        + (
            " The pictures are what the decoder makes of the codes."
            if access.images(model, [0]) is None
            else ""
        )
    )
    groups = {
        "Worst explained": order[:5],
        "Typical": order[middle - 2 : middle + 3],
        "Best explained": order[:-6:-1],
    }
    for title, rows in groups.items():
        st.markdown(f"**{title}**")
        captions = captions_of(rows, "ELBO", table.elbo[rows], 1, " nats")
        thumbnails(model, rows, captions, 5, key=f"{title}-{model.name}")


def spread(model: Checkpoint, sample: int) -> None:
    """What eight draws from this sample's own Gaussian decode to."""
    st.markdown("**Eight draws from this sample's own q(z|x), decoded**")
    drawn = access.posterior_draws(model, sample, 8, seed=0)
    st.html(gallery_html(drawn, [""] * 8, ["A draw from q(z|x), decoded"] * 8, 8))


def compare_with(model: Checkpoint, sample: int, parts: Receipt) -> None:
    """A second sample, and why one ELBO is higher than the other."""
    last = model.reference.size - 1
    other = st.number_input(
        "Compare with sample", 0, last, min(1, last), key=f"other-{model.name}", width=220
    )
    there = access.receipt(model, int(other))
    left, right = st.columns([1, 3.2], gap="large")
    with left:
        widgets.picture(there.x, f"Sample {other}", f"Sample {other}", 220)
    with right:
        gap = parts.elbo - there.elbo
        st.markdown(f"Sample {sample} {widgets.costs_beside(parts, there, f'sample {other}')}")
        widgets.chart(
            difference((parts.pixels, parts.kl_per_dim), (there.pixels, there.kl_per_dim)),
            f"Differences of the parts of two ELBOs, which sum to {gap:.2f} nats",
        )


def all_samples(model: Checkpoint, table: access.Table) -> None:
    """Every reference sample in a table that sorts, with downloads."""
    labels = [label_text(int(label), model.label_names) for label in table.labels]
    frame = pd.DataFrame(
        {
            "sample": np.arange(len(table.kl)),
            "index": model.reference.indices,
            **access.file_column(model, np.arange(len(table.kl))),
            "label": labels,
            "split": [SPLITS[number] for number in table.split],
            "ELBO, nats": table.elbo,
            "± ELBO, nats": model.reference.elbo_uncertainty,
            "E log p(x|z), nats": table.expected_log_likelihood,
            "KL, nats": table.kl,
            "percentile": table.percentile,
            **{f"KL z{d + 1}, nats": table.kl_per_dim[:, d] for d in range(table.mu.shape[1])},
        }
    )
    shown, columns = frame, {"percentile": st.column_config.NumberColumn(format="%.1f %%")}
    if len(frame) <= _MOST_THUMBNAILS:
        images = access.images(model, range(len(frame)))
        if images is not None:
            shown = frame.copy()
            shown.insert(1, "image", [thumbnail_url(image, _THUMBNAIL) for image in images])
            columns["image"] = st.column_config.ImageColumn(width="small")
    for name in frame.select_dtypes("float"):
        columns.setdefault(name, st.column_config.NumberColumn(format="%.4f"))
    st.dataframe(
        shown,
        hide_index=True,
        height=420,
        column_config=columns,
        alt=f"Scores of all {len(frame):,} held-out images",
    )
    with st.container(horizontal=True):
        st.download_button(
            "Download CSV", lambda: frame_csv(frame), "samples.csv", on_click="ignore"
        )
        st.download_button(
            "Download Parquet", lambda: _parquet(frame), "samples.parquet", on_click="ignore"
        )


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()
