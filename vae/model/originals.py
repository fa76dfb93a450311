"""The reference images of a checkpoint: embedded, redrawn, or read from the user's data."""

from __future__ import annotations

import numpy as np

from vae.data.datasets import DataMissing, open_data
from vae.model.checkpoint import Checkpoint

__all__ = ["originals"]


def originals(checkpoint: Checkpoint, rows: np.ndarray) -> np.ndarray:
    r"""Reads reference images by their position in the reference set.

    Args:
        checkpoint: The checkpoint.
        rows: Positions in ``checkpoint.reference``, with shape :math:`(N,)`.

    Returns:
        Their levels, ``uint8``, with shape :math:`(N, C, H, W)`.

    Raises:
        DataMissing: If they aren't embedded and the data set isn't there or has changed.
    """
    reference = checkpoint.reference
    if reference.levels is not None:
        return reference.levels[rows]
    image = checkpoint.config.image
    data = open_data(checkpoint.manifest["data"]["name"], image.height, image.channels)
    indices = reference.indices[rows]
    known = checkpoint.manifest["data"]["splits"]
    if known["train"]["images"] != len(data.splits.train) or data.spec != image:
        raise DataMissing(
            f"The data set {data.name!r} has changed since {checkpoint.name!r} was trained on it."
        )
    return data.read(indices)
