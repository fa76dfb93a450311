"""What a score means: the false-alarm slider, the verdict, and the second opinions."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
import streamlit as st

from vae.data.adaptation import Prepared
from vae.elbo.calibration import Calibration, FalseAlarms
from vae.elbo.files import ScoreSettings
from vae.elbo.rows import ScoreRow
from vae.elbo.typicality import upper_p_value
from vae.elbo.verdict import CAVEAT, Opinions, Verdict, give_verdict
from vae.figures.frame import nats
from vae.model.checkpoint import Checkpoint
from vae.ui import second_opinions, widgets
from vae.ui.literal import literal
from vae.ui.missing import where_images_are
from vae.ui.second_opinions import Complexity, Opinion, Regret

__all__ = ["Heard", "choose_rate", "hear", "in_short", "opinions_of", "show_verdict"]

_USUAL = 1.0


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
        "False alarms that you accept, % of normal images",
        min_value=0.1,
        max_value=20.0,
        value=_USUAL,
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
        f"The smallest rate that {n} images support is {smallest:.1f} %."
    )
    if percent < smallest - 1e-9:
        sentence = f"So few images support no rate of {percent:.1f} %. {sentence}"
    # A per cent sign never stands alone on a line.
    st.markdown(sentence.replace(" %", "\u00a0%"))
    return alarms


def in_short(row: ScoreRow, alarms: FalseAlarms, n: int) -> str:
    """Whether an image is flagged, as a sentence of HTML."""
    rate = f"{100 * alarms.rate:.1f}\u00a0% false alarms"
    verdict = give_verdict(Opinions(row.p_value, _high(row, n)), alarms.rate)
    if verdict.flagged:
        return f"It is <b>flagged</b> at {rate}: unlike the images this model knows."
    if verdict.doubtful:
        return f"It <b>passes</b> at {rate}, but is suspiciously easy."
    return f"It <b>passes</b> at {rate}."


def _high(row: ScoreRow, n: int) -> float:
    """The p-value of an ELBO as high or higher, from the count behind the percentile."""
    return (1 + n - round(row.percentile * n / 100)) / (n + 1)


def hear(model: Checkpoint, prepared: Prepared, settings: ScoreSettings) -> Heard:
    """Asks the second opinions on one image; the one that takes long, only on request."""
    if settings.calibration is not None:
        return Heard(
            absent="Second opinions are placed among the model's own calibration images; the "
            "chosen set holds scores only, so there are none."
        )
    levels, seed = prepared.levels, settings.seed
    evidence = second_opinions.evidence(model, levels, seed)
    heard = Heard(
        evidence=evidence if evidence.images else None,
        complexity=second_opinions.complexity(model, levels, seed),
    )
    if heard.complexity.excess is None:
        heard = heard._replace(
            absent=f"{where_images_are(model)} So complexity and regret have no p-value."
        )
    if st.toggle(
        "Ask for the likelihood regret too", key="regret",
        help="How much a q found for this very image would gain on the encoder's. The first time, "
        "it is computed for some calibration images as well: seconds, or minutes for large ones.",
    ):  # fmt: skip
        regret = second_opinions.regret(model, levels, seed)
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
    p = float(upper_p_value(gains, np.array(regret.gain)))
    return Opinion(regret.gain, regret.error, p, len(gains))


def opinions_of(row: ScoreRow, n: int, heard: Heard, alarms: FalseAlarms) -> Opinions:
    """The p-values of all opinions on one image.

    Args:
        row: Its row.
        n: The number of calibration images behind the row's p-value.
        heard: The second opinions.
        alarms: The threshold.
    """
    complexity = heard.complexity.excess if heard.complexity else None
    return Opinions(
        elbo=row.p_value,
        elbo_high=_high(row, n),
        evidence=heard.evidence.p_value if heard.evidence else None,
        regret=heard.regret_place.p_value if heard.regret_place else None,
        complexity=complexity.p_value if complexity else None,
        best_passes=heard.regret.best_elbo > alarms.threshold if heard.regret else None,
    )


def show_verdict(row: ScoreRow, n: int, heard: Heard, alarms: FalseAlarms, exact: bool) -> Verdict:
    """The verdict in plain words, and the opinions behind it in a table."""
    opinions = opinions_of(row, n, heard, alarms)
    verdict = give_verdict(opinions, alarms.rate)
    box, icon = st.info, "check"
    if verdict.flagged:
        box, icon = st.error, "flag"
    elif verdict.doubtful:
        box, icon = st.warning, "help"
    lines = [f"**{verdict.headline}.** {verdict.reason}", *verdict.findings]
    box("\n\n".join(lines), icon=f":material/{icon}:")
    st.caption(CAVEAT)
    table = [
        ("ELBO, low", f"{nats(row.elbo, 2)} nats", opinions.elbo, n),
        ("ELBO, on either side", f"{nats(row.elbo, 2)} nats", opinions.elbo_two_sided, n),
    ]
    if heard.evidence:
        one = heard.evidence
        name = "log p(x), exact" if exact else "log p(x), from below (L, as calibrated)"
        value = f"{nats(one.value, 2)} ± {one.error:.2f} nats" if math.isfinite(one.value) else "–"
        table.append((name, value, one.p_value, one.images))
    if heard.complexity:
        found = heard.complexity
        if found.excess:
            value = f"{nats(found.excess.value, 0)} ± {found.noise:.0f} bits"
            place = (found.excess.p_value, found.excess.images)
            table.append(("cost beyond its PNG code", value, *place))
        else:
            value = f"{nats(found.bits, 0)} ± {found.noise:.0f} bits long"
            table.append(("PNG code", value, None, None))
    if heard.regret:
        gain = f"{nats(heard.regret.gain, 2)} ± {heard.regret.error:.2f} nats"
        place = heard.regret_place
        table.append(
            ("likelihood regret", gain, *((place.p_value, place.images) if place else (None,) * 2))
        )
        table.append(("ELBO of the best q", f"{nats(heard.regret.best_elbo, 2)} nats", None, None))
    widgets.table(
        ("opinion", "value", "p-value", "among"),
        [
            (name, value, _p_value(p, alarms.rate), "" if among is None else str(among))
            for name, value, p, among in table
        ],
        "What each statistic says of this image",
    )
    if heard.absent:
        st.caption(heard.absent)
    return verdict


def _p_value(p: float | None, rate: float) -> str:
    if p is None:
        return ""
    # In bold and with a word, never by colour alone.
    return f"<b>{p:.3f}, strange</b>" if p <= rate else f"{p:.3f}"
