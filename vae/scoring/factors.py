"""How well a model of the sprites separates the factors that they were drawn from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from vae.data.sets import sprites
from vae.data.sets.datasets import open_data
from vae.data.sets.image_data import shuffled
from vae.elbo.aggregate.information_gap import mutual_information_gap
from vae.elbo.seen import see
from vae.model.face import LatentModel

__all__ = ["FACTOR_IMAGES", "factor_metrics"]

FACTOR_IMAGES = 10_000


def factor_metrics(
    model: LatentModel, images: int = FACTOR_IMAGES, seed: int = 0
) -> dict[str, Any]:
    """The mutual information gap with the known factors of the sprites.

    Args:
        model: A model of sprites.
        images: The number of images, drawn from those of the grid that are in no split.
        seed: The seed of a binarisation, where the model asks for one.

    Returns:
        JSON values: ``mutual_information_gap`` in [0, 1], ``factor_gaps`` by the factor's name,
        and ``factor_images``.
    """
    data = open_data("sprites")
    unused = np.ones(sprites.COUNT, dtype=bool)
    unused[np.concatenate(data.splits)] = False
    chosen = shuffled(sprites.COUNT, seed=0)
    chosen = chosen[unused[chosen]][:images]
    seen = [
        see(model, data.read(some), seed)
        for some in np.array_split(chosen, math.ceil(len(chosen) / 1_024))
    ]
    gap = mutual_information_gap(
        torch.cat([part.mu for part in seen]),
        torch.cat([part.sigma for part in seen]),
        torch.from_numpy(sprites.factors_of(chosen)),
    )
    names = [factor.name for factor in sprites.FACTORS]
    return {
        "mutual_information_gap": float(gap.value),
        "factor_gaps": dict(zip(names, gap.per_factor.tolist(), strict=True)),
        "factor_images": len(chosen),
    }
