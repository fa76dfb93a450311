r"""How far a code can be trusted: four numbers that tell when a walk leaves the data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from vae.elbo.aggregate.density import aggregate_log_density
from vae.elbo.terms import log_density
from vae.explore.round_trip import round_trip
from vae.model.face import LatentModel

__all__ = ["Profile", "nearest_means", "profile", "typical"]


class Profile(NamedTuple):
    r"""What is known about places in the latent space.

    Attributes:
        log_prior: :math:`\log p(z)` in nats, with shape :math:`(M,)`.
        log_aggregate: :math:`\log \bar q(z)` over the reference set in nats, :math:`(M,)`.
        round_trip: :math:`\lVert z - \mu(\hat x(z)) \rVert`, in latent units, :math:`(M,)`.
        distance: To the nearest posterior mean of the reference set, in latent units.
        nearest: The position of that image in the reference set, :math:`(M,)`.
    """

    log_prior: np.ndarray
    log_aggregate: np.ndarray
    round_trip: np.ndarray
    distance: np.ndarray
    nearest: np.ndarray


def profile(
    model: LatentModel,
    mu: np.ndarray,
    sigma: np.ndarray,
    codes: np.ndarray,
    left_out: tuple[int, ...] = (),
) -> Profile:
    r"""Measures codes against the prior, the data and the model's own encoder.

    Args:
        model: The model.
        mu: Posterior means of the reference set, with shape :math:`(N, D)`.
        sigma: Its posterior standard deviations, with shape :math:`(N, D)`.
        codes: The codes, with shape :math:`(M, D)`.
        left_out: Images that don't count as the nearest: the ends of a walk, say, whose distance
            to themselves would say nothing.

    Returns:
        The five numbers of each code.
    """
    z = torch.from_numpy(np.asarray(codes, dtype=np.float64))
    nearest, distance = nearest_means(mu, codes, left_out)
    zero = torch.zeros(z.shape[-1], dtype=torch.float64)
    aggregate = aggregate_log_density(torch.from_numpy(mu), torch.from_numpy(sigma), z)
    return Profile(
        log_density(zero, zero + 1, z).numpy(),
        aggregate.numpy(),
        np.linalg.norm(codes - round_trip(model, codes), axis=-1),
        distance,
        nearest,
    )


def nearest_means(
    mu: np.ndarray, codes: np.ndarray, left_out: tuple[int, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    r"""The nearest posterior mean of each code.

    Args:
        mu: Posterior means, with shape :math:`(N, D)`.
        codes: The codes, with shape :math:`(M, D)`.
        left_out: Positions that don't count.

    Returns:
        Their positions and Euclidean distances, each with shape :math:`(M,)`.
    """
    distances = torch.cdist(torch.from_numpy(np.asarray(codes)), torch.from_numpy(mu)).numpy()
    distances[:, list(left_out)] = np.inf
    nearest = distances.argmin(-1)
    return nearest, distances[np.arange(len(codes)), nearest]


def typical(model: LatentModel, mu: np.ndarray, sigma: np.ndarray, rows: np.ndarray) -> Profile:
    r"""The medians of :func:`profile` over reference images' own codes: what is usual for data.

    Args:
        model: The model.
        mu: Posterior means of the reference set, with shape :math:`(N, D)`.
        sigma: Its posterior standard deviations, with shape :math:`(N, D)`.
        rows: The images whose means are measured, with shape :math:`(M,)`; each image's distance
            is to the nearest *other* one.

    Returns:
        Numbers of shape :math:`()`; ``nearest`` is -1.
    """
    found = profile(model, mu, sigma, mu[rows])
    distances = torch.cdist(torch.from_numpy(mu[rows]), torch.from_numpy(mu)).numpy()
    distances[np.arange(len(rows)), rows] = np.inf
    medians = [np.median(field) for field in found[:3]]
    return Profile(*medians, np.median(distances.min(-1)), np.array(-1))
