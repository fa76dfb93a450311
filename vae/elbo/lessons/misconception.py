r"""The picture of the misconception: full information at no cost to the batch's distribution.

Let the means follow :math:`\mu \sim N(0, 1 - \sigma^2)` over the data, with one shared
:math:`\sigma`. Then the aggregate posterior is exactly :math:`N(0, 1)`, so that any penalty on the
batch's distribution is zero; yet each image's own KL is :math:`-\log \sigma` on average, which is
exactly the information that z carries about x.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vae.elbo.aggregate.density import batch_moment_kl
from vae.elbo.terms import standard_normal_kl

__all__ = [
    "Misconception",
    "batch_penalties",
    "expected_batch_penalty",
    "misconception",
    "misconception_means",
]


class Misconception(NamedTuple):
    r"""The population's two answers, for one dimension, in nats.

    Attributes:
        mean_kl: The mean KL of an image's posterior, :math:`-\log \sigma`; shape of ``sigma``.
        information: What z tells about x, the same number.
        batch_penalty: The KL of the aggregate to the prior: 0.
    """

    mean_kl: Tensor
    information: Tensor
    batch_penalty: Tensor


def misconception(sigma: Tensor) -> Misconception:
    r"""The population's mean KL per sample, and its penalty on the batch's distribution.

    Args:
        sigma: The shared posterior standard deviation, in (0, 1], with any shape.

    Returns:
        Both, with the shape of ``sigma``.

    Raises:
        ValueError: If a sigma lies outside (0, 1].
    """
    sigma = _checked(sigma)
    # E[mu^2] = 1 - sigma^2 stands for mu^2: the KL is linear in it.
    mean_kl = standard_normal_kl(torch.sqrt(1 - sigma.square()), 2 * sigma.log())
    moments = batch_moment_kl(torch.zeros_like(sigma)[None], torch.ones_like(sigma)[None])
    return Misconception(mean_kl, -sigma.log(), moments)


def misconception_means(sigma: Tensor, count: int, seed: int | None = None) -> Tensor:
    r"""A finite set of N images whose codes have the population's first two moments.

    "The same aggregate" holds in these moments only: N narrow Gaussians are no normal.

    Args:
        sigma: The shared standard deviation of each dimension, in (0, 1], shape :math:`(D,)`.
        count: The number :math:`N \ge 2` of images.
        seed: The seed of the draws; quantiles of the normal where there is none.

    Returns:
        The means, with mean 0 and variance :math:`1 - \sigma^2` exactly, shape :math:`(N, D)`.

    Raises:
        ValueError: If a sigma lies outside (0, 1] or ``count`` is below 2.
    """
    sigma = _checked(sigma)
    if count < 2:
        raise ValueError(f"count must be at least 2, not {count}.")
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    if seed is None:
        quantiles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        # Another order in each dimension, lest the dimensions move together.
        orders = [torch.arange(count)]
        orders += [torch.randperm(count, generator=generator) for _ in sigma[1:]]
        raw = torch.stack([torch.special.ndtri(quantiles)[order] for order in orders], -1)
    else:
        raw = torch.randn(count, len(sigma), generator=generator, dtype=torch.float64)
    raw = (raw - raw.mean(0)) / raw.std(0, correction=0)
    return raw * torch.sqrt(1 - sigma.square())


def batch_penalties(mu: Tensor, sigma: Tensor, batch: int, seed: int = 0) -> Tensor:
    r"""The batch-moment KL of each whole batch of a shuffled set.

    Args:
        mu: Posterior means, with shape :math:`(N, D)`.
        sigma: The shared standard deviations, with shape :math:`(D,)`.
        batch: The number :math:`B \le N` of images in a batch.
        seed: The seed of the order.

    Returns:
        Nats, summed over dimensions, with shape :math:`(\lfloor N / B \rfloor,)`.

    Raises:
        ValueError: If ``batch`` is out of range.
    """
    if not 2 <= batch <= len(mu):
        raise ValueError(f"batch must lie in 2..{len(mu)}, not {batch}.")
    order = torch.randperm(len(mu), generator=torch.Generator().manual_seed(seed))
    batches = mu[order[: len(mu) // batch * batch]].unflatten(0, (-1, batch))
    variance = sigma.square().expand(batch, -1)
    return torch.stack([batch_moment_kl(some, variance).sum() for some in batches])


def expected_batch_penalty(sigma: Tensor, batch: int) -> Tensor:
    r"""The mean batch-moment KL of batches from the population, in each dimension.

    A batch's mean and variance add nothing to it on average, which leaves

    .. math:: -\tfrac12 E \log\left(\tfrac{1 - \sigma^2}{B} \chi^2_{B-1} + \sigma^2\right)

    of narrow codes about :math:`1/B`, and 0 at :math:`\sigma = 1`.

    Args:
        sigma: The shared standard deviation, in (0, 1], with any shape.
        batch: The number :math:`B \ge 2` of images in a batch.

    Returns:
        Nats, with the shape of ``sigma``.

    Raises:
        ValueError: If a sigma lies outside (0, 1] or ``batch`` is below 2.
    """
    sigma = _checked(sigma)
    if batch < 2:
        raise ValueError(f"batch must be at least 2, not {batch}.")
    # Half of a chi-square variable is a Gamma one, integrated over its logarithm.
    shape = (batch - 1) / 2
    log_half = torch.linspace(-80, math.log(shape + 60) + 2, 20_001, dtype=torch.float64)
    share = torch.softmax(shape * log_half - log_half.exp(), 0)
    variance = sigma.square()[..., None]
    spread = (1 - variance) * 2 * log_half.exp() / batch
    return -0.5 * (spread + variance).log() @ share


def _checked(sigma: Tensor) -> Tensor:
    if not ((sigma > 0) & (sigma <= 1)).all():
        raise ValueError(f"sigma must lie in (0, 1], not {sigma.tolist()}.")
    return sigma.double()
