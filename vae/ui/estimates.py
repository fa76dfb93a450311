"""What the Explain screens compute for one model or image, cached."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from vae.elbo.aggregate import surgery as surgery_module
from vae.elbo.aggregate.surgery import Surgery
from vae.elbo.conformance import Check, check_model
from vae.elbo.evidence.annealing import annealed_evidence
from vae.elbo.evidence.bounds import Ladder, bound_ladder
from vae.elbo.evidence.crosscheck import sampled_evidence
from vae.elbo.evidence.posterior import true_posterior
from vae.elbo.evidence.quadrature import CoarseScan, Quadrature, coarse_scan, quadrature
from vae.elbo.expectation import Elbo, Receipt
from vae.elbo.gap.gap_split import BestGaussian, best_full_gaussian, best_gaussian, gap_split
from vae.elbo.lessons import batch_mates as batch_mates_module
from vae.elbo.lessons import derivation as derivation_module
from vae.elbo.lessons.batch_mates import Company
from vae.elbo.lessons.derivation import Line
from vae.elbo.lessons.misconception import (
    batch_penalties,
    expected_batch_penalty,
    misconception_means,
)
from vae.elbo.seen import Seen, see
from vae.store.checkpoint import Checkpoint
from vae.ui import access
from vae.ui.caches import cached, shared

__all__ = [
    "FiniteSet",
    "Gap",
    "annealed",
    "batch_mates",
    "blurred",
    "closed_forms",
    "conformance",
    "derivation",
    "finite_set",
    "gap",
    "ladder",
    "posterior",
    "scan",
    "surgery",
    "tilted_elbo",
]

_MOST_FOR_SURGERY = 2_000
_COMPANY = 256
_CHECKED = 500
# Cells of the posterior along a side, each of which may be decoded for each sample.
_PLANE_SIDE, _LINE_SIDE = 61, 401


def blurred(model: Checkpoint, sample: int) -> Receipt:
    """The receipt of a reference sample after a 3x3 box blur."""
    spec = model.image
    image = spec.from_levels(access.levels_of(model, sample))
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    seen = access.seen_of(model, spec.to_levels(windows.mean((-1, -2))))
    return access.receipt_of(seen, access.elbo(seen))


@cached(max_entries=128, show_spinner="Computing every line")
def derivation(seen: Seen) -> list[Line]:
    """The derivation evaluated for an image."""
    return derivation_module.derivation(seen, access.elbo(seen), ladder(seen), _quadrature(seen))


def closed_forms(model: Checkpoint, sample: int) -> list[Line]:
    """The lines of the derivation that need no image, evaluated for a sample."""
    table = access.table(model)
    mu, sigma = (torch.from_numpy(one[sample]) for one in (table.mu, table.sigma))
    return derivation_module.closed_forms(mu, sigma, float(table.kl[sample]))


@cached(max_entries=64, show_spinner="Scoring one image in four companies")
def batch_mates(model: Checkpoint, sample: int) -> list[Company] | None:
    """A sample's terms in different company; none where the images aren't on this machine."""
    size = model.reference.size
    mates = (sample + np.arange(min(_COMPANY, size))) % size
    levels = access.levels_at(model, mates)
    if levels is None:
        return None
    return batch_mates_module.batch_mates(model.model, levels[0], levels[1:])


class Gap(NamedTuple):
    r"""How far one image's ELBO lies below :math:`\log p(x)`, and why. Unit: nats.

    Attributes:
        terms: Expected log-likelihood and KL of the encoder's q.
        elbo: The ELBO and what it may be off.
        mu: Mean of the encoder's q, with shape :math:`(D,)`.
        sigma: Its standard deviation, with shape :math:`(D,)`.
        ladder: The nested bounds.
        best: Mean and standard deviation of q*, each :math:`(D,)`.
        best_elbo: The ELBO of q* and what it may be off.
        log_evidence: The exact :math:`\log p(x)`, NaN where there is none.
        error: Its numerical error.
        amortization: :math:`\mathrm{ELBO}(q^*) - \mathrm{ELBO}(q)`.
        amortization_error: What that may be off; both ELBOs share their draws.
        approximation: :math:`\log p(x) - \mathrm{ELBO}(q^*)`, NaN where there is none.
        approximation_error: What that may be off.
        to_posterior: :math:`KL(q \| p(z|x))` by computations of its own, NaN where there is none.
        split: That :math:`\log p(x)` is the ELBO plus the latter; none where there is none.
    """

    terms: tuple[float, float]
    elbo: tuple[float, float]
    mu: np.ndarray
    sigma: np.ndarray
    ladder: Ladder
    best: tuple[np.ndarray, np.ndarray]
    best_elbo: tuple[float, float]
    log_evidence: float
    error: float
    amortization: float
    amortization_error: float
    approximation: float
    approximation_error: float
    to_posterior: float
    split: Line | None


@cached(max_entries=128)
def ladder(seen: Seen) -> Ladder:
    """The nested bounds of one image."""
    return bound_ladder(seen)


@cached(max_entries=128, show_spinner="Finding the best q and 5,000 draws")
def gap(seen: Seen) -> Gap:
    """The bounds of one image."""
    elbo = access.elbo(seen)
    with ThreadPoolExecutor(1) as beside:
        # Two roads to one truth that don't meet: each may have a core.
        rungs = beside.submit(ladder, seen)
        best = _best(seen)
        split = gap_split(best)
        to_posterior, line = _to_posterior(seen, elbo, _quadrature(seen))
    return Gap(
        terms=(float(elbo.terms.expected_log_likelihood[0]), float(elbo.terms.kl[0])),
        elbo=(float(elbo.value[0]), float(elbo.uncertainty[0])),
        mu=seen.mu[0].numpy(),
        sigma=seen.sigma[0].numpy(),
        ladder=rungs.result(),
        best=(best.mu[0].numpy(), best.sigma[0].numpy()),
        best_elbo=(float(best.elbo[0]), float(best.elbo_uncertainty[0])),
        log_evidence=float(best.log_evidence[0]),
        error=float(best.log_evidence_error[0]),
        amortization=float(split.amortization[0]),
        amortization_error=float(best.gain_uncertainty[0]),
        approximation=float(split.approximation[0]),
        approximation_error=float(split.error[0]),
        to_posterior=to_posterior,
        split=line,
    )


@shared(max_entries=8)
def _best(seen: Seen) -> BestGaussian:
    found = _quadrature(seen)
    return best_gaussian(
        seen,
        access.elbo(seen),
        draws=access.draws_of(seen.model),
        integrals=None if found is None else [found],
    )


@cached(max_entries=128)
def tilted_elbo(seen: Seen) -> tuple[float, float]:
    """The ELBO of the best Gaussian of any covariance and its error, in nats; for D <= 2."""
    found = best_full_gaussian(seen, _best(seen))
    return float(found.elbo[0]), float(found.error[0])


def _to_posterior(seen: Seen, elbo: Elbo, found: Quadrature | None) -> tuple[float, Line | None]:
    """How far q is from the posterior, and the identity that it is part of."""
    if found is None or found.log_evidence.isnan():
        return math.nan, None
    with torch.inference_mode():
        grid = derivation_module.grid_elbo(seen)
        sampled = sampled_evidence(seen.model, seen.x[0], found)
    distance = derivation_module.divergence_to_posterior(sampled, grid)
    line = derivation_module.split_line(found, derivation_module.stated(elbo), distance)
    return distance.value, line


@shared(max_entries=8)
def _quadrature(seen: Seen) -> Quadrature | None:
    if seen.dims > 2:
        return None
    return quadrature(seen.model, seen.x[0], seen.mu[0], scan=scan(seen.model))


@shared(max_entries=4)
def scan(model: Checkpoint) -> CoarseScan | None:
    """The decoded coarse cells of a model with at most two latent dimensions."""
    return coarse_scan(model) if model.latent_dim <= 2 else None


@cached(max_entries=64)
def posterior(seen: Seen, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Axes (D, G) and density (G) or (G, G) of one image's true posterior over a window (D, 2)."""
    centre, window = torch.from_numpy(window.mean(1)), torch.from_numpy(window)
    side = _LINE_SIDE if len(window) == 1 else _PLANE_SIDE
    grid = true_posterior(seen.model, seen.x[0], centre, window, side, _quadrature(seen))
    return grid.axes.numpy(), grid.density.numpy()


def annealed(seen: Seen, chains: int, progress: Callable[[float], object]) -> tuple[float, float]:
    """The annealed estimate of log p(x) and its standard error, in nats; not cached."""
    found = annealed_evidence(seen, chains=chains, progress=progress)
    return float(found.log_evidence[0]), float(found.standard_error[0])


class FiniteSet(NamedTuple):
    """What a finite set of images shows of the misconception, in one dimension, in nats.

    Attributes:
        widths: Shared standard deviations, with shape :math:`(W,)`.
        information: What their codes tell about which image it was, with shape :math:`(W,)`.
        moments: The penalty on the whole set's moments at the asked-for width.
        batch_of_8: The mean penalty on batches of 8 of the population, at that width.
    """

    widths: np.ndarray
    information: np.ndarray
    moments: float
    batch_of_8: float


@cached(max_entries=32)
def finite_set(sigma: float, size: int) -> FiniteSet:
    """The misconception with finitely many images of one width."""
    widths = torch.logspace(math.log10(0.02), math.log10(0.99), 40, dtype=torch.float64)
    information = []
    for width in widths:
        mu = misconception_means(width[None], size)
        information.append(surgery_module.surgery(mu, width.expand_as(mu)).mean_information)
    width = torch.tensor([sigma], dtype=torch.float64)
    mu = misconception_means(width, size)
    return FiniteSet(
        widths=widths.numpy(),
        information=torch.stack(information).numpy(),
        moments=float(batch_penalties(mu, width, size).mean()),
        batch_of_8=float(expected_batch_penalty(width, 8)),
    )


def surgery(model: Checkpoint) -> tuple[Surgery, np.ndarray]:
    """What the mean KL of the reference set is spent on, and the images it looks at (N,).

    A large reference set is thinned out evenly: each image is set against all others.
    """
    size = model.reference.size
    count = min(size, _MOST_FOR_SURGERY)
    rows = np.linspace(0, size - 1, count).astype(int)
    return _surgery(model, rows), rows


@cached(max_entries=8, show_spinner="Splitting the KL of every image")
def _surgery(model: Checkpoint, rows: np.ndarray) -> Surgery:
    found = access.table(model)
    return surgery_module.surgery(
        torch.from_numpy(found.mu[rows]), torch.from_numpy(found.sigma[rows])
    )


@cached(max_entries=16, show_spinner="Checking the model")
def conformance(model: Checkpoint) -> tuple[Check, ...] | None:
    """What holds of a model, on its validation images; none where they aren't on this machine."""
    levels = access.levels_at(model, model.reference.of_split("validation")[:_CHECKED])
    return None if levels is None else check_model(see(model.model, levels))
