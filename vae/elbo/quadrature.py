r"""Integrals over a latent space of one or two dimensions.

Two rules: Gauss-Hermite nodes for an expectation under a Gaussian that is known, and a two-stage
grid for the integrand :math:`p(x \mid z) p(z)`, of which only the grid's own scan tells where it
lives. The evidence, the true posterior and its moments are sums over the same nodes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from vae.elbo.terms import log_density, log_likelihood
from vae.elbo.tiles import decoder_rows, map_tiles, row_sums
from vae.model.vae import LatentModel

__all__ = [
    "CoarseScan",
    "Quadrature",
    "coarse_scan",
    "hermite_nodes",
    "log_joint",
    "log_sum_exp",
    "node_log_likelihoods",
    "quadrature",
]

_STEP = 0.2
_REACHES = (35, 70, 140, 280)
# A pixel value takes 4 bytes for each of the scan's codes: at most 128 MiB are kept.
_KEPT = 2**25


class CoarseScan(NamedTuple):
    r"""The decoded cells of the coarse scan: the same for every image, so decoded once.

    Attributes:
        cells: The middles of the cells, with shape :math:`(N, D)`.
        tiles: :math:`p(x \mid z)` at them, in tiles of batch shape :math:`(R)`.
    """

    cells: Tensor
    tiles: tuple[Distribution, ...]


class Quadrature(NamedTuple):
    r"""One image's integrand on the fine nodes.

    Attributes:
        nodes: The codes, with shape :math:`(N, D)`.
        log_joint: :math:`\log p(x, z)` at them in nats, with shape :math:`(N,)`.
        step: The distance of neighbouring nodes; a node stands for ``step ** D``.
        log_evidence: :math:`\log p(x)` in nats, NaN where out of reach, with shape :math:`()`.
        error: The change at the last halving of the step, in nats, with shape :math:`()`.
    """

    nodes: Tensor
    log_joint: Tensor
    step: float
    log_evidence: Tensor
    error: Tensor

    @property
    def masses(self) -> Tensor:
        r"""The posterior mass :math:`p(z \mid x) h^D` of each node; they sum to 1, (N,)."""
        return torch.softmax(self.log_joint, 0)


def hermite_nodes(dims: int, nodes: int = 12) -> tuple[Tensor, Tensor]:
    r"""Gauss-Hermite nodes for an expectation under a standard normal.

    Args:
        dims: The number :math:`D` of dimensions, 1 or 2.
        nodes: The number of nodes a dimension.

    Returns:
        The nodes, with shape :math:`(S, D)`, and their weights, which sum to 1, :math:`(S,)`.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    grid = [torch.from_numpy(points)] * dims
    masses = [torch.from_numpy(weights)] * dims
    return (
        torch.cartesian_prod(*grid).reshape(-1, dims),
        torch.cartesian_prod(*masses).reshape(-1, dims).prod(-1),
    )


def node_log_likelihoods(model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    r"""The log-likelihood of each image at each of its own codes.

    Args:
        model: The model.
        x: The images, with shape :math:`(B, C, H, W)`.
        z: The codes, with shape :math:`(B, S, D)`.

    Returns:
        :math:`\log p(x_b \mid z_{bs})` in nats, float64, with shape :math:`(B, S)`.
    """
    images, draws, dims = z.shape
    codes = z.reshape(-1, dims).to(x.dtype)

    def tile(rows: Tensor) -> Tensor:
        first, last = int(rows[0]) // draws, int(rows[-1]) // draws
        # A tile within one image needs no copy of it for each row.
        images_of = x[first] if first == last else x.index_select(0, rows // draws)
        return log_likelihood(model.decode(codes.index_select(0, rows)), images_of)

    return map_tiles(decoder_rows(model.config), images * draws, tile).reshape(images, draws)


def log_joint(model: LatentModel, image: Tensor, z: Tensor) -> Tensor:
    r""":math:`\log p(x, z)` of one image :math:`(C, H, W)` at codes :math:`(N, D)`, (N,)."""
    return node_log_likelihoods(model, image[None], z[None])[0] + _log_prior(z)


def log_sum_exp(values: Tensor) -> Tensor:
    r"""The log of the sum of exponentials along the last axis, by :func:`row_sums`."""
    most = values.amax(-1, keepdim=True)
    return row_sums(torch.exp(values - most)).log() + most[..., 0]


def coarse_scan(model: LatentModel) -> CoarseScan | None:
    r"""Decodes the cells of the coarse scan, for many images of one model.

    Args:
        model: A model with :math:`D \le 2`.

    Returns:
        The scan; none where its images are too large to be kept.
    """
    rows, cells = decoder_rows(model.config), _cells(model.config.latent_dim, _REACHES[0])
    if len(cells) * model.config.image.pixels > _KEPT:
        return None
    codes, tiles = cells.to(torch.float32), []

    def tile(indices: Tensor) -> Tensor:
        tiles.append(model.decode(codes[indices]))
        return indices

    with torch.no_grad():
        map_tiles(rows, len(cells), tile)
    return CoarseScan(cells, tuple(tiles))


def quadrature(
    model: LatentModel,
    image: Tensor,
    mu: Tensor,
    tolerance: float = 1e-4,
    halvings: int = 3,
    scan: CoarseScan | None = None,
) -> Quadrature:
    r"""Lays the nodes for :math:`\int p(x \mid z) p(z) dz` and evaluates the integrand there.

    A coarse scan (step 0.2 on [-7, 7]) finds where the integrand lives; the cells within 14 nats
    of its maximum, their neighbours and those around ``mu`` are integrated at step 0.025, and at
    half of that as long as the last halving still moved the result. Refining around ``mu`` alone
    would fail: q can miss the posterior's mass. A foreign image may have its mass farther out:
    then the scan reaches twice as far, three times at most, after which the result is NaN.

    Args:
        model: A model with :math:`D \le 2`.
        image: The image, with shape :math:`(C, H, W)`.
        mu: The posterior mean of q, with shape :math:`(D,)`.
        tolerance: The error in nats at which halving stops.
        halvings: The most halvings after the first fine step.
        scan: The decoded coarse cells, where they are there already.

    Returns:
        The nodes and the integral.

    Raises:
        ValueError: If :math:`D > 2`.
    """
    if len(mu) > 2:
        raise ValueError(f"exact evidence needs at most 2 latent dimensions, not {len(mu)}.")
    centre = mu.double()
    for reach in _REACHES:
        active, whole = _active_cells(model, image, centre, reach, scan)
        if whole:
            break
        scan = None
    nan = torch.full((), math.nan, dtype=torch.float64)
    result = Quadrature(active[:0], active[:0, 0], _STEP, nan, nan)
    parts = 8
    while whole:
        result = _integrate(model, image, active, parts)
        if result.error <= tolerance or parts >= 8 * 2**halvings:
            break
        parts *= 2
    return result


def _log_prior(z: Tensor) -> Tensor:
    return log_density(torch.zeros(1), torch.ones(1), z)


def _cells(dims: int, reach: int) -> Tensor:
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64) * _STEP
    return torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)


def _active_cells(
    model: LatentModel, image: Tensor, centre: Tensor, reach: int, scan: CoarseScan | None
) -> tuple[Tensor, bool]:
    """The cells (N, D) worth integrating, and whether they are all within reach."""
    dims = len(centre)
    if scan is None:
        cells = _cells(dims, reach)
        values = log_joint(model, image, cells)
    else:
        cells = scan.cells
        parts = [log_likelihood(tile, image) for tile in scan.tiles]
        values = torch.cat(parts)[: len(cells)] + _log_prior(cells)
    least = values.max() - 14
    keep = values > least
    outside = bool((cells[keep].abs() > (reach - 0.5) * _STEP).any())
    if centre.abs().max() > reach * _STEP:
        outside |= bool(log_joint(model, image, centre[None])[0] > least)
    keep |= ((cells - centre).abs() <= _STEP).all(-1)
    # A dilation by one cell: the integrand may be narrower than the coarse step.
    kept = keep.reshape(1, 1, *[2 * reach + 1] * dims).float()
    pool = torch.nn.functional.max_pool2d if dims == 2 else torch.nn.functional.max_pool1d
    return cells[pool(kept, 3, stride=1, padding=1).reshape(-1) > 0], not outside


def _integrate(model: LatentModel, image: Tensor, active: Tensor, parts: int) -> Quadrature:
    dims, step = active.shape[-1], _STEP / parts
    offsets = torch.arange(-(parts // 2), parts // 2, dtype=torch.float64) * step
    fine = torch.cartesian_prod(*[offsets] * dims).reshape(-1, dims)
    nodes = (active[:, None] + fine).reshape(-1, dims)
    values = log_joint(model, image, nodes)
    # Every second node of each axis is the same rule with twice the step: h against 2h.
    coarse = values.reshape(len(active), *[parts] * dims)
    coarse = coarse[(slice(None), *[slice(None, None, 2)] * dims)]
    fine_value = log_sum_exp(values) + dims * math.log(step)
    coarse_value = log_sum_exp(coarse.flatten()) + dims * math.log(2 * step)
    return Quadrature(nodes, values, step, fine_value, (fine_value - coarse_value).abs())
