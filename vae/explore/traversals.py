r"""Walks through the latent space, decoded: traversals and samples from the prior.

References:
    | beta-VAE (Higgins et al., 2017), figure 1, for traversals,
    | https://openreview.net/forum?id=Sy2fzU9gl
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import torch

from vae.elbo.tiles import decode_means
from vae.model.face import LatentModel

__all__ = [
    "manifold_codes",
    "posterior_draws",
    "prior_codes",
    "prior_quantiles",
    "prior_samples",
    "prior_share",
    "traversal_codes",
]


def prior_quantiles(count: int, outer: float = 0.01) -> np.ndarray:
    r"""Latent values at evenly spaced quantiles of the prior.

    Args:
        count: The number of values, at least 2.
        outer: The share of the prior beyond each end.

    Returns:
        Values from the ``outer`` to the ``1 - outer`` quantile, with shape :math:`(F,)`.
    """
    shares = np.linspace(outer, 1 - outer, count)
    return np.array([NormalDist().inv_cdf(share) for share in shares])


def prior_share(values: np.ndarray) -> np.ndarray:
    r"""The share of the prior below latent values, in [0, 1], with the shape of ``values``."""
    return np.vectorize(NormalDist().cdf, otypes=[np.float64])(values)


def traversal_codes(start: np.ndarray, dims: Sequence[int], values: np.ndarray) -> np.ndarray:
    r"""Moves one latent dimension at a time.

    Args:
        start: The code that the other dimensions keep, with shape :math:`(D,)`.
        dims: The dimensions to move, one row each.
        values: The values they take: the same for all rows, :math:`(F,)`, or :math:`(R, F)`.

    Returns:
        The codes, with shape :math:`(R, F, D)`.
    """
    values = np.broadcast_to(values, (len(dims), np.shape(values)[-1]))
    codes = np.tile(np.asarray(start, dtype=np.float64), (*values.shape, 1))
    for row, dim in enumerate(dims):
        codes[row, :, dim] = values[row]
    return codes


def manifold_codes(side: int, outer: float = 0.01) -> np.ndarray:
    r"""The classic grid over a two-dimensional latent space, even in the prior's quantiles.

    Args:
        side: The number :math:`S` of places along each axis.
        outer: The share of the prior beyond each end.

    Returns:
        Codes, with shape :math:`(S, S, 2)`; the first axis is :math:`z_2` from top to bottom
        (falling), the second :math:`z_1` from left to right.

    References:
        | Auto-Encoding Variational Bayes (Kingma & Welling, 2014), figure 4.
    """
    places = prior_quantiles(side, outer)
    z2, z1 = np.meshgrid(places[::-1], places, indexing="ij")
    return np.stack((z1, z2), -1)


def prior_codes(dims: int, count: int, seed: int, temperature: float = 1.0) -> np.ndarray:
    r"""Draws codes from the prior, scaled by a temperature: :math:`z = T \epsilon`.

    Args:
        dims: The number of latent dimensions D.
        count: The number of draws N.
        seed: Their seed.
        temperature: :math:`T \ge 0`; 1 is the prior itself, less keeps to its middle.

    Returns:
        The codes, with shape :math:`(N, D)`.
    """
    return temperature * np.random.default_rng(seed).standard_normal((count, dims))


def posterior_draws(
    model: LatentModel, mu: np.ndarray, sigma: np.ndarray, count: int, seed: int
) -> np.ndarray:
    r"""Draws codes from one image's own Gaussian and decodes them.

    Args:
        model: The model.
        mu: The image's posterior mean, with shape :math:`(D,)`.
        sigma: Its posterior standard deviation, with shape :math:`(D,)`.
        count: The number of draws N.
        seed: Their seed.

    Returns:
        Images in [0, 1], with shape :math:`(N, C, H, W)`.
    """
    e = np.random.default_rng(seed).standard_normal((count, len(mu)))
    return decode_means(model, torch.from_numpy(mu + sigma * e)).numpy()


def prior_samples(model: LatentModel, count: int, seed: int) -> np.ndarray:
    r"""Draws codes from the prior and decodes them, shape :math:`(N, C, H, W)`."""
    dims = model.latent_dim
    return posterior_draws(model, np.zeros(dims), np.ones(dims), count, seed)
