"""Decoded walks, cached: their sprite sheets, their frames, and how far they can be trusted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from vae.data.images.adaptation import Prepared
from vae.elbo.seen import see
from vae.elbo.tiles import decode_means
from vae.explore.profile import Profile, profile, typical
from vae.figures.films import Sheet, frame_count, sprite_sheet
from vae.scoring.files import prepare
from vae.store.checkpoint import Checkpoint
from vae.ui import access
from vae.ui.caches import cached

__all__ = [
    "Encoded",
    "encoded",
    "frames_in",
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
    return frame_count(rows, model.image.height, model.image.width)


@cached(max_entries=64)
def sheet_of(model: Checkpoint, codes: np.ndarray) -> Sheet:
    """Decodes codes (*, D) into a sprite sheet; see :func:`vae.figures.films.sprite_sheet`."""
    flat = torch.from_numpy(codes.reshape(-1, codes.shape[-1]))
    return sprite_sheet(decode_means(model.model, flat).numpy())


@cached(max_entries=128)
def profile_of(model: Checkpoint, codes: np.ndarray, left_out: tuple[int, ...] = ()) -> Profile:
    """How far codes (*, D) can be trusted; each field has the shape (*)."""
    table, flat = access.table(model), codes.reshape(-1, codes.shape[-1])
    found = profile(model.model, table.mu, table.sigma, flat, left_out)
    return Profile(*(field.reshape(codes.shape[:-1]) for field in found))


@cached(max_entries=16)
def typical_of(model: Checkpoint) -> Profile:
    """What is usual for data: medians over the codes of evenly spread reference images."""
    table, size = access.table(model), model.reference.size
    rows = np.unique(np.linspace(0, size - 1, min(size, _TYPICAL)).astype(int))
    return typical(model.model, table.mu, table.sigma, rows)


@cached(max_entries=32)
def encoded(model: Checkpoint, data: bytes) -> Encoded:
    """Encodes an uploaded file.

    Raises:
        ImageRefused: If it is no image that can be used.
    """
    prepared = prepare(model, data)
    seen = see(model.model, prepared.levels[None])
    return Encoded(seen.mu[0].numpy(), seen.sigma[0].numpy(), prepared)
