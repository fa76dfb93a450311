"""A closer look at one scored image: its place, a better bound, and what would make it pass."""

from __future__ import annotations

import hashlib

import numpy as np
import streamlit as st

from vae.elbo.evidence.refined import MOST_DRAWS, TOLERANCE, RefinedBound, refined_bound
from vae.elbo.expectation import Receipt
from vae.elbo.seen import Seen
from vae.explore.selection import nearest_to
from vae.figures.frame import nats, plus_minus
from vae.figures.sample_elbo import pixel_map, receipt
from vae.figures.scores import code_place, difference_map
from vae.scoring.calibration import FalseAlarms
from vae.scoring.counterfactual import AcceptedMove
from vae.scoring.scorer import ScoreSettings
from vae.store.checkpoint import Checkpoint
from vae.ui import access, widgets
from vae.ui.components.thumbnails import captions_of, thumbnails
from vae.ui.scoring import second_opinions

__all__ = ["show_costs", "show_move", "show_place", "show_receipt", "show_refined"]

_KEPT = 32


def show_costs(parts: Receipt) -> None:
    """Where the cost is: a map of the pixels, and the whole receipt on request."""
    widgets.chart(pixel_map(parts.pixels, 270), "Cost of each pixel in nats")
    st.caption("Where the cost is: nats for each pixel.")


def show_receipt(parts: Receipt) -> None:
    """The waterfall whose bars sum to the ELBO."""
    if st.toggle("The receipt: what sums to this ELBO", key="score_receipt"):
        widgets.chart(
            receipt(parts.pixels, parts.kl_per_dim, parts.elbo),
            f"Waterfall of KL by dimension and likelihood by block that sums to {parts.elbo:.2f}",
        )
        st.caption(f"Sums to {nats(parts.elbo, 4)} nats, residual {nats(parts.residual, 4)}.")


def show_place(model: Checkpoint, parts: Receipt, moved: np.ndarray | None) -> None:
    """The image's own Gaussian among the reference codes, and the nearest reference images."""
    table = access.table(model)
    near, distance = nearest_to(table.mu, parts.mu, 6)
    axes = (0, 1) if len(table.by_kl) == 2 else tuple(int(d) for d in table.by_kl[:2])
    right = st.container()
    if len(table.by_kl) > 1:
        left, right = right.columns([1, 1.2], gap="large")
        with left:
            widgets.chart(
                code_place(table.mu, (parts.mu, parts.sigma), axes, near, moved, 340),
                "The code of this image, ringed, among those of the held-out images; the six "
                "nearest are marked with diamonds",
            )
            st.caption(
                "Grey: the codes of held-out images. Orange: q of this image, 1 and 2 standard "
                "deviations. Diamonds: the nearest."
                + (" Star: the nearest that passes." if moved is not None else "")
            )
    with right:
        st.markdown("**Nearest held-out images**, by the distance of their codes")
        captions = captions_of(near, "distance", distance)
        thumbnails(model, near, captions, 3, key=f"near-score-{model.name}")


def show_refined(model: Checkpoint, seen: Seen) -> None:
    """The importance-weighted bound, refined on request until it is certain to 0.1 nat."""
    what = f"{model.identity}:{seen.seed}:{seen.levels.shape}".encode()
    identity = hashlib.sha256(what + seen.levels.tobytes()).hexdigest()
    kept: dict[str, RefinedBound] = st.session_state.setdefault("refined", {})
    running = st.session_state.get("refining") == identity

    def begin() -> None:
        st.session_state["refining"] = identity

    def stop() -> None:
        st.session_state["refining"] = None

    slot = st.empty()
    if running:
        with slot.container():
            bar = st.progress(0.0, "Drawing")
            st.button("Stop", on_click=stop, key="refine-stop")
        # A press of the button ends this run at its next progress; what is kept stays.
        for state in refined_bound(seen):
            while len(kept) >= _KEPT:
                kept.pop(next(iter(kept)))
            kept[identity] = state
            share = min(1.0, max((TOLERANCE / max(state.standard_error, 1e-9)) ** 2, 0.0))
            reached = f"{nats(state.value, 2)}{plus_minus(state.standard_error)} nats"
            bar.progress(
                max(state.draws / MOST_DRAWS, min(share, 0.99)),
                f"{state.draws:,} draws: {reached}",
            )
        st.session_state["refining"] = None
        slot.empty()
    found = kept.get(identity)
    if found is None or not found.done:
        label = "Refine" if found is None else "Refine again"
        st.button(
            f"{label} log p(x) ≥ L to ± {TOLERANCE} nat",
            on_click=begin,
            key="refine",
            help="More draws until the standard error is small enough. For display only: "
            "percentiles and p-values keep the calibration's own estimator.",
        )
    if found is not None:
        reached = f"{nats(found.value, 3)}{plus_minus(found.standard_error, 3)} nats"
        st.markdown(
            f"log p(x) ≥ **{reached}** from "
            f"{found.draws:,} draws, effective sample size {found.effective_samples:,.0f}."
        )
        if not found.done:
            why = "the limit came first" if found.draws >= MOST_DRAWS else "it was stopped"
            st.caption(
                f"Not yet to ± {TOLERANCE} nat: {why}. Where few draws carry the weight, q misses "
                "part of the posterior, and the stated error is too small."
            )


def show_move(
    model: Checkpoint, parts: Receipt, alarms: FalseAlarms, settings: ScoreSettings
) -> AcceptedMove | None:
    """What would make the image pass: the smallest latent move, decoded; none until asked for."""
    if not st.toggle(
        "What would make it pass?",
        key="pass",
        help="The nearest image of the model's own that passes, along straight lines from this "
        "image's code.",
    ):
        return None
    move = second_opinions.accepted_move(
        model, parts.mu, alarms, access.draws_of(model), settings.seed
    )
    if not move.passes:
        st.markdown(
            f"**Nothing found.** No decoded image on {move.directions} lines from this code "
            f"reaches {nats(alarms.threshold, 2)} nats."
        )
        return None
    first, second, third = st.columns([1, 1, 1.2], gap="medium")
    with first:
        widgets.picture(parts.x, "What the model sees", "The image as the model sees it", 260)
    with second:
        widgets.picture(
            move.decoded, f"Passes: ELBO {nats(move.elbo)} nats", "The nearest that passes", 260
        )
    with third:
        widgets.chart(
            difference_map(parts.x, move.decoded, 270),
            "The image minus the nearest decoded image that passes, pixel by pixel",
        )
    if move.distance == 0:
        sentence = (
            "**Its code need not move**: what this very code decodes to passes. So what is "
            "strange about the image is what the model doesn't draw: the difference."
        )
    else:
        sentence = (
            f"**A move of {move.distance:.2f}** prior standard deviations from the mean of q "
            f"leads to the nearest decoded image that passes on {move.directions} straight lines."
        )
    st.markdown(
        f"{sentence} It is an image of the model's own, smoother than real ones, and no repair of "
        "the one you sent; another way might lead to a nearer one."
    )
    return move
