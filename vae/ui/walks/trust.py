"""What is drawn below a way through the latent space: where it leaves the data."""

from __future__ import annotations

import numpy as np

from vae.explore.profile import Profile
from vae.figures import palette
from vae.figures.films import Track

__all__ = ["profile_columns", "tracks_of"]

_UNITS = "latent units"


def tracks_of(found: Profile) -> list[Track]:
    """A way's profile as tracks of its film; each field has the shape (R, F)."""
    data, encoder = palette.CLASSES[5], palette.CLASSES[7]
    return [
        Track("log p(z)", "nats", palette.PRIOR, found.log_prior),
        Track("log q̄(z)", "nats", data, found.log_aggregate),
        Track("Nearest data", _UNITS, data, found.distance),
        Track("Round trip", _UNITS, encoder, found.round_trip),
    ]


def profile_columns(found: Profile) -> dict[str, np.ndarray]:
    """A profile as columns of a table."""
    return {
        "log_p_z": found.log_prior.ravel(),
        "log_aggregate_z": found.log_aggregate.ravel(),
        "round_trip": found.round_trip.ravel(),
        "nearest_distance": found.distance.ravel(),
        "nearest_sample": found.nearest.ravel(),
    }
