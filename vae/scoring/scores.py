r"""The score of an image: the same numbers whoever its batch-mates are and however it came in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.elbo.evidence.bounds import Bound, estimate_bound
from vae.elbo.evidence.quadrature import Evidence, exact_evidence
from vae.elbo.expectation import DRAWS, Elbo, estimate_elbo
from vae.elbo.seen import Seen, see
from vae.model.face import LatentModel
from vae.scoring.calibration_sets import calibration_of
from vae.scoring.rows import ScoreRow
from vae.scoring.verdict import USUAL_RATE, words
from vae.store.checkpoint import Checkpoint

__all__ = ["Scores", "bits_per_dim", "check_counts", "score", "score_levels", "scores_of"]


class Scores(NamedTuple):
    """The scores of some images, and what they come from.

    Attributes:
        rows: One row for each image.
        p_high: The p-values of an ELBO as high or higher, which no row holds.
        seen: The images; none where there are no images.
        elbo: Their ELBOs.
    """

    rows: list[ScoreRow]
    p_high: list[float]
    seen: Seen | None
    elbo: Elbo | None


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
    expected = checkpoint.image.shape
    if x.ndim != 4 or x.shape[1:] != expected:
        raise ValueError(
            f"x must have shape (B, {expected[0]}, {expected[1]}, {expected[2]}), not {x.shape}."
        )
    levels = checkpoint.image.to_levels(x)
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
    """The rows of :func:`scores_of`."""
    return scores_of(checkpoint, levels, **settings).rows


def scores_of(
    checkpoint: Checkpoint,
    levels: np.ndarray,
    *,
    names: Sequence[str] | None = None,
    draws: int = DRAWS,
    importance_samples: int = 0,
    seed: int = 0,
    evidence: bool = True,
    calibration: str | None = None,
) -> Scores:
    r"""Scores images that are integer levels already; see :func:`score`.

    Args:
        levels: The levels, ``uint8``, with shape :math:`(B, C, H, W)`.
    """
    check_counts(draws, importance_samples, seed)
    if not len(levels):
        return Scores([], [], None, None)
    names = [str(number) for number in range(len(levels))] if names is None else names
    if len(names) != len(levels):
        raise ValueError(f"names must hold {len(levels)} names, one an image, not {len(names)}.")
    compared = calibration_of(checkpoint, calibration)
    seen = see(checkpoint, levels, seed)
    elbo = estimate_elbo(seen, draws)
    # Percentile and p-value keep the calibration set's own estimator.
    alike = elbo.draws == compared.draws
    placed = (elbo if alike else estimate_elbo(seen, compared.draws)).value.numpy()
    nothing = torch.full((len(seen),), math.nan, dtype=torch.float64)
    bound = Bound(nothing, nothing, nothing)
    if importance_samples:
        bound = estimate_bound(seen, importance_samples)
    exact = Evidence(nothing, nothing)
    if evidence and seen.dims <= 2:
        exact = exact_evidence(seen.model, seen.x, seen.mu)
    places = compared.typicality(placed)
    # 1 %, or the smallest rate that so few calibration images support.
    rate = max(USUAL_RATE, compared.smallest_p_value)
    columns = {
        "name": names,
        "elbo": _numbers(elbo.value),
        "elbo_se": _numbers(elbo.standard_error),
        "expected_log_likelihood": _numbers(elbo.terms.expected_log_likelihood),
        "kl": _numbers(elbo.terms.kl),
        "kl_per_dim": map(tuple, elbo.terms.kl_per_dim.tolist()),
        "iwae_bound": _numbers(bound.value),
        "iwae_bound_se": _numbers(bound.standard_error),
        "log_evidence": _numbers(exact.log_evidence),
        "log_evidence_error": _numbers(exact.error),
        "bits_per_dim": _numbers(bits_per_dim(checkpoint, elbo.value.numpy())),
        "elbo_error": _numbers(elbo.error),
        "verdict": words(places.low, places.high, rate),
        "percentile": _numbers(compared.percentile(placed)),
        "p_value": _numbers(places.low),
    }
    same = (elbo.draws, importance_samples, seed, checkpoint.name, checkpoint.weights_sha256)
    rows = [ScoreRow(*one, *same, None, None) for one in zip(*columns.values(), strict=True)]
    return Scores(rows, places.high.tolist(), seen, elbo)


def bits_per_dim(model: LatentModel, elbo: np.ndarray) -> np.ndarray:
    r"""Bits for each pixel value, :math:`-\mathrm{ELBO} / (CHW \ln 2)`; NaN for densities."""
    if not model.likelihood.is_pmf:
        return np.full_like(elbo, np.nan)
    return -elbo / (model.image.pixels * math.log(2))


def check_counts(draws: int, importance_samples: int, seed: int = 0) -> None:
    """Refuses counts of draws, and seeds, that are out of range.

    Raises:
        ValueError: If one is out of range; the message names it.
    """
    if not 1 <= draws <= 100_000:
        raise ValueError(f"draws must lie in 1..100000, not {draws}.")
    if not 0 <= importance_samples <= 1_000_000:
        raise ValueError(f"importance_samples must lie in 0..1000000, not {importance_samples}.")
    # A row's seed is a column of 64 bits in Parquet.
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must lie in -2^63..2^63-1, not {seed}.")


def _numbers(column: Tensor | np.ndarray) -> list[float | None]:
    """Floats, or none where one isn't a number: JSON knows no NaN."""
    values = column.tolist()
    # A sum is NaN where a part of it is: cheaper than a look at each.
    return [None if v != v else v for v in values] if math.isnan(sum(values)) else values
