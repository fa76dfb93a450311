"""The pieces of the screen that scores uploads: settings, table, one score, what to take away."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlencode, urlsplit

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from vae.data.images.adaptation import Adaptation, looks_inverted
from vae.elbo.expectation import DRAWS, Receipt
from vae.figures.frame import error_text
from vae.figures.pictures import thumbnail_url
from vae.scoring.calibration import FalseAlarms
from vae.scoring.calibration_sets import calibration_of, calibrations
from vae.scoring.files import ScoredImage
from vae.scoring.rows import ScoreRow, to_csv, to_json, to_parquet
from vae.scoring.scorer import ScoreSettings
from vae.scoring.verdict import words
from vae.store.checkpoint import Checkpoint
from vae.store.contents import CheckpointError
from vae.ui import access, links, widgets
from vae.ui.links import base_path
from vae.ui.literal import literal
from vae.ui.scoring import detail as score_detail
from vae.ui.scoring import second_opinions

__all__ = [
    "calls",
    "choose_adaptation",
    "choose_calibration",
    "choose_one",
    "choose_settings",
    "closer_look",
    "command_line",
    "curl_call",
    "downloads",
]

_CHOICES = ("auto", "yes", "no")
_FITS, _BITS = ("auto", "pad", "squash", "cut"), ("auto", "8", "10", "12", "14", "16")
_NAMED_IN_CALL = 4
_THUMBNAIL = 96
# A name of a set has no spaces, so none reads like this.
_OWN = "the model's calibration images"
_STAY = "session"  # choices stay while a visitor is on another screen


def choose_settings(model: Checkpoint, adaptation: Adaptation, files: int) -> ScoreSettings:
    """Draws the settings, folded away, with defaults that need no attention.

    Args:
        model: The model.
        adaptation: How files are brought to its size.
        files: How many there are to score.
    """
    draws, exact = DRAWS, model.latent_dim <= 2
    evidence = exact and files == 1
    with st.expander("Settings"), st.container(horizontal=True):
        calibration = choose_calibration(model)
        bound = st.selectbox(
            "Bound L, k draws",
            [0, 100, 1_000, 5_000],
            key="k",
            width=190,
            persist_state=_STAY,
            format_func="{:,}".format,
        )
        seed = st.number_input(
            "Seed", 0, 999_999, key="score_seed", width=150, persist_state=_STAY
        )
        if not exact:
            draws = st.number_input(
                "Draws", 1, 4_096, DRAWS, key="draws", width=150, persist_state=_STAY
            )
        elif files > 1:
            evidence = st.toggle(
                "log p(x) of every file",
                key="every_evidence",
                persist_state=_STAY,
                help="For the downloads. It takes thousands of decodings for each file, seconds "
                "where the model is large; the chosen one has it anyway.",
            )
    return ScoreSettings(
        adaptation=adaptation,
        draws=int(draws),
        importance_samples=int(bound),
        seed=int(seed),
        evidence=evidence,
        calibration=calibration,
    )


def choose_calibration(model: Checkpoint) -> str | None:
    """Lets a visitor choose what scores are compared with; none is the model's own images."""
    names = calibrations(model)
    # The set of a link, or the one chosen for another model, need not be among this model's.
    asked = st.session_state.get("calibration", st.query_params.get("calibration"))
    if asked not in (None, _OWN, *names):
        links.notice(
            f"{model.name} has no calibration set {links.shown(asked)}, so scores are compared "
            f"with {_OWN}. There are: {', '.join(names) or 'none'}."
        )
        st.session_state["calibration"] = _OWN
    if not names:
        return None
    chosen = st.selectbox(
        "Compared with",
        [_OWN, *names],
        key="calibration",
        bind="query-params",
        width=240,
        help="A set that `python -m vae calibrate` made from images that somebody calls good.",
    )
    if chosen == _OWN:
        return None
    try:
        calibration_of(model, chosen)
    except CheckpointError as error:
        st.error(
            f"{literal(error.message)} The model's held-out images are used instead. "
            f"({error.code})"
        )
        return None
    return chosen


def choose_adaptation() -> Adaptation:
    """Draws the choices that overrule what is done to a file of another size."""

    def choose(label: str, options: tuple[str, ...], key: str, about: str | None = None) -> str:
        return st.selectbox(label, options, key=key, width=190, persist_state=_STAY, help=about)

    with st.container(horizontal=True):
        crop = choose("Crop to the content", _CHOICES, "crop")
        invert = choose("Exchange black and white", _CHOICES, "invert")
        fit = choose("Other proportions", _FITS, "fit")
        bits = choose(
            "Bits of a 16-bit grey",
            _BITS,
            "bits",
            "Detectors may save 12-bit greys unscaled in a file of 16 bits, which is then almost "
            "black: with 12, 4,095 is white.",
        )
    return Adaptation(invert, crop, fit, bits)


def closer_look(
    model: Checkpoint,
    scored: ScoredImage,
    settings: ScoreSettings,
    alarms: FalseAlarms,
    flagged: bool,
    pictures: DeltaGenerator,
) -> None:
    """What the model makes of one image, in ``pictures``, and below it the parts of its score."""
    parts = access.receipt_of(scored.seen, scored.elbo)
    with pictures:
        st.subheader("What the model makes of it", anchor=False)
        _show_score(model, scored, parts, settings)
        _show_steps(model, scored, settings.adaptation)
    if parts.mu.size > 2:
        score_detail.show_refined(model, scored.seen)
    move = score_detail.show_move(model, parts, alarms, settings) if flagged else None
    score_detail.show_receipt(parts)
    st.subheader("Where its code lies", anchor=False)
    score_detail.show_place(model, parts, None if move is None else move.z)


def _show_score(
    model: Checkpoint, scored: ScoredImage, parts: Receipt, settings: ScoreSettings
) -> None:
    """One image for and after the model, and the sums of its score."""
    row = scored.row
    exact = model.latent_dim <= 2
    evidence, error = second_opinions.log_evidence(scored, settings) if exact else (None, None)
    first, second, third, fourth = st.columns([1, 1, 1, 1.6], gap="medium")
    with first:
        widgets.picture(parts.x, "What the model sees", "The image as the model sees it", 260)
    with second:
        widgets.picture(parts.reconstruction, "What its code decodes to", "Reconstruction", 260)
    with third:
        score_detail.show_costs(parts)
    with fourth:
        bound = f"log p(x) ≥ L, k = {row.importance_samples:,}"
        further = [
            (bound, row.iwae_bound, row.iwae_bound_se),
            ("log p(x), exact", evidence, error),
        ]
        known = [one for one in further if one[1] is not None and math.isfinite(one[1])]
        widgets.sums(row.expected_log_likelihood, row.kl, row.elbo_uncertainty, known)
        st.caption(
            f"Percentile {row.percentile:.1f} · p = {row.p_value:.3f}, one-sided"
            + (f" · {row.bits_per_dim:.3f} bits per pixel value" if row.bits_per_dim else "")
        )


def _show_steps(model: Checkpoint, scored: ScoredImage, adaptation: Adaptation) -> None:
    """What was done to a file, and whether it looks inverted."""
    prepared = scored.prepared
    if prepared.steps:
        st.markdown("**What was done to the file**: " + " ".join(prepared.steps))
    if adaptation.invert == "auto" and looks_inverted(prepared.levels, model.image):
        st.info(
            "The border of this image is bright where the model's data are dark, or the reverse. "
            "If it should be inverted, choose so here.",
            icon=":material/invert_colors:",
        )


def downloads(rows: Sequence[ScoreRow], samples: Sequence[tuple[str, bytes]]) -> None:
    """Buttons for the rows in each format, made when they are asked for, and for samples."""
    with st.container(horizontal=True):
        for suffix, write in (("csv", to_csv), ("json", to_json), ("parquet", to_parquet)):
            label = suffix.upper() if suffix != "parquet" else "Parquet"
            st.download_button(
                f"Download {label}",
                lambda write=write: write(rows),
                f"scores.{suffix}",
                on_click="ignore",
            )
        for name, png in samples:
            st.download_button("Download this sample as PNG", png, name, on_click="ignore")


def choose_one(scored: Sequence[ScoredImage], rate: float) -> int:
    """Shows the scores in a table, unless there is but one, and returns which is chosen."""
    accepted = [i for i, one in enumerate(scored) if one.row.error is None]
    # Most surprising first; refused files last, each with its reason.
    order = sorted(accepted, key=lambda i: scored[i].row.elbo)
    order += [i for i in range(len(scored)) if i not in accepted]
    if len(scored) == 1 and accepted:
        return 0
    return order[_score_table([scored[i] for i in order], rate)]


def _score_table(scored: Sequence[ScoredImage], rate: float) -> int:
    """Draws one line a file, with a thumbnail, and returns the position of the chosen one.

    Args:
        scored: The results, in the order of the lines.
        rate: The share of normal images that may be flagged.
    """
    columns: dict[str, list] = {
        "image": [
            thumbnail_url(one.seen.x[0].numpy(), _THUMBNAIL) if one.seen is not None else None
            for one in scored
        ],
        "name": [one.row.name for one in scored],
        "verdict": [_verdict_of(one, rate) for one in scored],
        "ELBO, nats": [one.row.elbo for one in scored],
        # As texts, since a small error must not read as none.
        "±, nats": [error_text(one.row.elbo_uncertainty, 4) for one in scored],
        "KL, nats": [one.row.kl for one in scored],
        "percentile": [one.row.percentile for one in scored],
        "p-value": [one.row.p_value for one in scored],
        "refused because": [
            f"{one.row.error} ({one.row.error_code})" if one.row.error else "" for one in scored
        ],
    }
    if not any(columns["refused because"]):
        del columns["refused because"]
    if not any(columns["±, nats"]):
        del columns["±, nats"]
    st.caption("Most surprising first. Choose a line to see that image above and below.")
    number = st.column_config.NumberColumn
    state = st.dataframe(
        columns,
        hide_index=True,
        row_height=44,
        height=min(44 * len(scored) + 40, 400),
        column_config={
            "image": st.column_config.ImageColumn(width="small"),
            "ELBO, nats": number(format="%.4f"),
            "±, nats": st.column_config.TextColumn(
                help="One standard error of the draws, or the numerical error where none are "
                "taken."
            ),
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


def _verdict_of(one: ScoredImage, rate: float) -> str:
    if one.row.error is not None:
        return "refused"
    (word,) = words(np.array([one.row.p_value]), np.array([one.p_high]), rate)
    return word.replace("_", " ")


def calls(model: Checkpoint, settings: ScoreSettings, names: Sequence[str]) -> None:
    """The calls that give the same rows outside of the browser, to be copied."""
    with st.expander("The same on the command line and over HTTP"):
        # Where there is no exact log p(x), neither needs to speak of it.
        exact = model.latent_dim <= 2
        usual = settings if exact else replace(settings, evidence=True)
        st.code(command_line(model.name, usual), language="bash", wrap_lines=True)
        # The address that the visitor sees, which a proxy may have given the server.
        address = urlsplit(st.context.url or "http://localhost:8501")
        base = f"{address.scheme}://{address.netloc}{base_path()}"
        usual = settings if exact else replace(settings, evidence=False)
        st.code(curl_call(base, model.name, usual, names), language="bash", wrap_lines=True)
        st.caption("Each gives the rows of the downloads. The command takes whole folders.")


def command_line(model: str, settings: ScoreSettings) -> str:
    """The command line that gives the same rows."""
    flags = _changed(settings)
    words = [f"--{name.replace('_', '-')} {value}" for name, value in flags.items()]
    words += [] if settings.evidence else ["--no-evidence"]
    return " ".join(["python -m vae score", shlex.quote(model), "PATH", *words, "--json"])


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
    asked = {"evidence": 1} if settings.evidence else {}
    query = urlencode({"model": model, **_changed(settings), **asked})
    return f"curl{files} '{base}/api/score?{query}'"


def _changed(settings: ScoreSettings) -> dict[str, str | int]:
    """What differs from the defaults that command line and HTTP share."""
    values = {
        "invert": (settings.adaptation.invert, "auto"),
        "crop": (settings.adaptation.crop, "auto"),
        "fit": (settings.adaptation.fit, "auto"),
        "bits": (settings.adaptation.bits, "auto"),
        "draws": (settings.draws, DRAWS),
        "importance_samples": (settings.importance_samples, 0),
        "seed": (settings.seed, 0),
        "calibration": (settings.calibration, None),
    }
    return {name: value for name, (value, usual) in values.items() if value != usual}
