r"""The importance-weighted bounds :math:`L_k` on :math:`\log p(x)`.

References:
    | Importance Weighted Autoencoders (Burda et al., 2016), eq. 8, https://arxiv.org/abs/1509.00519
    | A note on effective sample size (Kong, 1992)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vae.elbo.nodes import log_sum_exp, node_log_likelihoods
from vae.elbo.seen import Seen
from vae.elbo.terms import standard_normal_log_density
from vae.elbo.tiles import row_sums

__all__ = [
    "Bound",
    "estimate_bound",
    "importance_bound",
    "importance_draws",
    "nested_bounds",
    "weigh_draws",
]


class Bound(NamedTuple):
    r"""An importance-weighted bound of each image.

    Attributes:
        value: The estimate of :math:`L_k` in nats, with shape :math:`(B,)`.
        standard_error: Of the estimate, by the delta method, with shape :math:`(B,)`. It can
            mislead where q misses posterior mass; a small effective sample size is the warning.
        effective_samples: :math:`(\sum w)^2 / \sum w^2`, between 1 and k, with shape :math:`(B,)`.
    """

    value: Tensor
    standard_error: Tensor
    effective_samples: Tensor


@torch.inference_mode()
def estimate_bound(seen: Seen, k: int) -> Bound:
    r"""Takes the bound :math:`L_k` of images, each by itself.

    Args:
        seen: The images.
        k: The number of draws.

    Returns:
        The bounds.

    Raises:
        ValueError: If ``k`` is out of range.
    """
    if not 1 <= k <= 1_000_000:
        raise ValueError(f"importance_samples must lie in 0..1000000, not {k}.")
    parts = [importance_bound(importance_draws(part, k)[1]) for part in seen.parts(k)]
    return Bound(*(torch.cat(column) for column in zip(*parts, strict=True)))


def importance_draws(seen: Seen, k: int) -> tuple[Tensor, Tensor]:
    """So many draws of each q, (B, k, D), and their log importance weights, (B, k)."""
    return weigh_draws(seen, seen.normals("importance", k))


def weigh_draws(seen: Seen, e: Tensor) -> tuple[Tensor, Tensor]:
    r"""Draws of q and their log importance weights :math:`\log p(x, z) - \log q(z \mid x)`.

    Args:
        seen: The images.
        e: Standard normals, with shape :math:`(B, k, D)`.

    Returns:
        The draws :math:`\mu + \sigma e`, with that shape, and their log-weights, (B, k).
    """
    z = seen.codes(e)
    # log N(z; mu, sigma^2) at z = mu + sigma e.
    log_posterior = standard_normal_log_density(e) - seen.sigma.log().sum(-1)[:, None]
    log_joint = node_log_likelihoods(seen.model, seen.x, z) + seen.model.prior.log_prob(z)
    return z, log_joint - log_posterior


def importance_bound(log_weights: Tensor) -> Bound:
    r"""The importance-weighted bound :math:`L_k = \log \frac1k \sum_i w_i` from its log-weights.

    Args:
        log_weights: :math:`\log p(x, z_i) - \log q(z_i \mid x)`, with shape :math:`(B, k)`.

    Returns:
        The bound with its standard error and effective sample size.
    """
    draws = log_weights.shape[-1]
    value = log_sum_exp(log_weights) - math.log(draws)
    # Weights relative to their mean, so that nothing overflows and their own mean is 1.
    relative = torch.exp(log_weights - value[..., None])
    # 0 / 0 for a single draw, which has no standard error.
    spread = torch.sqrt(row_sums((relative - 1).square()) / (draws - 1))
    effective = draws**2 / row_sums(relative.square())
    return Bound(value, spread / math.sqrt(draws), effective)


def nested_bounds(log_weights: Tensor, groups: Sequence[int]) -> Tensor:
    r"""The ladder of bounds :math:`L_k` from the *same* draws by nested block averages.

    Estimates from separate draws come out in the wrong order for a third of images. Averages over
    nested blocks rise exactly, by Jensen's inequality, on every image.

    Args:
        log_weights: The log-weights, with shape :math:`(B, K)`.
        groups: The rungs k, each dividing the next and the last dividing K.

    Returns:
        The bounds, with shape :math:`(B, G)`, rising along the last axis.

    Raises:
        ValueError: If a rung doesn't divide the next.
    """
    total = log_weights.shape[-1]
    for small, large in zip(groups, [*groups[1:], total], strict=True):
        if large % small:
            raise ValueError(f"each rung must divide the next: {small} doesn't divide {large}.")
    rungs = [
        (torch.logsumexp(log_weights.unflatten(-1, (-1, k)), -1) - math.log(k)).mean(-1)
        for k in groups
    ]
    return torch.stack(rungs, -1)
