r"""Penalties that belong to a batch and to no image in it.

They are kept apart because the KL of the ELBO is not one of them. Under several processes
``gather`` joins the shares of the batch, with gradients, so that the penalty is that of the whole
batch and not of one process's share.

References:
    | Isolating Sources of Disentanglement in VAEs (Chen et al., 2018), eq. 2 and appendix C,
    | https://arxiv.org/abs/1802.04942
    | Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
    | eq. 15, https://arxiv.org/abs/1606.04934
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae.elbo.aggregate.density import batch_moment_kl
from vae.elbo.terms import log_density

__all__ = ["free_bits_penalty", "moment_penalty", "total_correlation"]

Gather = Callable[[Tensor], Tensor]


def moment_penalty(posterior: Distribution, gather: Gather) -> Tensor:
    r"""The mistaken reading of the KL: the batch's moments against N(0, I), a scalar in nats.

    Args:
        posterior: :math:`q(z \mid x)` of this process's images.
        gather: Joins the shares of the batch, :math:`(B', *)` to :math:`(B, *)`.
    """
    return batch_moment_kl(gather(posterior.mean), gather(posterior.variance)).sum()


def free_bits_penalty(kl_per_dim: Tensor, free_nats: float, gather: Gather) -> Tensor:
    r"""Free bits as published: the minimum holds for the batch's mean (Kingma et al., eq. 15).

    Args:
        kl_per_dim: :math:`KL_{n,d}` of this process's images in nats, :math:`(B', D)`.
        free_nats: The minimum :math:`\lambda` in nats.
        gather: Joins the shares of the batch.

    Returns:
        :math:`\sum_d \max(\lambda, \overline{KL_d})` in nats, a scalar. One image may pay below
        the minimum where another pays above, which the per-sample form doesn't allow.
    """
    return gather(kl_per_dim).mean(0).clamp_min(free_nats).sum()


def total_correlation(
    z: Tensor,
    mu: Tensor,
    sigma: Tensor,
    first: int,
    images: int,
    estimator: Literal["weighted", "stratified"],
) -> Tensor:
    r"""Estimates :math:`\log \bar q(z) - \sum_d \log \bar q_d(z_d)` at each image's code.

    Its mean over images estimates the total correlation of the aggregate posterior. The
    *weighted* estimator (eq. S5) takes the batch for the data set, scaled by 1/N; it is biased
    downwards. The *stratified* one (appendix C.2) gives an image's own component its true weight
    1/N and the rest of the batch the remainder. Here the rest shares evenly, where the paper
    singles out one image by its place in the batch: the same expectation over batches, and exact
    once the batch is the data set.

    Args:
        z: The codes of this process's images, with shape :math:`(B', D)`.
        mu: The means of the whole batch, with shape :math:`(B, D)`.
        sigma: The standard deviations of the whole batch, with shape :math:`(B, D)`.
        first: The place in the batch of this process's first image.
        images: The number :math:`N` of training images.
        estimator: ``weighted`` or ``stratified``.

    Returns:
        Nats, with shape :math:`(B',)`.
    """
    batch = len(mu)
    own = torch.arange(first, first + len(z), device=z.device)[:, None]
    mates = torch.arange(batch, device=z.device) != own
    if estimator == "weighted":
        weight = mu.new_full(mates.shape, -math.log(images * batch))
    else:
        rest = math.log(max(1, images - 1) / (images * max(1, batch - 1)))
        weight = mu.new_full(mates.shape, rest).masked_fill(~mates, -math.log(images))
    # A last axis of one makes each dimension a density of its own, (B', B, D).
    per_dim = log_density(mu[..., None], sigma[..., None], z[:, None, :, None])
    joint = torch.logsumexp(per_dim.sum(-1) + weight, 1)
    marginals = torch.logsumexp(per_dim + weight[..., None], 1)
    return joint - marginals.sum(-1)
