r"""Integrals over a latent space of one or two dimensions.

A grid for the integrand :math:`p(x \mid z) p(z)`, of which only its own scan tells where it lives.
The evidence, the true posterior and its moments are sums over the same nodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae.elbo.terms import log_likelihood
from vae.elbo.tiles import decoder_rows, log_joint, log_sum_exp, map_tiles
from vae.model.face import LatentModel, greatest_log_likelihood

__all__ = [
    "CoarseScan",
    "Evidence",
    "Quadrature",
    "coarse_scan",
    "exact_evidence",
    "quadrature",
]

_STEP = 0.2
# The scan's small cells from the middle to their edge, the small ones on a large one's side, and
# the large ones from the middle to the least edge.
_REACH, _OUTER, _FAR = 37, 5, 20
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
        small: :math:`p(x \mid z)` at the middles of cells of side 0.2, in tiles of batch shape
            :math:`(R)`.
        large: The same of cells of side 1.
        greatest: The greatest log-likelihood that any image has there, in nats.
    """

    small: tuple[Distribution, ...]
    large: tuple[Distribution, ...]
    greatest: float


class Quadrature(NamedTuple):
    r"""One image's integrand on the fine nodes.

    Attributes:
        nodes: The codes, with shape :math:`(N, D)`.
        log_joint: :math:`\log p(x, z)` at them in nats, with shape :math:`(N,)`.
        step: The distance of neighbouring nodes; a node stands for ``step ** D``.
        log_evidence: :math:`\log p(x)` in nats, NaN where out of reach, with shape :math:`()`.
        error: What it may be off, in nats, with shape :math:`()`: the changes at the
            last two halvings of the step, the mass of what was cut, and float32's rounding.
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


class Evidence(NamedTuple):
    r"""The exact evidence of each image by quadrature.

    Attributes:
        log_evidence: :math:`\log p(x)` in nats, NaN where out of reach, with shape :math:`(B,)`.
        error: What it may be off, numerically, in nats, with shape :math:`(B,)`.
    """

    log_evidence: Tensor
    error: Tensor


def coarse_scan(model: LatentModel) -> CoarseScan | None:
    r"""Decodes the cells of the coarse scan, for many images of one model.

    Args:
        model: A model with :math:`D \le 2`.

    Returns:
        The scan; none where its images are too large to be kept.
    """
    dims = model.latent_dim
    if _cells(dims, _REACH).shape[0] * model.image.pixels > _KEPT:
        return None
    with torch.no_grad():
        return CoarseScan(
            tuple(_decoded(model, _cells(dims, _REACH))),
            tuple(_decoded(model, _cells(dims, _FAR, _OUTER))),
            _greatest(model),
        )


@torch.inference_mode()
def quadrature(
    model: LatentModel,
    image: Tensor,
    mu: Tensor,
    tolerance: float = 1e-4,
    finest: int = _FINEST,
    scan: CoarseScan | None = None,
) -> Quadrature:
    r"""Lays the nodes for :math:`\int p(x \mid z) p(z) dz` and evaluates the integrand there.

    A scan finds where the integrand lives: of cells of side 0.2 on [-7.5, 7.5], and of side 1 as
    far out as the prior leaves any mass that could matter, were the image decoded there as well
    as any image can be. Around the origin alone a foreign image's mass may be missed, and around
    ``mu`` alone any image's, for q can miss the posterior's mass. The cells that may come within
    14 nats of the greatest are integrated by the trapezoidal rule, whose step is halved until the
    last two halvings together moved the result by no more than the tolerance. Where 2^27 decoded
    pixel values don't suffice, the result is NaN or stands with the error that is left.

    Args:
        model: A model with :math:`D \le 2`.
        image: The image, with shape :math:`(C, H, W)`.
        mu: The posterior mean of q, with shape :math:`(D,)`.
        tolerance: The change in nats at which halving stops.
        finest: The most parts of a cell's side, a power of 2.
        scan: The decoded cells of the fine scan, where they are there already.

    Returns:
        The nodes and the integral.

    Raises:
        ValueError: If :math:`D > 2`.
    """
    if len(mu) > 2:
        raise ValueError(f"exact evidence needs at most 2 latent dimensions, not {len(mu)}.")
    most = _DECODED // model.image.pixels
    cells = _active_cells(model, image, mu.double(), scan, most)
    if cells is None:
        empty = torch.empty(0, len(mu), dtype=torch.float64)
        nan = torch.full((), math.nan, dtype=torch.float64)
        return Quadrature(empty, empty[:, 0], _STEP, nan, nan)
    return _integrate(model, image, cells, tolerance, finest, most)


@torch.inference_mode()
def exact_evidence(
    model: LatentModel,
    x: Tensor,
    mu: Tensor,
    tolerance: float = 1e-4,
    finest: int = 64,
    scan: CoarseScan | None = None,
) -> Evidence:
    r"""Computes :math:`\log p(x) = \log \int p(x \mid z) p(z) dz` by :func:`quadrature`.

    Args:
        model: A model with :math:`D \le 2`.
        x: The images, with shape :math:`(B, C, H, W)`.
        mu: The posterior means, with shape :math:`(B, D)`.
        tolerance: The change in nats at which halving stops.
        finest: The most parts of a cell's side, a power of 2.
        scan: The model's decoded coarse cells, for a caller that keeps them.

    Returns:
        The evidence and its numerical error.

    Raises:
        ValueError: If :math:`D > 2`.
    """
    if scan is None and len(x) > 1 and mu.shape[-1] <= 2:
        scan = coarse_scan(model)
    results = [
        quadrature(model, image, centre, tolerance, finest, scan)
        for image, centre in zip(x, mu, strict=True)
    ]
    return Evidence(
        torch.stack([result.log_evidence for result in results]),
        torch.stack([result.error for result in results]),
    )


def _cells(dims: int, reach: int, times: int = 1) -> Tensor:
    """The middles of cells so many times as large as the smallest, (N, D)."""
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64) * (_STEP * times)
    return torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)


def _decoded(model: LatentModel, cells: Tensor) -> list[Distribution]:
    codes, tiles = cells.to(torch.float32), []

    def tile(indices: Tensor) -> Tensor:
        tiles.append(model.decode(codes[indices]))
        return indices

    map_tiles(decoder_rows(model.image), len(cells), tile)
    return tiles


def _greatest(model: LatentModel) -> float:
    """The greatest log-likelihood that any image has at the middles of the large cells."""
    if model.likelihood.is_pmf:
        return 0.0
    greatest = -math.inf
    for codes in _cells(model.latent_dim, _FAR, _OUTER).split(decoder_rows(model.image)):
        likelihood = model.decode(codes.to(torch.float32))
        greatest = max(greatest, float(greatest_log_likelihood(likelihood).max()))
    return greatest


def _scanned(
    model: LatentModel, image: Tensor, cells: Tensor, tiles: Sequence[Distribution] | None
) -> Tensor:
    """log p(x, z) at the middles of cells, which may be decoded already, (N,)."""
    if tiles is None:
        return log_joint(model, image, cells)
    parts = [log_likelihood(tile, image) for tile in tiles]
    return torch.cat(parts)[: len(cells)] + model.prior.log_prob(cells)


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
    model: LatentModel, image: Tensor, centre: Tensor, scan: CoarseScan | None, most: int
) -> _Cells | None:
    """The cells worth integrating; none where finding them takes more than ``most`` codes."""
    dims, side = len(centre), _OUTER * _STEP
    cells = _cells(dims, _REACH)
    values = _scanned(model, image, cells, scan and scan.small)
    # The integrand may be narrower than a cell, so its middle alone tells little: half way to a
    # neighbour it may have changed by half as much as all the way, and by more in a large cell.
    keep = values + _change(values, dims) / 2 > values.max() - _CUT
    keep |= ((cells - centre).abs() <= _STEP).all(-1)
    keep = _of_neighbours(keep.double(), dims) > 0
    found, cut = [(cells[keep], values[keep])], [values[~keep]]

    # P(|z| > r) is at most exp(-r^2 / 2), and no code gives the image more than the greatest.
    value = float(torch.logsumexp(values, 0)) + dims * math.log(_STEP)
    greatest = scan.greatest if scan else _greatest(model)
    radius = math.sqrt(2 * max(0.0, greatest - value + _CUT))
    needed = math.ceil(max(radius, float(centre.abs().max())) / side) + 1
    reach = max(_FAR, needed)
    if (2 * reach + 1) ** dims > most:
        return None
    outer = _cells(dims, reach, _OUTER)
    outside = _scanned(model, image, outer, scan.large if scan and reach == _FAR else None)
    least = torch.maximum(values.max(), outside.max()) - _CUT
    split = outside + _change(outside, dims) > least
    split |= ((outer - centre).abs() <= side).all(-1)
    beyond = (outer.abs() > (_REACH + 0.5) * _STEP).any(-1)
    cut.append(outside[beyond & ~split] + dims * math.log(_OUTER))
    parts = (outer[beyond & split][:, None] + _cells(dims, _OUTER // 2)).reshape(-1, dims)
    if len(outer) + len(parts) > most:
        return None
    if len(parts):
        inside = log_joint(model, image, parts)
        blocks = inside.reshape(-1, _OUTER**dims)
        change = (blocks.amax(-1) - blocks.amin(-1)).repeat_interleave(_OUTER**dims)
        keep = inside + change / 2 > torch.maximum(least, inside.max() - _CUT)
        keep |= ((parts - centre).abs() <= _STEP).all(-1)
        found.append((parts[keep], inside[keep]))
        cut.append(inside[~keep])
    middles, joint = (torch.cat(column) for column in zip(*found, strict=True))
    return _Cells(middles, joint, torch.logsumexp(torch.cat(cut), 0) + dims * math.log(_STEP))


def _change(values: Tensor, dims: int) -> Tensor:
    """How much each cell's value differs from those of the cells around it at most, (N,)."""
    rise, fall = _of_neighbours(values, dims) - values, values + _of_neighbours(-values, dims)
    return torch.maximum(rise, fall)


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
    """The trapezoidal rule on some cells, each node of which stays when its step is halved.

    Cells whose nodes show that they hold nothing are cut on the way.
    """
    dims, parts, cut = cells.middles.shape[-1], 1, cells.cut
    middles, values = cells.middles, cells.log_joint[:, None]
    offsets = torch.zeros(1, dims, dtype=torch.float64)
    value, last = log_sum_exp(values.flatten()) + dims * math.log(_STEP), torch.zeros(())
    while True:
        parts *= 2
        axis = torch.arange(-(parts // 2), parts // 2)
        index = torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)
        fresh = index[(index % 2 != 0).any(-1)] * (_STEP / parts)
        nodes = (middles[:, None] + fresh).reshape(-1, dims)
        found = log_joint(model, image, nodes).reshape(len(middles), len(fresh))
        offsets, values = torch.cat((offsets, fresh)), torch.cat((values, found), 1)
        before, value = value, log_sum_exp(values.flatten()) + dims * math.log(_STEP / parts)
        change = (value - before).abs()
        error, last = change + last, change
        if parts >= 4 and error <= tolerance:
            break
        highest, lowest = values.amax(-1), values.amin(-1)
        # Nodes far apart may miss a narrow ridge along a cell's edge.
        below = {2: math.inf, 4: 2 * _CUT}.get(parts, _CUT)
        keep = highest + (highest - lowest) / parts > highest.max() - below
        if parts >= finest or 2**dims * values[keep].numel() > most:
            break
        lost = torch.logsumexp(values[~keep].flatten(), 0) + dims * math.log(_STEP / parts)
        cut = torch.logaddexp(cut, lost)
        middles, values = middles[keep], values[keep]
    rounding = torch.finfo(torch.float32).eps * value.abs()
    error = error + torch.log1p(torch.exp(cut - value)) + rounding
    nodes = (middles[:, None] + offsets).reshape(-1, dims)
    return Quadrature(nodes, values.flatten(), _STEP / parts, value, error)
