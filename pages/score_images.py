"""Score images: one trustworthy number for each upload, and what it means."""

from html import escape

import streamlit as st

from vae.scoring.calibration_sets import calibration_of
from vae.scoring.verdict import give_verdict
from vae.ui import access, badges, widgets
from vae.ui.scoring import meaning, scores
from vae.ui.scoring.batches import scored_with_progress
from vae.ui.scoring.sources import choose_images

model, sample = access.current()
st.title("Score images", anchor=False)
# A container, not an empty place: while a rerun computes, the old words stay and nothing jumps.
heading = st.container()
badges.badges(model)
files, example, empty = choose_images(model, sample)
if not files:
    with heading:
        widgets.lead(empty)
    st.stop()

# In the order of the screen; what is below decides what is above.
settings_place, table_place, meaning_place, pictures = (st.container() for _ in range(4))
adaptation = scores.choose_adaptation()
with settings_place:
    settings = scores.choose_settings(model, adaptation, len(files))
calibration = calibration_of(model, settings.calibration)
with meaning_place:
    st.subheader("How sure that is", anchor=False)
    left, right = st.columns([1.4, 1], gap="large")
with left:
    alarms = meaning.choose_rate(calibration)
    chart = st.container()
with table_place:
    scored = scored_with_progress(model, files, settings)
    chosen = scores.choose_one(scored, alarms.rate)
row = scored[chosen].row
if row.error is not None:
    with heading:
        widgets.lead(f"{escape(row.name)} was not scored.")
    st.error(f"{row.error} ({row.error_code})")
    st.stop()

with right:
    heard = meaning.hear(model, scored[chosen], settings)
opinions = meaning.opinions_of(model, scored[chosen], len(calibration.elbo), heard, alarms)
verdict = give_verdict(opinions, alarms.rate)
with heading:
    meaning.show_verdict(verdict, scored[chosen], calibration, settings, example)
with right:
    meaning.show_opinions(scored[chosen], opinions, verdict, heard, alarms)
with chart:
    meaning.show_histogram(calibration, scored, chosen, alarms)

scores.closer_look(model, scored[chosen], settings, alarms, verdict.flagged, pictures)
scores.downloads([one.row for one in scored], files if example else ())
scores.calls(model, settings, [name for name, _ in files])
