r"""Conformal p-values: whether a value is unusual among those of reference images, on either side.

Every p-value of the package is made here. If a new image is exchangeable with the n reference
images, then :math:`P(p \le \alpha) \le \alpha` for every :math:`\alpha`, whatever the model.
Values that lie nearer than machines differ count as equal, which makes a p-value larger, never
smaller.

A high ELBO can be as foreign as a low one: a VAE rates plain foreign images above its own. With
:math:`p_{low}` and :math:`p_{high}` the conformal p-values of the two sides,

.. math:: p = \min(1, 2 \min(p_{low}, p_{high}))

References:
    | Algorithmic Learning in a Random World (Vovk et al., 2005), chapter 2
    | Do Deep Generative Models Know What They Don't Know? (Nalisnick et al., 2019),
    | https://arxiv.org/abs/1810.09136
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Typicality", "counts", "tie", "typicality"]


class Typicality(NamedTuple):
    r"""Conformal p-values of values among those of n reference images.

    Attributes:
        low: Of being as low or lower, :math:`(1 + \#\{\text{as low}\}) / (n + 1)`.
        high: Of being as high or higher, :math:`(1 + \#\{\text{as high}\}) / (n + 1)`.
        two_sided: Of being as far out on either side.
    """

    low: np.ndarray
    high: np.ndarray
    two_sided: np.ndarray


def typicality(
    reference: np.ndarray, values: np.ndarray, ties: np.ndarray | None = None
) -> Typicality:
    r"""Places values among those of reference images, on both sides.

    Args:
        reference: The reference images' values, in any order, with shape :math:`(n,)`.
        values: The new values, with any shape.
        ties: How near two values are equal, with the shape of ``values``; :func:`tie` of the
            values when not given.

    Returns:
        The p-values, each with the shape of ``values`` and none below :math:`1 / (n + 1)`.
    """
    low, high = ((1 + found) / (len(reference) + 1) for found in counts(reference, values, ties))
    return Typicality(low, high, np.minimum(1, 2 * np.minimum(low, high)))


def counts(
    reference: np.ndarray, values: np.ndarray, ties: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """How many reference values are as low or lower, and how many as high or higher.

    Args:
        reference: With shape :math:`(n,)`.
        values: With any shape.
        ties: As for :func:`typicality`.

    Returns:
        Two counts, each with the shape of ``values``; equal values count in both.
    """
    known = np.sort(reference)
    ties = tie(values) if ties is None else ties
    as_low = np.searchsorted(known, values + ties, side="right")
    return as_low, len(known) - np.searchsorted(known, values - ties, side="left")


def tie(elbo: np.ndarray) -> np.ndarray:
    """How far two machines' ELBOs of one image may lie apart, in nats, with the shape of ``elbo``.

    Else an image that the calibration set holds too, bit for bit, would lie above it on one
    machine and below on another.
    """
    # Finite beside an ELBO that is not.
    return np.clip(1e-6 * np.abs(elbo), 1e-4, 1e300)
