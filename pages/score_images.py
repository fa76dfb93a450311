"""Score images: one trustworthy number for each upload, and what it means."""

from html import escape

import numpy as np
import streamlit as st

from vae.elbo.calibration_sets import calibration_of
from vae.elbo.verdict import give_verdict
from vae.figures.scores import calibration_histogram
from vae.ui import access, score_detail, score_meaning, scores, widgets, words
from vae.ui.batches import scored_with_progress
from vae.ui.honesty import badges
from vae.ui.sources import choose_images

model, sample = access.current()
st.title("Score images", anchor=False)
# A container, not an empty place: while a rerun computes, the old words stay and nothing jumps.
heading = st.container()
badges(model)
files, example, empty = choose_images(model, sample)
if not files:
    with heading:
        widgets.lead(empty)
    st.stop()

# In the order of the screen; what is below decides about what is above.
settings_place, table_place, meaning_place = st.container(), st.container(), st.container()
pictures = st.container()
adaptation = scores.choose_adaptation()
with settings_place:
    settings = scores.choose_settings(model, adaptation, len(files))
calibration = calibration_of(model, settings.calibration)
with meaning_place:
    st.subheader("How sure that is", anchor=False)
    left, right = st.columns([1.4, 1], gap="large")
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
row, prepared = scored[chosen].row, scored[chosen].prepared

if row.error is not None:
    with heading:
        widgets.lead(f"{escape(row.name)} was not scored.")
    st.error(f"{row.error} ({row.error_code})")
    st.stop()

with right:
    heard = score_meaning.hear(model, prepared, settings)
opinions = score_meaning.opinions_of(model, scored[chosen], len(calibration.elbo), heard, alarms)
verdict = give_verdict(opinions, alarms.rate)
with heading:
    picture, said = st.columns([1, 6], gap="medium", vertical_alignment="center")
with picture:
    scores.show_sent(prepared, "The chosen sample" if example else "Your image")
with said:
    score_meaning.show_verdict(verdict)
    intro = "No file yet, so here is the chosen sample as if it had been sent. " if example else ""
    n, name = len(calibration.elbo), settings.calibration
    widgets.lead(intro + score_meaning.how_sure(scored[chosen], n, name))
    st.caption(words.RELATIVE)
with right:
    score_meaning.show_opinions(scored[chosen], opinions, verdict, heard, alarms)
with chart:
    elbos = np.array([rows[i].elbo for i in accepted])
    widgets.chart(
        calibration_histogram(
            calibration.elbo, elbos, accepted.index(chosen), alarms.threshold, 300
        ),
        f"Histogram of calibration ELBOs with this image at {row.elbo:.1f} nats and the threshold "
        f"at {alarms.threshold:.1f} nats",
    )

parts = access.receipt_of(model, prepared.levels, settings.draws, settings.seed)
with pictures:
    st.subheader("What the model makes of it", anchor=False)
    scores.show_score(model, scored[chosen], parts, settings)
    scores.show_steps(model, scored[chosen], adaptation)
if parts.mu.size > 2:
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
