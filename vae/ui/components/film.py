"""The film and the link button: two small components whose scripts lie in vae/figures/web/."""

from __future__ import annotations

from typing import Any

import streamlit as st

from vae.figures.films import WEB

__all__ = ["copy_link", "film", "place_of"]


def _source(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


_FILM = st.components.v2.component(
    "elboscope_film",
    html='<div class="film"></div>',
    css=_source("film.css"),
    js=_source("film.js"),
)

_LINK = st.components.v2.component(
    "elboscope_link",
    html='<button type="button">Copy link</button> <span role="status"></span>',
    css=_source("link.css"),
    js=_source("link.js"),
)


def film(data: dict[str, Any], key: str) -> tuple[int, int] | None:
    """Shows a film, which is scrubbed without the server.

    Args:
        data: What :func:`vae.figures.films.film_data` made.
        key: The component's key.

    Returns:
        The row and the frame where the hand last let go of this very film, which caused a rerun;
        none so far.
    """
    # Without a callback the state would not be known to Python.
    shown = _FILM(key=key, data=data, on_place_change=lambda: None)
    return place_of(shown.place, data)


def place_of(sent: object, data: dict[str, Any]) -> tuple[int, int] | None:
    """The row and frame that a browser sent; none if they aren't of this film.

    What a browser sends is checked like any other input: it may be of the film before, or no
    film's at all.
    """
    if not isinstance(sent, dict) or sent.get("film") != data["id"]:
        return None
    row, frame = sent.get("row"), sent.get("frame")
    # A bool is an int to Python, but no place.
    if type(row) is not int or type(frame) is not int:
        return None
    inside = 0 <= row < len(data["rows"]) and 0 <= frame < data["frames"]
    return (row, frame) if inside else None


def copy_link() -> None:
    """A button that copies the address, in which the whole view stands."""
    _LINK(key="copy_link", data={"done": "Copied. It restores this view."}, width="content")
