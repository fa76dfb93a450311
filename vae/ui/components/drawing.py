"""The drawing pad: a picture by hand, in the tones of the model's data."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

import streamlit as st

from vae.data.images.decoding import Limits
from vae.data.spec import ImageSpec

__all__ = ["drawn_png", "drawing_pad"]

_WEB = Path(__file__).parents[2] / "figures" / "web"
_HEAD = "data:image/png;base64,"
# The pen as a share of the width: as thick as the strokes of digits, and never so thin that it
# would fade when the drawing shrinks to the model's pixels.
_PEN, _PIXELS = 0.1, 1.3


def _source(name: str) -> str:
    return (_WEB / f"drawing.{name}").read_text(encoding="utf-8")


_PAD = st.components.v2.component(
    "elboscope_drawing", html=_source("html"), css=_source("css"), js=_source("js")
)


def drawing_pad(image: ImageSpec, key: str) -> bytes | None:
    """Shows the pad and returns what was drawn on it as a PNG file; none while it is empty.

    A drawing stays while a visitor is on another screen, where the pad itself forgets it. The
    paper is the background of the model's data, the pen its opposite.

    Args:
        image: The images of the model.
        key: The widget's key.
    """
    paper = 1.0 if image.background is None else image.background
    shades = ["#" + 3 * f"{round(255 * tone):02x}" for tone in (paper, 1 - paper)]
    data = {
        "paper": shades[0],
        "ink": shades[1],
        "pen": max(_PEN, _PIXELS / image.width),
        "colours": image.channels == 3,
        "width": image.width,
        "height": image.height,
        "alt": "Drawing pad. Draw with mouse, pen or finger; or move with the arrow keys, and "
        "lower or lift the pen with the space bar. Backspace takes back the last stroke.",
    }
    kept = f"{key}_drawn"

    def keep() -> None:
        st.session_state[kept] = drawn_png(st.session_state[key].get("png"))

    found = _PAD(key=key, data=data, on_png_change=keep)
    png = st.session_state.get(kept)
    if png is not None and drawn_png(found.get("png")) is None:
        st.caption("Your drawing from before is still scored; it goes when you draw anew.")
    return png


def drawn_png(url: object) -> bytes | None:
    """The bytes of a PNG data URL from a browser, which may send anything; none if it isn't one.

    Args:
        url: What the browser sent.
    """
    if not isinstance(url, str) or not url.startswith(_HEAD):
        return None
    if len(url) > 2 * Limits().bytes:
        return None
    try:
        return base64.b64decode(url[len(_HEAD) :], validate=True) or None
    except binascii.Error:
        return None
