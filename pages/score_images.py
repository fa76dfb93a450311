"""Score images: one trustworthy number for each upload, and what it means."""

from html import escape

import numpy as np
import streamlit as st

from vae.data.images import Adaptation
from vae.elbo.rows import to_csv, to_json, to_parquet
from vae.figures.frame import nats
from vae.figures.sample_elbo import pixel_map
from vae.figures.scores import calibration_histogram
from vae.ui import access, widgets
from vae.ui.scores import score_table, verdict
from vae.ui.uploads import MOST_BYTES, MOST_FILES, admitted

model, sample = access.current()
title = st.empty()

sent = st.file_uploader(
    f"Drop images here: PNG, JPEG, WebP, BMP or GIF, up to 5 MB each, {MOST_FILES} files and "
    f"{MOST_BYTES // 2**20} MB together",
    accept_multiple_files=True,
    key="upload",
)
with st.expander("Settings"), st.container(horizontal=True):
    choices = ["auto", "yes", "no"]
    invert = st.selectbox("Exchange black and white", choices, key="invert", width=190)
    crop = st.selectbox("Crop to the content", choices, key="crop", width=190)
    bound = st.selectbox("Bound L, k draws", [0, 100, 1_000, 5_000], key="k", width=190)
    seed = st.number_input("Seed", 0, 999_999, 0, key="score_seed", width=150)
    draws = 64
    if model.config.latent_dim > 2:
        draws = st.number_input("Draws", 1, 4_096, 64, key="draws", width=150)

files, left_out = admitted(sent)
example = not files
if example:
    png = access.sample_png(model, sample)
    files = [(f"sample-{sample}.png", png)] if png else []
if left_out:
    st.warning(left_out)
if not files:
    with title.container():
        widgets.opening("Score images", "Drop an image to learn how well this model explains it.")
    st.stop()

scored = access.scored(
    model, files, Adaptation(invert=invert, crop=crop), int(draws), int(bound), int(seed)
)
rows = [one.row for one in scored]
accepted = [i for i, row in enumerate(rows) if row.error is None]
# Most surprising first; refused files last, each with its reason.
order = sorted(accepted, key=lambda i: rows[i].elbo) + [
    i for i in range(len(rows)) if i not in accepted
]
table = st.empty()
chosen = order[0]
if len(rows) > 1 or not accepted:
    with table.container():
        chosen = order[score_table([scored[i] for i in order], model)]
row, prepared = scored[chosen]

with title.container():
    if row.error is not None:
        widgets.opening("Score images", f"{escape(row.name)} was not scored.")
    else:
        intro = (
            "No file yet, so here is the chosen sample as if it had been sent. " if example else ""
        )
        error = f" ± {row.elbo_se:.2f}" if row.elbo_se else ""
        widgets.opening(
            "Score images",
            f"{intro}{escape(row.name)} scores an ELBO of <b>{nats(row.elbo, 2)}</b>{error} nats, "
            f"higher than <b>{row.percentile:.1f} %</b> of images kept aside to compare.",
        )
if row.error is not None:
    st.error(f"{row.error} ({row.error_code})")
    st.stop()

parts = access.receipt_of(model, prepared.levels, row.draws or 1, int(seed))
first, second, third, fourth = st.columns([1, 1, 1, 1.25], gap="medium")
with first:
    widgets.picture(
        np.moveaxis(prepared.original, -1, 0) / 255, "Your image", "The image as it was sent", 260
    )
with second:
    widgets.picture(parts.x, "What the model sees", "The image in the model's own format", 260)
with third:
    widgets.picture(parts.reconstruction, "What its code decodes to", "Its reconstruction", 260)
with fourth:
    sums = [
        ("expected log-likelihood", row.expected_log_likelihood, None),
        ("KL of this image", row.kl, None),
        ("ELBO", row.elbo, row.elbo_se),
    ]
    if row.iwae_bound is not None:
        sums.append(
            (f"log p(x) ≥ L, k = {row.importance_samples}", row.iwae_bound, row.iwae_bound_se)
        )
    if row.log_evidence is not None:
        sums.append(("log p(x), exact", row.log_evidence, None))
    widgets.sums(sums)
    st.caption(
        f"p = {row.p_value:.3f}, one-sided"
        + (f" · {row.bits_per_dim:.3f} bits per dimension" if row.bits_per_dim is not None else "")
    )
    st.markdown(verdict(row))
if prepared.steps:
    st.markdown("**What was done to the file**: " + " ".join(prepared.steps))

left, right = st.columns([1.7, 1], gap="large")
with left:
    reference = access.table(model)
    elbos = np.array([rows[i].elbo for i in accepted])
    widgets.chart(
        calibration_histogram(
            reference.elbo[reference.split == 1], elbos, accepted.index(chosen), 300
        ),
        f"Histogram of calibration ELBOs with this image at {row.elbo:.1f} nats",
    )
with right:
    widgets.chart(pixel_map(parts.pixels, 270), "Cost of each pixel in nats")
    st.caption("Where the cost is: nats for each pixel.")

with st.container(horizontal=True):
    for suffix, write in (("csv", to_csv), ("json", to_json), ("parquet", to_parquet)):
        st.download_button(
            f"Download {suffix.upper()}", lambda write=write: write(rows), f"scores.{suffix}"
        )
    if example:
        st.download_button("Download this sample as PNG", files[0][1], files[0][0])
with st.expander("The same on the command line"):
    flags = "".join(
        f" --{name.replace('_', '-')} {value}"
        for name, value, usual in (
            ("invert", invert, "auto"),
            ("crop", crop, "auto"),
            ("draws", draws, 64),
            ("importance_samples", bound, 0),
            ("seed", seed, 0),
        )
        if value != usual
    )
    st.code(f"python -m vae score {model.name} PATH{flags} --json", language="bash")
