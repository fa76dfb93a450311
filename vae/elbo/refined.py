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

import numpy as np
import torch

from vae.elbo.evidence import importance_bound
from vae.elbo.scoring import weigh_draws
from vae.elbo.tiles import decoder_rows, encode_tiled
from vae.model.noise import image_generator
from vae.model.vae import LatentModel, observe

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
    model: LatentModel,
    levels: np.ndarray,
    *,
    tolerance: float = TOLERANCE,
    most: int = MOST_DRAWS,
    seed: int = 0,
) -> Iterator[RefinedBound]:
    r"""Refines the bound of one image; stop taking from it to stop computing.

    Args:
        model: The model.
        levels: The image's levels, ``uint8``, with shape :math:`(C, H, W)`.
        tolerance: The standard error in nats at which it stops.
        most: The largest number of draws.
        seed: The seed of the draws.

    Yields:
        The state after every block of draws.

    Raises:
        ValueError: If ``tolerance`` or ``most`` is out of range.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0 nats, not {tolerance}.")
    if not 1 <= most <= 10_000_000:
        raise ValueError(f"most must lie in 1..10000000, not {most}.")
    block = max(256, min(4_096, 2 * decoder_rows(model.config)))
    generator = image_generator(levels, seed, "importance")
    with torch.inference_mode():
        x = observe(model.config, levels[None], seed)
        mu, sigma = encode_tiled(model, x)
    weights = torch.empty((1, 0), dtype=torch.float64)
    while weights.shape[1] < most:
        count = min(block, most - weights.shape[1])
        # Grad mode belongs to the thread, so no block of it may stay open across a yield.
        with torch.inference_mode():
            e = torch.from_numpy(generator.standard_normal((1, count, mu.shape[1])))
            _, fresh = weigh_draws(model, x, mu, sigma, e)
            weights = torch.cat((weights, fresh), 1)
            bound = importance_bound(weights)
        draws = weights.shape[1]
        error = float(bound.standard_error)
        done = error <= tolerance and draws >= min(_FEWEST, most)
        yield RefinedBound(float(bound.value), error, float(bound.effective_samples), draws, done)
        if done:
            return
