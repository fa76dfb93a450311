"""What the KL acts on, for the chosen model: this screen's parts but for the mistaken reading."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st
import torch

from vae.elbo.lessons.batch_mates import DRAWS
from vae.elbo.lessons.losses import implied_variance
from vae.elbo.lessons.reductions import REDUCTIONS, Reduction
from vae.figures import palette
from vae.figures.frame import adding_up, nats
from vae.figures.kl_per_sample import surgery_bars
from vae.figures.plane import Fact
from vae.store.checkpoint import Checkpoint
from vae.ui import access, estimates, widgets
from vae.ui.components.plane import scatter
from vae.ui.missing_images import where_images_are

__all__ = ["company", "reduction_lens", "surgery"]

_ROWS, _ITS_KL = 8, "Σ over D: its KL"


def company(model: Checkpoint, sample: int) -> None:
    """The same image alone and in company: its KL stays, the batch's numbers move."""
    results = estimates.batch_mates(model, sample)
    if results is None:
        st.info(f"This part needs the images. {where_images_are(model)}")
        return
    widgets.table(
        (
            *("this image", "its own KL, nats", "its own ELBO, nats"),
            *("mean KL of the batch, nats", "KL of the batch's moments, nats"),
        ),
        [(one.name, *(nats(value, 6) for value in one[2:])) for one in results],
        "One image's KL and ELBO in four companies",
    )
    kls, elbos = ([getattr(one, name) for one in results] for name in ("kl", "elbo"))
    widest = max(max(kls) - min(kls), max(elbos) - min(elbos))
    shown = f"{widest:.1e}" if widest else "0"
    st.markdown(
        f"Largest difference in this image's own numbers: **{shown} nats**. The last two "
        "columns depend on the company, so no image can be charged by them."
    )
    if model.latent_dim > 2:
        st.caption(f"The ELBO is here a mean over {DRAWS} draws, fewer than the score's own.")


@st.fragment
def reduction_lens(model: Checkpoint, sample: int) -> None:
    """The table of KLs, summed over dimensions and averaged over images, and the wrong ways."""
    table = access.table(model)
    size = len(table.kl)
    rows = [(sample + 7 * i) % size for i in range(min(_ROWS, size // 7 or 1))]
    kl = table.kl_per_dim[rows]
    shown = [adding_up(charges, 3) for charges in kl]
    frame = pd.DataFrame(shown, columns=[f"z{d + 1}" for d in range(kl.shape[1])])
    frame.insert(0, "image", [f"sample {row}" for row in rows])
    frame[_ITS_KL] = kl.sum(1)
    left, right = st.columns([1.7, 1], gap="large")
    with left:
        top = max(float(kl.max()), 1e-9)

        def ramp(value: float) -> str:
            return f"background-color: rgba(242, 81, 12, {0.75 * min(1.0, value / top):.2f})"

        styled = frame.style.map(ramp, subset=list(frame.columns[1:-1])).format(precision=3)
        state = st.dataframe(
            styled,
            hide_index=True,
            on_select="rerun",
            key="lens",
            # Beside the names, however many dimensions there are.
            column_config={name: {"pinned": True} for name in ("image", _ITS_KL)},
            selection_mode=["single-row", "single-column", "single-cell"],
            alt=f"KL of {_ROWS} images by latent dimension, in nats",
        )
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
                f"½(μ² + σ² − 1 − log σ²) = {nats(kl[row, int(column[1:]) - 1], 4)} nats."
            )
        return _row_reading(row, rows, kl)
    if selection.get("rows"):
        return _row_reading(selection["rows"][0], rows, kl)
    if selection.get("columns"):
        column = selection["columns"][0]
        if column in frame.columns[1:-1]:
            values = kl[:, int(column[1:]) - 1]
            return (
                f"**A column** is one dimension over images. Its mean, {nats(values.mean(), 4)} "
                "nats, says how much the dimension is used; no image pays it."
            )
        if column == frame.columns[-1]:
            return (
                f"**This column** holds one KL for each image. Their mean, "
                f"{nats(kl.sum(1).mean(), 4)} nats, is the only step over the batch, and the last."
            )
    total = kl.sum(1)
    return (
        f"(B, D) → Σ over D → (B,) → mean over B → **{nats(total.mean(), 4)} nats**. Choose a "
        "row, a column or a cell to read it."
    )


def _row_reading(row: int, rows: list[int], kl: np.ndarray) -> str:
    parts = " + ".join(nats(value, 3) for value in adding_up(kl[row], 3))
    return f"**A row** is one image, and its sum is that image's KL: {parts} = " + (
        f"{nats(kl[row].sum(), 3)} nats for sample {rows[row]}."
    )


def _explain(
    reduction: Reduction, kl: np.ndarray, model: Checkpoint, expected_log_likelihood: np.ndarray
) -> None:
    """One way to reduce the loss: its code, its value on these rows, its effective weight."""
    images = model.card.data.images["train"]
    batch, dims, pixels = *kl.shape, model.image.pixels
    st.code(reduction.code, language="python", wrap_lines=True)
    # Sums over pixels are all that any of them reads, so an even spread stands for the pixels.
    # The snippets' own errors would need the images, and beta depends on no error.
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
    likelihood = model.likelihood.title
    st.markdown(
        f"On these {batch} images it gives {nats(value, 4)}, with this model's own "
        f"−E log p(x|z) ({likelihood}) in place of the snippet's error. {reading}"
    )
    st.caption(f"{reduction.explanation} Seen in {reduction.where}.")
    st.caption(
        f"For B = {batch} rows here, D = {dims}, P = {pixels:,} pixel values and N = {images:,} "
        "training images."
    )


def surgery(model: Checkpoint, sample: int) -> None:
    """The mean KL as information about which image plus misfit of the aggregate."""
    found, rows = estimates.surgery(model)
    shares = found.information.numpy(), found.misfit.numpy()
    information, misfit = (float(share.mean()) for share in shares)
    ceiling = found.log_size
    # Rounded so that the parts of each sum add up as they stand there.
    held, missed = adding_up((information, misfit), 3)
    correlation, single = adding_up(
        (float(found.total_correlation), float(found.dimension_kl.sum())), 3, missed
    )
    left, right = st.columns([1.2, 1], gap="large")
    with left:
        widgets.chart(
            surgery_bars(information, misfit, ceiling),
            f"Mean KL as {information:.2f} nats of information and {misfit:.2f} of misfit",
        )
        # Beyond log N the misfit is the set's size; short of it, a part of it is, and shrinks with
        # every image more.
        meaning = (
            ""
            if found.pinned
            else " It is partly places where the prior lies and no code does, whose samples look "
            f"like noise, and partly the gaps between only {len(rows):,} codes, which more "
            "images would close."
        )
        st.markdown(
            f"Mean KL **{nats(information + misfit, 3)}** = information "
            f"**{nats(held, 3)}** + misfit **{nats(missed, 3)}** nats. Information says "
            f"how well a code tells which of these {len(rows):,} held-out images it came from; "
            f"misfit, KL(q̄ ‖ p), how far all codes together lie from the prior.{meaning} Of the "
            f"misfit, total correlation is {nats(correlation, 3)} nats and the dimensions "
            f"one by one are {nats(single, 3)}."
        )
        if found.pinned:
            st.warning(
                f"The mean KL exceeds log N = {nats(ceiling, 2)} nats, so the information is "
                f"**pinned** there: {len(rows):,} images cannot hold more of it, and the rest "
                "counts as misfit. That is an artefact of the number of these images, and "
                "says nothing about prior samples.",
                icon=":material/push_pin:",
            )
    with right:
        place = int(np.searchsorted(rows, sample))
        among = place < len(rows) and rows[place] == sample
        _shares(model, shares, rows, sample, ceiling)
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


def _shares(
    model: Checkpoint,
    shares: tuple[np.ndarray, np.ndarray],
    rows: np.ndarray,
    sample: int,
    ceiling: float,
) -> None:
    """Each image's KL as its own information and its own misfit, under log N."""
    places = np.full((model.reference.size, 2), np.nan)
    places[rows] = np.column_stack(shares)
    ends = np.array([places[rows].min(0), places[rows].max(0)])
    lines = (
        ("log N", palette.PRIOR, [[ceiling, end] for end in ends[::-1, 1]]),
        ("misfit 0", palette.HAIRLINE, [[0, 0], [ceiling, 0]]),
    )
    scatter(
        places,
        key=f"shares-{model.name}",
        alt="Each image's information and misfit; the chosen sample is ringed",
        axes=("information about which image, nats", "misfit share, nats"),
        names=("information", "misfit"),
        facts=[Fact("KL", access.table(model).kl, digits=3)],
        selected=sample,
        colour=palette.KL,
        lines=[
            {
                "points": points,
                "colour": colour,
                "dash": name == "log N",
                "width": 1,
                "label": name,
            }
            for name, colour, points in lines
        ],
    )
