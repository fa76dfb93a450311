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

from vae.elbo.expectation import FIRST_LEVEL, Expectation, expect, lattice_nodes
from vae.elbo.gaussian_fit import Gaussians, fit_gaussians, gaussian_kl
from vae.elbo.quadrature import (
    CoarseScan,
    Quadrature,
    coarse_scan,
    node_log_likelihoods,
    quadrature,
)
from vae.elbo.scoring import DRAWS
from vae.elbo.starts import balanced_draws, posterior_starts, scouted_starts
from vae.elbo.tiles import encode_tiled, row_sums
from vae.model.noise import Purpose, image_normals
from vae.model.vae import LatentModel, observe

__all__ = [
    "BestGaussian",
    "FullGaussian",
    "GapSplit",
    "best_full_gaussian",
    "best_gaussian",
    "gap_split",
]

# The finest lattice that is climbed on: for a foreign image, whose q* may be wide.
_FINEST_CLIMB = 4


class BestGaussian(NamedTuple):
    r"""The best diagonal Gaussian :math:`q^*` of each image; the encoder's q where that is it.

    Attributes:
        mu: Its mean, with shape :math:`(B, D)`.
        sigma: Its standard deviations, with shape :math:`(B, D)`.
        elbo: Its ELBO in nats, taken as the score's is, with shape :math:`(B,)`.
        elbo_se: The standard error of that; 0 by quadrature, NaN from one draw, :math:`(B,)`.
        elbo_error: Its numerical error by quadrature; 0 from draws, with shape :math:`(B,)`.
        encoder_elbo: The ELBO of the encoder's q, as the score states it, with shape :math:`(B,)`.
        gain_se: The standard error of ``elbo - encoder_elbo``, which share their draws, (B,).
        gain_error: The numerical error of that by quadrature; 0 from draws, (B,).
        log_evidence: :math:`\log p(x)` in nats, NaN where not exact, with shape :math:`(B,)`.
        log_evidence_error: Its numerical error in nats, with shape :math:`(B,)`.
    """

    mu: Tensor
    sigma: Tensor
    elbo: Tensor
    elbo_se: Tensor
    elbo_error: Tensor
    encoder_elbo: Tensor
    gain_se: Tensor
    gain_error: Tensor
    log_evidence: Tensor
    log_evidence_error: Tensor


class FullGaussian(NamedTuple):
    r"""The best Gaussian of any covariance of each image.

    Attributes:
        mu: Its mean, with shape :math:`(B, D)`.
        covariance: Its covariance, with shape :math:`(B, D, D)`.
        elbo: Its ELBO in nats, by quadrature, with shape :math:`(B,)`.
        error: The numerical error of that in nats, with shape :math:`(B,)`.
    """

    mu: Tensor
    covariance: Tensor
    elbo: Tensor
    error: Tensor


class GapSplit(NamedTuple):
    r"""The gap of each image in two parts.

    Attributes:
        approximation: :math:`\log p(x) - \mathrm{ELBO}(q^*)` in nats, with shape :math:`(B,)`.
        amortization: :math:`\mathrm{ELBO}(q^*) - \mathrm{ELBO}(q)` in nats, with shape (B,): at
            least 0 by quadrature, and above a few standard errors below it from draws.
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
    on a coarse lattice, once more on a finer one where what it found needs that, and reports what
    the score's own rule says. For :math:`D > 2` it starts from the encoder's answer and the best
    of 512 importance draws, climbs on ``fit_draws`` fixed draws, chooses the best on as many
    others, and reports the score's own draws, which neither has seen.

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
            evidence = found.log_evidence, found.error
            best = _by_quadrature(model, x[one], encoder, posterior_starts(encoder, found))
        else:
            evidence = torch.full((2,), math.nan, dtype=torch.float64)
            best = _by_draws(model, levels[one], x[one], encoder, draws, fit_draws, seed)
        results.append((*best, *evidence))
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
    results = []
    for n in range(len(levels)):
        one = slice(n, n + 1)
        start = Gaussians(best.mu[one], torch.diag_embed(best.sigma[one]))
        fitted, found = _climb(model, x[one], start, start, full=True)
        k = _highest(found.value)
        tril = fitted.tril[k]
        results.append((fitted.mu[k], tril @ tril.T, found.value[k], found.error[k]))
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
        error=torch.hypot(error + best.elbo_error, best.elbo_se),
    )


def _by_quadrature(
    model: LatentModel, x: Tensor, encoder: Gaussians, starts: Gaussians
) -> tuple[Tensor, ...]:
    """One image's fields of BestGaussian, up to the evidence, by quadrature."""
    found, elbos = _climb(model, x, encoder, starts)
    k, zero = _highest(elbos.value), torch.zeros((), dtype=torch.float64)
    gain_error = elbos.error[k] + elbos.error[0] if k else zero
    sigma = found.tril[k].diagonal()
    return (
        *(found.mu[k], sigma, elbos.value[k], zero, elbos.error[k]),
        *(elbos.value[0], zero, gain_error),
    )


def _climb(
    model: LatentModel, x: Tensor, known: Gaussians, starts: Gaussians, full: bool = False
) -> tuple[Gaussians, Expectation]:
    """Some Gaussians, a known one first, and their ELBOs with their errors, each (R,)."""
    dims, level = model.config.latent_dim, 0
    while True:
        fitted = fit_gaussians(model, x[0], starts, *lattice_nodes(dims, level), full=full)
        both = Gaussians(*(torch.cat(pair) for pair in zip(known, fitted, strict=True)))
        found = _elbos(model, x, both)
        k = _highest(found.value)
        finer = min(int(found.level[k]), _FINEST_CLIMB)
        if level or finer <= FIRST_LEVEL:
            return both, found
        level, starts = finer, Gaussians(both.mu[k : k + 1], both.tril[k : k + 1])


def _elbos(model: LatentModel, x: Tensor, gaussians: Gaussians) -> Expectation:
    """The ELBOs (R,) of one image under some Gaussians, as the score takes them."""

    def codes(rows: Tensor, e: Tensor) -> Tensor:
        return Gaussians(gaussians.mu[rows], gaussians.tril[rows]).codes(e)

    found = expect(model, x.expand(len(gaussians.mu), *x.shape[1:]), codes)
    return found._replace(value=found.value - gaussian_kl(gaussians))


def _by_draws(
    model: LatentModel,
    levels: np.ndarray,
    x: Tensor,
    encoder: Gaussians,
    draws: int,
    fit_draws: int,
    seed: int,
) -> tuple[Tensor, ...]:
    """One image's fields of BestGaussian, up to the evidence, from draws."""
    dims = model.config.latent_dim
    starts = scouted_starts(model, levels, x, encoder, seed)
    fitted = fit_gaussians(model, x[0], starts, *balanced_draws(levels, seed, dims, fit_draws))
    both = Gaussians(*(torch.cat(pair) for pair in zip(encoder, fitted, strict=True)))

    def values(purpose: Purpose, count: int) -> Tensor:
        """Of each Gaussian log p(x|z) - KL at each of so many draws, (R, S)."""
        z = both.codes(torch.from_numpy(image_normals(levels, seed, purpose, (count, dims)))[0])
        one = node_log_likelihoods(model, x, z.reshape(1, -1, dims)).reshape(z.shape[:2])
        return one - gaussian_kl(both)[:, None]

    # Chosen on draws that don't report it: the luckiest of several would else be too high.
    k = _highest(row_sums(values("choice", fit_draws)) / fit_draws)
    reported = values("draws", draws)
    elbos = row_sums(reported) / draws
    pair = torch.stack((reported[k], reported[k] - reported[0]))
    # A single draw has no standard error.
    errors = (
        pair.std(-1) / math.sqrt(draws) if draws > 1 else torch.full_like(pair[:, 0], math.nan)
    )
    zero = torch.zeros((), dtype=torch.float64)
    sigma = both.tril[k].diagonal()
    return both.mu[k], sigma, elbos[k], errors[0], zero, elbos[0], errors[1], zero


def _highest(elbos: Tensor) -> int:
    return int(elbos.nan_to_num(-math.inf).argmax())
