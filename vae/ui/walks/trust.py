"""What is drawn below a way through the latent space: where it leaves the data."""

from __future__ import annotations

import numpy as np

from vae.explore.profile import Profile
from vae.figures import palette
from vae.figures.films import Track

__all__ = ["profile_columns", "tracks_of"]

_UNITS = "latent units"


def tracks_of(found: Profile, usual: Profile) -> list[Track]:
    """A way's profile (R, F) as tracks of its film, beside what is usual for data."""
    data, encoder = palette.CLASSES[5], palette.CLASSES[7]
    return [
        _track("log p(z)", "nats", palette.PRIOR, found.log_prior, usual.log_prior),
        _track("log q̄(z)", "nats", data, found.log_aggregate, usual.log_aggregate),
        _track("Nearest data", _UNITS, data, found.distance, usual.distance),
        _track("Round trip", _UNITS, encoder, found.round_trip, usual.round_trip),
    ]


def _track(name: str, unit: str, colour: str, values: np.ndarray, usual: np.ndarray) -> Track:
    return Track(name, unit, colour, values, usual=float(usual))


def profile_columns(found: Profile) -> dict[str, np.ndarray]:
    """A profile as columns of a table."""
    return {
        "log_p_z": found.log_prior.ravel(),
        "log_aggregate_z": found.log_aggregate.ravel(),
        "round_trip": found.round_trip.ravel(),
        "nearest_distance": found.distance.ravel(),
        "nearest_sample": found.nearest.ravel(),
    }
