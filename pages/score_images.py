"""Score images: one trustworthy number for each upload, and what it means."""

from html import escape

import numpy as np
import streamlit as st

from vae.figures.frame import nats
from vae.figures.sample_elbo import pixel_map
from vae.figures.scores import calibration_histogram
from vae.ui import access, scores, widgets
from vae.ui.uploads import INVITATION, admitted

model, sample = access.current()
heading = st.empty()
sent = st.file_uploader(INVITATION, accept_multiple_files=True, key="upload")
settings = scores.choose_settings(model)

files, left_out = admitted(sent)
if left_out:
    st.warning(left_out)
example = None if files else access.sample_png(model, sample)
if example is not None:
    files = [(f"sample-{sample}.png", example)]
if not files:
    with heading.container():
        widgets.opening("Score images", "Drop an image to learn how well this model explains it.")
    st.stop()

scored = access.scored(model, files, *settings)
rows = [one.row for one in scored]
accepted = [i for i, row in enumerate(rows) if row.error is None]
# Most surprising first; refused files last, each with its reason.
order = sorted(accepted, key=lambda i: rows[i].elbo)
order += [i for i in range(len(rows)) if i not in accepted]
chosen = order[0]
if len(rows) > 1 or not accepted:
    chosen = order[scores.score_table([scored[i] for i in order], model)]
row, prepared = scored[chosen]

with heading.container():
    if row.error is not None:
        widgets.opening("Score images", f"{escape(row.name)} was not scored.")
    else:
        intro = "No file yet, so here is the chosen sample as if it had been sent. "
        error = f" ± {row.elbo_se:.2f}" if row.elbo_se else ""
        widgets.opening(
            "Score images",
            f"{intro if example else ''}{escape(row.name)} scores an ELBO of "
            f"<b>{nats(row.elbo, 2)}</b>{error} nats, higher than "
            f"<b>{row.percentile:.1f}\u00a0%</b> of images kept aside to compare.",
        )
if row.error is not None:
    st.error(f"{row.error} ({row.error_code})")
    st.stop()

parts = access.receipt_of(model, prepared.levels, settings.draws, settings.seed)
scores.show_score(model, scored[chosen], parts, settings)

left, right = st.columns([1.7, 1], gap="large")
with left:
    table = access.table(model)
    elbos = np.array([rows[i].elbo for i in accepted])
    widgets.chart(
        calibration_histogram(table.elbo[table.split == 1], elbos, accepted.index(chosen), 300),
        f"Histogram of calibration ELBOs with this image at {row.elbo:.1f} nats",
    )
with right:
    widgets.chart(pixel_map(parts.pixels, 270), "Cost of each pixel in nats")
    st.caption("Where the cost is: nats for each pixel.")

with st.container(horizontal=True):
    scores.downloads(rows)
    if example is not None:
        st.download_button("Download this sample as PNG", example, files[0][0], on_click="ignore")
with st.expander("The same on the command line"):
    st.code(settings.command(model.name), language="bash")
