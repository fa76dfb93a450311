"""The pieces of the screen that scores uploads: settings, table, one score and its meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import streamlit as st

from vae.data.images import Adaptation, looks_inverted
from vae.elbo.files import ScoredImage
from vae.elbo.rows import ScoreRow, to_csv, to_json, to_parquet
from vae.elbo.scoring import DRAWS, Receipt
from vae.figures.pictures import data_url, to_bytes
from vae.model.checkpoint import Checkpoint
from vae.ui import widgets

__all__ = ["Settings", "choose_settings", "downloads", "score_table", "show_score", "verdict"]


class Settings(NamedTuple):
    """How uploads are scored.

    Attributes:
        adaptation: How an image that isn't of the model's size is brought to it.
        draws: Draws from q, where the latent space has more than 2 dimensions.
        importance_samples: The k of the importance-weighted bound; 0 leaves it out.
        seed: The seed of every draw.
    """

    adaptation: Adaptation
    draws: int
    importance_samples: int
    seed: int

    def command(self, model: str) -> str:
        """The command line that does the same."""
        flags = {
            "invert": (self.adaptation.invert, "auto"),
            "crop": (self.adaptation.crop, "auto"),
            "draws": (self.draws, DRAWS),
            "importance-samples": (self.importance_samples, 0),
            "seed": (self.seed, 0),
        }
        words = [f"--{name} {value}" for name, (value, usual) in flags.items() if value != usual]
        return " ".join(["python -m vae score", model, "PATH", *words, "--json"])


def choose_settings(model: Checkpoint) -> Settings:
    """Draws the settings, folded away, with defaults that need no attention."""
    choices = ["auto", "yes", "no"]
    draws = DRAWS
    with st.expander("Settings"), st.container(horizontal=True):
        invert = st.selectbox("Exchange black and white", choices, key="invert", width=190)
        crop = st.selectbox("Crop to the content", choices, key="crop", width=190)
        bound = st.selectbox("Bound L, k draws", [0, 100, 1_000, 5_000], key="k", width=190)
        seed = st.number_input("Seed", 0, 999_999, key="score_seed", width=150)
        if model.config.latent_dim > 2:
            draws = st.number_input("Draws", 1, 4_096, DRAWS, key="draws", width=150)
    return Settings(Adaptation(invert=invert, crop=crop), int(draws), int(bound), int(seed))


def show_score(model: Checkpoint, scored: ScoredImage, parts: Receipt, settings: Settings) -> None:
    """One image before, during and after the model, its score, and what was done to it."""
    row, prepared = scored
    first, second, third, fourth = st.columns([1, 1, 1, 1.6], gap="medium")
    with first:
        sent = np.moveaxis(prepared.original, -1, 0) / 255
        widgets.picture(sent, "Your image", "The image as it was sent", 260)
    with second:
        widgets.picture(parts.x, "What the model sees", "The image as the model sees it", 260)
    with third:
        widgets.picture(parts.reconstruction, "What its code decodes to", "Reconstruction", 260)
    with fourth:
        bound = f"log p(x) ≥ L, k = {row.importance_samples}"
        sums = [
            ("expected log-likelihood", row.expected_log_likelihood, None),
            ("KL of this image", row.kl, None),
            ("ELBO", row.elbo, row.elbo_se),
            (bound, row.iwae_bound, row.iwae_bound_se),
            ("log p(x), exact", row.log_evidence, None),
        ]
        widgets.sums([one for one in sums if one[1] is not None])
        st.caption(
            f"p = {row.p_value:.3f}, one-sided"
            + (f" · {row.bits_per_dim:.3f} bits per dimension" if row.bits_per_dim else "")
        )
        st.markdown(verdict(row))
    image = model.config.image
    if settings.adaptation.invert == "auto" and looks_inverted(prepared.levels, image):
        st.info(
            "The border of this image is bright where the model's data are dark, or the reverse. "
            "If it should be inverted, choose so in the settings.",
            icon=":material/invert_colors:",
        )
    if prepared.steps:
        st.markdown("**What was done to the file**: " + " ".join(prepared.steps))


def downloads(rows: Sequence[ScoreRow]) -> None:
    """Buttons for the rows in each format; the file is made when it is asked for."""
    for suffix, write in (("csv", to_csv), ("json", to_json), ("parquet", to_parquet)):
        label = suffix.upper() if suffix != "parquet" else "Parquet"
        st.download_button(
            f"Download {label}",
            lambda write=write: write(rows),
            f"scores.{suffix}",
            on_click="ignore",
        )


def score_table(scored: Sequence[ScoredImage], model: Checkpoint) -> int:
    """Draws one line a file, with a thumbnail, and returns the position of the chosen one."""
    spec = model.config.image
    columns: dict[str, list] = {
        "image": [
            _thumbnail(spec.from_levels(one.prepared.levels)) if one.prepared else None
            for one in scored
        ],
        "name": [one.row.name for one in scored],
        "ELBO, nats": [one.row.elbo for one in scored],
        "± se": [one.row.elbo_se for one in scored],
        "KL, nats": [one.row.kl for one in scored],
        "percentile": [one.row.percentile for one in scored],
        "p-value": [one.row.p_value for one in scored],
        "refused because": [
            f"{one.row.error} ({one.row.error_code})" if one.row.error else "" for one in scored
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


def _thumbnail(image: np.ndarray) -> str:
    # Enlarged by whole pixels, since a table smooths what it enlarges itself.
    return data_url(to_bytes(image), enlarge=max(1, 96 // image.shape[-1]))


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
