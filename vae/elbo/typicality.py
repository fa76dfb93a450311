r"""Whether a score is unusual on either side.

A high ELBO can be as foreign as a low one: a VAE rates plain foreign images above its own. With
:math:`p_{low}` and :math:`p_{high}` the conformal p-values of the two sides,

.. math:: p = \min(1, 2 \min(p_{low}, p_{high}))

References:
    | Do Deep Generative Models Know What They Don't Know? (Nalisnick et al., 2019),
    | https://arxiv.org/abs/1810.09136
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Typicality", "two_sided", "typicality", "upper_p_value"]


class Typicality(NamedTuple):
    """A score's conformal p-values.

    Attributes:
        low: Of being as low or lower, with shape :math:`(B,)`.
        high: Of being as high or higher, with shape :math:`(B,)`.
        two_sided: Of being as far out on either side, with shape :math:`(B,)`.
    """

    low: np.ndarray
    high: np.ndarray
    two_sided: np.ndarray


def typicality(reference: np.ndarray, values: np.ndarray) -> Typicality:
    """Places values among those of reference images, on both sides.

    Args:
        reference: The calibration set's values, in any order, with shape :math:`(n,)`.
        values: The new values, with shape :math:`(B,)`.

    Returns:
        The p-values, none below :math:`1 / (n + 1)`.
    """
    low, high = upper_p_value(-reference, -values), upper_p_value(reference, values)
    return Typicality(low, high, two_sided(low, high))


def two_sided(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    r"""The p-value of lying as far out on either side.

    Args:
        low: The p-values of being as low or lower.
        high: Those of being as high or higher, with the same shape.

    Returns:
        :math:`\min(1, 2 \min(p_{low}, p_{high}))`, with their shape.
    """
    return np.minimum(1, 2 * np.minimum(low, high))


def upper_p_value(reference: np.ndarray, values: np.ndarray) -> np.ndarray:
    r"""The one-sided p-value of a value where high ones are strange.

    .. math:: p = \frac{1 + \#\{\text{reference as high or higher}\}}{n + 1}

    Args:
        reference: The calibration set's values, in any order, with shape :math:`(n,)`.
        values: The new values, with any shape.

    Returns:
        With the shape of ``values``.
    """
    below = np.searchsorted(np.sort(reference), values, side="left")
    return (1 + len(reference) - below) / (len(reference) + 1)
