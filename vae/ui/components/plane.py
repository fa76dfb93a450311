"""The plane: many points, panned, zoomed, chosen and circled at the screen's refresh rate.

A drop-in for every scatter of samples: :func:`scatter` draws one, and a click chooses its sample
for all screens. The latent map adds decoded places, fields and groups through :func:`plane`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from vae.figures import palette
from vae.figures import plane as parts
from vae.figures.plane import Fact, Slot

__all__ = ["choose", "plane", "scatter"]

_WEB = Path(parts.__file__).parent / "web" / "plane"
# One script, in this order, since a component takes one.
_SCRIPTS = ("rooms", "space", "marks", "layers", "draw", "words", "hands", "plane")
_SLOTS = ("points", "colour", "coarse", "fine", "thumbnails", "field", "arrows", "group")
_COLOURS = {"line": palette.HAIRLINE, "prior": palette.PRIOR, "kl": palette.KL}


@cache
def _components() -> tuple[Callable, Callable]:
    read = {path.name: path.read_text("utf-8") for path in _WEB.iterdir()}

    def joined(names: Sequence[str]) -> str:
        return "\n".join(read[f"{name}.js"] for name in names)

    return (
        st.components.v2.component("elboscope_plane_store", js=joined(("rooms", "store"))),
        st.components.v2.component(
            "elboscope_plane", html=read["plane.html"], css=read["plane.css"], js=joined(_SCRIPTS)
        ),
    )


# Long by its parameters alone: each is a fact that the script is told.
def plane(
    slots: Sequence[Slot],
    *,
    key: str,
    alt: str,
    axes: tuple[str, str],
    names: tuple[str, str],
    home: Sequence[float],
    geometry: str,
    selected: int | None,
    whole: Sequence[float] | None = None,
    equal: bool = True,
    side: bool = True,
    refines: bool = False,
    start: Sequence[float] | None = None,
    layers: Mapping[str, bool] | None = None,
    lines: Sequence[Mapping[str, Any]] = (),
    labels: Sequence[Mapping[str, Any]] = (),
    noun: str = "sample",
    on_pick: Callable[[int], None] | None = None,
    on_view: Callable[[list[float]], None] | None = None,
    on_loop: Callable[[list], None] | None = None,
) -> set[str]:
    """Draws a plane.

    Args:
        slots: What it shows; points and colour are needed, with ``key`` as their plane.
        key: The widget's key.
        alt: What the plane shows, for those who don't see it.
        axes: Titles of the axes, with their units.
        names: Short names of the two coordinates.
        home: Left, bottom, right, top of the window shown first.
        geometry: What the places are of; where it changes the view starts anew.
        selected: The chosen sample.
        whole: The window that holds every point, where a few lie beyond the first one.
        equal: Whether both axes have one scale.
        side: Whether the words, and the decoded image, stand beside the plane.
        refines: Whether Python is to be asked for a finer window after a zoom.
        start: The window that was left, where the plane is opened again.
        layers: Which of points, lattice, faint, density, holes, arrows, ellipses, images and
            labels are drawn; points and labels if nothing is said.
        lines: Further lines: ``points``, ``colour``, ``dash``, ``width``, ``label``.
        labels: Words on the plane: ``text``, ``at``.
        noun: What a point is.
        on_pick: Called with the number of a clicked point.
        on_view: Called with the window that a zoom has come to rest on; with none of its edges
            when everything is shown again.
        on_loop: Called with the corners of a drawn loop; with none to forget the group.

    Returns:
        What was done to it before this run: some of ``pick``, ``view`` and ``loop``.
    """
    store, canvas = _components()
    versions = {slot.name: slot.version for slot in slots}
    handlers = {"pick": on_pick, "view": on_view, "loop": on_loop}

    answered, done = f"{key}-answered", f"{key}-done"

    def handle() -> None:
        for number, name, value in _acts((st.session_state.get(key) or {}).get("acts")):
            # Told again with what came after it.
            if number <= st.session_state.get(answered, 0) or name not in handlers:
                continue
            st.session_state[answered] = number
            st.session_state[done] = {name, *st.session_state.get(done, ())}
            if handlers[name] is not None:
                handlers[name](value)

    with st.container(gap=None):
        for slot in slots:
            store(key=f"{key}-{slot.name}", data=slot.data)
        canvas(
            key=key,
            data={
                "plane": key,
                "versions": {name: versions.get(name) for name in _SLOTS},
                "alt": alt,
                "axes": list(axes),
                "names": list(names),
                "home": [float(edge) for edge in home],
                "whole": [float(edge) for edge in (home if whole is None else whole)],
                "geometry": geometry,
                "start": None if start is None else [float(edge) for edge in start],
                "selected": selected,
                "equal": equal,
                "side": side,
                "refines": refines,
                "loops": on_loop is not None,
                "layers": {"points": True, "labels": True, **(layers or {})},
                "lines": list(lines),
                "labels": list(labels),
                "noun": noun,
                "colours": _COLOURS,
                "answered": st.session_state.get(answered, 0),
            },
            on_acts_change=handle,
        )
    return st.session_state.pop(done, set())


def _acts(sent: object) -> Iterator[tuple[int, str, Any]]:
    """The number, name and value of each event that a browser tells, as far as they are such."""
    for one in sent if isinstance(sent, list) else ():
        match one:
            case {"number": int(number), "name": str(name), "value": value}:
                yield number, name, value


def choose(samples: int) -> Callable[[object], None]:
    """What a click does: it chooses the sample for every screen, if there is such a one."""

    def pick(row: object) -> None:
        # What a browser sends is checked like any other input.
        if isinstance(row, int) and not isinstance(row, bool) and 0 <= row < samples:
            st.session_state["sample"] = row

    return pick


def scatter(
    places: np.ndarray,
    *,
    key: str,
    alt: str,
    axes: tuple[str, str],
    names: tuple[str, str],
    facts: Sequence[Fact],
    selected: int,
    colour: Slot | str = palette.ELBO,
    lines: Sequence[Mapping[str, Any]] = (),
    home: Sequence[float] | None = None,
) -> None:
    r"""A scatter of samples of any number; a click chooses one for every screen.

    Args:
        places: With shape :math:`(N, 2)`; NaN for samples that are left out.
        key: The widget's key.
        alt: What it shows, for those who don't see it.
        axes: Titles of the axes, with their units.
        names: Short names of the two coordinates.
        facts: The numbers shown of a pointed sample.
        selected: The chosen sample, which is ringed.
        colour: One colour for all, or a slot of :func:`vae.figures.plane.colour_slot`.
        lines: Lines below the points: ``points``, ``colour``, ``dash``, ``width``, ``label``.
        home: Left, bottom, right, top; a little more than the points when not given.
    """
    if home is None:
        low, high = np.nanmin(places, 0), np.nanmax(places, 0)
        room = 0.06 * (high - low) + 1e-6
        home = (*(low - room), *(high + room))
    if isinstance(colour, str):
        colour = parts.single_colour_slot(key, len(places), colour)
    plane(
        [parts.points_slot(key, places, facts=facts), colour],
        key=key,
        alt=alt,
        axes=axes,
        names=names,
        home=home,
        geometry=key,
        selected=selected,
        equal=False,
        side=False,
        lines=lines,
        on_pick=choose(len(places)),
    )
