r"""What a score means: its place among held-out images that nothing was tuned on.

Every p-value of the package is made here, and is conformal: if a new image is exchangeable with
the n reference images, then :math:`P(p \le \alpha) \le \alpha` for every :math:`\alpha`, whatever
the model. Values that lie nearer than machines differ count as equal, which makes a p-value
larger, never smaller.

A high ELBO can be as foreign as a low one: a VAE rates plain foreign images above its own. With
:math:`p_{low}` and :math:`p_{high}` the conformal p-values of the two sides,

.. math:: p = \min(1, 2 \min(p_{low}, p_{high}))

Given one calibration set of n images, the true rate of false alarms at the threshold of its k-th
lowest score is a draw from :math:`\mathrm{Beta}(k, n + 1 - k)`.

References:
    | Algorithmic Learning in a Random World (Vovk et al., 2005), chapter 2
    | Do Deep Generative Models Know What They Don't Know? (Nalisnick et al., 2019),
    | https://arxiv.org/abs/1810.09136
    | Conditional validity of inductive conformal predictors (Vovk, 2012), proposition 2a,
    | https://arxiv.org/abs/1209.2673
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

__all__ = ["Calibration", "FalseAlarms", "Typicality", "counts", "tie", "typicality"]


class FalseAlarms(NamedTuple):
    r"""What a threshold on the p-value costs in normal images.

    Attributes:
        rank: The number k of p-values, :math:`1/(n+1), 2/(n+1), \dots`, up to the threshold.
        rate: The expected share of normal images that are flagged, :math:`k / (n + 1)`.
        low: The lower end of the 95 % interval of that share.
        high: Its upper end.
        smallest: The smallest rate that n images support, :math:`1 / (n + 1)`.
        threshold: The ELBO in nats below which an image is flagged, the k-th lowest: p at most
            :math:`k / (n + 1)` says that k - 1 calibration images at most score as low or lower.
    """

    rank: int
    rate: float
    low: float
    high: float
    smallest: float
    threshold: float

    def passes(self, elbo: np.ndarray) -> np.ndarray:
        """Whether images are not flagged: those at the threshold pass, and equal ones too."""
        return elbo + tie(elbo) >= self.threshold


@dataclass(frozen=True)
class Calibration:
    r"""Holds the calibration set's ELBOs, estimated as new scores are.

    Args:
        elbo: The ELBOs in nats, with shape :math:`(n,)`.
        draws: The number of draws behind each; 0 where the expectation is by quadrature.
    """

    elbo: np.ndarray
    draws: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "elbo", np.sort(self.elbo))

    def percentile(self, elbo: np.ndarray) -> np.ndarray:
        r"""The share in percent of calibration images with a lower ELBO; shape of ``elbo``."""
        _, as_high = counts(self.elbo, elbo)
        return 100 * (len(self.elbo) - as_high) / len(self.elbo)

    def typicality(self, elbo: np.ndarray) -> Typicality:
        r"""The p-values on both sides, with the shape of ``elbo``."""
        return typicality(self.elbo, elbo)

    def p_value(self, elbo: np.ndarray) -> np.ndarray:
        r"""The one-sided p-value on the negative ELBO, with the shape of ``elbo``.

        .. math:: p = \frac{1 + \#\{\text{calibration as low or lower}\}}{n + 1}
        """
        return self.typicality(elbo).low

    @property
    def smallest_p_value(self) -> float:
        r"""The smallest p-value that n images support, :math:`1 / (n + 1)`."""
        return 1 / (len(self.elbo) + 1)

    def false_alarms(self, p_value: float) -> FalseAlarms:
        r"""What flagging every image with a p-value at or below a threshold costs.

        Args:
            p_value: The threshold, from :math:`1 / (n + 1)` up to, not including, 1.

        Returns:
            The expected rate of false alarms and its 95 % interval
            :math:`\mathrm{Beta}(k, n + 1 - k)`.

        Raises:
            ValueError: If n images don't support the threshold.
        """
        # Imported here: half a second and 40 MB that most scores need not pay.
        from scipy.stats import beta

        n = len(self.elbo)
        if not self.smallest_p_value <= p_value < 1:
            raise ValueError(
                f"a p-value's threshold must lie in [{self.smallest_p_value:.4g}, 1), which is "
                f"what {n} calibration images support, not {p_value}."
            )
        # A hair more, so that 5 / 500 in binary counts as five.
        rank = math.floor(p_value * (n + 1) + 1e-9)
        low, high = beta.ppf([0.025, 0.975], rank, n + 1 - rank)
        return FalseAlarms(
            rank=rank,
            rate=rank / (n + 1),
            low=float(low),
            high=float(high),
            smallest=self.smallest_p_value,
            threshold=float(self.elbo[rank - 1]),
        )


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
