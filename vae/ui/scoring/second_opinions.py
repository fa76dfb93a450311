"""What other statistics say of one image, cached.

Each is placed among the same statistic of the model's own calibration images, so it exists only
where those images are on this machine and were not exchanged for a named set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vae.elbo.evidence.bounds import estimate_bound
from vae.elbo.evidence.quadrature import exact_evidence
from vae.elbo.expectation import Elbo, draws_used
from vae.elbo.gap.gap_split import BestGaussian, best_gaussian
from vae.elbo.seen import Seen, see
from vae.explore.selection import nearest_to
from vae.scoring.calibration import FalseAlarms, tie, typicality
from vae.scoring.complexity import code_lengths, complexity_excess, excess_tie
from vae.scoring.counterfactual import AcceptedMove, nearest_accepted
from vae.scoring.evaluation import calibration_evidence
from vae.scoring.files import ScoredImage
from vae.scoring.scorer import ScoreSettings
from vae.store.checkpoint import Checkpoint
from vae.ui import access
from vae.ui.caches import cached
from vae.ui.estimates import scan

__all__ = [
    "REGRET_IMAGES",
    "Complexity",
    "Opinion",
    "Regret",
    "accepted_move",
    "complexity",
    "evidence",
    "log_evidence",
    "place_regret",
    "regret",
    "regret_reference",
]

# A fit for each calibration image would take minutes; p-values then are multiples of 1 in 100.
REGRET_IMAGES = 99
_FITS_AT_ONCE = 9
# Draws to climb on, where images are large and decoding them is what takes the time.
_FIT_DRAWS, _FEW_FIT_DRAWS, _LARGE = 128, 32, 1_024
_TARGETS = {True: 8, False: 16}


class Opinion(NamedTuple):
    """A statistic of one image and its place among those of calibration images.

    Attributes:
        value: In its unit.
        error: Its standard or numerical error in the same unit.
        p_value: One-sided, small where the image is strange.
        images: The number of calibration images behind the p-value.
    """

    value: float
    error: float
    p_value: float
    images: int


class Complexity(NamedTuple):
    """The cost beyond a lossless code.

    Attributes:
        excess: It, in bits; the error is the noise of the code's length. None where the
            calibration images aren't on this machine.
        bits: The length of the code in bits.
        noise: Its standard deviation over the readings of the image, in bits.
    """

    excess: Opinion | None
    bits: float
    noise: float


class Regret(NamedTuple):
    r"""What a q of one's own would gain.

    Attributes:
        gain: :math:`\mathrm{ELBO}(q^*) - \mathrm{ELBO}(q)` in nats.
        error: What that may be off, in nats.
        best_elbo: :math:`\mathrm{ELBO}(q^*)` in nats.
    """

    gain: float
    error: float
    best_elbo: float


def evidence(model: Checkpoint, scored: ScoredImage, settings: ScoreSettings) -> Opinion:
    """log p(x) where it is exact, else L_k by the estimator of the calibration images."""
    k = model.card.metrics.importance_samples
    reference = model.reference
    if model.latent_dim <= 2:
        known, (value, error) = calibration_evidence(model), log_evidence(scored, settings)
    elif k:
        known = reference.iwae_bound[reference.of_split("calibration")]
        value, error = _bound(scored.seen, k)
    else:  # a run may leave out the bound
        return Opinion(math.nan, math.nan, math.nan, 0)
    # Out of the quadrature's reach is stranger than anything within it.
    place = np.nan_to_num(np.array(value), nan=-np.inf)
    images = len(known) if np.isfinite(known).any() else 0
    return Opinion(value, error, float(typicality(known, place).low), images)


def log_evidence(scored: ScoredImage, settings: ScoreSettings) -> tuple[float, float]:
    """The exact log p(x), NaN out of reach, and its error, in nats: the row's where it has it."""
    if not settings.evidence:
        return _evidence(scored.seen)
    row = scored.row
    known = row.log_evidence is not None
    return (row.log_evidence, row.log_evidence_error) if known else (math.nan, math.nan)


@cached(max_entries=256)
def _evidence(seen: Seen) -> tuple[float, float]:
    found = exact_evidence(seen.model, seen.x, seen.mu)
    return float(found.log_evidence), float(found.error)


@cached(max_entries=256)
def _bound(seen: Seen, k: int) -> tuple[float, float]:
    found = estimate_bound(seen, k)
    return float(found.value), float(found.standard_error)


@cached(max_entries=256)
def complexity(model: Checkpoint, seen: Seen, elbo: Elbo) -> Complexity:
    """The input-complexity correction of an image, from its ELBO by the calibration's draws."""
    code = code_lengths(seen.x.numpy())
    bits, noise = float(code.bits[0]), float(code.noise[0])
    reference = _complexity_reference(model)
    if reference is None:
        return Complexity(None, bits, noise)
    if elbo.draws != draws_used(model, access.draws_of(model)):
        elbo = access.elbo(seen)
    nats = elbo.value.numpy()
    value = complexity_excess(nats, np.array([bits]))
    p = typicality(reference, value, excess_tie(nats)).high
    return Complexity(Opinion(float(value[0]), noise, float(p[0]), len(reference)), bits, noise)


@cached(max_entries=8, show_spinner="Coding the calibration images")
def _complexity_reference(model: Checkpoint) -> np.ndarray | None:
    rows = model.reference.of_split("calibration")
    levels = access.levels_at(model, rows)
    if levels is None:
        return None
    bits = code_lengths(model.observe(levels).numpy()).bits
    return complexity_excess(model.reference.elbo[rows], bits)


@cached(max_entries=256, show_spinner="Looking for the best q of this image")
def regret(model: Checkpoint, seen: Seen, elbo: Elbo) -> Regret:
    """The likelihood regret of one image."""
    best = _best(model, seen, elbo)
    return Regret(float(best.gain), float(best.gain_uncertainty), float(best.elbo))


@cached(max_entries=64)
def _gains(model: Checkpoint, levels: np.ndarray) -> np.ndarray:
    """The likelihood regrets of some images, (B,)."""
    return _best(model, see(model, levels)).gain.numpy()


def _best(model: Checkpoint, seen: Seen, elbo: Elbo | None = None) -> BestGaussian:
    large = model.image.pixels > _LARGE
    return best_gaussian(
        seen,
        elbo,
        draws=access.draws_of(model),
        fit_draws=_FEW_FIT_DRAWS if large else _FIT_DRAWS,
        scan=scan(model),
    )


def regret_reference(model: Checkpoint) -> Iterator[np.ndarray]:
    """The likelihood regrets of some calibration images, a few more at each step.

    What is computed stays, so that whoever stops and comes back goes on from there.
    """
    calibration = model.reference.of_split("calibration")
    count = min(REGRET_IMAGES, len(calibration))
    # Spread over the whole set, which may be sorted by class.
    rows = calibration[np.linspace(0, len(calibration) - 1, count).astype(int)]
    gains = np.empty(0)
    for start in range(0, count, _FITS_AT_ONCE):
        levels = access.levels_at(model, rows[start : start + _FITS_AT_ONCE])
        if levels is None:
            return
        gains = np.concatenate((gains, _gains(model, levels)))
        yield gains


def place_regret(found: Regret, gains: np.ndarray) -> Opinion:
    """A regret among those of calibration images; each is a difference of two ELBOs."""
    ties = 2 * tie(np.array(found.best_elbo))
    p = float(typicality(gains, np.array(found.gain), ties).high)
    return Opinion(found.gain, found.error, p, len(gains))


@cached(max_entries=128, show_spinner="Walking to the nearest image that passes")
def accepted_move(
    model: Checkpoint, mu: np.ndarray, alarms: FalseAlarms, draws: int, seed: int
) -> AcceptedMove:
    """The smallest latent move into the accepted region."""
    table = access.table(model)
    accepted = table.mu[alarms.passes(table.elbo)]
    near, _ = nearest_to(accepted, mu, _TARGETS[model.image.pixels > _LARGE])
    return nearest_accepted(
        model.model, mu, alarms.threshold, accepted[near], draws=draws, seed=seed
    )
