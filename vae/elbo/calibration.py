r"""What a score means: its place among held-out images that nothing was tuned on.

A p-value here is conformal: if the new image is exchangeable with the calibration images, then
:math:`P(p \le \alpha) \le \alpha` for every :math:`\alpha`, whatever the model.

References:
    | Algorithmic Learning in a Random World (Vovk et al., 2005), chapter 2
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Calibration"]


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
        return 100 * np.searchsorted(self.elbo, elbo, side="left") / len(self.elbo)

    def p_value(self, elbo: np.ndarray) -> np.ndarray:
        r"""The one-sided p-value on the negative ELBO, with the shape of ``elbo``.

        .. math:: p = \frac{1 + \#\{\text{calibration as low or lower}\}}{n + 1}
        """
        return (1 + np.searchsorted(self.elbo, elbo, side="right")) / (len(self.elbo) + 1)

    @property
    def smallest_p_value(self) -> float:
        r"""The smallest p-value that n images support, :math:`1 / (n + 1)`."""
        return 1 / (len(self.elbo) + 1)
