"""The five parts of the screen that shows what the KL acts on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st
import torch

from vae.elbo.losses import implied_variance
from vae.elbo.reductions import REDUCTIONS, Reduction
from vae.figures.frame import nats
from vae.figures.kl_per_sample import (
    aggregate_picture,
    bound_against_evidence,
    cost_of_narrowing,
    samples_picture,
    sigma_histogram,
    surgery_bars,
    surgery_shares,
)
from vae.model.checkpoint import Checkpoint
from vae.ui import access, explained, widgets

__all__ = ["company", "contrast", "misconception", "reduction_lens", "surgery"]

_ROWS = 8
# So few images that their ceiling, log N, lies within the picture.
_FEW = 16
_PAIR = ("digits-binary-2d", "digits-binary-2d-batch-moment")


def company(model: Checkpoint, sample: int) -> None:
    """The same image alone and in company: its KL stays, the batch's numbers move."""
    results = explained.batch_mates(model, sample)
    if results is None:
        st.info("This part needs the images, which are not on this machine.")
        return
    frame = pd.DataFrame(
        {
            "this image": [one.name for one in results],
            "its own KL, nats": [one.kl for one in results],
            "its own ELBO, nats": [one.elbo for one in results],
            "mean KL of the batch": [one.batch_mean_kl for one in results],
            "KL of the batch's moments": [one.batch_moment_kl for one in results],
        }
    )
    number = st.column_config.NumberColumn(format="%.6f")
    st.dataframe(
        frame, hide_index=True, column_config=dict.fromkeys(frame.columns[1:], number),
        alt="One image's KL in four companies",
    )  # fmt: skip
    kls, elbos = ([getattr(one, name) for one in results] for name in ("kl", "elbo"))
    widest = max(max(kls) - min(kls), max(elbos) - min(elbos))
    st.markdown(
        f"Largest difference in this image's own numbers: **{widest:.1e} nats**. The last two "
        "columns depend on the company, so no image can be charged by them."
    )


@st.fragment
def misconception() -> None:
    """The population whose aggregate is the prior at every width of its members."""
    sigma = st.slider(
        "σ of each image's own code", 0.05, 0.95, 0.4, 0.05, key="misconception",
        bind="query-params",
    )  # fmt: skip
    finite = explained.finite_set(sigma, _FEW)
    batch, codes, right = st.columns(3, gap="large")
    with batch:
        st.markdown("**What the batch looks like**")
        widgets.chart(aggregate_picture(), "The aggregate is N(0,1), whatever σ is")
    with codes:
        st.markdown("**What each image's code looks like**")
        widgets.chart(samples_picture(sigma), f"Nine single codes of width {sigma}")
    with right:
        st.markdown("**What they cost**")
        widgets.chart(
            cost_of_narrowing(sigma, (finite.widths, finite.information), _FEW),
            "KL per sample rises as σ falls; the penalty on the batch stays at 0",
        )
    st.markdown(
        f"Over the population the means follow N(0, 1 − σ²), so the aggregate on the left is "
        f"**exactly** N(0, 1) at every σ, and a penalty on it costs nothing. Yet each image's own "
        f"KL averages −log σ = **{nats(-np.log(sigma), 3)} nats** a dimension, and that is "
        "exactly the information its code carries about it. A finite set can match in its "
        f"moments only: {_FEW} such images pay {nats(finite.moments, 4)} nats as one batch, "
        f"batches of 8 from a larger set {nats(finite.batch_of_8, 3)} nats on average, about 1/8, "
        f"and {_FEW} images hold at most log {_FEW} = {nats(np.log(_FEW), 2)} nats."
    )


def contrast() -> None:
    """Two models that differ in nothing but the reading of the KL."""
    if not all(name in access.entries() for name in _PAIR):
        st.info(f"This part compares the shipped models {_PAIR[0]} and {_PAIR[1]}.")
        return
    right, mistaken = (access.checkpoint(name) for name in _PAIR)
    tables = [access.table(right), access.table(mistaken)]
    titles = ["KL of each sample", "penalty on the batch"]
    floor = mistaken.config.sigma_floor
    columns = st.columns(2, gap="large")
    with columns[0]:
        widgets.chart(
            sigma_histogram({t: one.sigma for t, one in zip(titles, tables, strict=True)}, floor),
            "Widths of the codes of two models; the mistaken one sits on its floor",
        )
    with columns[1]:
        pairs = {
            title: (model.reference.log_evidence, model.reference.elbo)
            for title, model in zip(titles, (right, mistaken), strict=True)
        }
        widgets.chart(
            bound_against_evidence(pairs),
            "ELBO against exact log p(x): near the diagonal for one model, far below for one",
        )
    rows = {
        "mean of μ": [one.mu.mean(0) for one in tables],
        "variance of the aggregate": [
            one.mu.var(0) + np.square(one.sigma).mean(0) for one in tables
        ],
    }
    st.dataframe(
        {
            "": [
                *(f"{name}, by dimension" for name in rows),
                "median σ",
                "mean KL of a sample, nats",
                f"−D log σ at the floor {floor:g}, nats",
                "mean ELBO, nats",
                "mean exact log p(x), nats",
                "gap between them, nats",
            ],
            **{
                title: [
                    *("  ".join(nats(v, 2) for v in values[i]) for values in rows.values()),
                    f"{np.median(tables[i].sigma):.3f}",
                    nats(tables[i].kl.mean(), 2),
                    nats(-right.config.latent_dim * np.log(floor), 2),
                    nats(tables[i].elbo.mean(), 2),
                    nats(model.reference.log_evidence.mean(), 2),
                    nats((model.reference.log_evidence - tables[i].elbo).mean(), 2),
                ]
                for i, (title, model) in enumerate(zip(titles, (right, mistaken), strict=True))
            },
        },
        hide_index=True,
        alt="Two models by moments, widths, KL, ELBO and evidence",
    )
    st.markdown(
        "Same data, network and seed. Both aggregates have nearly the same first two moments, "
        "which is all that the mistaken penalty sees. Under it every code shrinks to the floor "
        "that the network sets, the KL of a sample nears −D log σ there, and the bound falls far "
        "below log p(x). The evidence itself hardly suffers: what breaks is the **bound and the "
        "codes**, not the decoder."
    )
    st.caption(
        f"σ is the width of one dimension of one image's q(z|x). Nothing but the floor, "
        f"{floor:g}, stops it under the mistaken objective."
    )


@st.fragment
def reduction_lens(model: Checkpoint, sample: int) -> None:
    """The table of KLs, summed over dimensions and averaged over images, and the wrong ways."""
    table = access.table(model)
    size = len(table.kl)
    rows = [(sample + 7 * i) % size for i in range(min(_ROWS, size // 7 or 1))]
    kl = table.kl_per_dim[rows]
    frame = pd.DataFrame(kl, columns=[f"z{d + 1}" for d in range(kl.shape[1])])
    frame.insert(0, "image", [f"sample {row}" for row in rows])
    frame["Σ over D: its KL"] = kl.sum(1)
    left, right = st.columns([1.7, 1], gap="large")
    with left:
        top = max(float(kl.max()), 1e-9)

        def ramp(value: float) -> str:
            return f"background-color: rgba(242, 81, 12, {0.75 * min(1.0, value / top):.2f})"

        styled = frame.style.map(ramp, subset=list(frame.columns[1:-1])).format(precision=3)
        state = st.dataframe(
            styled, hide_index=True, on_select="rerun", key="lens",
            selection_mode=["single-row", "single-column", "single-cell"],
            alt=f"KL of {_ROWS} images by latent dimension, in nats",
        )  # fmt: skip
        st.markdown(_reading(state.selection, frame, rows, kl))
    with right:
        names = [one.name for one in REDUCTIONS]
        chosen = st.selectbox("How the loss reduces it", names, key="reduction")
        _explain(REDUCTIONS[names.index(chosen)], kl, model, table.expected_log_likelihood[rows])


def _reading(selection: dict, frame: pd.DataFrame, rows: list[int], kl: np.ndarray) -> str:
    """What the clicked row, column or cell means, in a sentence."""
    cells = selection.get("cells") or []
    if cells:
        row, column = cells[0]
        if column in frame.columns[1:-1]:
            return (
                f"**One cell**: what dimension {column} charges for sample {rows[row]} alone, "
                f"½(μ² + σ² − 1 − log σ²) = {nats(frame[column].iloc[row], 4)} nats."
            )
        return _row_reading(row, rows, kl)
    if selection.get("rows"):
        return _row_reading(selection["rows"][0], rows, kl)
    if selection.get("columns"):
        column = selection["columns"][0]
        values = frame[column]
        if column in frame.columns[1:-1]:
            return (
                f"**A column** is one dimension over images. Its mean, {nats(values.mean(), 4)} "
                "nats, says how much the dimension is used; no image pays it."
            )
        if column == frame.columns[-1]:
            return (
                f"**The last column** holds one KL for each image. Their mean, "
                f"{nats(values.mean(), 4)} nats, is the only step over the batch, and the last."
            )
    total = kl.sum(1)
    return (
        f"(B, D) → Σ over D → (B,) → mean over B → **{nats(total.mean(), 4)} nats**. Choose a "
        "row, a column or a cell to read it."
    )


def _row_reading(row: int, rows: list[int], kl: np.ndarray) -> str:
    parts = " + ".join(nats(value, 3) for value in kl[row])
    return f"**A row** is one image, and its sum is that image's KL: {parts} = " + (
        f"{nats(kl[row].sum(), 3)} nats for sample {rows[row]}."
    )


def _explain(
    reduction: Reduction, kl: np.ndarray, model: Checkpoint, expected_log_likelihood: np.ndarray
) -> None:
    """One way to reduce the loss: its code, its value on these rows, its effective weight."""
    splits = model.manifest["data"]["splits"]
    images = sum(split["images"] for split in splits.values())
    batch, dims, pixels = *kl.shape, model.config.image.pixels
    st.code(reduction.code, language="python", wrap_lines=True)
    # Sums over pixels are all that any of them reads, so an even spread stands for the pixels.
    spread = torch.from_numpy(expected_log_likelihood / pixels)[:, None].expand(-1, pixels)
    value = float(reduction.loss(torch.from_numpy(kl), spread, images))
    beta = reduction.effective_beta(batch, dims, pixels, images)
    reading = f"This is **β = {beta:.4g}** in disguise."
    if reduction.verdict == "right":
        reading = "This is the ELBO: **β = 1**."
    elif reduction.verdict == "not a KL per sample":
        reading = f"This is **β = {beta:.4g}**, and no KL of a sample."
    elif reduction.squared_error:
        variance = implied_variance("sum", beta, pixels)
        reading += f" Beside its squared error that is a Gaussian with σ² = {variance:.4g}."
    st.markdown(f"On these {batch} images it gives {nats(value, 4)}. {reading}")
    st.caption(f"{reduction.explanation} Seen in {reduction.where}.")
    st.caption(
        f"For B = {batch} rows here, D = {dims}, P = {pixels:,} pixel values and N = {images:,} "
        "images."
    )


def surgery(model: Checkpoint, sample: int) -> None:
    """The mean KL as information about which image plus misfit of the aggregate."""
    found, rows = explained.surgery(model)
    shares = found.information.numpy(), found.misfit.numpy()
    information, misfit = (float(share.mean()) for share in shares)
    ceiling = found.log_size
    left, right = st.columns([1.2, 1], gap="large")
    with left:
        widgets.chart(
            surgery_bars(information, misfit, ceiling),
            f"Mean KL as {information:.2f} nats of information and {misfit:.2f} of misfit",
        )
        st.markdown(
            f"Mean KL **{nats(information + misfit, 3)}** = information "
            f"**{nats(information, 3)}** + misfit **{nats(misfit, 3)}** nats. Information says "
            f"how well a code tells which of these {len(rows):,} images it came from; "
            "misfit, KL(q̄ ‖ p), how far all codes together lie from the prior: that part shows as "
            "prior samples that look like noise. Of the misfit, total correlation is "
            f"{nats(float(found.total_correlation), 3)} nats and the dimensions one by one are "
            f"{nats(float(found.dimension_kl.sum()), 3)}."
        )
        if found.pinned:
            st.warning(
                f"The mean KL exceeds log N = {nats(ceiling, 2)} nats, so the information is "
                "**pinned** there: {0} images cannot hold more of it, and the rest shows up as "
                "misfit. That is an artefact of the size of this reference set.".format(
                    f"{len(rows):,}"
                ),
                icon=":material/push_pin:",
            )
    with right:
        place = int(np.searchsorted(rows, sample))
        among = place < len(rows) and rows[place] == sample
        widgets.chart(
            surgery_shares(*shares, rows, ceiling, place if among else None),
            "Each image's information and misfit"
            + ("; the chosen sample is ringed" if among else ""),
        )
        if among:
            mine = (
                f"Sample {sample}: information {nats(shares[0][place], 3)} nats, misfit "
                f"{nats(shares[1][place], 3)} nats."
            )
        else:
            mine = (
                f"Sample {sample} is not among the {len(rows):,} of {model.reference.size:,} "
                "images that this part looks at."
            )
        st.caption(f"{mine} One image's misfit may be negative; only its mean is a divergence.")
