r"""Bounds on :math:`\log p(x)`, and its exact value where the latent space is small enough.

References:
    | Importance Weighted Autoencoders (Burda et al., 2016), eq. 8, https://arxiv.org/abs/1509.00519
    | A note on effective sample size (Kong, 1992)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.elbo.terms import log_density, log_likelihood
from vae.elbo.tiles import decoder_rows, map_tiles, row_sums
from vae.model.vae import LatentModel

__all__ = [
    "Bound",
    "Evidence",
    "exact_evidence",
    "hermite_nodes",
    "importance_bound",
    "nested_bounds",
    "node_log_likelihoods",
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


class Evidence(NamedTuple):
    r"""The exact evidence of each image by quadrature.

    Attributes:
        log_evidence: :math:`\log p(x)` in nats, NaN where out of reach, with shape :math:`(B,)`.
        error: The change at the last halving of the step, in nats, with shape :math:`(B,)`.
    """

    log_evidence: Tensor
    error: Tensor


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
        return log_likelihood(model.decode(codes[rows]), x[rows // draws])

    return map_tiles(decoder_rows(model.config), images * draws, tile).reshape(images, draws)


def importance_bound(log_weights: Tensor) -> Bound:
    r"""The importance-weighted bound :math:`L_k = \log \frac1k \sum_i w_i` from its log-weights.

    Args:
        log_weights: :math:`\log p(x, z_i) - \log q(z_i \mid x)`, with shape :math:`(B, k)`.

    Returns:
        The bound with its standard error and effective sample size.
    """
    draws = log_weights.shape[-1]
    value = _log_sum_exp(log_weights) - math.log(draws)
    # Weights relative to their mean, so that nothing overflows and their own mean is 1.
    relative = torch.exp(log_weights - value[..., None])
    spread = torch.sqrt(row_sums((relative - 1).square()) / max(1, draws - 1))
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


def exact_evidence(
    model: LatentModel, x: Tensor, mu: Tensor, tolerance: float = 1e-4, halvings: int = 3
) -> Evidence:
    r"""Computes :math:`\log p(x) = \log \int p(x \mid z) p(z) dz` by two-stage quadrature.

    A coarse scan (step 0.2 on [-7, 7]) finds where the integrand lives; the cells within 14 nats
    of its maximum, their neighbours and those around ``mu`` are integrated at step 0.025, and at
    half of that as long as the last halving still moved the result. Refining around ``mu`` alone
    would fail: q can miss the posterior's mass. A foreign image may have its mass farther out:
    then the scan reaches twice as far, three times at most, after which the result is NaN.

    Args:
        model: A model with :math:`D \le 2`.
        x: The images, with shape :math:`(B, C, H, W)`.
        mu: The posterior means, with shape :math:`(B, D)`.
        tolerance: The error in nats at which halving stops.
        halvings: The most halvings after the first fine step.

    Returns:
        The evidence and its numerical error.

    Raises:
        ValueError: If :math:`D > 2`.
    """
    dims = mu.shape[-1]
    if dims > 2:
        raise ValueError(f"exact evidence needs at most 2 latent dimensions, not {dims}.")
    step = 0.2
    values, errors = [], []
    for image, centre in zip(x, mu.double(), strict=True):
        for reach in (35, 70, 140, 280):
            active, whole = _active_cells(model, image, centre, step, reach)
            if whole:
                break
        value = error = torch.full((), math.nan, dtype=torch.float64)
        parts = 8
        while whole:
            value, error = _integrate(model, image, active, step, parts)
            if error <= tolerance or parts >= 8 * 2**halvings:
                break
            parts *= 2
        values.append(value)
        errors.append(error)
    return Evidence(torch.stack(values), torch.stack(errors))


def _log_joint(model: LatentModel, image: Tensor, z: Tensor) -> Tensor:
    log_prior = log_density(torch.zeros(1), torch.ones(1), z)
    return node_log_likelihoods(model, image[None], z[None])[0] + log_prior


def _active_cells(
    model: LatentModel, image: Tensor, centre: Tensor, step: float, reach: int
) -> tuple[Tensor, bool]:
    """The cells (N, D) worth integrating, and whether they are all within reach."""
    dims = len(centre)
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64) * step
    cells = torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)
    log_joint = _log_joint(model, image, cells)
    least = log_joint.max() - 14
    keep = log_joint > least
    outside = bool((cells[keep].abs() > (reach - 0.5) * step).any())
    if centre.abs().max() > reach * step:
        outside |= bool(_log_joint(model, image, centre[None])[0] > least)
    keep |= ((cells - centre).abs() <= step).all(-1)
    # A dilation by one cell: the integrand may be narrower than the coarse step.
    kept = keep.reshape(1, 1, *[len(axis)] * dims).float()
    pool = torch.nn.functional.max_pool2d if dims == 2 else torch.nn.functional.max_pool1d
    return cells[pool(kept, 3, stride=1, padding=1).reshape(-1) > 0], not outside


def _integrate(
    model: LatentModel, image: Tensor, active: Tensor, step: float, parts: int
) -> tuple[Tensor, Tensor]:
    dims = active.shape[-1]
    offsets = torch.arange(-(parts // 2), parts // 2, dtype=torch.float64) * (step / parts)
    fine = torch.cartesian_prod(*[offsets] * dims).reshape(-1, dims)
    log_joint = _log_joint(model, image, (active[:, None] + fine).reshape(-1, dims))
    log_joint = log_joint.reshape(len(active), *[parts] * dims)
    # Every second node of each axis is the same rule with twice the step: h against 2h.
    coarse = log_joint[(slice(None), *[slice(None, None, 2)] * dims)]
    fine_value = _log_sum_exp(log_joint.flatten()) + dims * math.log(step / parts)
    coarse_value = _log_sum_exp(coarse.flatten()) + dims * math.log(2 * step / parts)
    return fine_value, (fine_value - coarse_value).abs()


def _log_sum_exp(values: Tensor) -> Tensor:
    most = values.amax(-1, keepdim=True)
    return row_sums(torch.exp(values - most)).log() + most[..., 0]
