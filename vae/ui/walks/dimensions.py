"""One film for each latent dimension, the one that carries most first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from vae.explore.traversals import prior_quantiles, prior_share, traversal_codes
from vae.figures.films import Row, film_data
from vae.figures.frame import nats
from vae.store.checkpoint import Checkpoint
from vae.ui import access, links
from vae.ui.components.film import film
from vae.ui.literal import literal
from vae.ui.walks import decoded
from vae.ui.walks.export import codes_csv, export_film
from vae.ui.walks.place import show_place
from vae.ui.walks.start import Start, choose_start
from vae.ui.words import ACTIVE

__all__ = ["strongest_film", "show_dimensions"]

# More rows than these are asked for by number.
_MOST_ROWS = 16
_QUANTILES, _SPREAD = "prior quantiles", "± k posterior sd"
_HINT = (
    "Drag a strip, or focus it and use ← → Home End; space plays. The triangle at a strip's foot "
    "marks the start."
)


def show_dimensions(model: Checkpoint, sample: int) -> None:
    """The screen's first walk."""
    start = choose_start(model, sample)
    table = access.table(model)
    active = [int(d) for d in table.by_kl if table.active[d]]
    others = [int(d) for d in table.by_kl if not table.active[d]]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        reach = links.choice("Range", [_QUANTILES, _SPREAD], "reach")
        width = 3.0
        if reach == _SPREAD:
            width = float(links.number("k", 0.5, 10.0, 3.0, "k_sd", step=0.5, width=120))
        asked = _choose_dims(model)
        folded = False
        if others and not asked:
            folded = st.toggle(
                f"Show {len(others)} that are no active units",
                key="silent",
                bind="query-params",
                help=ACTIVE,
            )
    dims = asked or (active or [int(table.by_kl[0])])[:_MOST_ROWS]
    if folded:
        dims = [*dims, *(d for d in others[: 2 * _MOST_ROWS] if d not in dims)]

    count = decoded.frames_in(model, len(dims))
    if reach == _QUANTILES:
        values = np.tile(prior_quantiles(count), (len(dims), 1))
    else:
        spread = np.linspace(-width, width, count) * start.sigma[dims, None]
        values = start.code[dims, None] + spread
    codes = traversal_codes(start.code, dims, values)
    data, rows = _film(model, start, dims, codes, hint=_HINT)
    place = film(data, f"dimensions-{model.name}")
    st.caption(_footnote(start, reach, len(dims), len(active), model))
    export_film(
        model,
        codes,
        [row.name for row in rows],
        "traversals",
        lambda: codes_csv(
            codes.reshape(-1, codes.shape[-1]),
            {
                "dimension": np.repeat(np.array(dims) + 1, count),
                "frame": np.tile(np.arange(count), len(dims)),
                "value": values.ravel(),
                "prior_share": prior_share(values).ravel(),
            },
        ),
    )
    if place is not None:
        row, frame = place
        show_place(model, codes[place], f"{start.text}, {rows[row].captions[frame]}")


def strongest_film(model: Checkpoint, start: Start, rows: int, play: bool = False) -> None:
    """A film of the strongest dimensions to look at; the very first one may play by itself."""
    dims = [int(d) for d in access.table(model).by_kl[:rows]]
    values = prior_quantiles(decoded.frames_in(model, len(dims)))
    codes = traversal_codes(start.code, dims, values)
    hint = f"Starting from {start.text}. Drag a strip, or focus it and use ← →; space plays."
    data, _ = _film(model, start, dims, codes, hint=hint, play=play, commits=False)
    film(data, f"strongest-{model.name}")


def _film(
    model: Checkpoint,
    start: Start,
    dims: Sequence[int],
    codes: np.ndarray,
    **options: Any,  # noqa: ANN401
) -> tuple[dict[str, Any], list[Row]]:
    """A film of dimensions from their codes (R, F, D), and its rows."""
    rows = [_row(model, start, d, codes[i, :, d]) for i, d in enumerate(dims)]
    label = f"What each latent dimension draws, starting from {start.text}"
    sheet = decoded.sheet_of(model, codes)
    return film_data(sheet, rows, label, **options), rows


def _row(model: Checkpoint, start: Start, dim: int, values: np.ndarray) -> Row:
    """Describes one dimension's film over its values, shape (F,)."""
    kl = access.table(model).kl_per_dim.mean(0)[dim]
    captions = [
        f"z{dim + 1} = {nats(value, 2)}, prior quantile {100 * share:.1f}\u00a0%"
        for value, share in zip(values, prior_share(values), strict=True)
    ]
    at = int(np.abs(values - start.code[dim]).argmin())
    inside = values[0] <= start.code[dim] <= values[-1]
    # Between two frames the start lies between their middles.
    place = np.interp(start.code[dim], values, np.arange(len(values)))
    return Row(
        f"dimension {dim + 1}",
        (f"KL {nats(kl, 2)} nats", f"starts at {nats(start.code[dim], 2)}"),
        captions,
        at,
        float(place + 0.5) / len(values) if inside else None,
    )


def _choose_dims(model: Checkpoint) -> list[int]:
    """The dimensions asked for, as positions; none means the active units."""
    known = [str(d + 1) for d in range(model.latent_dim)]
    asked = st.query_params.get_all("dims")
    wrong = [one for one in asked if one not in known]
    if wrong:
        links.notice(
            f"The link asks for dimension {links.shown(wrong[0])}, but this model has dimensions "
            f"1 to {len(known)}."
        )
    chosen = st.session_state.get("dims")
    if chosen is not None and set(chosen) - set(known):
        st.session_state["dims"] = [one for one in chosen if one in known]
    picked = st.multiselect(
        "Dimensions",
        known,
        key="dims",
        bind="query-params",
        width=300,
        placeholder="the active units",
        max_selections=2 * _MOST_ROWS,
        help=f"Those shown are the active units until you choose. {ACTIVE}",
    )
    order = access.table(model).by_kl.tolist()
    return sorted((int(one) - 1 for one in picked), key=order.index)


def _footnote(start: Start, reach: str, shown: int, active: int, model: Checkpoint) -> str:
    ends = (
        "Each strip runs from the prior's 1 % quantile to its 99 %."
        if reach == _QUANTILES
        else "Each strip is centred on the start; sd is its own q(z|x)'s, or else the prior's."
    )
    fewer = (
        f" The strongest {shown} of {active} are shown; choose others by number."
        if shown < active
        else ""
    )
    return (
        f"Starting from {literal(start.text)}. Rows by falling mean KL over "
        f"{model.reference.size:,} held-out images, in nats. {ends}{fewer}"
    )
