"""From one image to another: the straight line and the arc, and where they leave the data."""

from __future__ import annotations

import numpy as np
import streamlit as st

from vae.data.sets.image_data import label_text
from vae.explore.interpolation import linear, slerp, steps
from vae.figures.films import Row, film_data
from vae.figures.frame import nats
from vae.store.checkpoint import Checkpoint
from vae.ui import access, links, widgets
from vae.ui.components.film import film
from vae.ui.walks import decoded
from vae.ui.walks.export import codes_csv, export_film
from vae.ui.walks.place import show_place
from vae.ui.walks.trust import profile_columns, tracks_of

__all__ = ["show_between"]

_WAYS = ("straight line", "arc (slerp)")


def show_between(model: Checkpoint, sample: int) -> None:
    """Two ways from the chosen sample to another one, under one hand."""
    table, last = access.table(model), model.reference.size - 1
    with st.container(horizontal=True, vertical_alignment="bottom"):
        other = int(links.number("To sample", 0, last, _other(model), "to", width=150))
        about = "How far the way goes on beyond each image."
        overshoot = int(
            links.number("Overshoot, %", 0, 100, 0, "overshoot", step=25, width=150, help=about)
        )
    ends = (sample, other)
    count = decoded.frames_in(model, len(_WAYS))
    places = steps(count, overshoot / 100)
    first, second = table.mu[sample], table.mu[other]
    codes = np.stack((linear(first, second, places), slerp(first, second, places)))
    found, usual = decoded.profile_of(model, codes, ends), decoded.typical_of(model)
    farthest = found.distance.max(-1)
    widgets.lead(
        f"From sample {sample} to sample {other}, the straight line gets as far as "
        f"<b>{nats(farthest[0], 2)}</b> latent units from any other held-out code, and the arc "
        f"<b>{nats(farthest[1], 2)}</b>; between neighbours "
        f"<b>{nats(float(usual.distance), 2)}</b> is usual."
    )
    _show_ends(model, ends)
    captions = [f"{nats(100 * place, 0)}\u00a0% of the way" for place in places]
    rows = [Row(way, (), captions, count // 2) for way in _WAYS]
    data = film_data(
        decoded.sheet_of(model, codes),
        rows,
        f"The way from sample {sample} to sample {other}, along a line and along an arc",
        tracks=tracks_of(found, usual),
        linked=True,
        hint="Drag a strip, or focus it and use ← → Home End; space plays. Solid: the straight "
        "line. Dashed: the arc. Dotted: what is usual for the codes of data.",
    )
    place = film(data, f"between-{model.name}")
    st.caption(
        "log p(z): the prior's density. log q̄(z): that of all held-out codes together. Nearest "
        "data: the distance to the nearest code of another held-out image. Round trip: how far "
        "the code moves when its image is encoded again. Where the second falls and the last two "
        "rise, the decoder draws what it never saw. Usual: the median over held-out "
        "codes, at each of which its own Gaussian raises log q̄(z)."
    )

    def as_csv() -> bytes:
        ways, along = np.repeat(_WAYS, count), np.tile(places, len(_WAYS))
        columns = {"way": ways, "place": along, **profile_columns(found)}
        return codes_csv(codes.reshape(-1, codes.shape[-1]), columns)

    export_film(model, codes, _WAYS, f"from-{sample}-to-{other}", as_csv)
    if place is not None:
        way, frame = place
        text = f"{_WAYS[way]}, {captions[frame]} to sample {other}"
        show_place(model, codes[way, frame], text)


def _other(model: Checkpoint) -> int:
    """Where a way leads at first: to the first image that shows something else than the first."""
    labels = model.reference.labels
    different = np.flatnonzero(labels != labels[0])
    return int(different[0]) if len(different) else min(1, len(labels) - 1)


def _show_ends(model: Checkpoint, ends: tuple[int, int]) -> None:
    originals = access.images(model, ends)
    images = access.reconstructions(model, ends) if originals is None else originals
    with st.container(horizontal=True):
        for image, sample, word in zip(images, ends, ("From", "To"), strict=True):
            label = label_text(int(model.reference.labels[sample]), model.label_names)
            with st.container(width=132):
                caption = f"{word} {sample}: {label}"
                widgets.picture(image, caption, f"Sample {sample}, {label}", 132)
