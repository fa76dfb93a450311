r"""Holes: where the prior puts mass and no data lie. Why samples can look like noise.

Let :math:`\bar q(z)` be the aggregate posterior of N images, and :math:`t` the level that the
images' own codes reach with probability :math:`1 - \alpha`, each judged by the *others*:

.. math::
    t = \alpha\text{-quantile of } \log \bar q_{-n}(z_n), \quad z_n \sim q(z \mid x_n), \quad
    \bar q_{-n} = \frac{1}{N-1} \sum_{m \ne n} q_m

A place is a hole where :math:`\log \bar q(z) < t`: the data's codes are thinner there than at
:math:`1 - \alpha` of the codes themselves. Leaving each image out makes the level fair: a further
image of the same kind falls into a hole with probability of about :math:`\alpha`, whatever N, D
and :math:`\sigma` are. The share of *prior* draws that fall there is then to be compared with
:math:`\alpha`, and equals it where the aggregate posterior is the prior.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vae.elbo.aggregate.density import aggregate_log_density

__all__ = ["Holes", "holes"]

_RESAMPLES = 200


class Holes(NamedTuple):
    r"""How much of the prior lies where no data do.

    Attributes:
        level: The share :math:`\alpha` of the data's own codes below the threshold.
        threshold: The log-density :math:`t` in nats below which a place is a hole.
        share: The share of prior draws that land in holes.
        share_se: Its standard error, of the draws and of the threshold together.
        draws: The number of prior draws.
        components: The number of images whose Gaussians make up :math:`\bar q`.
    """

    level: float
    threshold: float
    share: float
    share_se: float
    draws: int
    components: int


def holes(
    mu: Tensor, sigma: Tensor, draws: int = 4_000, level: float = 0.01, seed: int = 0
) -> Holes:
    r"""Finds the level below which a place is a hole, and the prior's share of such places.

    Args:
        mu: Posterior means, with shape :math:`(N, D)`, :math:`N \ge 2`.
        sigma: Posterior standard deviations, with shape :math:`(N, D)`.
        draws: Draws from the prior, and about as many from the images' own posteriors.
        level: The share :math:`\alpha` of the data's codes that may lie below the threshold.
        seed: The seed of all draws.

    Raises:
        ValueError: If there are fewer than 2 images, or ``level`` lies outside (0, 1).
    """
    count, dims = mu.shape
    if count < 2:
        raise ValueError("holes need at least 2 images: each is judged by the others.")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), not {level}.")
    mu, sigma = mu.double(), sigma.double()
    generator = torch.Generator().manual_seed(seed)
    owners = torch.arange(count).repeat(max(1, -(-draws // count)))
    noise = torch.randn(len(owners), dims, generator=generator, dtype=torch.float64)
    own = mu[owners] + sigma[owners] * noise
    density = aggregate_log_density(mu, sigma, own, owners, leave_owner_out=True)
    threshold = float(density.quantile(level))
    prior = torch.randn(draws, dims, generator=generator, dtype=torch.float64)
    of_prior = aggregate_log_density(mu, sigma, prior).sort().values
    share = _below(of_prior, torch.tensor([threshold]))
    # The threshold is a sampled number too: images, with all their draws, are drawn anew.
    by_image = density.reshape(-1, count)
    again = torch.randint(count, (_RESAMPLES, count), generator=generator)
    levels = torch.stack([by_image[:, rows].flatten().quantile(level) for rows in again])
    variance = share * (1 - share) / draws + _below(of_prior, levels).var(0)
    return Holes(level, threshold, float(share), math.sqrt(float(variance)), draws, count)


def _below(ordered: Tensor, thresholds: Tensor) -> Tensor:
    """The share of sorted values below each threshold."""
    return torch.searchsorted(ordered, thresholds).squeeze().double() / len(ordered)
