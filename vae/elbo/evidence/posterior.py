r"""The true posterior :math:`p(z \mid x)` of one image, where :math:`D \le 2` makes it exact.

.. math:: p(z \mid x) = \frac{p(x \mid z) \, p(z)}{p(x)}

Its moments are sums over the nodes whose sum is the evidence, so that picture, mean and
:math:`\log p(x)` can never disagree.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vae.elbo.evidence.quadrature import Quadrature, quadrature
from vae.elbo.tiles import log_joint
from vae.model.face import LatentModel

__all__ = ["PosteriorGrid", "moments", "true_posterior"]


class PosteriorGrid(NamedTuple):
    r"""One image's true posterior: its density on a regular grid, and its exact moments.

    Attributes:
        axes: The grid's coordinates along each dimension, with shape :math:`(D, G)`.
        density: :math:`p(z \mid x)`, with shape :math:`(G,)`, or :math:`(G, G)` with one row for
            each value of the *second* dimension, as heat maps take it.
        mean: The posterior mean, with shape :math:`(D,)`.
        covariance: The posterior covariance, with shape :math:`(D, D)`.
        log_evidence: :math:`\log p(x)` in nats, NaN where out of reach, with shape :math:`()`.
        error: Its numerical error in nats, with shape :math:`()`.
    """

    axes: Tensor
    density: Tensor
    mean: Tensor
    covariance: Tensor
    log_evidence: Tensor
    error: Tensor


def moments(nodes: Tensor, masses: Tensor) -> tuple[Tensor, Tensor]:
    r"""The mean :math:`(D,)` and covariance :math:`(D, D)` of masses (N,) on nodes (N, D)."""
    mean = masses @ nodes
    away = nodes - mean
    return mean, away.T @ (masses[:, None] * away)


@torch.inference_mode()
def true_posterior(
    model: LatentModel,
    image: Tensor,
    mu: Tensor,
    window: Tensor | None = None,
    resolution: int = 101,
    found: Quadrature | None = None,
) -> PosteriorGrid:
    r"""Computes one image's true posterior by quadrature.

    Args:
        model: A model with :math:`D \le 2`.
        image: The image as the model sees it, with shape :math:`(C, H, W)`.
        mu: The mean of :math:`q(z \mid x)`, with shape :math:`(D,)`.
        window: The grid's least and greatest coordinate along each dimension, with shape
            :math:`(D, 2)`; four standard deviations about the mean where not given.
        resolution: The number :math:`G` of grid points along each dimension.
        found: The image's quadrature, for a caller that has it.

    Returns:
        The posterior. Where the grid is coarser than the nodes, each point shows the mean density
        of its surroundings, so that a peak between two points isn't lost.

    Raises:
        ValueError: If :math:`D > 2`, or the window or the resolution makes no grid.
    """
    if resolution < 2:
        raise ValueError(f"resolution must be at least 2, not {resolution}.")
    found = quadrature(model, image, mu) if found is None else found
    mean, covariance = moments(found.nodes, found.masses)
    if found.log_evidence.isnan():
        mean, covariance = mean * math.nan, covariance * math.nan
    if window is None:
        reach = 4 * covariance.diagonal().sqrt().nan_to_num(1.0)
        middle = torch.where(mean.isnan(), mu.double(), mean)
        window = torch.stack((middle - reach, middle + reach), -1)
    window = window.double()
    if window.shape != (len(mu), 2) or not (window[:, 0] < window[:, 1]).all():
        raise ValueError(f"window must hold {len(mu)} rising pairs, not {window.tolist()}.")
    axes = torch.stack(
        [torch.linspace(*pair.tolist(), resolution, dtype=torch.float64) for pair in window]
    )
    spacing = axes[:, 1] - axes[:, 0]
    if found.log_evidence.isnan() or spacing.min() <= found.step:
        points = torch.cartesian_prod(*axes).reshape(-1, len(mu))
        density = torch.exp(log_joint(model, image, points) - found.log_evidence)
    else:
        density = _spread(found, axes[:, 0], spacing, resolution) / spacing.prod()
    density = density.reshape([resolution] * len(mu)).permute(*reversed(range(len(mu))))
    return PosteriorGrid(
        axes, density.contiguous(), mean, covariance, found.log_evidence, found.error
    )


def _spread(found: Quadrature, first: Tensor, spacing: Tensor, count: int) -> Tensor:
    """Shares each node's mass among the grid points around it, by distance; (count ** D,)."""
    dims = len(spacing)
    place = (found.nodes - first) / spacing
    low = place.floor()
    grid = torch.zeros(count**dims, dtype=torch.float64)
    for corner in torch.cartesian_prod(*[torch.arange(2)] * dims).reshape(-1, dims):
        share = torch.where(corner.bool(), place - low, 1 - (place - low)).prod(-1)
        index = low.long() + corner
        inside = ((index >= 0) & (index < count)).all(-1)
        flat = (index * torch.tensor([count**d for d in reversed(range(dims))])).sum(-1)
        grid.index_add_(0, flat[inside], (found.masses * share)[inside])
    return grid
