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
# Cells this far below the greatest, in nats, are cut; what they hold counts as error.
_CUT = 14
# The most parts of a cell's side, a power of 2.
_FINEST = 64
# A pixel value takes 4 bytes for each of the scan's codes: at most 128 MiB are kept.
_KEPT = 2**25
# Bounds the work for one image, in pixel values decoded.
_DECODED = 2**27


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
        error: What it may be off, in nats, with shape :math:`()`: the larger of the changes at
            the last two halvings of the step, the mass of the cells that were cut, and float32's
            rounding.
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
    finest: int = _FINEST,
    scan: CoarseScan | None = None,
) -> Quadrature:
    r"""Lays the nodes for :math:`\int p(x \mid z) p(z) dz` and evaluates the integrand there.

    A coarse scan (step 0.2 on [-7, 7]) finds where the integrand lives; the cells that may come
    within 14 nats of its maximum, their neighbours and those around ``mu`` are integrated by the
    trapezoidal rule, whose step is halved until neither of the last two halvings moved the
    result. Refining around ``mu`` alone would fail: q can miss the posterior's mass. A foreign
    image may have its mass farther out: then the scan reaches twice as far, three times at most,
    after which the result is NaN. Where 2^27 decoded pixel values don't suffice, the result is
    NaN or stands with the error that is left.

    Args:
        model: A model with :math:`D \le 2`.
        image: The image, with shape :math:`(C, H, W)`.
        mu: The posterior mean of q, with shape :math:`(D,)`.
        tolerance: The change in nats at which halving stops.
        finest: The most parts of a cell's side, a power of 2.
        scan: The decoded coarse cells, where they are there already.

    Returns:
        The nodes and the integral.

    Raises:
        ValueError: If :math:`D > 2`.
    """
    if len(mu) > 2:
        raise ValueError(f"exact evidence needs at most 2 latent dimensions, not {len(mu)}.")
    codes = _DECODED // model.config.image.pixels
    for reach in _REACHES:
        count = (2 * reach + 1) ** len(mu)
        if reach > _REACHES[0] and count > codes:
            break
        codes -= count
        found = _active_cells(model, image, mu.double(), reach, scan)
        if found is not None:
            return _integrate(model, image, found, tolerance, finest, codes)
        scan = None
    empty = torch.empty(0, len(mu), dtype=torch.float64)
    nan = torch.full((), math.nan, dtype=torch.float64)
    return Quadrature(empty, empty[:, 0], _STEP, nan, nan)


def _log_prior(z: Tensor) -> Tensor:
    return log_density(torch.zeros(1), torch.ones(1), z)


def _cells(dims: int, reach: int) -> Tensor:
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64) * _STEP
    return torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)


class _Cells(NamedTuple):
    """The cells worth integrating, by their middles.

    Attributes:
        middles: With shape (N, D).
        log_joint: log p(x, z) at them, with shape (N,).
        cut: The log of the mass of all other cells, by their middles, with shape ().
    """

    middles: Tensor
    log_joint: Tensor
    cut: Tensor


def _active_cells(
    model: LatentModel, image: Tensor, centre: Tensor, reach: int, scan: CoarseScan | None
) -> _Cells | None:
    """The cells worth integrating; none where some lie out of reach."""
    dims = len(centre)
    if scan is None:
        cells = _cells(dims, reach)
        values = log_joint(model, image, cells)
    else:
        cells = scan.cells
        parts = [log_likelihood(tile, image) for tile in scan.tiles]
        values = torch.cat(parts)[: len(cells)] + _log_prior(cells)
    least = values.max() - _CUT
    # The integrand may be narrower than the coarse step, so a cell's middle alone tells little:
    # half way to a neighbour it may have changed by half as much as all the way.
    rise, fall = _of_neighbours(values, dims) - values, values + _of_neighbours(-values, dims)
    keep = values + torch.maximum(rise, fall) / 2 > least
    outside = bool((cells[keep].abs() > (reach - 0.5) * _STEP).any())
    if centre.abs().max() > reach * _STEP:
        outside |= bool(log_joint(model, image, centre[None])[0] > least)
    if outside:
        return None
    keep |= ((cells - centre).abs() <= _STEP).all(-1)
    keep = _of_neighbours(keep.double(), dims) > 0
    cut = torch.logsumexp(values[~keep], 0) + dims * math.log(_STEP)
    return _Cells(cells[keep], values[keep], cut)


def _of_neighbours(values: Tensor, dims: int) -> Tensor:
    """The greatest of each cell's own value and those of the cells around it, (N,)."""
    side = round(len(values) ** (1 / dims))
    pool = torch.nn.functional.max_pool2d if dims == 2 else torch.nn.functional.max_pool1d
    return pool(values.reshape(1, 1, *[side] * dims), 3, stride=1, padding=1).reshape(-1)


def _integrate(
    model: LatentModel,
    image: Tensor,
    cells: _Cells,
    tolerance: float,
    finest: int,
    most: int,
) -> Quadrature:
    """The trapezoidal rule on some cells, all nodes of which stay when its step is halved."""
    dims, parts = cells.middles.shape[-1], 1
    nodes, values = cells.middles, cells.log_joint
    value, last = log_sum_exp(values) + dims * math.log(_STEP), torch.zeros(())
    while True:
        parts *= 2
        offsets = torch.arange(-(parts // 2), parts // 2)
        offsets = torch.cartesian_prod(*[offsets] * dims).reshape(-1, dims)
        odd = (offsets % 2 != 0).any(-1)
        fresh = (cells.middles[:, None] + offsets[odd] * (_STEP / parts)).reshape(-1, dims)
        nodes = torch.cat((nodes, fresh))
        values = torch.cat((values, log_joint(model, image, fresh)))
        before, value = value, log_sum_exp(values) + dims * math.log(_STEP / parts)
        change = (value - before).abs()
        error, last = torch.maximum(change, last), change
        if (parts >= 4 and error <= tolerance) or parts >= finest or 2**dims * len(nodes) > most:
            break
    rounding = torch.finfo(torch.float32).eps * value.abs()
    error = error + torch.log1p(torch.exp(cells.cut - value)) + rounding
    return Quadrature(nodes, values, _STEP / parts, value, error)
