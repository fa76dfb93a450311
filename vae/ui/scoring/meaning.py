"""What a score means: the false-alarm slider, the verdict, and the second opinions."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import streamlit as st

from vae.data.images.adaptation import Prepared
from vae.figures.frame import nats, percent, plus_minus
from vae.figures.scores import calibration_histogram
from vae.scoring.calibration import Calibration, FalseAlarms
from vae.scoring.files import ScoredImage
from vae.scoring.scorer import ScoreSettings
from vae.scoring.verdict import (
    CAVEAT,
    USUAL_RATE,
    Opinions,
    Verdict,
    doubt_level,
    union_rate,
)
from vae.store.checkpoint import Checkpoint
from vae.ui import widgets
from vae.ui.literal import literal
from vae.ui.missing_images import where_images_are
from vae.ui.scoring import second_opinions
from vae.ui.scoring.second_opinions import Complexity, Opinion, Regret
from vae.ui.words import RELATIVE

__all__ = [
    "Heard",
    "choose_rate",
    "hear",
    "opinions_of",
    "show_histogram",
    "show_opinions",
    "show_verdict",
]


class Heard(NamedTuple):
    """The second opinions on one image; none where there is no such opinion.

    Attributes:
        evidence: log p(x), or L_k.
        complexity: The cost beyond a lossless code.
        regret: What a q of the image's own would gain.
        regret_place: The same among those of calibration images.
        absent: Why opinions are missing, in a sentence; empty where none is.
    """

    evidence: Opinion | None = None
    complexity: Complexity | None = None
    regret: Regret | None = None
    regret_place: Opinion | None = None
    absent: str = ""


def choose_rate(calibration: Calibration) -> FalseAlarms:
    """Draws the false-alarm slider and says what its rate means for so many images."""
    n, smallest = len(calibration.elbo), 100 * calibration.smallest_p_value
    asked = st.query_params.get("alarms", "")
    if asked and not re.fullmatch(r"\d{1,2}(\.\d{1,3})?", asked, re.ASCII):
        # Before the widget reads it: Streamlit 1.67 fails on a number that overflows.
        del st.query_params["alarms"]
        st.warning(
            f"The link names a rate “{literal(asked[:20])}” of false alarms; 1 % is shown instead."
        )
    percent = st.slider(
        "Normal images that you accept to be flagged, %",
        min_value=0.1,
        max_value=20.0,
        value=100 * USUAL_RATE,
        step=0.1,
        format="%.1f %%",
        key="alarms",
        bind="query-params",
        help="Where the threshold lies. Normal images are those that come from where the "
        "calibration images came from.",
    )
    alarms = calibration.false_alarms(max(percent / 100, calibration.smallest_p_value))
    sentence = (
        f"Threshold **{nats(calibration.elbo[alarms.rank - 1], 2)} nats**, number {alarms.rank} "
        f"from below of {n}. It flags **{100 * alarms.rate:.1f} % of normal images: between "
        f"{100 * alarms.low:.1f} and {100 * alarms.high:.1f} %**, with 95 % confidence. "
        f"The smallest rate that {n} images support is {smallest:.1f} %. Each of the four second "
        f"opinions raises a doubt at p ≤ {doubt_level(alarms.rate):.4f}, a quarter of the rate, "
        f"so **at most {100 * union_rate(alarms.rate):.1f} % of normal images are flagged or "
        "doubtful**."
    )
    if percent < smallest - 1e-9:
        sentence = f"So few images support no rate of {percent:.1f} %. {sentence}"
    # A per cent sign never stands alone on a line.
    st.markdown(sentence.replace(" %", "\u00a0%"))
    return alarms


def hear(model: Checkpoint, scored: ScoredImage, settings: ScoreSettings) -> Heard:
    """Asks the second opinions on one image; the one that takes long, only on request."""
    if settings.calibration is not None:
        return Heard(
            absent="Second opinions are placed among the model's own calibration images; the "
            "chosen set holds scores only, so there are none."
        )
    seen, elbo = scored.seen, scored.elbo
    evidence = second_opinions.evidence(model, scored, settings)
    heard = Heard(
        evidence=evidence if evidence.images else None,
        complexity=second_opinions.complexity(model, seen, elbo),
    )
    if heard.complexity.excess is None:
        heard = heard._replace(
            absent=f"{where_images_are(model)} So complexity and regret have no p-value."
        )
    if st.toggle(
        "Ask for the likelihood regret too",
        key="regret",
        help="How much a q found for this very image would gain on the encoder's. The first time, "
        "it is computed for some calibration images as well: seconds, or minutes for large ones.",
    ):
        regret = second_opinions.regret(model, seen, elbo)
        heard = heard._replace(regret=regret, regret_place=_place(model, regret))
    return heard


def _place(model: Checkpoint, regret: Regret) -> Opinion | None:
    """A regret among those of calibration images, which are computed once, with progress."""
    slot, gains = st.empty(), np.empty(0)
    total = min(second_opinions.REGRET_IMAGES, int((model.reference.split == 1).sum()))
    for gains in second_opinions.regret_reference(model):
        slot.progress(
            len(gains) / total,
            f"Likelihood regret of {len(gains)} of {total} calibration images. Once only.",
        )
    slot.empty()
    if not len(gains):
        return None
    return second_opinions.place_regret(regret, gains)


def opinions_of(
    model: Checkpoint, scored: ScoredImage, n: int, heard: Heard, alarms: FalseAlarms
) -> Opinions:
    """The p-values of all opinions on one image.

    Args:
        model: The model.
        scored: The image's score.
        n: The number of calibration images behind its p-values.
        heard: The second opinions.
        alarms: The threshold.
    """
    complexity = heard.complexity.excess if heard.complexity else None
    exact = model.latent_dim <= 2
    return Opinions(
        elbo=scored.row.p_value,
        elbo_high=scored.p_high,
        evidence=heard.evidence.p_value if heard.evidence else None,
        regret=heard.regret_place.p_value if heard.regret_place else None,
        complexity=complexity.p_value if complexity else None,
        best_passes=bool(alarms.passes(np.array(heard.regret.best_elbo)))
        if heard.regret
        else None,
        bound_draws=0 if exact else model.card.metrics.importance_samples,
        images=n,
        evidence_images=heard.evidence.images if heard.evidence else n,
        regret_images=heard.regret_place.images if heard.regret_place else n,
    )


def show_verdict(
    verdict: Verdict,
    scored: ScoredImage,
    calibration: Calibration,
    settings: ScoreSettings,
    example: bool,
) -> None:
    """The image beside the verdict, the score in a sentence, and what that is to be read by.

    Args:
        verdict: The verdict.
        scored: The image's score.
        calibration: What it is compared with.
        settings: How it was scored.
        example: Whether the image is the chosen sample, standing in for a file.
    """
    picture, said = st.columns([1, 6], gap="medium", vertical_alignment="center")
    with picture:
        _show_sent(scored.prepared, "The chosen sample" if example else "Your image")
    box, icon = st.success, "check"
    if verdict.flagged:
        box, icon = st.error, "flag"
    elif verdict.doubtful:
        box, icon = st.warning, "help"
    intro = "No file yet, so here is the chosen sample as if it had been sent. " if example else ""
    with said:
        box(f"**{verdict.headline}.** {verdict.reason}", icon=f":material/{icon}:")
        widgets.lead(intro + _how_sure(scored, len(calibration.elbo), settings.calibration))
        st.caption(RELATIVE)


def _show_sent(prepared: Prepared, caption: str) -> None:
    """An image as it was sent, small, beside what is said of it."""
    sent = np.moveaxis(prepared.original, -1, 0) / 255
    widgets.picture(sent, caption, "The image as it was sent", 150)


def show_histogram(
    calibration: Calibration, scored: Sequence[ScoredImage], chosen: int, alarms: FalseAlarms
) -> None:
    """Where the scores lie among those of the calibration images, and the threshold."""
    accepted = [i for i, one in enumerate(scored) if one.row.error is None]
    elbos, place = np.array([scored[i].row.elbo for i in accepted]), accepted.index(chosen)
    widgets.chart(
        calibration_histogram(calibration.elbo, elbos, place, alarms.threshold, 300),
        f"Histogram of calibration ELBOs with this image at {elbos[place]:.1f} nats and the "
        f"threshold at {alarms.threshold:.1f} nats",
    )


def _how_sure(scored: ScoredImage, n: int, name: str | None) -> str:
    """The score with its error, and its place among n images, as a sentence of HTML."""
    row = scored.row
    images = f"images of the set “{escape(name or '')}”"
    if name is None:
        images = "calibration images, on which the model was neither trained nor tuned"
    share, of = {0: ("none", " of the"), 100: ("all", "")}.get(
        row.percentile, (percent(row.percentile), " of the")
    )
    return (
        f"{escape(row.name)} scores an ELBO of <b>{nats(row.elbo, 2)}</b>"
        f"{plus_minus(row.elbo_uncertainty)} nats, higher than <b>{share}</b>{of} {n:,} {images} "
        f"(p\u00a0=\u00a0{row.p_value:.3f})."
    )


def show_opinions(
    scored: ScoredImage, opinions: Opinions, verdict: Verdict, heard: Heard, alarms: FalseAlarms
) -> None:
    """What the second opinions add, and the p-values behind it in a table."""
    row, n = scored.row, opinions.images
    for sentence in verdict.findings:
        st.markdown(sentence)
    level = verdict.level
    table = [
        ("ELBO, low", f"{nats(row.elbo, 2)} nats", opinions.elbo, n, alarms.rate),
        ("ELBO, high", f"{nats(row.elbo, 2)} nats", opinions.elbo_high, n, level),
    ]
    if heard.evidence:
        one = heard.evidence
        draws = opinions.bound_draws
        name = f"L, {draws:,} draws: log p(x) from below" if draws else "log p(x), exact"
        value = f"{nats(one.value, 2)}{plus_minus(one.error)} nats"
        value = value if math.isfinite(one.value) else "–"
        table.append((name, value, one.p_value, one.images, level))
    if heard.complexity:
        found = heard.complexity
        if found.excess:
            value = f"{nats(found.excess.value, 0)}{plus_minus(found.noise, 0)} bits per image"
            place = (found.excess.p_value, found.excess.images)
            table.append(("cost beyond its PNG code", value, *place, level))
        else:
            value = f"{nats(found.bits, 0)}{plus_minus(found.noise, 0)} bits per image"
            table.append(("PNG code", value, None, None, level))
    if heard.regret:
        gain = f"{nats(heard.regret.gain, 2)}{plus_minus(heard.regret.error)} nats"
        place = heard.regret_place
        place = (place.p_value, place.images) if place else (None, None)
        table.append(("likelihood regret", gain, *place, level))
        best = f"{nats(heard.regret.best_elbo, 2)} nats"
        table.append(("ELBO of the best q", best, None, None, level))
    widgets.table(
        ("opinion", "value", "p-value", "among images"),
        [
            (name, value, _p_value(p, level), "" if among is None else f"{among:,}")
            for name, value, p, among, level in table
        ],
        "What each statistic says of this image",
    )
    st.caption(" ".join(filter(None, (CAVEAT, heard.absent))))


def _p_value(p: float | None, level: float) -> str:
    if p is None:
        return ""
    # In bold and with a word, never by colour alone.
    return f"<b>{p:.3f}, strange</b>" if p <= level else f"{p:.3f}"
