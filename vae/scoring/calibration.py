r"""What a score means: its place among held-out images that nothing was tuned on.

A p-value here is conformal (:mod:`vae.scoring.typicality`). Given one calibration set of n images,
the true rate of false alarms at the threshold of its k-th lowest score is a draw from
:math:`\mathrm{Beta}(k, n + 1 - k)`.

References:
    | Conditional validity of inductive conformal predictors (Vovk, 2012), proposition 2a,
    | https://arxiv.org/abs/1209.2673
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vae.scoring.typicality import Typicality, counts, typicality

__all__ = ["Calibration", "FalseAlarms"]


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
