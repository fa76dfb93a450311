"""Thumbnails of reference samples; a click chooses the sample for every screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from vae.data.sets.image_data import label_text
from vae.figures.frame import nats
from vae.figures.pictures import data_url, reduced, to_bytes
from vae.store.checkpoint import Checkpoint
from vae.ui import access

__all__ = ["captions_of", "thumbnails"]

# They are shown at most 112 CSS pixels wide, of two pixels each.
_SIDE = 224
_SCRIPT = Path(__file__).parents[2] / "figures" / "web" / "thumbnails.js"
_component = st.components.v2.component(
    "elboscope_thumbnails", js=_SCRIPT.read_text(), isolate_styles=False
)


def captions_of(
    rows: Sequence[int], quantity: str, values: Sequence[float], digits: int = 2, unit: str = ""
) -> list[str]:
    """Two lines below each picture: which sample it is, and what its number is."""
    return [
        f"sample {row}\n{quantity} {nats(value, digits)}{unit}"
        for row, value in zip(rows, values, strict=True)
    ]


def thumbnails(
    model: Checkpoint, rows: Sequence[int], captions: Sequence[str], columns: int, key: str
) -> None:
    """Reference samples in rows of buttons; what they decode to where the images aren't here.

    Args:
        model: The model.
        rows: Positions in its reference set.
        captions: One for each, shown below it.
        columns: Pictures in a row; a phone shows three.
        key: The widget's key.
    """
    found = access.images(model, rows)
    shown = access.reconstructions(model, rows) if found is None else found
    labels = [label_text(int(model.reference.labels[row]), model.label_names) for row in rows]
    cells = [
        {
            "id": int(row),
            "src": data_url(reduced(to_bytes(image), _SIDE)),
            "caption": text,
            "alt": f"sample {row}, {label}",
        }
        for row, image, text, label in zip(rows, shown, captions, labels, strict=True)
    ]

    def pick() -> None:
        number = st.session_state[key].get("picked")
        # What a browser sends is checked like any other input.
        if isinstance(number, int) and 0 <= number < model.reference.size:
            st.session_state["sample"] = number

    data = {"cells": cells, "columns": columns, "chosen": int(st.session_state["sample"])}
    _component(key=key, data=data, on_picked_change=pick)
