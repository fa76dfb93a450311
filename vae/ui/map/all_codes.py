"""What the latent map computes from all codes, cached.

How the aggregate posterior compares with the prior, and places of codes by PCA and t-SNE.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import numpy as np
import torch

from vae.elbo.aggregate.density import aggregate_log_density
from vae.elbo.aggregate.holes import Holes, holes
from vae.explore.projection import TSNE_MOST, Principal, principal_axes, tsne, vary
from vae.store.checkpoint import Checkpoint
from vae.ui import access
from vae.ui.caches import cached, shared

__all__ = [
    "COMPONENTS",
    "all_equal",
    "components",
    "densities",
    "hole_examples",
    "hole_share",
    "log_ratio",
    "principal",
    "tsne_places",
]

# Images whose Gaussians stand for all of them where there are more: the aggregate posterior costs
# one evaluation for each pair of an image and a place.
COMPONENTS = 3_000


def components(model: Checkpoint) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The Gaussians that make up the aggregate: all, or where there are many a random part."""
    table = access.table(model)
    rows = np.arange(len(table.mu))
    if len(rows) > COMPONENTS:
        rows = np.sort(np.random.default_rng(0).choice(len(rows), COMPONENTS, replace=False))
    return torch.from_numpy(table.mu[rows]), torch.from_numpy(table.sigma[rows]), len(rows)


@cached(max_entries=32)
def hole_share(model: Checkpoint, dims: tuple[int, ...]) -> Holes:
    """How much of the prior falls where no data lie, in some of the dimensions."""
    mu, sigma, _ = components(model)
    return holes(mu[:, dims], sigma[:, dims])


@cached(max_entries=8)
def hole_examples(
    model: Checkpoint, count: int, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Codes drawn from the prior, ``count`` of those in holes and of those outside, or fewer."""
    mu, sigma, _ = components(model)
    codes = torch.randn(400, mu.shape[1], generator=torch.Generator().manual_seed(1)).double()
    below = (aggregate_log_density(mu, sigma, codes) < threshold).numpy()
    return codes.numpy()[below][:count], codes.numpy()[~below][:count]


@shared(max_entries=4, show_spinner="Comparing codes with the prior")
def log_ratio(model: Checkpoint) -> np.ndarray:
    r"""Each sample's :math:`\log \bar q(\mu) / p(\mu)` in nats, with shape :math:`(N,)`."""
    mu, sigma, _ = components(model)
    z = torch.from_numpy(access.table(model).mu)
    zero = torch.zeros(1, z.shape[1])
    prior = aggregate_log_density(zero, torch.ones_like(zero), z)
    return (aggregate_log_density(mu, sigma, z) - prior).numpy()


def densities(model: Checkpoint, z: np.ndarray) -> np.ndarray:
    r"""Of one latent dimension: :math:`\bar q(z)` and :math:`p(z)`, (G) to (2, G)."""
    mu, sigma, _ = components(model)
    at, zero = torch.from_numpy(z)[:, None], torch.zeros(1, 1)
    logs = aggregate_log_density(mu, sigma, at), aggregate_log_density(zero, zero + 1, at)
    return torch.stack(logs).exp().numpy()


@cached(max_entries=32)
def all_equal(model: Checkpoint) -> bool:
    """Whether all codes are one, so that there is no direction in which they vary."""
    return not vary(model.reference.mu)


@cached(max_entries=8)
def principal(model: Checkpoint) -> Principal:
    """The two directions in which codes vary most."""
    return principal_axes(model.reference.mu)


def tsne_places(
    model: Checkpoint, sample: int, report: Callable[[int, int], None]
) -> tuple[np.ndarray, int]:
    """Places of codes by t-SNE, computed once a model, and how many codes have one.

    Args:
        model: The model.
        sample: The chosen sample, which is among the codes where only some are taken.
        report: Called with the steps done and the steps in all.

    Returns:
        Places with shape (N, 2), NaN where a code was left out, and their number.
    """
    mu = model.reference.mu
    rows = np.arange(len(mu))
    if len(mu) > TSNE_MOST:
        some = np.random.default_rng(0).choice(len(mu), TSNE_MOST, replace=False)
        # One that was left out takes the place of one that was not.
        rows = some if sample in some else np.append(some[:-1], sample)
    kept = _tsne_kept(model)
    with _tsne_turn():
        if "places" not in kept or np.isnan(kept["places"][sample]).any():
            places = np.full((len(mu), 2), np.nan)
            places[rows] = tsne(mu[rows], report=report)
            kept["places"] = places
    return kept["places"], len(rows)


@shared(max_entries=8)
def _tsne_kept(model: Checkpoint) -> dict[str, np.ndarray]:
    return {}


@shared()
def _tsne_turn() -> Lock:
    return Lock()
