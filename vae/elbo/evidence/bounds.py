r"""The importance-weighted bounds :math:`L_k` on :math:`\log p(x)`, alone and as a ladder.

References:
    | Importance Weighted Autoencoders (Burda et al., 2016), eq. 8 and theorem 1,
    | https://arxiv.org/abs/1509.00519
    | A note on effective sample size (Kong, 1992)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.elbo.seen import Seen
from vae.elbo.terms import standard_normal_log_density
from vae.elbo.tiles import log_sum_exp, node_log_likelihoods, row_sums

__all__ = [
    "RUNGS",
    "Bound",
    "Ladder",
    "bound_ladder",
    "estimate_bound",
    "importance_bound",
    "importance_draws",
    "nested_bounds",
    "weigh_draws",
]


RUNGS = (1, 5, 50, 5_000)


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


class Ladder(NamedTuple):
    r"""The bounds :math:`L_k` of one image.

    Attributes:
        rungs: The numbers k, with shape :math:`(G,)`.
        values: The bounds in nats, rising, with shape :math:`(G,)`.
        standard_errors: Their standard errors in nats, with shape :math:`(G,)`.
        effective_samples: The effective sample size of all draws together.
        z: The draws, with shape :math:`(K, D)`.
        weights: Their normalised importance weights, which sum to 1, with shape :math:`(K,)`.
    """

    rungs: tuple[int, ...]
    values: np.ndarray
    standard_errors: np.ndarray
    effective_samples: float
    z: np.ndarray
    weights: np.ndarray


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


@torch.inference_mode()
def bound_ladder(seen: Seen, rungs: tuple[int, ...] = RUNGS) -> Ladder:
    r"""Computes an image's nested bounds from one set of draws, as many as the last rung.

    Args:
        seen: The image; the draws are those of the score's own bound.
        rungs: The numbers k, each dividing the next.

    Returns:
        The ladder.
    """
    z, log_weights = importance_draws(seen, rungs[-1])
    values = nested_bounds(log_weights, rungs)[0]
    last = importance_bound(log_weights)
    errors = []
    for k in rungs[:-1]:
        blocks = torch.logsumexp(log_weights[0].unflatten(0, (-1, k)), -1) - math.log(k)
        errors.append(float(blocks.std() / math.sqrt(len(blocks))))
    return Ladder(
        rungs=rungs,
        values=values.numpy(),
        standard_errors=np.array([*errors, float(last.standard_error[0])]),
        effective_samples=float(last.effective_samples[0]),
        z=z[0].numpy(),
        weights=torch.softmax(log_weights[0], 0).numpy(),
    )
