r"""A plane through the latent space, and what the decoder draws at each place of it.

A plane is an origin and two directions: :math:`z(a, b) = o + a u + b v`. For two latent dimensions
it is the whole space; for more it is a slice, and what lies beside the slice is not on it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from vae.data.spec import ImageSpec
from vae.elbo.tiles import decode_means
from vae.model.face import LatentModel

__all__ = ["Plane", "Window", "decode_lattice", "dimension_plane", "lattice_side", "places"]

# Values of a decoded lattice, pixels times channels: bounds its time and its weight on the wire.
_MOST_VALUES = 2_400_000
_MOST_SIDE = 97


class Window(NamedTuple):
    """A rectangle of a plane: left, bottom, right, top."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def is_usable(self) -> bool:
        """Whether it is finite, within reach, and neither empty nor too small to resolve."""
        return bool(
            np.isfinite(self).all()
            and np.abs(self).max() <= 1e4
            and self.right - self.left > 1e-6
            and self.top - self.bottom > 1e-6
        )


class Plane(NamedTuple):
    r"""A plane through the latent space.

    Attributes:
        origin: The code at (0, 0), with shape :math:`(D,)`.
        across: The direction of one step to the right, of length 1, with shape :math:`(D,)`.
        up: The direction of one step up, of length 1 and at right angles to it, :math:`(D,)`.
    """

    origin: np.ndarray
    across: np.ndarray
    up: np.ndarray

    def codes(self, places: np.ndarray) -> np.ndarray:
        r"""The codes at places of the plane.

        Args:
            places: Coordinates on the plane, with shape :math:`(*, 2)`.

        Returns:
            Codes, with shape :math:`(*, D)`.
        """
        return self.origin + places[..., :1] * self.across + places[..., 1:] * self.up

    def project(self, codes: np.ndarray) -> np.ndarray:
        r"""The places at which codes are seen from above the plane, :math:`(*, D)` to (*, 2)."""
        return (codes - self.origin) @ np.stack((self.across, self.up), -1)


def dimension_plane(dims: tuple[int, int], hold: np.ndarray) -> Plane:
    r"""The slice along two latent dimensions.

    Args:
        dims: The dimensions across and up.
        hold: The code whose other dimensions the slice keeps, with shape :math:`(D,)`.

    Raises:
        ValueError: If the two dimensions are one, or one of them isn't there.
    """
    if len({*dims}) != 2 or not all(0 <= dim < len(hold) for dim in dims):
        raise ValueError(f"a plane needs two of {len(hold)} latent dimensions, not {dims}.")
    origin = np.array(hold, dtype=np.float64)
    origin[list(dims)] = 0
    unit = np.eye(len(hold))
    return Plane(origin, unit[dims[0]], unit[dims[1]])


def lattice_side(image: ImageSpec) -> int:
    """The cells along each axis that decode and travel in a moment; odd, so that one is at 0."""
    side = min(_MOST_SIDE, int((_MOST_VALUES / image.pixels) ** 0.5))
    return max(5, side - 1 + side % 2)


def places(window: Window, side: int) -> np.ndarray:
    r"""The centres of a lattice's cells.

    Args:
        window: What the lattice covers.
        side: The cells along each axis.

    Returns:
        Coordinates, with shape :math:`(S, S, 2)`: rows from top to bottom, columns from left to
        right.
    """
    steps = (np.arange(side) + 0.5) / side
    x = window.left + (window.right - window.left) * steps
    y = window.bottom + (window.top - window.bottom) * steps
    up, across = np.meshgrid(y[::-1], x, indexing="ij")
    return np.stack((across, up), -1)


def decode_lattice(model: LatentModel, plane: Plane, window: Window, side: int) -> np.ndarray:
    r"""Decodes a square lattice over a part of a plane.

    Args:
        model: The model.
        plane: The plane.
        window: The part of it.
        side: The number of cells along each axis; each is decoded at its centre.

    Returns:
        8-bit pixels, with shape :math:`(S, S, C, H, W)`: rows from top to bottom.

    Raises:
        ValueError: If the window is empty, infinite or far outside of where codes lie.
    """
    if not window.is_usable:
        raise ValueError(f"{tuple(window)} is no window that could be decoded.")
    codes = plane.codes(places(window, side)).reshape(side * side, -1)
    frames = decode_means(model, torch.from_numpy(codes)).numpy()
    return np.rint(frames * 255).astype(np.uint8).reshape(side, side, *frames.shape[1:])
