r"""Statistics of a whole set of codes: activity, and the batch's moments.

Nothing here belongs to one image. ``batch_moment_kl`` is the mistaken reading of the KL term,
implemented on purpose so that its consequences can be shown beside the ELBO's.

References:
    | Importance Weighted Autoencoders (Burda et al., 2016), section 5.2, for active units,
    | https://arxiv.org/abs/1509.00519
"""

from __future__ import annotations

import torch
from torch import Tensor

from vae.elbo.terms import standard_normal_kl

__all__ = ["ACTIVE_VARIANCE", "active_units", "batch_moment_kl"]

ACTIVE_VARIANCE = 0.01


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
