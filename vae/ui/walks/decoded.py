"""Decoded walks, cached: their sprite sheets, their frames, and how far they can be trusted.

Keyed as in :mod:`vae.ui.access`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import streamlit as st
import torch

from vae.data.adaptation import Prepared
from vae.elbo.files import prepare
from vae.elbo.seen import see
from vae.elbo.tiles import decode_means
from vae.explore.profile import Profile, profile, typical
from vae.figures.films import Sheet, frame_count, sprite_sheet
from vae.model.checkpoint import Checkpoint
from vae.ui import access

__all__ = [
    "Encoded",
    "encoded",
    "frames_in",
    "images_of",
    "profile_of",
    "sheet_of",
    "typical_of",
]

# Enough for a median, and few enough to decode at once.
_TYPICAL = 128


class Encoded(NamedTuple):
    """An uploaded image in the latent space.

    Attributes:
        mu: The posterior mean, with shape :math:`(D,)`.
        sigma: The posterior standard deviation, with shape :math:`(D,)`.
        prepared: The image as the model takes it.
    """

    mu: np.ndarray
    sigma: np.ndarray
    prepared: Prepared


def frames_in(model: Checkpoint, rows: int) -> int:
    """How many frames a film of so many rows has."""
    return frame_count(rows, model.config.image.height, model.config.image.width)


def sheet_of(model: Checkpoint, codes: np.ndarray) -> Sheet:
    """Decodes codes (*, D) into a sprite sheet; see :func:`vae.figures.films.sprite_sheet`."""
    return _sheet(model, model.identity, codes.reshape(-1, codes.shape[-1]))


@st.cache_data(max_entries=64, show_spinner=False)
def _sheet(_model: Checkpoint, key: str, codes: np.ndarray) -> Sheet:
    return sprite_sheet(decode_means(_model.model, torch.from_numpy(codes)).numpy())


def images_of(model: Checkpoint, codes: np.ndarray) -> np.ndarray:
    """Decodes codes (*, D) to images in [0, 1], (*, C, H, W)."""
    images = _images(model, model.identity, codes.reshape(-1, codes.shape[-1]))
    return images.reshape(*codes.shape[:-1], *images.shape[1:])


@st.cache_data(max_entries=64, show_spinner=False)
def _images(_model: Checkpoint, key: str, codes: np.ndarray) -> np.ndarray:
    return decode_means(_model.model, torch.from_numpy(codes)).numpy()


def profile_of(model: Checkpoint, codes: np.ndarray, left_out: tuple[int, ...] = ()) -> Profile:
    """How far codes (*, D) can be trusted; each field has the shape (*)."""
    flat = codes.reshape(-1, codes.shape[-1])
    found = _profile(model, model.identity, flat, left_out)
    return Profile(*(field.reshape(codes.shape[:-1]) for field in found))


@st.cache_data(max_entries=128, show_spinner=False)
def _profile(
    _model: Checkpoint, key: str, codes: np.ndarray, left_out: tuple[int, ...]
) -> Profile:
    table = access.table(_model)
    return profile(_model.model, table.mu, table.sigma, codes, left_out)


def typical_of(model: Checkpoint) -> Profile:
    """What is usual for data: medians over the codes of evenly spread reference images."""
    return _typical(model, model.identity)


@st.cache_data(max_entries=16, show_spinner=False)
def _typical(_model: Checkpoint, key: str) -> Profile:
    table, size = access.table(_model), _model.reference.size
    rows = np.unique(np.linspace(0, size - 1, min(size, _TYPICAL)).astype(int))
    return typical(_model.model, table.mu, table.sigma, rows)


def encoded(model: Checkpoint, data: bytes) -> Encoded:
    """Encodes an uploaded file.

    Raises:
        ImageRefused: If it is no image that can be used.
    """
    return _encoded(model, model.identity, data)


@st.cache_data(max_entries=32, show_spinner=False)
def _encoded(_model: Checkpoint, key: str, data: bytes) -> Encoded:
    prepared = prepare(_model, data)
    seen = see(_model.model, prepared.levels[None])
    return Encoded(seen.mu[0].numpy(), seen.sigma[0].numpy(), prepared)
