"""The table of scored files, and the plain words for one score."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from vae.elbo.files import ScoredImage
from vae.elbo.rows import ScoreRow
from vae.figures.pictures import data_url, to_bytes
from vae.model.checkpoint import Checkpoint

__all__ = ["score_table", "verdict"]


def score_table(scored: Sequence[ScoredImage], model: Checkpoint) -> int:
    """Draws one line a file, with a thumbnail, and returns the position of the chosen one."""
    spec = model.config.image
    columns: dict[str, list] = {
        "image": [
            data_url(to_bytes(spec.from_levels(one.prepared.levels))) if one.prepared else None
            for one in scored
        ],
        "name": [one.row.name for one in scored],
        "ELBO, nats": [one.row.elbo for one in scored],
        "± se": [one.row.elbo_se for one in scored],
        "KL, nats": [one.row.kl for one in scored],
        "percentile": [one.row.percentile for one in scored],
        "p-value": [one.row.p_value for one in scored],
        "refused because": [
            f"{one.row.error} ({one.row.error_code})" if one.row.error else None for one in scored
        ],
    }
    if not any(columns["refused because"]):
        del columns["refused because"]
    if not any(columns["± se"]):
        del columns["± se"]
    st.caption("Most surprising first. Choose a line to see that image below.")
    number = st.column_config.NumberColumn
    state = st.dataframe(
        columns,
        hide_index=True,
        row_height=44,
        height=min(44 * len(scored) + 40, 400),
        column_config={
            "image": st.column_config.ImageColumn(width="small"),
            "ELBO, nats": number(format="%.4f"),
            "± se": number(format="%.4f"),
            "KL, nats": number(format="%.4f"),
            "percentile": number(format="%.1f %%"),
            "p-value": number(format="%.3f"),
            "refused because": st.column_config.TextColumn(width="large"),
        },
        on_select="rerun",
        selection_mode="single-row",
        selection_default={"selection": {"rows": [0], "columns": [], "cells": []}},
        key="scores",
        alt=f"Scores of {len(scored)} files",
    )
    rows = state.selection.rows
    return rows[0] if rows and rows[0] < len(scored) else 0


def verdict(row: ScoreRow) -> str:
    """One score in plain words, with the caveat that belongs to it, as Markdown."""
    if row.p_value <= 0.01:
        plain = "**Unlike the images this model knows.** At most 1 in 100 of them scores this low."
    elif row.p_value <= 0.05:
        plain = "**Unusual.** At most 1 in 20 of the images this model knows scores this low."
    else:
        plain = "**Nothing unusual** in this score."
    return (
        f"{plain} A high score is no proof of kinship: a VAE can rate simple foreign images "
        "highly, and some low scores are the encoder's failure rather than a strange image."
    )
