r"""Fits a Gaussian to one image by climbing its ELBO, with the decoder frozen.

The expectation is a fixed weighted sum over nodes :math:`z_s = \mu + L e_s`, so the objective is
smooth and deterministic, and a quasi-Newton method (BFGS) converges in a dozen steps. It starts
from the curvature that a Gaussian's Fisher information suggests: :math:`1/\sigma^2` for a mean,
2 for the log of a standard deviation.

References:
    | Inference Suboptimality in Variational Autoencoders (Cremer et al., 2018), section 3,
    | https://arxiv.org/abs/1801.03558
    | Numerical Optimization (Nocedal & Wright, 2006), algorithm 6.1, for BFGS
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vae.elbo.gradients import log_likelihood_gradients
from vae.elbo.terms import standard_normal_kl
from vae.model.face import LatentModel

__all__ = ["Gaussians", "fit_gaussians", "gaussian_kl"]

# No step moves a mean by more standard deviations, or the log of one by more, than this.
_LONGEST = 2.0
_SHORTEST = 1e-3
_JUMP = 0.5


class Gaussians(NamedTuple):
    r"""Some Gaussians over the latent space.

    Attributes:
        mu: Their means, with shape :math:`(R, D)`.
        tril: Lower-triangular :math:`L`, covariance :math:`L L^T`, with shape :math:`(R, D, D)`.
    """

    mu: Tensor
    tril: Tensor

    def codes(self, e: Tensor) -> Tensor:
        r"""The codes :math:`\mu + L e_s`, (R, S, D), of nodes or draws :math:`e`, (S, D)."""
        return self.mu[:, None] + e @ self.tril.mT


def gaussian_kl(gaussians: Gaussians) -> Tensor:
    r"""The KL to the standard normal, for any covariance.

    .. math:: KL(N(\mu, L L^T) \| N(0, I)) =
        \sum_d KL(N(\mu_d, L_{dd}^2) \| N(0, 1)) + \tfrac12 \sum_{i > j} L_{ij}^2

    Args:
        gaussians: The Gaussians.

    Returns:
        Nats, with shape :math:`(R,)`.
    """
    diagonal = gaussians.tril.diagonal(dim1=-2, dim2=-1)
    below = gaussians.tril.tril(-1).square().sum((-2, -1))
    return standard_normal_kl(gaussians.mu, 2 * diagonal.log()).sum(-1) + 0.5 * below


def fit_gaussians(
    model: LatentModel,
    image: Tensor,
    starts: Gaussians,
    e: Tensor,
    weights: Tensor,
    full: bool = False,
    steps: int = 80,
    tolerance: float = 1e-5,
) -> Gaussians:
    r"""Climbs one image's ELBO from several starts at once.

    Args:
        model: The model.
        image: The image, with shape :math:`(C, H, W)`.
        starts: Where to start.
        e: Nodes or draws of a standard normal, with shape :math:`(S, D)`.
        weights: Their weights, which sum to 1, with shape :math:`(S,)`.
        full: Whether the covariance may leave the diagonal.
        steps: The most evaluations for each start.
        tolerance: The gain in nats below which a further step isn't worth it.

    Returns:
        One Gaussian for each start.
    """
    theta = _pack(starts, full)
    dims = starts.mu.shape[-1]

    def objective(theta: Tensor) -> tuple[Tensor, Tensor]:
        return _elbo_and_slope(model, image, _unpack(theta, dims), e, weights, full)

    def direction_of(rows: Tensor) -> Tensor:
        step = (inverse[rows] @ slope[rows, :, None])[..., 0]
        longest = (step / _scale(theta[rows], dims)).abs().amax(-1, keepdim=True)
        return step * (_LONGEST / longest).clamp(max=1)

    value, slope = objective(theta)
    inverse = torch.diag_embed(_scale(theta, dims).square())
    direction, length = direction_of(torch.arange(len(theta))), torch.ones_like(value)
    for _ in range(steps):
        expected = length * (slope * direction).sum(-1)
        active = torch.nonzero((expected > tolerance) & (length > _SHORTEST))[:, 0]
        if not len(active):
            break
        trial = theta[active] + length[active, None] * direction[active]
        new_value, new_slope = objective(trial)
        # The decoder computes in float32: differences below its rounding mean nothing.
        enough = 1e-4 * expected[active] - 1e-6 * value[active].abs()
        good = new_value >= value[active] + enough
        length[active[~good]] *= 0.25
        rows, moved = active[good], (trial - theta[active])[good]
        updated = _bfgs(inverse[rows], moved, slope[rows] - new_slope[good])
        # What was learnt where sigma was of another size misleads here: begin anew.
        jumped = moved[:, dims : 2 * dims].abs().amax(-1) > _JUMP
        fresh = torch.diag_embed(_scale(trial[good], dims).square())
        inverse[rows] = torch.where(jumped[:, None, None], fresh, updated)
        theta[rows], value[rows], slope[rows] = trial[good], new_value[good], new_slope[good]
        direction[rows], length[rows] = direction_of(rows), 1.0
    return _unpack(theta, dims)


def _bfgs(inverse: Tensor, moved: Tensor, change: Tensor) -> Tensor:
    """The inverse curvature (R, K, K) after a move (R, K) that changed the slope so (R, K)."""
    along = (moved * change).sum(-1)[..., None, None]
    safe = torch.where(along > 1e-10, along, torch.ones_like(along))
    left = torch.eye(moved.shape[-1], dtype=moved.dtype) - (
        moved[..., :, None] * change[..., None, :] / safe
    )
    updated = left @ inverse @ left.mT + moved[..., :, None] * moved[..., None, :] / safe
    # Where the curvature along the move isn't that of a maximum, the old one stays.
    return torch.where(along > 1e-10, updated, inverse)


def _elbo_and_slope(
    model: LatentModel, image: Tensor, q: Gaussians, e: Tensor, weights: Tensor, full: bool
) -> tuple[Tensor, Tensor]:
    """The ELBO (R,) and its gradient (R, K) in the packed parameters."""
    z = q.codes(e)
    values, slopes = log_likelihood_gradients(model, image, z.flatten(0, 1))
    slopes = weights[:, None] * slopes.reshape(z.shape)
    elbo = values.reshape(z.shape[:2]) @ weights - gaussian_kl(q)
    # By the chain rule dz/dmu = 1 and dz_i/dL_ij = e_j; the KL's own slopes are closed-form.
    by_tril = slopes.mT @ e - q.tril
    diagonal = q.tril.diagonal(dim1=-2, dim2=-1)
    by_log = by_tril.diagonal(dim1=-2, dim2=-1) * diagonal + 1
    parts = [slopes.sum(1) - q.mu, by_log]
    if full:
        parts.append(by_tril[(..., *_below(z.shape[-1]))])
    return elbo, torch.cat(parts, -1)


def _below(dims: int) -> tuple[Tensor, Tensor]:
    return tuple(torch.tril_indices(dims, dims, -1))


def _pack(q: Gaussians, full: bool) -> Tensor:
    """The free parameters (R, K): means, logs of L's diagonal, and what lies below it."""
    parts = [q.mu, q.tril.diagonal(dim1=-2, dim2=-1).log()]
    if full:
        parts.append(q.tril[(..., *_below(q.mu.shape[-1]))])
    return torch.cat(parts, -1)


def _scale(theta: Tensor, dims: int) -> Tensor:
    """The natural length of a step in each parameter, by the Fisher information (R, K)."""
    diagonal = theta[..., dims : 2 * dims].exp()
    parts = [diagonal, torch.full_like(diagonal, 0.5**0.5)]
    if theta.shape[-1] > 2 * dims:
        parts.append(diagonal[..., _below(dims)[0]])
    return torch.cat(parts, -1)


def _unpack(theta: Tensor, dims: int) -> Gaussians:
    tril = torch.diag_embed(theta[..., dims : 2 * dims].exp())
    if theta.shape[-1] > 2 * dims:
        tril[(..., *_below(dims))] = theta[..., 2 * dims :]
    return Gaussians(theta[..., :dims], tril)
