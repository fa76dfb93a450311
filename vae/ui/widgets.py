"""Pieces that several screens draw: the first sentence, pictures, the sums of a receipt."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from vae.data.sets.image_data import label_text
from vae.elbo.expectation import Receipt
from vae.figures.frame import adding_up, nats, plus_minus
from vae.figures.pictures import figure_html, gallery_html
from vae.store.checkpoint import Checkpoint
from vae.ui import access
from vae.ui.badges import badges
from vae.ui.style import quantity

__all__ = ["chart", "costs_beside", "gallery", "lead", "opening", "picture", "sums", "table"]


def opening(title: str, sentence: str, of_model: bool = True) -> None:
    """A screen's title, its first sentence, and what kind of numbers it shows.

    Args:
        title: The title.
        sentence: May hold ``<b>`` around live numbers.
        of_model: Whether the screen is about the chosen model, whose numbers badges explain.
    """
    st.title(title, anchor=False)
    lead(sentence)
    if of_model:
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


def sums(
    expected_log_likelihood: float,
    kl: float,
    elbo_error: float | None,
    further: Sequence[tuple[str, float, float | None]] = (),
) -> None:
    """A small table of the two terms of an ELBO, which add up as they stand there, and of it.

    Args:
        expected_log_likelihood: In nats.
        kl: In nats.
        elbo_error: What the ELBO may be off, in nats; none or NaN where that is unknown.
        further: Names, values in nats and errors of what stands below.
    """
    likelihood, minus_kl = adding_up((expected_log_likelihood, -kl), 4)
    parts = (
        ("expected log-likelihood", likelihood, None),
        ("KL of this image", -minus_kl, None),
        ("ELBO", expected_log_likelihood - kl, elbo_error),
        *further,
    )
    rows = "".join(
        f"<tr><td>{quantity(name)}</td><td>{nats(value, 4)}{plus_minus(error, 4)} nats</td></tr>"
        for name, value, error in parts
    )
    st.html(f'<table class="elb-sums">{rows}</table>')


def costs_beside(here: Receipt, there: Receipt, other: str) -> str:
    """How the cost of one ELBO compares with another's, and in which term, as Markdown.

    Args:
        here: The one that the sentence began with.
        there: The other.
        other: What to call it.
    """

    def compared(difference: float, unit: str = "") -> str:
        return f"{nats(abs(difference), 2)}{unit} {'less' if difference < 0 else 'more'}"

    likelihood = there.expected_log_likelihood - here.expected_log_likelihood
    code, drawing = adding_up((here.kl - there.kl, likelihood), 2)
    return (
        f"costs **{compared(code + drawing, ' nats')}** than {other}: {compared(code)} to say "
        f"the code, {compared(drawing)} to draw the pixels."
    )


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
