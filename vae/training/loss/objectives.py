r"""Training objectives that are functions of each image's own terms.

Each returns one loss for each image, :math:`(B,)`; the single mean over the batch stands in the
training loop, where the loss is formed. Objectives that need the whole batch at once are kept
apart, in ``batch_objectives.py``. Whatever is trained, evaluation uses the ELBO at
:math:`\beta = 1`.

References:
    | beta-VAE (Higgins et al., 2017), eq. 4, https://openreview.net/forum?id=Sy2fzU9gl
    | Understanding disentangling in beta-VAE (Burgess et al., 2018), eq. 8,
    | https://arxiv.org/abs/1804.03599
    | Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
    | appendix C.8, https://arxiv.org/abs/1606.04934
    | Importance Weighted Autoencoders (Burda et al., 2016), eq. 8,
    | https://arxiv.org/abs/1509.00519
"""

from __future__ import annotations

from torch import Tensor

from vae.elbo.evidence.bounds import nested_bounds
from vae.elbo.terms import Terms

__all__ = ["beta_loss", "capacity_loss", "elbo_loss", "free_bits_loss", "iwae_loss"]


def elbo_loss(terms: Terms) -> Tensor:
    r"""Minus the ELBO of each image in nats, with shape :math:`(B,)`."""
    return -terms.elbo


def beta_loss(terms: Terms, beta: float | Tensor) -> Tensor:
    r"""The KL of each image weighted against its distortion (Higgins et al. 2017, eq. 4).

    Args:
        terms: The terms of each image.
        beta: The weight :math:`\beta`; at 1 the loss is minus the ELBO.

    Returns:
        :math:`\beta \, KL_n - E_q[\log p(x_n \mid z)]` in nats, with shape :math:`(B,)`.
    """
    return beta * terms.kl - terms.expected_log_likelihood


def capacity_loss(terms: Terms, weight: float, capacity: float | Tensor) -> Tensor:
    r"""Holds the KL of each image at a capacity (Burgess et al. 2018, eq. 8, image by image).

    Args:
        terms: The terms of each image.
        weight: The weight :math:`\gamma`.
        capacity: The capacity :math:`C` in nats.

    Returns:
        :math:`\gamma |KL_n - C| - E_q[\log p(x_n \mid z)]` in nats, with shape :math:`(B,)`.
    """
    return weight * (terms.kl - capacity).abs() - terms.expected_log_likelihood


def free_bits_loss(terms: Terms, free_nats: float) -> Tensor:
    r"""Charges each image and dimension at least a minimum (Kingma et al. 2016, appendix C.8).

    Args:
        terms: The terms of each image.
        free_nats: The minimum :math:`\lambda` in nats: below it a dimension costs no less.

    Returns:
        :math:`\sum_d \max(\lambda, KL_{n,d}) - E_q[\log p(x_n \mid z)]`, with shape :math:`(B,)`.
    """
    return terms.kl_per_dim.clamp_min(free_nats).sum(-1) - terms.expected_log_likelihood


def iwae_loss(log_weights: Tensor) -> Tensor:
    r"""Minus the importance-weighted bound of each image (Burda et al. 2016, eq. 8).

    Args:
        log_weights: :math:`\log p(x, z_i) - \log q(z_i \mid x)`, with shape :math:`(B, k)`.

    Returns:
        :math:`-\log \frac1k \sum_i w_i` in nats, with shape :math:`(B,)`.
    """
    return -nested_bounds(log_weights, [log_weights.shape[-1]])[..., 0]
