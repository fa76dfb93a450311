r"""The score of an image: the same numbers whoever its batch-mates are and however it came in.

For :math:`D \le 2` the expectation under q is taken by quadrature, with no sampling noise and with
its numerical error; for :math:`D > 2` it is a mean over draws whose noise follows from (seed,
image). The same nodes give the sum for the score and the terms for the receipt, so the two agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.elbo.calibration_sets import calibration_of
from vae.elbo.evidence import exact_evidence, importance_bound
from vae.elbo.expectation import FIRST_LEVEL, expect, lattice_nodes
from vae.elbo.quadrature import node_log_likelihoods
from vae.elbo.rows import ScoreRow
from vae.elbo.terms import (
    Terms,
    log_density,
    pixel_log_likelihood,
    standard_normal_kl,
)
from vae.elbo.tiles import decode_means, decoder_rows, encode_tiled, map_tiles, row_sums
from vae.elbo.verdict import USUAL_RATE, words
from vae.model.checkpoint import Checkpoint
from vae.model.config import ModelConfig
from vae.model.likelihoods import facts_of
from vae.model.noise import image_normals
from vae.model.vae import LatentModel, observe

__all__ = [
    "DRAWS",
    "Receipt",
    "SampleScores",
    "bits_per_dim",
    "check_counts",
    "draws_used",
    "placed_rows",
    "importance_log_weights",
    "weigh_draws",
    "posterior_nodes",
    "sample_receipt",
    "sample_scores",
    "score",
    "score_levels",
]

DRAWS = 64

# Bound the memory of one step, in codes and in their coordinates; they never change a number.
_CODES_AT_ONCE = 200_000
_COORDINATES_AT_ONCE = 2**18


class SampleScores(NamedTuple):
    r"""The scores of a batch of images, one number each.

    Attributes:
        mu: Posterior means, float64, with shape :math:`(B, D)`.
        sigma: Posterior standard deviations, float64, with shape :math:`(B, D)`.
        terms: The expected log-likelihood :math:`(B,)` and KL :math:`(B, D)`, float64.
        elbo_se: The standard error of the ELBO; 0 by quadrature, NaN from a single draw, (B,).
        elbo_error: The numerical error of the ELBO by quadrature, NaN from draws, (B,).
        level: The lattice behind it (:func:`vae.elbo.expectation.lattice_nodes`), (B,).
        calibrated_elbo: The ELBO from the first ``calibrated_draws`` draws, :math:`(B,)`.
        draws: The number of draws; 0 by quadrature.
        iwae_bound: :math:`L_k`, NaN where not asked for, with shape :math:`(B,)`.
        iwae_bound_se: Its standard error, with shape :math:`(B,)`.
        log_evidence: :math:`\log p(x)`, NaN where not exact, with shape :math:`(B,)`.
        log_evidence_error: Its numerical error, with shape :math:`(B,)`.
    """

    mu: Tensor
    sigma: Tensor
    terms: Terms
    elbo_se: Tensor
    elbo_error: Tensor
    level: Tensor
    calibrated_elbo: Tensor
    draws: int
    iwae_bound: Tensor
    iwae_bound_se: Tensor
    log_evidence: Tensor
    log_evidence_error: Tensor

    @property
    def elbo_uncertainty(self) -> Tensor:
        """What the ELBO may be off, numerically or by its draws, in nats, (B,)."""
        return torch.where(self.elbo_error.isnan(), self.elbo_se, self.elbo_error)


class Receipt(NamedTuple):
    r"""One image's ELBO, taken apart without remainder.

    Attributes:
        x: The image as the model sees it, with shape :math:`(C, H, W)`.
        reconstruction: The mean of :math:`p(x \mid z = \mu)`, with shape :math:`(C, H, W)`.
        pixels: Each pixel's expected log-likelihood in nats, with shape :math:`(C, H, W)`.
        kl_per_dim: The KL in nats, with shape :math:`(D,)`.
        mu: The posterior mean, with shape :math:`(D,)`.
        sigma: The posterior standard deviation, with shape :math:`(D,)`.
        elbo: The ELBO as the score states it, in nats.
        elbo_se: Its standard error; 0 by quadrature, NaN from a single draw.
        elbo_error: Its numerical error by quadrature, NaN from draws.
    """

    x: np.ndarray
    reconstruction: np.ndarray
    pixels: np.ndarray
    kl_per_dim: np.ndarray
    mu: np.ndarray
    sigma: np.ndarray
    elbo: float
    elbo_se: float
    elbo_error: float

    @property
    def elbo_uncertainty(self) -> float:
        """What the ELBO may be off, numerically or by its draws, in nats; NaN where unknown."""
        return self.elbo_se if math.isnan(self.elbo_error) else self.elbo_error

    @property
    def expected_log_likelihood(self) -> float:
        """The sum over pixels, in nats."""
        return float(self.pixels.sum())

    @property
    def kl(self) -> float:
        """The sum over latent dimensions, in nats."""
        return float(self.kl_per_dim.sum())

    @property
    def residual(self) -> float:
        """What the parts leave unexplained of the ELBO, in nats."""
        return self.elbo - (self.expected_log_likelihood - self.kl)


def score(
    checkpoint: Checkpoint,
    x: np.ndarray | Tensor,
    *,
    names: Sequence[str] | None = None,
    draws: int = DRAWS,
    importance_samples: int = 0,
    seed: int = 0,
    evidence: bool = True,
    calibration: str | None = None,
) -> list[ScoreRow]:
    r"""Scores images: ELBO, its two terms, and its place among the calibration set.

    Args:
        checkpoint: A model from :func:`vae.load`.
        x: Images in [0, 1], with shape :math:`(B, C, H, W)`; snapped to the data's levels.
        names: A name for each image; its number where not given.
        draws: Draws from q for :math:`D > 2`; quadrature needs none.
        importance_samples: The k of the importance-weighted bound; 0 leaves it out.
        seed: The seed; an image's noise follows from (seed, image).
        evidence: Whether to compute the exact :math:`\log p(x)` where :math:`D \le 2`.
        calibration: The named set for percentile and p-value; the model's own when not given.

    Returns:
        One row for each image, in order.

    Raises:
        ValueError: If ``x`` has the wrong shape or holds values outside [0, 1] or not finite.
        CheckpointError: If the calibration set isn't there.
    """
    x = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    expected = checkpoint.config.image.shape
    if x.ndim != 4 or x.shape[1:] != expected:
        raise ValueError(
            f"x must have shape (B, {expected[0]}, {expected[1]}, {expected[2]}), not {x.shape}."
        )
    levels = checkpoint.config.image.to_levels(x)
    return score_levels(
        checkpoint,
        levels,
        names=names,
        draws=draws,
        importance_samples=importance_samples,
        seed=seed,
        evidence=evidence,
        calibration=calibration,
    )


def score_levels(
    checkpoint: Checkpoint,
    levels: np.ndarray,
    **settings: Any,  # noqa: ANN401
) -> list[ScoreRow]:
    """The rows of :func:`placed_rows`."""
    return placed_rows(checkpoint, levels, **settings)[0]


def placed_rows(
    checkpoint: Checkpoint,
    levels: np.ndarray,
    *,
    names: Sequence[str] | None = None,
    draws: int = DRAWS,
    importance_samples: int = 0,
    seed: int = 0,
    evidence: bool = True,
    calibration: str | None = None,
) -> tuple[list[ScoreRow], list[float]]:
    r"""Scores images that are integer levels already; see :func:`score`.

    Args:
        levels: The levels, ``uint8``, with shape :math:`(B, C, H, W)`.

    Returns:
        One row for each image, and the p-value of an ELBO as high or higher, which no row holds.
    """
    if not len(levels):
        return [], []
    names = [str(number) for number in range(len(levels))] if names is None else names
    if len(names) != len(levels):
        raise ValueError(f"names must hold {len(levels)} names, one an image, not {len(names)}.")
    compared = calibration_of(checkpoint, calibration)
    scores = sample_scores(
        checkpoint,
        levels,
        draws=draws,
        calibrated_draws=compared.draws,
        importance_samples=importance_samples,
        seed=seed,
        evidence=evidence,
    )
    elbo = scores.terms.elbo
    calibrated = scores.calibrated_elbo.numpy()
    places = compared.typicality(calibrated)
    # 1 %, or the smallest rate that so few calibration images support.
    rate = max(USUAL_RATE, compared.smallest_p_value)
    columns = {
        "elbo": elbo,
        "elbo_se": scores.elbo_se,
        "expected_log_likelihood": scores.terms.expected_log_likelihood,
        "kl": scores.terms.kl,
        "kl_per_dim": map(tuple, scores.terms.kl_per_dim.tolist()),
        "iwae_bound": scores.iwae_bound,
        "iwae_bound_se": scores.iwae_bound_se,
        "log_evidence": scores.log_evidence,
        "log_evidence_error": scores.log_evidence_error,
        "bits_per_dim": bits_per_dim(checkpoint.config, elbo.numpy()),
        "elbo_error": scores.elbo_error,
        "verdict": words(places.low, places.high, rate),
        "percentile": compared.percentile(calibrated),
        "p_value": places.low,
    }
    # Whole columns at once: a tensor's elements one by one take longer than the network.
    numbers = {
        field: column if field in ("kl_per_dim", "verdict") else _numbers(column)
        for field, column in columns.items()
    }
    same = (
        scores.draws, importance_samples, seed, checkpoint.name, checkpoint.weights_sha256,
        None, None,
    )  # fmt: skip
    rows = [ScoreRow(*one, *same) for one in zip(names, *numbers.values(), strict=True)]
    return rows, places.high.tolist()


def draws_used(config: ModelConfig, draws: int) -> int:
    """The draws behind an ELBO: as many as asked for, or 0 where quadrature needs none."""
    return 0 if config.latent_dim <= 2 else draws


def bits_per_dim(config: ModelConfig, elbo: np.ndarray) -> np.ndarray:
    r"""Bits for each pixel value, :math:`-\mathrm{ELBO} / (CHW \ln 2)`; NaN for densities."""
    if not facts_of(config.likelihood).is_pmf:
        return np.full_like(elbo, np.nan)
    return -elbo / (config.image.pixels * math.log(2))


def check_counts(draws: int, importance_samples: int) -> None:
    """Refuses counts of draws that are out of range.

    Raises:
        ValueError: If a count is out of range; the message names it.
    """
    if not 1 <= draws <= 100_000:
        raise ValueError(f"draws must lie in 1..100000, not {draws}.")
    if not 0 <= importance_samples <= 1_000_000:
        raise ValueError(f"importance_samples must lie in 0..1000000, not {importance_samples}.")


@torch.inference_mode()
def sample_scores(
    model: LatentModel,
    levels: np.ndarray,
    *,
    draws: int = DRAWS,
    calibrated_draws: int = 0,
    importance_samples: int = 0,
    seed: int = 0,
    evidence: bool = False,
) -> SampleScores:
    r"""Computes the scores of images, each by itself.

    Args:
        model: The model.
        levels: Integer levels of the data, ``uint8``, :math:`(B, C, H, W)`, :math:`B \ge 1`.
        draws: Draws from q for :math:`D > 2`.
        calibrated_draws: The draws behind the calibration set; 0 means ``draws``.
        importance_samples: The k of the importance-weighted bound; 0 leaves it out.
        seed: The seed of every draw.
        evidence: Whether to compute the exact evidence where :math:`D \le 2`.

    Returns:
        The scores.

    Raises:
        ValueError: If a count is out of range.
    """
    check_counts(draws, importance_samples)
    x = observe(model.config, levels, seed)
    mu, sigma = encode_tiled(model, x)
    kl = standard_normal_kl(mu, 2 * sigma.log())
    expected = _expected(model, levels, x, mu, sigma, draws, calibrated_draws or draws, seed)
    dims = model.config.latent_dim
    empty = torch.full((len(x),), math.nan, dtype=torch.float64)
    exact = exact_evidence(model, x, mu) if evidence and dims <= 2 else (empty, empty)
    bounds, bound_errors = [], []
    if importance_samples:
        for part in _parts(len(x), importance_samples, dims):
            _, log_weights = importance_log_weights(
                model, levels[part], x[part], mu[part], sigma[part], importance_samples, seed
            )
            bound = importance_bound(log_weights)
            bounds.append(bound.value)
            bound_errors.append(bound.standard_error)
    return SampleScores(
        mu=mu,
        sigma=sigma,
        terms=Terms(expected.value, kl),
        elbo_se=expected.standard_error,
        elbo_error=expected.error,
        level=expected.level,
        calibrated_elbo=expected.calibrated - kl.sum(-1),
        draws=draws_used(model.config, draws),
        iwae_bound=torch.cat(bounds) if bounds else empty,
        iwae_bound_se=torch.cat(bound_errors) if bounds else empty,
        log_evidence=exact[0],
        log_evidence_error=exact[1],
    )


class _Expected(NamedTuple):
    """Expected log-likelihoods with their errors, each with shape (B,)."""

    value: Tensor
    standard_error: Tensor
    error: Tensor
    level: Tensor
    calibrated: Tensor


def _expected(
    model: LatentModel,
    levels: np.ndarray,
    x: Tensor,
    mu: Tensor,
    sigma: Tensor,
    draws: int,
    calibrated_draws: int,
    seed: int,
) -> _Expected:
    """By quadrature, or the mean of the first so many draws and that of the calibration's."""
    if model.config.latent_dim <= 2:
        value, error, level = expect(
            model, x, lambda rows, e: mu[rows, None] + sigma[rows, None] * e
        )
        return _Expected(value, torch.zeros_like(value), error, level, value)
    most, means, errors, calibrated = max(draws, calibrated_draws), [], [], []
    for part in _parts(len(x), most, mu.shape[-1]):
        nodes, _ = posterior_nodes(model.config, levels[part], mu[part], sigma[part], most, seed)
        values = node_log_likelihoods(model, x[part], nodes)
        used, known = values[:, :draws], values[:, :calibrated_draws]
        mean = row_sums(used) / draws
        squares = row_sums((used - mean[:, None]).square())
        means.append(mean)
        # 0 / 0 for a single draw, which has no standard error.
        errors.append(torch.sqrt(squares / ((draws - 1) * draws)))
        calibrated.append(row_sums(known) / calibrated_draws)
    mean = torch.cat(means)
    level = torch.zeros(len(x), dtype=torch.int64)
    nan = torch.full_like(mean, math.nan)
    return _Expected(mean, torch.cat(errors), nan, level, torch.cat(calibrated))


@torch.inference_mode()
def sample_receipt(
    model: LatentModel, levels: np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> Receipt:
    r"""Takes one image's ELBO apart, over the very nodes that its score averages.

    Args:
        model: The model.
        levels: One image's levels, ``uint8``, with shape :math:`(C, H, W)`.
        draws: Draws from q for :math:`D > 2`.
        seed: The seed of the draws.

    Returns:
        The receipt; its parts sum to the ELBO of :func:`sample_scores`.
    """
    levels = levels[None]
    scores = sample_scores(model, levels, draws=draws, seed=seed)
    x = observe(model.config, levels, seed)
    nodes, weights = posterior_nodes(
        model.config, levels, scores.mu, scores.sigma, draws, seed, int(scores.level)
    )
    rows_at_once, pixels = (
        decoder_rows(model.config),
        torch.zeros(x.shape[1:], dtype=torch.float64),
    )
    # Tile by tile: a foreign image may take more nodes than pictures fit into memory.
    for codes, masses in zip(
        nodes[0].to(x.dtype).split(rows_at_once), weights.split(rows_at_once), strict=True
    ):

        def tile(rows: Tensor, codes: Tensor = codes) -> Tensor:
            one = x.expand(len(rows), *x.shape[1:])
            return pixel_log_likelihood(model.decode(codes[rows]), one).double()

        values = map_tiles(rows_at_once, len(codes), tile)
        pixels += torch.einsum("s,schw->chw", masses, values)
    return Receipt(
        x=x[0].numpy(),
        reconstruction=decode_means(model, scores.mu)[0].numpy(),
        pixels=pixels.numpy(),
        kl_per_dim=scores.terms.kl_per_dim[0].numpy(),
        mu=scores.mu[0].numpy(),
        sigma=scores.sigma[0].numpy(),
        elbo=float(scores.terms.elbo[0]),
        elbo_se=float(scores.elbo_se[0]),
        elbo_error=float(scores.elbo_error[0]),
    )


def posterior_nodes(
    config: ModelConfig,
    levels: np.ndarray,
    mu: Tensor,
    sigma: Tensor,
    draws: int,
    seed: int,
    level: int = FIRST_LEVEL,
) -> tuple[Tensor, Tensor]:
    """Codes (B, S, D) and weights (S,) whose weighted mean is the expectation under q."""
    if config.latent_dim <= 2:
        e, weights = lattice_nodes(config.latent_dim, level)
    else:
        e = torch.from_numpy(image_normals(levels, seed, "draws", (draws, config.latent_dim)))
        weights = torch.full((draws,), 1 / draws, dtype=torch.float64)
    return mu[:, None] + sigma[:, None] * e, weights


def importance_log_weights(
    model: LatentModel, levels: np.ndarray, x: Tensor, mu: Tensor, sigma: Tensor, k: int, seed: int
) -> tuple[Tensor, Tensor]:
    r"""Draws from q and their log importance weights :math:`\log p(x, z) - \log q(z \mid x)`.

    Args:
        model: The model.
        levels: The images' levels, which seed the draws, with shape :math:`(B, C, H, W)`.
        x: The images as the model sees them, with shape :math:`(B, C, H, W)`.
        mu: Means of q, with shape :math:`(B, D)`.
        sigma: Standard deviations of q, with shape :math:`(B, D)`.
        k: The number of draws.
        seed: The seed.

    Returns:
        The draws, with shape :math:`(B, k, D)`, and their log-weights, :math:`(B, k)`.
    """
    shape = (k, model.config.latent_dim)
    e = torch.from_numpy(image_normals(levels, seed, "importance", shape))
    return weigh_draws(model, x, mu, sigma, e)


def weigh_draws(
    model: LatentModel, x: Tensor, mu: Tensor, sigma: Tensor, e: Tensor
) -> tuple[Tensor, Tensor]:
    """The draws z (B, k, D) that standard normals e of that shape make, and their log-weights."""
    z = mu[:, None] + sigma[:, None] * e
    log_prior = log_density(torch.zeros(1), torch.ones(1), z)
    # log N(z; mu, sigma^2) at z = mu + sigma e.
    log_posterior = log_density(torch.zeros(1), torch.ones(1), e) - sigma.log().sum(-1)[:, None]
    return z, node_log_likelihoods(model, x, z) + log_prior - log_posterior


def _parts(count: int, codes: int, dims: int) -> Iterator[slice]:
    """Slices of a batch that keep the codes of one step within bounds, ``codes`` an image."""
    size = max(1, min(_CODES_AT_ONCE, _COORDINATES_AT_ONCE // dims) // codes)
    for start in range(0, count, size):
        yield slice(start, start + size)


def _numbers(column: Tensor | np.ndarray) -> list[float | None]:
    """Floats, or none where one isn't a number: JSON knows no NaN."""
    values = column.tolist()
    # A sum is NaN where a part of it is: cheaper than a look at each.
    return [None if v != v else v for v in values] if math.isnan(sum(values)) else values
