r"""Ways from one code to another: the straight line, and the arc.

References:
    | Animating Rotation with Quaternion Curves (Shoemake, 1985), for slerp,
    | Sampling Generative Networks (White, 2016), section 2.1, for its use between codes,
    | https://arxiv.org/abs/1609.04468
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["linear", "slerp", "steps"]

# Below this sine of the angle between two codes the arc is the line, or is not defined.
_LEAST_SINE = 1e-6


def steps(count: int, overshoot: float = 0.0) -> np.ndarray:
    r"""Evenly spaced places on a way, with shape :math:`(F,)`.

    Args:
        count: Their number F.
        overshoot: How far the way goes on beyond each end, as a share of its length.
    """
    return np.linspace(-overshoot, 1 + overshoot, count)


def linear(first: np.ndarray, second: np.ndarray, places: np.ndarray) -> np.ndarray:
    r"""The straight line :math:`(1 - t) a + t b`.

    Args:
        first: The code :math:`a`, with shape :math:`(D,)`.
        second: The code :math:`b`, with shape :math:`(D,)`.
        places: The places :math:`t`, with shape :math:`(F,)`; 0 is :math:`a`, 1 is :math:`b`.

    Returns:
        The codes, with shape :math:`(F, D)`.
    """
    places = places[:, None]
    return (1 - places) * first + places * second


def slerp(first: np.ndarray, second: np.ndarray, places: np.ndarray) -> np.ndarray:
    r"""The spherical way, which keeps the distance from the prior's mean where both ends share it.

    .. math:: \frac{\sin((1 - t) \Omega)}{\sin \Omega} a + \frac{\sin(t \Omega)}{\sin \Omega} b

    with :math:`\Omega` the angle between the two codes. In many dimensions the prior's mass lies
    in a shell about its mean, through whose hollow a straight line cuts.

    Args:
        first: The code :math:`a`, with shape :math:`(D,)`.
        second: The code :math:`b`, with shape :math:`(D,)`.
        places: The places :math:`t`, with shape :math:`(F,)`.

    Returns:
        The codes, with shape :math:`(F, D)`; the straight line where the angle is 0 or 180
        degrees, or a code is the prior's mean, since no arc is defined there.
    """
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    angle = math.acos(np.clip(first @ second / lengths, -1, 1)) if lengths > 0 else 0.0
    if math.sin(angle) < _LEAST_SINE:
        return linear(first, second, places)
    places = places[:, None]
    parts = np.sin((1 - places) * angle) * first + np.sin(places * angle) * second
    return parts / math.sin(angle)
