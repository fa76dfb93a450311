"""Texts of users (names, titles, labels) on screens and in files: shown as they are, never obeyed.

In HTML :func:`html.escape` does it, in a plotly figure :func:`vae.figures.frame.literal`.
"""

from __future__ import annotations

import re

import pandas as pd

from vae.scoring.rows import inert

__all__ = ["frame_csv", "literal"]

_PUNCTUATION = r"[!-/:-@\[-`{-~]"
# Streamlit turns bare addresses into links and "->" into an arrow where no backslash can stop it,
# so such signs are parted by a character without width.
_PARTED = re.compile(rf"(?<={_PUNCTUATION})(?={_PUNCTUATION})|(?<=www)(?=\.)|(?=@)")
_JOINER = "\N{WORD JOINER}"


def literal(text: str) -> str:
    """A text as Markdown that shows it letter by letter, in one line."""
    parted = _PARTED.sub(_JOINER, " ".join(text.split()))
    # Within a word these mean nothing.
    return re.sub(rf"(?!(?<=\w)[-.,'](?=\w))({_PUNCTUATION})", r"\\\1", parted)


def frame_csv(frame: pd.DataFrame) -> bytes:
    """A table as CSV, whose texts no spreadsheet takes for formulas."""
    texts = frame.select_dtypes(exclude="number")
    return (
        frame.assign(**{name: texts[name].map(inert) for name in texts})
        .to_csv(index=False)
        .encode()
    )
