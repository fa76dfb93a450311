r"""The round trip of a code: decoded to an image, and that image encoded again.

Where :math:`\mu(\mathrm{dec}(z))` lies far from z, the encoder doesn't recognise what the decoder
drew: the place is not one that data come from, and what is drawn there deserves distrust.
"""

from __future__ import annotations

import numpy as np
import torch

from vae.elbo.seen import see
from vae.elbo.tiles import decode_means
from vae.model.face import LatentModel

__all__ = ["round_trip"]


def round_trip(model: LatentModel, codes: np.ndarray, seed: int = 0) -> np.ndarray:
    r"""Decodes codes and encodes the images.

    The image takes the way of any image: the mean of :math:`p(x \mid z)`, snapped to the data's
    levels as a file would be, and binarised where the model sees binary images.

    Args:
        model: The model.
        codes: The codes :math:`z`, with shape :math:`(N, D)`.
        seed: The seed of dynamic binarisation.

    Returns:
        The posterior means of the decoded images, ``float64``, with shape :math:`(N, D)`.
    """
    frames = decode_means(model, torch.as_tensor(codes)).numpy()
    return see(model, model.image.to_levels(frames), seed).mu.numpy()
