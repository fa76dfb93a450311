r"""The two parts of the gap between an image's ELBO and its evidence.

.. math::
    \log p(x) - \mathrm{ELBO}(q) =
    \underbrace{\log p(x) - \mathrm{ELBO}(q^*)}_{\text{approximation}}
    + \underbrace{\mathrm{ELBO}(q^*) - \mathrm{ELBO}(q)}_{\text{amortization}}

Here :math:`q^*` is the best diagonal Gaussian for this very image. The second part is what the
encoder misses because one network answers for all images; it is the likelihood regret as well.

References:
    | Inference Suboptimality in Variational Autoencoders (Cremer et al., 2018), eq. 4 and 5,
    | https://arxiv.org/abs/1801.03558
    | Likelihood Regret (Xiao et al., 2020), eq. 5, with an encoder of one's own for each image,
    | https://arxiv.org/abs/2003.02977
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.elbo.gaussian_fit import Gaussians, fit_gaussians, gaussian_kl
from vae.elbo.quadrature import (
    CoarseScan,
    Quadrature,
    coarse_scan,
    hermite_nodes,
    node_log_likelihoods,
    quadrature,
)
from vae.elbo.scoring import DRAWS, posterior_nodes
from vae.elbo.starts import balanced_draws, posterior_starts, scouted_starts
from vae.elbo.tiles import encode_tiled, row_sums
from vae.model.vae import LatentModel, observe

__all__ = [
    "BestGaussian",
    "FullGaussian",
    "GapSplit",
    "best_full_gaussian",
    "best_gaussian",
    "gap_split",
]

_FIT_NODES = 8


class BestGaussian(NamedTuple):
    r"""The best diagonal Gaussian :math:`q^*` of each image; never worse than the encoder's q.

    Attributes:
        mu: Its mean, with shape :math:`(B, D)`.
        sigma: Its standard deviations, with shape :math:`(B, D)`.
        elbo: Its ELBO in nats, over the nodes or draws of the score, with shape :math:`(B,)`.
        elbo_se: The standard error of that; 0 by quadrature, with shape :math:`(B,)`.
        encoder_elbo: The ELBO of the encoder's q over the same, with shape :math:`(B,)`.
        gain_se: The standard error of ``elbo - encoder_elbo``, which share their draws, (B,).
        log_evidence: :math:`\log p(x)` in nats, NaN where not exact, with shape :math:`(B,)`.
        log_evidence_error: Its numerical error in nats, with shape :math:`(B,)`.
    """

    mu: Tensor
    sigma: Tensor
    elbo: Tensor
    elbo_se: Tensor
    encoder_elbo: Tensor
    gain_se: Tensor
    log_evidence: Tensor
    log_evidence_error: Tensor


class FullGaussian(NamedTuple):
    r"""The best Gaussian of any covariance of each image.

    Attributes:
        mu: Its mean, with shape :math:`(B, D)`.
        covariance: Its covariance, with shape :math:`(B, D, D)`.
        elbo: Its ELBO in nats, by quadrature, with shape :math:`(B,)`.
    """

    mu: Tensor
    covariance: Tensor
    elbo: Tensor


class GapSplit(NamedTuple):
    r"""The gap of each image in two parts.

    Attributes:
        approximation: :math:`\log p(x) - \mathrm{ELBO}(q^*)` in nats, with shape :math:`(B,)`.
        amortization: :math:`\mathrm{ELBO}(q^*) - \mathrm{ELBO}(q)` in nats, at least 0, (B,).
        log_evidence: :math:`\log p(x)` in nats, with shape :math:`(B,)`.
        error: The error of the approximation part in nats, with shape :math:`(B,)`.
    """

    approximation: Tensor
    amortization: Tensor
    log_evidence: Tensor
    error: Tensor


@torch.inference_mode()
def best_gaussian(
    model: LatentModel,
    levels: np.ndarray,
    *,
    draws: int = DRAWS,
    fit_draws: int = 128,
    seed: int = 0,
    scan: CoarseScan | None = None,
    integrals: Sequence[Quadrature] | None = None,
) -> BestGaussian:
    r"""Finds the best diagonal Gaussian of each image, each by itself.

    For :math:`D \le 2` the climb starts from the encoder's answer and from the true posterior:
    its moments, its mode, and each of its halves, for a posterior may have two peaks. It climbs
    on 8 Gauss-Hermite nodes a dimension and reports the score's 12. For :math:`D > 2` it starts
    from the encoder's answer and the best of 512 importance draws, climbs on ``fit_draws`` fixed
    draws and reports the score's own draws, which it has not seen.

    Args:
        model: The model.
        levels: The images' levels, ``uint8``, with shape :math:`(B, C, H, W)`, :math:`B \ge 1`.
        draws: Draws behind the reported ELBO where :math:`D > 2`.
        fit_draws: Draws to climb on where :math:`D > 2`, an even number; fewer are faster, and a
            q* fitted to few is less good for others.
        seed: The seed of every draw.
        scan: The model's decoded coarse cells, for a caller that keeps them.
        integrals: The quadrature of each image where :math:`D \le 2`, for a caller that has it.

    Returns:
        The Gaussians and their ELBOs.

    Raises:
        ValueError: If a number of draws is out of range.
    """
    if not 1 <= draws <= 100_000:
        raise ValueError(f"draws must lie in 1..100000, not {draws}.")
    if not 4 <= fit_draws <= 10_000 or fit_draws % 2:
        raise ValueError(f"fit_draws must be even and lie in 4..10000, not {fit_draws}.")
    exact = model.config.latent_dim <= 2
    if exact and scan is None and integrals is None and len(levels) > 1:
        scan = coarse_scan(model)
    x = observe(model.config, levels, seed)
    mu, sigma = encode_tiled(model, x)
    results = []
    for n in range(len(levels)):
        one = slice(n, n + 1)
        encoder = Gaussians(mu[one], torch.diag_embed(sigma[one]))
        if exact:
            found = integrals[n] if integrals else quadrature(model, x[n], mu[n], scan=scan)
            starts = posterior_starts(encoder, found)
            e, weights = hermite_nodes(model.config.latent_dim, _FIT_NODES)
            evidence = torch.stack((found.log_evidence, found.error))
        else:
            starts = scouted_starts(model, levels[one], x[one], encoder, seed)
            e, weights = balanced_draws(levels[one], seed, model.config.latent_dim, fit_draws)
            evidence = torch.full((2,), math.nan, dtype=torch.float64)
        fitted = fit_gaussians(model, x[n], starts, e, weights)
        results.append(_better(model, levels[one], x[one], encoder, fitted, draws, seed, evidence))
    return BestGaussian(*map(torch.stack, zip(*results, strict=True)))


@torch.inference_mode()
def best_full_gaussian(
    model: LatentModel, levels: np.ndarray, best: BestGaussian, seed: int = 0
) -> FullGaussian:
    r"""Lets the covariance of :math:`q^*` leave the diagonal, for :math:`D \le 2`.

    Args:
        model: A model with :math:`D \le 2`.
        levels: The images' levels, ``uint8``, with shape :math:`(B, C, H, W)`.
        best: Their best diagonal Gaussians, where the climb starts.
        seed: The seed of dynamic binarisation.

    Returns:
        The Gaussians and their ELBOs, none below that of ``best``.

    Raises:
        ValueError: If :math:`D > 2`.
    """
    dims = model.config.latent_dim
    if dims > 2:
        raise ValueError(f"a full covariance needs at most 2 latent dimensions, not {dims}.")
    x = observe(model.config, levels, seed)
    e, weights = hermite_nodes(dims, _FIT_NODES)
    fine, fine_weights = hermite_nodes(dims)
    results = []
    for n in range(len(levels)):
        start = Gaussians(best.mu[n][None], torch.diag_embed(best.sigma[n])[None])
        fitted = fit_gaussians(model, x[n], start, e, weights, full=True)
        both = Gaussians(*(torch.cat(pair) for pair in zip(start, fitted, strict=True)))
        z = both.codes(fine)
        values = node_log_likelihoods(model, x[n][None], z.reshape(1, -1, dims))
        elbo = row_sums(values.reshape(z.shape[:2]) * fine_weights) - gaussian_kl(both)
        k = int(elbo.nan_to_num(-math.inf).argmax())
        results.append((both.mu[k], both.tril[k] @ both.tril[k].T, elbo[k]))
    return FullGaussian(*map(torch.stack, zip(*results, strict=True)))


def gap_split(
    best: BestGaussian, log_evidence: Tensor | None = None, error: Tensor | None = None
) -> GapSplit:
    r"""Splits the gap between ELBO and evidence.

    Args:
        best: The best Gaussians.
        log_evidence: :math:`\log p(x)` or its estimate, (B,); the exact one where not given.
        error: Its error in nats, with shape :math:`(B,)`.

    Returns:
        The parts. Their sum is :math:`\log p(x) - \mathrm{ELBO}(q)`.
    """
    if log_evidence is None:
        log_evidence, error = best.log_evidence, best.log_evidence_error
    error = torch.zeros_like(log_evidence) if error is None else error
    return GapSplit(
        approximation=log_evidence - best.elbo,
        amortization=best.elbo - best.encoder_elbo,
        log_evidence=log_evidence,
        error=torch.hypot(error, best.elbo_se),
    )


def _better(
    model: LatentModel,
    levels: np.ndarray,
    x: Tensor,
    encoder: Gaussians,
    fitted: Gaussians,
    draws: int,
    seed: int,
    evidence: Tensor,
) -> tuple[Tensor, ...]:
    """The best of the encoder's and the fitted Gaussians, by the nodes of the score."""
    both = Gaussians(*(torch.cat(pair) for pair in zip(encoder, fitted, strict=True)))
    sigma = both.tril.diagonal(dim1=-2, dim2=-1)
    z, weights = posterior_nodes(model.config, levels, both.mu, sigma, draws, seed)
    values = node_log_likelihoods(model, x, z.reshape(1, -1, z.shape[-1])).reshape(z.shape[:2])
    elbos = row_sums(values * weights) - gaussian_kl(both)
    k = int(elbos.nan_to_num(-math.inf).argmax())
    errors = torch.zeros(2, dtype=torch.float64)
    if model.config.latent_dim > 2 and draws > 1:
        errors = torch.stack((values[k], values[k] - values[0])).std(-1) / math.sqrt(draws)
    return both.mu[k], sigma[k], elbos[k], errors[0], elbos[0], errors[1], *evidence
