"""A slider for each latent dimension; the image follows when one is let go."""

from __future__ import annotations

import math

import streamlit as st

from vae.figures.frame import nats
from vae.store.checkpoint import Checkpoint
from vae.ui import access, widgets
from vae.ui.components.film import copy_link
from vae.ui.literal import literal
from vae.ui.walks import decoded
from vae.ui.walks.place import trust_lines
from vae.ui.walks.start import Start, choose_start, code_text, start_here

__all__ = ["show_sliders"]

_SHOWN = 12
_SPAN = 4.0


def show_sliders(model: Checkpoint, sample: int) -> None:
    """Sliders in the order of the KL, and the image that they make."""
    start, dims = choose_start(model, sample), model.latent_dim
    keys = [f"z{d + 1}-{model.identity[:12]}" for d in range(dims)]
    # Another start sets all sliders anew; until then they keep what the hand gave them.
    origin = f"{model.identity} {code_text(start.code)}"
    if st.session_state.get("sliders_from") != origin:
        st.session_state["sliders_from"] = origin
        _reset(keys, start)
    code = start.code.copy()
    for d, key in enumerate(keys):
        # Set even if nothing has happened: a slider without a value would start at its left end.
        code[d] = st.session_state.setdefault(key, float(code[d]))
    heading = st.container()
    picture, controls = st.columns([1, 1.5], gap="large")
    with controls:
        table = access.table(model)
        order, mean_kl = table.by_kl.tolist(), table.kl_per_dim.mean(0)
        shown = order
        if dims > _SHOWN and not st.toggle(f"All {dims} dimensions", key="all_sliders"):
            shown = order[:_SHOWN]
        left, right = st.columns(2, gap="medium")
        for place, d in enumerate(shown):
            # Half of them in each column, read downwards.
            with left if place < (len(shown) + 1) // 2 else right:
                span = max(_SPAN, math.ceil(abs(start.code[d])))
                code[d] = st.slider(
                    f"z{d + 1}, KL {nats(mean_kl[d], 2)} nats",
                    -span,
                    span,
                    key=keys[d],
                    step=0.05,
                    format="%.2f",
                    persist_state="session",
                )
        with st.container(horizontal=True):
            st.button("Back to the start", on_click=_reset, args=(keys, start))
            st.button("Start from here", on_click=start_here, args=(code,), key="sliders_start")
            copy_link()
        st.caption(
            f"Starting from {literal(start.text)}; sliders by falling mean KL. “Start from here” "
            "puts the code into the link."
        )
    with heading:
        away = decoded.profile_of(model, code[None], start.rows).distance[0]
        widgets.lead(
            f"Set all {dims} dimensions by hand; the image follows when you let go. This code "
            f"lies <b>{nats(away, 2)}</b> latent units from the nearest other held-out code."
        )
    with picture:
        image = access.decode(model, code)
        widgets.picture(image, "What this code draws", "The image that the sliders make", 420)
        trust_lines(model, code)
        st.code(code_text(code), language=None, wrap_lines=True)


def _reset(keys: list[str], start: Start) -> None:
    for key, value in zip(keys, start.code, strict=True):
        st.session_state[key] = float(value)
