"""Score images: one trustworthy number for each upload, and what it means."""

from html import escape

import numpy as np
import streamlit as st

from vae.elbo.calibration_sets import calibration_of
from vae.figures.frame import nats
from vae.figures.scores import calibration_histogram
from vae.ui import access, score_detail, score_meaning, scores, widgets, words
from vae.ui.batches import scored_with_progress
from vae.ui.sources import choose_images

model, sample = access.current()
# A container, not an empty place: while a rerun computes, the old words stay and nothing jumps.
heading = st.container()
files, example, empty = choose_images(model, sample)
if not files:
    with heading:
        widgets.opening("Score images", empty)
    st.stop()

# In the order of the screen; what is below decides about what is above.
settings_place, table_place, image_place = st.container(), st.container(), st.container()
left, right = st.columns([1.7, 1], gap="large")
with image_place:
    pictures = st.container()
    adaptation = scores.choose_adaptation()
with settings_place:
    settings = scores.choose_settings(model, adaptation)
calibration = calibration_of(model, settings.calibration)
with left:
    alarms = score_meaning.choose_rate(calibration)
    chart = st.container()

with table_place:
    scored = scored_with_progress(model, files, settings)
    rows = [one.row for one in scored]
    accepted = [i for i, row in enumerate(rows) if row.error is None]
    # Most surprising first; refused files last, each with its reason.
    order = sorted(accepted, key=lambda i: rows[i].elbo)
    order += [i for i in range(len(rows)) if i not in accepted]
    chosen = order[0]
    if len(rows) > 1 or not accepted:
        chosen = order[scores.score_table([scored[i] for i in order], model, alarms.rate)]
row, prepared = scored[chosen]

with heading:
    if row.error is not None:
        widgets.opening("Score images", f"{escape(row.name)} was not scored.")
    else:
        intro = "No file yet, so here is the chosen sample as if it had been sent. "
        error = f" ± {nats(row.elbo_se, 2)}" if row.elbo_se else ""
        widgets.opening(
            "Score images",
            f"{intro if example else ''}{escape(row.name)} scores an ELBO of "
            f"<b>{nats(row.elbo, 2)}</b>{error} nats, higher than "
            f"<b>{row.percentile:.1f}\u00a0%</b> of the calibration images. "
            f"{score_meaning.in_short(row, alarms, len(calibration.elbo))}",
        )
        st.caption(words.RELATIVE)
if row.error is not None:
    st.error(f"{row.error} ({row.error_code})")
    st.stop()

parts = access.receipt_of(model, prepared.levels, settings.draws, settings.seed)
with pictures:
    scores.show_score(scored[chosen], parts)
    scores.show_steps(model, scored[chosen], adaptation)
with chart:
    elbos = np.array([rows[i].elbo for i in accepted])
    widgets.chart(
        calibration_histogram(
            calibration.elbo, elbos, accepted.index(chosen), alarms.threshold, 300
        ),
        f"Histogram of calibration ELBOs with this image at {row.elbo:.1f} nats and the threshold "
        f"at {alarms.threshold:.1f} nats",
    )
with right:
    score_detail.show_costs(parts)

st.subheader("What it means", anchor=False)
heard = score_meaning.hear(model, prepared, settings)
n, exact = len(calibration.elbo), parts.mu.size <= 2
verdict = score_meaning.show_verdict(row, n, heard, alarms, exact)
if not exact:
    score_detail.show_refined(model, prepared.levels, settings)
move = score_detail.show_move(model, parts, alarms, settings) if verdict.flagged else None
score_detail.show_receipt(parts)

st.subheader("Where its code lies", anchor=False)
score_detail.show_place(model, parts, None if move is None else move.z)

with st.container(horizontal=True):
    scores.downloads(rows)
    if example:
        name, png = files[0]
        st.download_button("Download this sample as PNG", png, name, on_click="ignore")
scores.calls(model, settings, [name for name, _ in files])
