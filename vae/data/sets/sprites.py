r"""Sprites: procedural binary shapes whose factors of variation are known.

Every image shows one white shape on black, :math:`64 \times 64` pixels with levels 0 and 1, and
is a function of five factors: shape, scale, rotation, x and y. The grid of all their
combinations holds 737,280 images, none of which is stored.

A pixel at :math:`(r, c)` is set when it lies in the shape after undoing translation and rotation,

.. math::
    \begin{pmatrix} u \\ v \end{pmatrix} =
    \begin{pmatrix} \cos\theta & \sin\theta \\ -\sin\theta & \cos\theta \end{pmatrix}
    \begin{pmatrix} c - x \\ y - r \end{pmatrix},

and with :math:`s` for the scale the shapes are

==========  =====================================================================================
square      :math:`\max(|u|, |v|) \leq h s`
ellipse     :math:`(u / a)^2 + (v / b)^2 \leq s^2`
heart       :math:`p^2 + w^2 \leq 1` with :math:`p = |u| / (m s)`, :math:`v = (\kappa (w + g(p))
            - \bar v) m s` and :math:`g(p) = \tau ((1 + \gamma) p - \gamma p^2)`
==========  =====================================================================================

The heart is the unit disc, sheared upwards by :math:`g` and flattened by :math:`\kappa`, both of
which leave its area (:math:`\pi \kappa m^2 s^2`) and its centroid :math:`\bar v` in closed form.
So all shapes have the same area at the same scale, and each turns about its own centroid.

**Rotation is a full turn** in 40 steps of 9°, counter-clockwise as seen. Shapes that look the
same after less than that repeat: the square every 90° (10 steps), the ellipse every 180° (20
steps), the heart never. No other two points of the grid share an image, which leaves
430,080 distinct ones.

The set is in the spirit of dSprites; shapes, sizes and the drawing are this module's own.

References:
    | dSprites: Disentanglement testing Sprites dataset (Matthey et al., 2017)
    | https://github.com/google-deepmind/dsprites-dataset
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np

__all__ = ["COUNT", "FACTORS", "GRID", "SIZE", "Factor", "factors_of", "render"]


class Factor(NamedTuple):
    """Describes one factor of variation.

    Args:
        name: The name, such as ``"rotation"``.
        size: The number of values on the grid.
        values: The values in order: names of shapes, else numbers in the unit.
        unit: The unit of the values; empty for names.
    """

    name: str
    size: int
    values: tuple[float | str, ...]
    unit: str


SIZE: int = 64

# A shape's centre lies on a pixel centre in 16..47, which is symmetric about the middle, 31.5.
_FIRST = 16
_STEPS = 32

FACTORS: tuple[Factor, ...] = (
    Factor("shape", 3, ("square", "ellipse", "heart"), ""),
    Factor("scale", 6, (0.5, 0.6, 0.7, 0.8, 0.9, 1.0), "×"),
    Factor("rotation", 40, tuple(9.0 * k for k in range(40)), "°"),
    Factor("x", _STEPS, tuple(float(_FIRST + k) for k in range(_STEPS)), "px"),
    Factor("y", _STEPS, tuple(float(_FIRST + k) for k in range(_STEPS)), "px"),
)
GRID: tuple[int, ...] = tuple(factor.size for factor in FACTORS)
COUNT: int = math.prod(GRID)

# Lengths in pixels at scale 1. With h = 10.7 no edge meets a pixel centre at any scale or angle,
# and the side of the upright square rounds to its true length within 0.4 px. No shape reaches
# 16 px from its centre, so none touches the frame.
_H = 10.7
_AREA = (2 * _H) ** 2
_RATIO = 1.7
_A2 = _AREA * _RATIO / math.pi
_B2 = _AREA / _RATIO / math.pi
_KAPPA, _TAU, _GAMMA = 0.85, 0.75, 0.75
_M = math.sqrt(_AREA / (math.pi * _KAPPA))
# Over the unit disc E|p| = 4/(3π) and E[p²] = 1/4.
_V_BAR = _KAPPA * _TAU * ((1 + _GAMMA) * 4 / (3 * math.pi) - _GAMMA / 4)


def factors_of(index: np.ndarray) -> np.ndarray:
    """Turns flat grid indices into factor indices, the last factor (y) varying fastest.

    Args:
        index: Integers in ``0..COUNT - 1``, with shape :math:`(N,)`.

    Returns:
        The index of each factor's value, ``int64`` with shape :math:`(N, 5)`.

    Raises:
        ValueError: If an index isn't an integer or lies outside the grid.
    """
    index = _integers("index", index)
    if index.ndim != 1:
        raise ValueError(f"index must have shape (N,), not {index.shape}.")
    _check_range("index", index, COUNT)
    return np.stack(np.unravel_index(index.astype(np.int64), GRID), axis=1)


def render(factors: np.ndarray) -> np.ndarray:
    """Draws images from their factors.

    Args:
        factors: The index of each factor's value, integers with shape :math:`(N, 5)`.

    Returns:
        The levels 0 and 1 as ``uint8``, with shape :math:`(N, 1, 64, 64)`.

    Raises:
        ValueError: If a factor is out of range; the message names the factor.
    """
    factors = _integers("factors", factors)
    if factors.ndim != 2 or factors.shape[1] != len(FACTORS):
        raise ValueError(f"factors must have shape (N, {len(FACTORS)}), not {factors.shape}.")
    for column, factor in zip(factors.T, FACTORS, strict=True):
        _check_range(factor.name, column, factor.size)
    shape, scale, rotation, x, y = factors.astype(np.int64).T
    # Positions are whole pixels apart, so moving a shape is choosing a window on its stencil, and
    # all N images are gathered in one copy that needs no memory besides the result.
    windows = np.lib.stride_tricks.sliding_window_view(_stencils(), (SIZE, SIZE), axis=(3, 4))
    images = windows[shape, scale, rotation, _STEPS - 1 - y, _STEPS - 1 - x]
    return images[:, None]


@cache
def _stencils() -> np.ndarray:
    """Draws every shape, scale and rotation once, centred, with room to slide a window.

    Returns:
        Levels as read-only ``uint8``, with shape :math:`(3, 6, 40, 95, 95)`.
    """
    offset = np.arange(-_FIRST, _FIRST + 1, dtype=np.float64)
    stencils = np.zeros((*GRID[:3], *2 * (SIZE + _STEPS - 1,)), dtype=np.uint8)
    # Only single additions, multiplications and comparisons of float64 follow, which IEEE 754
    # rounds the same everywhere; libraries may differ in the last bit of a cosine or a power.
    middle = slice(_STEPS - 1, _STEPS - 1 + offset.size)
    for k, degrees in enumerate(FACTORS[2].values):
        cos = round(math.cos(math.radians(float(degrees))), 12)
        sin = round(math.sin(math.radians(float(degrees))), 12)
        right, up = offset[None, :], -offset[:, None]
        u, v = cos * right + sin * up, cos * up - sin * right
        for j, scale in enumerate(FACTORS[1].values):
            for i, excess in enumerate(_excess(u, v, float(scale))):
                stencils[i, j, k, middle, middle] = excess <= 0
    stencils.flags.writeable = False
    return stencils


def _excess(u: np.ndarray, v: np.ndarray, scale: float) -> tuple[np.ndarray, ...]:
    """Evaluates the implicit function of each shape, at most 0 inside, in the shape's own frame.

    Args:
        u: Coordinates to the right in pixels, with any shape.
        v: Coordinates upwards in pixels, with the same shape.
        scale: The scale :math:`s`.
    """
    square = np.maximum(np.abs(u), np.abs(v)) / (_H * scale) - 1
    ellipse = u * u / (_A2 * scale * scale) + v * v / (_B2 * scale * scale) - 1
    p = np.abs(u) / (_M * scale)
    w = (v / (_M * scale) + _V_BAR) / _KAPPA - _TAU * ((1 + _GAMMA) * p - _GAMMA * (p * p))
    return square, ellipse, p * p + w * w - 1


def _integers(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.size and not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{name} must hold integers, not {values.dtype}.")
    return values


def _check_range(name: str, values: np.ndarray, size: int) -> None:
    wrong = values[(values < 0) | (values >= size)]
    if wrong.size:
        raise ValueError(f"{name} must lie in 0..{size - 1}, not {wrong[0]}.")
