"""The KL as a penalty on the batch: what it cannot see, and what a model becomes under it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from vae.figures.frame import nats
from vae.figures.kl_per_sample import (
    aggregate_picture,
    bound_against_evidence,
    cost_of_narrowing,
    samples_picture,
    sigma_histogram,
)
from vae.store.checkpoint import Checkpoint
from vae.ui import access, estimates, widgets
from vae.ui.caches import shared

__all__ = ["contrast", "misconception"]

# Enough images to see the two models apart.
_EVERY = 4
# So few images that their ceiling, log N, lies within the picture.
_FEW = 16
_PAIR = ("digits-binary-2d", "digits-binary-2d-batch-moment")
_READINGS = ("KL of each sample", "penalty on the batch")


class _Misconception(NamedTuple):
    """The three pictures of the population, which know no sample."""

    aggregate: go.Figure
    codes: go.Figure
    cost: go.Figure


# Building charts is most of what these parts cost, and on every screen of another sample anew.
@shared(max_entries=32)
def _misconception_pictures(sigma: float) -> _Misconception:
    finite = estimates.finite_set(sigma, _FEW)
    return _Misconception(
        aggregate_picture(),
        samples_picture(sigma),
        cost_of_narrowing(sigma, (finite.widths, finite.information), _FEW),
    )


@st.fragment
def misconception() -> None:
    """The population whose aggregate is the prior at every width of its members."""
    sigma = st.slider(
        "σ of each image's own code",
        0.05,
        0.95,
        0.4,
        0.05,
        key="misconception",
        bind="query-params",
    )
    finite, pictures = estimates.finite_set(sigma, _FEW), _misconception_pictures(sigma)
    batch, codes, right = st.columns(3, gap="large")
    with batch:
        st.markdown("**What the batch looks like**")
        widgets.chart(pictures.aggregate, "The aggregate is N(0,1), whatever σ is")
    with codes:
        st.markdown("**What each image's code looks like**")
        widgets.chart(pictures.codes, f"Nine single codes of width {sigma}")
    with right:
        st.markdown("**What they cost**")
        widgets.chart(
            pictures.cost,
            "KL per sample rises as σ falls; the penalty on the batch stays at 0",
        )
    st.markdown(
        f"Over the population the means follow N(0, 1 − σ²), so the aggregate on the left is "
        f"**exactly** N(0, 1) at every σ, and a penalty on it costs nothing. Yet each image's own "
        f"KL averages −log σ = **{nats(-np.log(sigma), 3)} nats** a dimension, and that is "
        "exactly the information its code carries about it. A finite set can match in its "
        f"moments only: {_FEW} such images pay {nats(finite.moments, 4)} nats as one batch, "
        f"batches of 8 from the population **{nats(finite.batch_of_8, 3)} nats** on average, and "
        f"{_FEW} images hold at most log {_FEW} = {nats(np.log(_FEW), 2)} nats."
    )


@shared(max_entries=4)
def _contrast_pictures(right: Checkpoint, mistaken: Checkpoint) -> tuple[go.Figure, go.Figure]:
    """Widths of the codes, and bounds against the evidence, of two models."""
    models = dict(zip(_READINGS, (right, mistaken), strict=True))
    sigma = {title: access.table(model).sigma for title, model in models.items()}
    pairs = {
        title: (model.reference.log_evidence[::_EVERY], model.reference.elbo[::_EVERY])
        for title, model in models.items()
    }
    return sigma_histogram(sigma, mistaken.config.sigma_floor), bound_against_evidence(pairs)


def contrast() -> None:
    """Two models that differ in nothing but the reading of the KL."""
    if not all(name in access.entries() for name in _PAIR):
        st.info(f"This part compares the shipped models {_PAIR[0]} and {_PAIR[1]}.")
        return
    right, mistaken = (access.checkpoint(name) for name in _PAIR)
    floor = mistaken.config.sigma_floor
    pictures = _contrast_pictures(right, mistaken)
    columns = st.columns(2, gap="large")
    with columns[0]:
        widgets.chart(
            pictures[0],
            "Widths of the codes of two models; the mistaken one sits on its floor",
        )
    with columns[1]:
        widgets.chart(
            pictures[1],
            f"ELBO against exact log p(x) of one image in {_EVERY}: near the diagonal for one "
            "model, far below for one",
        )
    _contrast_table(right, mistaken)
    st.markdown(
        "Same data, network and seed. Both aggregates have nearly the same first two moments, "
        "which is all that the mistaken penalty sees. Under it every code shrinks to the floor "
        "that the network sets, the KL of a sample nears −D log σ there, and the bound falls far "
        "below log p(x). The evidence itself hardly suffers: what breaks is the **bound and the "
        "codes**, not the decoder."
    )
    st.caption(
        f"σ is the width of one dimension of one image's q(z|x). Nothing but the floor, "
        f"{floor:g}, stops it under the mistaken objective. The chart on the right shows one "
        f"image in {_EVERY}, so that marks can be told apart; the table counts all of them."
    )


def _contrast_table(right: Checkpoint, mistaken: Checkpoint) -> None:
    """Two models by what the mistaken penalty sees, and by what it doesn't."""
    tables = [access.table(right), access.table(mistaken)]
    titles, floor = list(_READINGS), mistaken.config.sigma_floor
    rows = {
        "mean of μ": [one.mu.mean(0) for one in tables],
        "variance of the aggregate": [
            one.mu.var(0) + np.square(one.sigma).mean(0) for one in tables
        ],
    }
    names = (
        *(f"{name}, by dimension" for name in rows),
        "median σ",
        "mean KL of a sample, nats",
        f"−D log σ at the floor {floor:g}, nats",
        "mean ELBO, nats",
        "mean exact log p(x), nats",
        "gap between them, nats",
    )
    values = (
        (
            *("  ".join(nats(v, 2) for v in values[i]) for values in rows.values()),
            f"{np.median(tables[i].sigma):.3f}",
            nats(tables[i].kl.mean(), 2),
            nats(-right.latent_dim * np.log(floor), 2),
            nats(tables[i].elbo.mean(), 2),
            nats(model.reference.log_evidence.mean(), 2),
            # The difference of the two means as they stand above.
            nats(model.reference.log_evidence.mean().round(2) - tables[i].elbo.mean().round(2), 2),
        )
        for i, model in enumerate((right, mistaken))
    )
    widgets.table(
        ("", *titles),
        list(zip(names, *values, strict=True)),
        "Two models by moments, widths, KL, ELBO and evidence",
    )
