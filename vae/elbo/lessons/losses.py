r"""The two usual reconstruction losses as negative log-likelihoods, and what beta means there.

A squared error *summed over pixels* with weight :math:`\beta` on the KL is a Gaussian negative
ELBO with :math:`\sigma^2 = \beta / 2`, up to scale and a constant. On any other likelihood
:math:`\beta` is no such choice.

References:
    | Don't Blame the ELBO! (Lucas et al., 2019), for the role of the variance,
    | https://arxiv.org/abs/1911.02469
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, Independent, Normal

from vae.elbo.terms import log_likelihood

__all__ = ["binary_cross_entropy", "gaussian_from_error", "implied_variance", "refitted_gaussian"]


def binary_cross_entropy(x: np.ndarray, mean: np.ndarray) -> tuple[float, float]:
    r"""The binary cross-entropy summed over pixels, and minus the Bernoulli log-likelihood.

    Args:
        x: The image, with shape :math:`(C, H, W)`.
        mean: The reconstruction, strictly between 0 and 1, with the same shape.

    Returns:
        Both in nats, each by its own computation.
    """
    x, mean = (torch.from_numpy(np.asarray(a, dtype=np.float64)) for a in (x, mean))
    p = Independent(Bernoulli(mean, validate_args=False), 3, validate_args=False)
    return float(F.binary_cross_entropy(mean, x, reduction="sum")), -float(log_likelihood(p, x))


def gaussian_from_error(x: np.ndarray, mean: np.ndarray, sigma: float) -> tuple[float, float]:
    r"""Minus the Gaussian log-likelihood from the squared error, and from the density itself.

    Args:
        x: The image, with shape :math:`(C, H, W)`.
        mean: The reconstruction, with the same shape.
        sigma: The standard deviation :math:`\sigma`.

    Returns:
        Both in nats, each by its own computation.
    """
    x, mean = (torch.from_numpy(np.asarray(a, dtype=np.float64)) for a in (x, mean))
    error = float((x - mean).square().sum())
    formula = error / (2 * sigma**2) + 0.5 * x.numel() * math.log(2 * math.pi * sigma**2)
    p = Independent(Normal(mean, sigma, validate_args=False), 3, validate_args=False)
    return formula, -float(log_likelihood(p, x))


def implied_variance(kind: Literal["sum", "half", "mean"], beta: float, pixels: int) -> float:
    r"""The Gaussian variance that a weight on the KL beside a squared error amounts to.

    Args:
        kind: The error: its ``sum`` over pixels, ``half`` of that, or its ``mean`` over pixels.
        beta: The weight of the KL.
        pixels: The number of pixel values P.

    Returns:
        :math:`\beta/2`, :math:`\beta` or :math:`\beta P / 2`.

    Raises:
        ValueError: If the kind is unknown.
    """
    match kind:
        case "sum":
            return beta / 2
        case "half":
            return beta
        case "mean":
            return beta * pixels / 2
    raise ValueError(f"kind must be 'sum', 'half' or 'mean', not {kind!r}.")


def refitted_gaussian(
    expected_log_likelihood: float, sigma: float, pixels: int
) -> tuple[float, float]:
    r"""Lets the sigma of a Gaussian likelihood follow its errors, codes and decoder as they are.

    A Gaussian model trained with :math:`\beta \ne 1` at a fixed sigma behaves like one of another
    sigma (identity of :func:`implied_variance`), and its ELBO at the nominal sigma undersells it.
    The mean expected log-likelihood gives the mean squared error back, which is the best variance.

    Args:
        expected_log_likelihood: Its mean over images, in nats, at ``sigma``.
        sigma: The standard deviation behind it.
        pixels: The number of pixel values P.

    Returns:
        The best sigma, and the mean expected log-likelihood at it, in nats.
    """
    constant = 0.5 * pixels * math.log(2 * math.pi * sigma**2)
    variance = 2 * sigma**2 * (-expected_log_likelihood - constant) / pixels
    return math.sqrt(variance), -0.5 * pixels * (math.log(2 * math.pi * variance) + 1)
