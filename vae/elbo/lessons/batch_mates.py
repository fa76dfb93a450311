r"""The batch-mate test: one image's terms in different company, against what the batch says.

Each image is charged for its own posterior. If that is so, then its KL and its ELBO cannot depend
on who else is in the batch; a mean over the batch and a penalty on the batch's moments do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from vae.elbo.aggregate.density import batch_moment_kl
from vae.elbo.expectation import estimate_elbo
from vae.elbo.seen import see
from vae.model.face import LatentModel

__all__ = ["DRAWS", "Company", "batch_mates"]

# A quarter of the score's, since four companies are scored to show that none changes it.
DRAWS = 16


_NEIGHBOURS = 8


class Company(NamedTuple):
    """One image scored in one company.

    Attributes:
        name: The company in words.
        size: The number of images in the batch.
        kl: The image's own KL in nats.
        elbo: The image's own ELBO in nats.
        batch_mean_kl: The mean of all KLs in the batch, in nats.
        batch_moment_kl: The KL of the batch's moments to N(0, I), in nats.
    """

    name: str
    size: int
    kl: float
    elbo: float
    batch_mean_kl: float
    batch_moment_kl: float


def batch_mates(
    model: LatentModel, levels: np.ndarray, others: np.ndarray, seed: int = 0
) -> list[Company]:
    r"""Scores an image alone, with 7 others, with all others, and those in another order.

    The whole company is encoded: every KL, their mean and the moments are of all. The ELBO's
    expectation is taken beside the neighbours in the batch, which are all that the decoder ever
    sees at once with an image; decoding the rest would show nothing and take most of the time.

    Args:
        model: The model.
        levels: The image, ``uint8``, with shape :math:`(C, H, W)`.
        others: Its batch-mates, with shape :math:`(M, C, H, W)`; up to 255 are used.
        seed: The seed of the order, and of the draws where :math:`D > 2`.

    Returns:
        One result for each company.
    """
    mates = np.concatenate((levels[None], others[:255]))
    shuffle = np.random.default_rng(seed).permutation(len(mates))
    orders = {
        "alone": np.array([0]),
        f"with {min(7, len(mates) - 1)} others": np.arange(min(8, len(mates))),
        f"with {len(mates) - 1} others": np.arange(len(mates)),
        "the same, shuffled": shuffle,
    }
    return [_score(model, name, mates, order, seed) for name, order in orders.items()]


def _score(
    model: LatentModel, name: str, mates: np.ndarray, order: np.ndarray, seed: int
) -> Company:
    with torch.inference_mode():
        seen = see(model, mates[order], seed)
        kl = seen.kl_per_dim.sum(-1)
        moments = batch_moment_kl(seen.mu, seen.sigma.square()).sum()
    place = int(np.flatnonzero(order == 0)[0])
    first = max(0, place - _NEIGHBOURS // 2)
    near = estimate_elbo(seen[first : first + _NEIGHBOURS], DRAWS)
    return Company(
        name=name,
        size=len(order),
        kl=float(kl[place]),
        elbo=float(near.value[place - first]),
        batch_mean_kl=float(kl.mean()),
        batch_moment_kl=float(moments),
    )
