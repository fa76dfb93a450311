"""Latent arithmetic: what turns one group of images into another, applied to any code."""

from __future__ import annotations

from html import escape

import numpy as np
import streamlit as st

from vae.explore.arithmetic import group_direction, shifted
from vae.figures.films import Row, film_data
from vae.figures.frame import nats
from vae.store.checkpoint import Checkpoint
from vae.ui import access, links, widgets
from vae.ui.components.film import film
from vae.ui.walks import decoded
from vae.ui.walks.export import codes_csv, export_film
from vae.ui.walks.place import show_place
from vae.ui.walks.start import choose_start
from vae.ui.walks.trust import profile_columns, tracks_of

__all__ = ["groups_of", "show_arithmetic"]

# Where the map leaves what was selected on it: a checkpoint's identity and positions, or nothing.
_SELECTED = "group"
_KEPT = "kept_groups"
_AMOUNTS = (-0.5, 1.5)


def groups_of(model: Checkpoint) -> dict[str, np.ndarray]:
    """Groups of reference images by name: the classes, and what was selected on other screens."""
    labels = model.reference.labels
    groups = {name: np.flatnonzero(labels == i) for i, name in enumerate(model.label_names)}
    found = {
        **st.session_state.get(_KEPT, {}),
        "selected on the map": st.session_state.get(_SELECTED),
    }
    for name, group in found.items():
        if group is not None and group[0] == model.identity:
            groups[name] = np.asarray(group[1], dtype=np.int64)
    return {name: rows for name, rows in groups.items() if len(rows)}


def show_arithmetic(model: Checkpoint, sample: int) -> None:
    """The start, plus one group's mean code, minus another's."""
    groups = groups_of(model)
    if len(groups) < 2:
        st.info(
            "Arithmetic goes from one group of images to another, and these images have no "
            "classes. Select two groups on the latent map first."
        )
        return
    start = choose_start(model, sample)
    names = list(groups)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        minus = _choose_group("Minus the mean of", names, 0, "minus")
        plus = _choose_group("Plus the mean of", names, 1, "plus")
        if "selected on the map" in names:
            st.button(
                "Keep the map's selection",
                on_click=_keep,
                key="keep_group",
                help="As a group of its own, so that another one can be selected.",
            )
    mu = access.table(model).mu
    direction = group_direction(mu, groups[minus], groups[plus])
    count = decoded.frames_in(model, 1)
    amounts = np.linspace(*_AMOUNTS, count)
    codes = shifted(start.code, direction, amounts)[None]
    found = decoded.profile_of(model, codes, start.rows)
    widgets.lead(
        f"The mean codes of “{escape(minus)}” ({len(groups[minus])} images) and “{escape(plus)}” "
        f"({len(groups[plus])}) lie <b>{nats(float(np.linalg.norm(direction)), 2)}</b> latent "
        "units apart. The film adds that difference to the start, from −0.5 to 1.5 times."
    )
    captions = [f"start + {nats(amount, 2)} × (“{plus}” − “{minus}”)" for amount in amounts]
    full = int(np.abs(amounts - 1).argmin())
    row = Row(
        f"“{plus}” − “{minus}”",
        (start.text,),
        captions,
        full,
        float(np.interp(0, amounts, np.arange(count)) + 0.5) / count,
    )
    tracks = tracks_of(found, decoded.typical_of(model))
    data = film_data(
        decoded.sheet_of(model, codes),
        [row],
        f"{start.text}, made less like {minus} and more like {plus}",
        tracks=tracks,
        hint="Drag the strip, or focus it and use ← → Home End; space plays. The triangle marks "
        "the start. Dotted: what is usual for the codes of data.",
    )
    place = film(data, f"arithmetic-{model.name}")
    columns = {"amount": amounts, **profile_columns(found)}
    export_film(model, codes, [row.name], "arithmetic", lambda: codes_csv(codes[0], columns))
    if place is not None:
        show_place(model, codes[place], f"{start.text}: {captions[place[1]]}")


def _keep() -> None:
    """Gives the map's selection a name of its own; a callback."""
    kept = st.session_state.setdefault(_KEPT, {})
    kept[f"kept {len(kept) + 1}"] = st.session_state[_SELECTED]


def _choose_group(label: str, names: list[str], index: int, key: str) -> str:
    asked = st.query_params.get(key)
    if asked is not None and asked not in names:
        links.notice(f"The link asks for the group {links.shown(asked)}, which this model lacks.")
    if st.session_state.get(key, names[0]) not in names:
        st.session_state[key] = names[index]
    return st.selectbox(label, names, index=index, key=key, bind="query-params", width=190)
