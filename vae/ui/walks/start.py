"""Where a walk starts: a sample, the prior's mean, a random or pasted code, an uploaded image."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
import streamlit as st

from vae.data.images.decoding import ImageRefused
from vae.store.checkpoint import Checkpoint
from vae.ui import access, links
from vae.ui.uploads import INVITATION_ONE, admitted
from vae.ui.walks import decoded

__all__ = [
    "PASTED",
    "Start",
    "choose_start",
    "code_text",
    "of_sample",
    "parse_code",
    "prior_mean",
    "start_here",
]

_SAMPLE, _MEAN, _RANDOM, PASTED, _UPLOAD = STARTS = (
    "the chosen sample",
    "the prior mean",
    "a random code",
    "a pasted code",
    "an uploaded image",
)

# Nothing that a model has learned lies so far out, and float32 holds it.
_FARTHEST = 1_000.0
_MOST_LETTERS = 20_000


class Start(NamedTuple):
    """The code from which a walk starts.

    Attributes:
        code: With shape :math:`(D,)`.
        sigma: The standard deviation of its own Gaussian; 1 where there is no image behind it.
        text: What it is, after "Starting from".
        rows: The reference image whose code it is, if it is one's: its distance to itself says
            nothing.
    """

    code: np.ndarray
    sigma: np.ndarray
    text: str
    rows: tuple[int, ...] = ()


def of_sample(model: Checkpoint, sample: int) -> Start:
    """A reference sample's own code."""
    table = access.table(model)
    return Start(table.mu[sample], table.sigma[sample], f"sample {sample}", (sample,))


def prior_mean(model: Checkpoint) -> Start:
    """The middle of the latent space."""
    dims = model.latent_dim
    return Start(np.zeros(dims), np.ones(dims), "the prior's mean")


def choose_start(model: Checkpoint, sample: int) -> Start:
    """Draws the choice and whatever it asks for besides."""
    dims = model.latent_dim
    kind = links.choice("Start from", STARTS, "start")
    ones, usual = np.ones(dims), of_sample(model, sample)
    if kind == _MEAN:
        return prior_mean(model)
    if kind == _RANDOM:
        seed = int(links.number("Seed", 0, 9_999, 0, "start_seed", width=130))
        code = np.random.default_rng(seed).standard_normal(dims)
        return Start(code, ones, f"a code drawn from the prior, seed {seed}")
    if kind == PASTED:
        return _pasted(dims) or usual
    if kind == _UPLOAD:
        return _uploaded(model) or usual
    return usual


def _pasted(dims: int) -> Start | None:
    text = st.text_input(
        f"Code z: {dims} numbers",
        key="z",
        bind="query-params",
        max_chars=_MOST_LETTERS,
        placeholder=", ".join(["0"] * min(dims, 3)) + (", …" if dims > 3 else ""),
        help="Separated by commas or spaces. The prior gives most codes values within ±3.",
    )
    if not text.strip():
        st.caption("No code yet, so the chosen sample is shown.")
        return None
    try:
        return Start(parse_code(text, dims), np.ones(dims), "the pasted code")
    except ValueError as error:
        st.warning(f"{error} The chosen sample is shown instead.", icon=":material/link_off:")
        return None


def parse_code(text: str, dims: int) -> np.ndarray:
    """Reads a code that somebody typed or a link carried.

    Args:
        text: Numbers, separated by commas, semicolons or spaces, perhaps in brackets.
        dims: How many there must be.

    Returns:
        The code, with shape :math:`(D,)`.

    Raises:
        ValueError: If it is not that many finite numbers; the message is one sentence.
    """
    words = re.split(r"[\s,;]+", text.strip(" \t\r\n[]()"))
    if len(words) != dims:
        raise ValueError(f"The code has {len(words)} numbers, but this model takes {dims}.")
    values = []
    for place, word in enumerate(words, 1):
        try:
            value = float(word.replace("\N{MINUS SIGN}", "-"))
        except ValueError:
            raise ValueError(
                f"Number {place} of the code, {links.shown(word)}, is no number."
            ) from None
        if not math.isfinite(value) or abs(value) > _FARTHEST:
            raise ValueError(
                f"Number {place} of the code, {links.shown(word)}, must be finite and at most "
                f"{_FARTHEST:g} in size."
            )
        values.append(value)
    return np.array(values)


def code_text(code: np.ndarray) -> str:
    """A code as it is pasted: short, and to more than the eye can see in an image."""
    return ", ".join(f"{value + 0.0:.4g}" for value in code)


def start_here(code: np.ndarray) -> None:
    """Makes a code the start of every walk; a callback, since it sets widgets."""
    text = code_text(code)
    if st.session_state.get("start") != PASTED:
        # Streamlit 1.67 writes a bound value into the link when its widget changes, not when the
        # widget first appears, as the code's field is about to.
        st.query_params["z"] = text
    st.session_state["start"] = PASTED
    st.session_state["z"] = text


def _uploaded(model: Checkpoint) -> Start | None:
    sent = st.file_uploader(INVITATION_ONE, key="start_upload")
    if sent is None:
        st.caption(
            "No file yet, so the chosen sample is shown. A link cannot carry an image: once it is "
            "here, let go of the film and take “Start from here”, which puts its code in the link."
        )
        return None
    [(name, data)], _ = admitted([sent])
    try:
        found = decoded.encoded(model, data)
    except ImageRefused as error:
        st.error(f"{error} The chosen sample is shown instead.")
        return None
    if found.prepared.steps:
        st.caption(f"What was done to the file: {' '.join(found.prepared.steps)}")
    return Start(found.mu, found.sigma, f"the code of {name}")
