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
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vae.elbo.evidence.quadrature import CoarseScan, Quadrature, coarse_scan, quadrature
from vae.elbo.expectation import DRAWS, Elbo, estimate_elbo, uncertainty
from vae.elbo.gap.gaussian_fit import Gaussians, fit_gaussians, gaussian_kl
from vae.elbo.gap.starts import balanced_draws, posterior_starts, scouted_starts
from vae.elbo.lattice import FIRST_LEVEL, Expectation, expect, lattice_nodes
from vae.elbo.seen import Seen
from vae.elbo.tiles import node_log_likelihoods, row_sums
from vae.model.noise import Purpose

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
        elbo_error: Its numerical error by quadrature, NaN from draws, with shape :math:`(B,)`.
        encoder_elbo: The ELBO of the encoder's q, as the score states it, with shape :math:`(B,)`.
        gain_se: The standard error of ``elbo - encoder_elbo``, which share their draws, (B,).
        gain_error: The numerical error of that by quadrature, NaN from draws, (B,).
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

    @property
    def elbo_uncertainty(self) -> Tensor:
        """What ``elbo`` may be off, numerically or by its draws, in nats, (B,)."""
        return uncertainty(self.elbo_error, self.elbo_se)

    @property
    def gain(self) -> Tensor:
        r""":math:`\mathrm{ELBO}(q^*) - \mathrm{ELBO}(q)` in nats: the likelihood regret, (B,)."""
        return self.elbo - self.encoder_elbo

    @property
    def gain_uncertainty(self) -> Tensor:
        """What ``gain`` may be off, numerically or by its draws, in nats, (B,)."""
        return uncertainty(self.gain_error, self.gain_se)


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
    seen: Seen,
    elbo: Elbo | None = None,
    *,
    draws: int = DRAWS,
    fit_draws: int = 128,
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
        seen: The images.
        elbo: Their ELBOs, for a caller that has them.
        draws: Draws behind the reported ELBO where :math:`D > 2`.
        fit_draws: Draws to climb on where :math:`D > 2`, an even number; fewer are faster, and a
            q* fitted to few is less good for others.
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
    if seen.dims > 2:
        return _stacked(_by_draws(one, draws, fit_draws) for one in seen)
    if integrals is None:
        scan = coarse_scan(seen.model) if scan is None and len(seen) > 1 else scan
        integrals = [quadrature(seen.model, one.x[0], one.mu[0], scan=scan) for one in seen]
    elbo = estimate_elbo(seen) if elbo is None else elbo
    return _stacked(
        (*_by_quadrature(one, elbo.of(slice(n, n + 1)), found), found.log_evidence, found.error)
        for n, (one, found) in enumerate(zip(seen, integrals, strict=True))
    )


def _stacked(fields: Iterable[tuple[Tensor, ...]]) -> BestGaussian:
    return BestGaussian(*map(torch.stack, zip(*fields, strict=True)))


@torch.inference_mode()
def best_full_gaussian(seen: Seen, best: BestGaussian) -> FullGaussian:
    r"""Lets the covariance of :math:`q^*` leave the diagonal, for :math:`D \le 2`.

    Args:
        seen: The images.
        best: Their best diagonal Gaussians, where the climb starts.

    Returns:
        The Gaussians and their ELBOs, none below that of ``best``.

    Raises:
        ValueError: If :math:`D > 2`.
    """
    if seen.dims > 2:
        raise ValueError(f"a full covariance needs at most 2 latent dimensions, not {seen.dims}.")
    results = []
    for n, one in enumerate(seen):
        start = Gaussians(best.mu[n : n + 1], torch.diag_embed(best.sigma[n : n + 1]))
        fitted, found = _climb(one, start, _elbos(one, start), start, full=True)
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
        amortization=best.gain,
        log_evidence=log_evidence,
        error=torch.hypot(error + best.elbo_error.nan_to_num(), best.elbo_se),
    )


def _by_quadrature(seen: Seen, elbo: Elbo, posterior: Quadrature) -> tuple[Tensor, ...]:
    """One image's fields of BestGaussian, up to the evidence, by quadrature."""
    encoder = Gaussians(seen.mu, torch.diag_embed(seen.sigma))
    known = Expectation(elbo.value, elbo.error, elbo.level)
    found, elbos = _climb(seen, encoder, known, posterior_starts(encoder, posterior))
    k, zero = _highest(elbos.value), torch.zeros((), dtype=torch.float64)
    gain_error = elbos.error[k] + elbos.error[0] if k else zero
    sigma = found.tril[k].diagonal()
    return (
        *(found.mu[k], sigma, elbos.value[k], zero, elbos.error[k]),
        *(elbos.value[0], zero, gain_error),
    )


def _climb(
    seen: Seen, known: Gaussians, its: Expectation, starts: Gaussians, full: bool = False
) -> tuple[Gaussians, Expectation]:
    """Some Gaussians, a known one and its ELBO first, and their ELBOs with errors, each (R,)."""
    level = 0
    while True:
        nodes = lattice_nodes(seen.dims, level)
        fitted = fit_gaussians(seen.model, seen.x[0], starts, *nodes, full=full)
        both = Gaussians(*map(torch.cat, zip(known, fitted, strict=True)))
        found = Expectation(*map(torch.cat, zip(its, _elbos(seen, fitted), strict=True)))
        k = _highest(found.value)
        finer = min(int(found.level[k]), _FINEST_CLIMB)
        if level or finer <= FIRST_LEVEL:
            return both, found
        level, starts = finer, Gaussians(both.mu[k : k + 1], both.tril[k : k + 1])


def _elbos(seen: Seen, gaussians: Gaussians) -> Expectation:
    """The ELBOs (R,) of one image under some Gaussians, as the score takes them."""

    def codes(rows: Tensor, e: Tensor) -> Tensor:
        return Gaussians(gaussians.mu[rows], gaussians.tril[rows]).codes(e)

    found = expect(seen.model, seen.x.expand(len(gaussians.mu), *seen.x.shape[1:]), codes)
    return found._replace(value=found.value - gaussian_kl(gaussians))


def _by_draws(seen: Seen, draws: int, fit_draws: int) -> tuple[Tensor, ...]:
    """One image's fields of BestGaussian, from draws."""
    encoder = Gaussians(seen.mu, torch.diag_embed(seen.sigma))
    starts = scouted_starts(seen, encoder)
    fitted = fit_gaussians(seen.model, seen.x[0], starts, *balanced_draws(seen, fit_draws))
    both = Gaussians(*map(torch.cat, zip(encoder, fitted, strict=True)))

    def values(purpose: Purpose, count: int) -> Tensor:
        """Of each Gaussian log p(x|z) - KL at each of so many draws, (R, S)."""
        z = both.codes(seen.normals(purpose, count)[0])
        one = node_log_likelihoods(seen.model, seen.x, z.reshape(1, -1, seen.dims))
        return one.reshape(z.shape[:2]) - gaussian_kl(both)[:, None]

    # Chosen on draws that don't report it: the luckiest of several would else be too high.
    k = _highest(row_sums(values("choice", fit_draws)) / fit_draws)
    reported = values("draws", draws)
    elbos = row_sums(reported) / draws
    pair = torch.stack((reported[k], reported[k] - reported[0]))
    nan = torch.full((), math.nan, dtype=torch.float64)
    # A single draw has no standard error.
    elbo_se, gain_se = pair.std(-1) / math.sqrt(draws) if draws > 1 else (nan, nan)
    sigma = both.tril[k].diagonal()
    return both.mu[k], sigma, elbos[k], elbo_se, nan, elbos[0], gain_se, nan, nan, nan


def _highest(elbos: Tensor) -> int:
    return int(elbos.nan_to_num(-math.inf).argmax())
