"""The pieces of the screen that scores uploads: settings, table, one score, what to take away."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlencode, urlsplit

import numpy as np
import streamlit as st

from vae.data.adaptation import Adaptation, looks_inverted
from vae.elbo.calibration_sets import calibration_of, calibrations
from vae.elbo.files import ScoredImage, ScoreSettings
from vae.elbo.rows import ScoreRow, to_csv, to_json, to_parquet
from vae.elbo.scoring import DRAWS, Receipt
from vae.figures.pictures import data_url, to_bytes
from vae.model.checkpoint import Checkpoint
from vae.model.stored import CheckpointError
from vae.model.vae import observe
from vae.ui import widgets

__all__ = [
    "calls",
    "choose_adaptation",
    "choose_calibration",
    "choose_settings",
    "command_line",
    "curl_call",
    "downloads",
    "score_table",
    "show_score",
    "show_steps",
]

_CHOICES, _FITS = ("auto", "yes", "no"), ("pad", "squash")
_NAMED_IN_CALL = 4


def choose_settings(model: Checkpoint, adaptation: Adaptation) -> ScoreSettings:
    """Draws the settings, folded away, with defaults that need no attention."""
    draws = DRAWS
    with st.expander("Settings"), st.container(horizontal=True):
        calibration = choose_calibration(model)
        bound = st.selectbox(
            "Bound L, k draws",
            [0, 100, 1_000, 5_000],
            key="k",
            width=190,
            format_func="{:,}".format,
        )
        seed = st.number_input("Seed", 0, 999_999, key="score_seed", width=150)
        if model.config.latent_dim > 2:
            draws = st.number_input("Draws", 1, 4_096, DRAWS, key="draws", width=150)
    return ScoreSettings(
        adaptation=adaptation,
        draws=int(draws),
        importance_samples=int(bound),
        seed=int(seed),
        calibration=calibration,
    )


def choose_calibration(model: Checkpoint) -> str | None:
    """Lets a visitor choose what scores are compared with; none is the model's own images."""
    names = calibrations(model)
    if not names:
        return None
    chosen = st.selectbox(
        "Compared with",
        [None, *names],
        format_func=lambda name: name or "the model's held-out images",
        key=f"calibration-{model.name}",
        width=240,
        help="A set that `python -m vae calibrate` made from images that somebody calls good.",
    )
    try:
        calibration_of(model, chosen)
    except CheckpointError as error:
        st.error(f"{error.message} The model's held-out images are used instead. ({error.code})")
        return None
    return chosen


def choose_adaptation() -> Adaptation:
    """Draws the choices that overrule what is done to a file of another size."""
    with st.container(horizontal=True):
        crop = st.selectbox("Crop to the content", _CHOICES, key="crop", width=190)
        invert = st.selectbox("Exchange black and white", _CHOICES, key="invert", width=190)
        fit = st.selectbox("Other proportions", _FITS, key="fit", width=190)
    return Adaptation(invert, crop, fit)


def show_score(scored: ScoredImage, parts: Receipt) -> None:
    """One image before, during and after the model, and the sums of its score."""
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
        bound = f"log p(x) ≥ L, k = {row.importance_samples:,}"
        sums = [
            ("expected log-likelihood", row.expected_log_likelihood, None),
            ("KL of this image", row.kl, None),
            ("ELBO", row.elbo, row.elbo_se),
            (bound, row.iwae_bound, row.iwae_bound_se),
            ("log p(x), exact", row.log_evidence, None),
        ]
        widgets.sums([one for one in sums if one[1] is not None])
        st.caption(
            f"Percentile {row.percentile:.1f} · p = {row.p_value:.3f}, one-sided"
            + (f" · {row.bits_per_dim:.3f} bits per dimension" if row.bits_per_dim else "")
        )


def show_steps(model: Checkpoint, scored: ScoredImage, adaptation: Adaptation) -> None:
    """What was done to a file, and whether it looks inverted."""
    prepared = scored.prepared
    if prepared.steps:
        st.markdown("**What was done to the file**: " + " ".join(prepared.steps))
    if adaptation.invert == "auto" and looks_inverted(prepared.levels, model.config.image):
        st.info(
            "The border of this image is bright where the model's data are dark, or the reverse. "
            "If it should be inverted, choose so here.",
            icon=":material/invert_colors:",
        )


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


def score_table(scored: Sequence[ScoredImage], model: Checkpoint, rate: float) -> int:
    """Draws one line a file, with a thumbnail, and returns the position of the chosen one.

    Args:
        scored: The results, in the order of the lines.
        model: The model.
        rate: The share of normal images that may be flagged.
    """
    columns: dict[str, list] = {
        "image": [
            _thumbnail(observe(model.config, one.prepared.levels[None])[0].numpy())
            if one.prepared
            else None
            for one in scored
        ],
        "name": [one.row.name for one in scored],
        "verdict": [_verdict_of(one.row, rate) for one in scored],
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
        placeholder="",
        alt=f"Scores of {len(scored)} files",
    )
    rows = state.selection.rows
    return rows[0] if rows and rows[0] < len(scored) else 0


def _verdict_of(row: ScoreRow, rate: float) -> str:
    if row.error is not None:
        return "refused"
    return "flagged" if row.p_value <= rate else "passes"


def _thumbnail(image: np.ndarray) -> str:
    # Enlarged by whole pixels, since a table smooths what it enlarges itself.
    return data_url(to_bytes(image), enlarge=max(1, 96 // image.shape[-1]))


def calls(model: Checkpoint, settings: ScoreSettings, names: Sequence[str]) -> None:
    """The calls that give the same rows outside of the browser, to be copied."""
    with st.expander("The same on the command line and over HTTP"):
        st.code(command_line(model.name, settings), language="bash")
        # The address that the visitor sees, which a proxy may have given the server.
        address = urlsplit(st.context.url or "http://localhost:8501")
        base = f"{address.scheme}://{address.netloc}"
        st.code(curl_call(base, model.name, settings, names), language="bash")
        st.caption("Each gives the rows of the downloads. The command takes whole folders.")


def command_line(model: str, settings: ScoreSettings) -> str:
    """The command line that gives the same rows."""
    flags = _changed(settings)
    words = [f"--{name.replace('_', '-')} {value}" for name, value in flags.items()]
    return " ".join(["python -m vae score", model, "PATH", *words, "--json"])


def curl_call(base: str, model: str, settings: ScoreSettings, names: Sequence[str]) -> str:
    """The HTTP call that gives the same rows.

    Args:
        base: The server's address.
        model: The model's name.
        settings: How the files are scored.
        names: Their names, of which a few that need no quoting are shown.
    """
    plain = [name for name in names if re.fullmatch(r"[\w.-]+", name, re.ASCII)]
    files = "".join(f" -F file=@{name}" for name in plain[:_NAMED_IN_CALL]) or " -F file=@PATH"
    query = urlencode({"model": model, **_changed(settings)})
    return f"curl{files} '{base}/api/score?{query}'"


def _changed(settings: ScoreSettings) -> dict[str, str | int]:
    """What differs from the defaults, which command line and HTTP share."""
    values = {
        "invert": (settings.adaptation.invert, "auto"),
        "crop": (settings.adaptation.crop, "auto"),
        "fit": (settings.adaptation.fit, "pad"),
        "draws": (settings.draws, DRAWS),
        "importance_samples": (settings.importance_samples, 0),
        "seed": (settings.seed, 0),
        "calibration": (settings.calibration, None),
    }
    return {name: value for name, (value, usual) in values.items() if value != usual}
