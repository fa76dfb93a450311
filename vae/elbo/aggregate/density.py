r"""Statistics of a whole set of codes: activity, the batch's moments, the aggregate posterior.

Nothing here belongs to one image. ``batch_moment_kl`` is the mistaken reading of the KL term,
implemented on purpose so that its consequences can be shown beside the ELBO's.

References:
    | Importance Weighted Autoencoders (Burda et al., 2016), section 5.2, for active units,
    | https://arxiv.org/abs/1509.00519
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vae.elbo.terms import log_density, standard_normal_kl

__all__ = ["ACTIVE_VARIANCE", "active_units", "aggregate_log_density", "batch_moment_kl"]

ACTIVE_VARIANCE = 0.01

# Bounds the memory of one step, in pairs of a code and a component.
_PAIRS_AT_ONCE = 2**19


def active_units(mu: Tensor) -> Tensor:
    r"""Marks the latent dimensions whose mean moves with the image.

    Args:
        mu: Posterior means of a data set, with shape :math:`(N, D)`.

    Returns:
        Whether :math:`\mathrm{Var}_x(\mu_d) > 0.01`, with shape :math:`(D,)`.
    """
    return mu.var(0, correction=0) > ACTIVE_VARIANCE


def batch_moment_kl(mu: Tensor, variance: Tensor) -> Tensor:
    r"""The KL to N(0, 1) of a Gaussian with the *batch's* moments: the mistaken reading.

    By the law of total variance the batch's codes have mean :math:`\overline{\mu}` and variance
    :math:`\mathrm{Var}(\mu) + \overline{\sigma^2}`. This penalty can be zero while every image's
    own posterior is as narrow as it likes, so it bounds no information and gives no ELBO.

    Args:
        mu: Posterior means of a batch, with shape :math:`(B, D)`.
        variance: Posterior variances of a batch, with shape :math:`(B, D)`.

    Returns:
        The divergence in nats for each dimension, with shape :math:`(D,)`: one number for the
        whole batch, none for an image.
    """
    total = mu.var(0, correction=0) + variance.mean(0)
    return standard_normal_kl(mu.mean(0), torch.log(total))


def aggregate_log_density(
    mu: Tensor,
    sigma: Tensor,
    z: Tensor,
    owners: Tensor | None = None,
    leave_owner_out: bool = False,
) -> Tensor:
    r"""The log-density of the aggregate posterior, every component of it.

    .. math:: \log \bar q(z) = \log \frac1N \sum_n N(z; \mu_n, \operatorname{diag} \sigma_n^2)

    Args:
        mu: Posterior means, with shape :math:`(N, D)`.
        sigma: Posterior standard deviations, with shape :math:`(N, D)`.
        z: The codes, with shape :math:`(M, D)`.
        owners: For codes drawn from a component, its number, with shape :math:`(M,)`. Its share
            is then computed without cancellation, so that :math:`\bar q \ge q_n / N` holds there.
        leave_owner_out: Whether each code's own component is left out: the density that the
            N - 1 others give to it.

    Returns:
        Nats, with shape :math:`(M,)`.
    """
    mu, sigma, z = mu.double(), sigma.double(), z.double()
    precision = sigma.square().reciprocal()
    # The square, multiplied out, makes the exponents of all pairs one product of matrices.
    factors = torch.cat((-0.5 * precision, mu * precision), -1).T
    constants = log_density(mu, sigma, torch.zeros_like(mu))
    parts = []
    for rows in torch.arange(len(z)).split(max(1, _PAIRS_AT_ONCE // len(mu))):
        some = z[rows]
        exponents = torch.cat((some.square(), some), -1) @ factors + constants
        if owners is not None:
            own = owners[rows]
            exponents[torch.arange(len(rows)), own] = (
                -math.inf if leave_owner_out else log_density(mu[own], sigma[own], some)
            )
        parts.append(torch.logsumexp(exponents, -1))
    return torch.cat(parts) - math.log(len(mu) - leave_owner_out)
