"""Pieces that several screens draw: the first sentence, pictures, the sums of a receipt."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from vae.data.datasets import label_text
from vae.figures.frame import nats, plus_minus
from vae.figures.pictures import figure_html, gallery_html
from vae.model.checkpoint import Checkpoint
from vae.ui import access
from vae.ui.honesty import badges
from vae.ui.style import quantity

__all__ = ["chart", "gallery", "lead", "opening", "picture", "sums", "table"]


def opening(title: str, sentence: str) -> None:
    """A screen's title, its first sentence, and what kind of numbers it shows.

    Args:
        title: The title.
        sentence: May hold ``<b>`` around live numbers.
    """
    st.title(title, anchor=False)
    lead(sentence)
    badges(access.current()[0])


def lead(sentence: str) -> None:
    """A sentence in the size of a first one."""
    st.html(f'<p class="elb-lead">{sentence}</p>')


def picture(image: np.ndarray, caption: str, alt: str, width: int = 240) -> None:
    """One large crisp picture, (C, H, W) in [0, 1]."""
    st.html(figure_html(image, caption, alt, width))


def chart(figure: go.Figure, alt: str, key: str | None = None, **selection: Any) -> None:  # noqa: ANN401
    """A chart that fills its column, with a description for those who don't see it."""
    st.plotly_chart(figure, alt=alt, key=key, config={"displayModeBar": False}, **selection)


def gallery(model: Checkpoint, rows: Sequence[int], captions: Sequence[str], columns: int) -> None:
    """Reference samples in rows; what they decode to where the images aren't here."""
    found = access.images(model, rows)
    shown = access.reconstructions(model, rows) if found is None else found
    labels = [label_text(int(model.reference.labels[row]), model.label_names) for row in rows]
    alts = [f"Sample {row}, {label}" for row, label in zip(rows, labels, strict=True)]
    st.html(gallery_html(shown, captions, alts, columns))


def sums(parts: Sequence[tuple[str, float, float | None]]) -> None:
    """A small table of quantities in nats, each with its colour and standard error.

    Args:
        parts: Names, values, and standard errors (none where the value isn't sampled).
    """
    rows = "".join(
        f"<tr><td>{quantity(name)}</td><td>{nats(value, 4)}{plus_minus(error, 4)} nats</td></tr>"
        for name, value, error in parts
    )
    st.html(f'<table class="elb-sums">{rows}</table>')


def table(head: Sequence[str], rows: Sequence[Sequence[str]], alt: str) -> None:
    """A small table to read, which neither sorts nor scrolls down and is there at once.

    Args:
        head: Titles of the columns.
        rows: Cells, which may hold HTML; the first of a row is its name.
        alt: What the table shows.
    """
    titles = "".join(f"<th scope='col'>{title}</th>" for title in head)
    body = "".join(
        f"<tr><th scope='row'>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    st.html(
        f"<div class='elb-scroll'><table class='elb-table' aria-label='{escape(alt)}'>"
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )
