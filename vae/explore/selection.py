"""A group of samples: inside a loop drawn around them, or nearest to a place."""

from __future__ import annotations

import numpy as np

__all__ = ["MOST_CORNERS", "inside", "nearest", "nearest_to"]

MOST_CORNERS = 2_000


def inside(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    r"""Marks the points inside a closed loop, by the even-odd rule.

    Args:
        points: With shape :math:`(N, 2)`.
        corners: The loop's corners, with shape :math:`(K, 2)`; the last one joins the first.

    Returns:
        Whether each point is inside, with shape :math:`(N,)`.

    Raises:
        ValueError: If the loop has fewer than 3 corners, too many, or one that isn't finite.
    """
    corners = np.asarray(corners, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or not 3 <= len(corners) <= MOST_CORNERS:
        raise ValueError(f"a loop has 3 to {MOST_CORNERS} corners, not shape {corners.shape}.")
    if not np.isfinite(corners).all():
        raise ValueError("a loop's corners must be finite numbers.")
    low, high = corners.min(0), corners.max(0)
    found = np.zeros(len(points), dtype=bool)
    rows = np.flatnonzero(((points >= low) & (points <= high)).all(-1))
    x, y = points[rows].T
    odd = np.zeros(len(rows), dtype=bool)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crosses = (y1 > y) != (y2 > y)
        odd[crosses] ^= x[crosses] < x1 + (x2 - x1) * (y[crosses] - y1) / (y2 - y1)
    found[rows] = odd
    return found


def nearest(mu: np.ndarray, sample: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    r"""The samples whose codes lie nearest to one sample's.

    Args:
        mu: Posterior means, with shape :math:`(N, D)`.
        sample: The sample, which is not among its own neighbours.
        count: How many; fewer where there are fewer samples.

    Returns:
        Their numbers, nearest first, and their distances, each with shape :math:`(K,)`.
    """
    near, distance = nearest_to(mu, mu[sample], count + 1)
    others = np.flatnonzero(near != sample)[:count]
    return near[others], distance[others]


def nearest_to(mu: np.ndarray, place: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    r"""The samples whose codes lie nearest to a place.

    Args:
        mu: Posterior means, with shape :math:`(N, D)`.
        place: The place, with shape :math:`(D)`.
        count: How many; fewer where there are fewer samples.

    Returns:
        Their numbers, nearest first, and their distances, each with shape :math:`(K,)`.
    """
    distance = np.linalg.norm(mu - place, axis=1)
    count = min(count, len(mu))
    near = np.argpartition(distance, count - 1)[:count] if count else np.arange(0)
    near = near[np.lexsort((near, distance[near]))]
    return near, distance[near]
