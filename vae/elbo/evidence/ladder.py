r"""One image's ladder of bounds, every rung from the same draws.

References:
    | Importance Weighted Autoencoders (Burda et al., 2016), theorem 1,
    | https://arxiv.org/abs/1509.00519
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from vae.elbo.evidence.bounds import importance_bound, importance_draws, nested_bounds
from vae.elbo.seen import Seen

__all__ = ["RUNGS", "Ladder", "bound_ladder"]

RUNGS = (1, 5, 50, 5_000)


class Ladder(NamedTuple):
    r"""The bounds :math:`L_k` of one image.

    Attributes:
        rungs: The numbers k, with shape :math:`(G,)`.
        values: The bounds in nats, rising, with shape :math:`(G,)`.
        standard_errors: Their standard errors in nats, with shape :math:`(G,)`.
        effective_samples: The effective sample size of all draws together.
        z: The draws, with shape :math:`(K, D)`.
        weights: Their normalised importance weights, which sum to 1, with shape :math:`(K,)`.
    """

    rungs: tuple[int, ...]
    values: np.ndarray
    standard_errors: np.ndarray
    effective_samples: float
    z: np.ndarray
    weights: np.ndarray


@torch.inference_mode()
def bound_ladder(seen: Seen, rungs: tuple[int, ...] = RUNGS) -> Ladder:
    r"""Computes an image's nested bounds from one set of draws, as many as the last rung.

    Args:
        seen: The image; the draws are those of the score's own bound.
        rungs: The numbers k, each dividing the next.

    Returns:
        The ladder.
    """
    z, log_weights = importance_draws(seen, rungs[-1])
    values = nested_bounds(log_weights, rungs)[0]
    last = importance_bound(log_weights)
    errors = []
    for k in rungs[:-1]:
        blocks = torch.logsumexp(log_weights[0].unflatten(0, (-1, k)), -1) - math.log(k)
        errors.append(float(blocks.std() / math.sqrt(len(blocks))))
    return Ladder(
        rungs=rungs,
        values=values.numpy(),
        standard_errors=np.array([*errors, float(last.standard_error[0])]),
        effective_samples=float(last.effective_samples[0]),
        z=z[0].numpy(),
        weights=torch.softmax(log_weights[0], 0).numpy(),
    )
