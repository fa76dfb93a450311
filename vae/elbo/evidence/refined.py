r"""One image's importance-weighted bound, refined draw by draw until it is certain enough.

For display only: percentiles and p-values keep the estimator of the calibration set. The first k
draws are those of the score's own :math:`L_k`. By the delta method
:math:`\mathrm{se}^2 \approx 1/\mathrm{ESS} - 1/k`, so an error of 0.1 nat takes an effective
sample size of about 100; stopping there favours lucky runs a little, which the error doesn't show.

References:
    | Importance Weighted Autoencoders (Burda et al., 2016), eq. 8, https://arxiv.org/abs/1509.00519
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from vae.elbo.evidence.bounds import importance_bound, weigh_draws
from vae.elbo.seen import Seen
from vae.elbo.tiles import decoder_rows
from vae.model.noise import image_generator

__all__ = ["MOST_DRAWS", "TOLERANCE", "RefinedBound", "refined_bound"]

TOLERANCE = 0.1
MOST_DRAWS = 200_000
# A standard error from fewer draws isn't believed.
_FEWEST = 1_000


class RefinedBound(NamedTuple):
    """How far the refinement has come.

    Attributes:
        value: The bound in nats.
        standard_error: Its standard error in nats.
        effective_samples: The effective sample size.
        draws: The number k of draws so far.
        done: Whether the standard error is small enough.
    """

    value: float
    standard_error: float
    effective_samples: float
    draws: int
    done: bool


def refined_bound(
    seen: Seen,
    *,
    tolerance: float = TOLERANCE,
    most: int = MOST_DRAWS,
) -> Iterator[RefinedBound]:
    r"""Refines the bound of one image; stop taking from it to stop computing.

    Args:
        seen: The image.
        tolerance: The standard error in nats at which it stops.
        most: The largest number of draws.

    Yields:
        The state after every block of draws.

    Raises:
        ValueError: If ``tolerance`` or ``most`` is out of range.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0 nats, not {tolerance}.")
    if not 1 <= most <= 10_000_000:
        raise ValueError(f"most must lie in 1..10000000, not {most}.")
    block = max(256, min(4_096, 2 * decoder_rows(seen.model.image)))
    generator = image_generator(seen.levels[0], seen.seed, "importance")
    weights = torch.empty((1, 0), dtype=torch.float64)
    while weights.shape[1] < most:
        count = min(block, most - weights.shape[1])
        # Grad mode belongs to the thread, so no block of it may stay open across a yield.
        with torch.inference_mode():
            e = torch.from_numpy(generator.standard_normal((1, count, seen.dims)))
            _, fresh = weigh_draws(seen, e)
            weights = torch.cat((weights, fresh), 1)
            bound = importance_bound(weights)
        draws = weights.shape[1]
        error = float(bound.standard_error)
        done = error <= tolerance and draws >= min(_FEWEST, most)
        yield RefinedBound(float(bound.value), error, float(bound.effective_samples), draws, done)
        if done:
            return
