"""The reference images of a checkpoint: embedded, redrawn, or read from the user's data."""

from __future__ import annotations

import numpy as np

from vae.data.datasets import DataMissing, ImageData, Reading, open_data
from vae.model.checkpoint import Checkpoint

__all__ = ["originals", "own_data"]


def originals(checkpoint: Checkpoint, rows: np.ndarray) -> np.ndarray:
    r"""Reads reference images by their position in the reference set.

    Images that were decoded on this machine are found by their content, so that a folder may have
    been moved, or be gone, since.

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
    if digest := checkpoint.manifest["data"].get("digest"):
        # Imported here: most checkpoints have their images inside or draw them.
        from vae.data.cache import find

        decoded = find(digest, checkpoint.config.image)
        if decoded is not None:
            return np.asarray(decoded.levels[reference.indices[rows]])
    return own_data(checkpoint).read(reference.indices[rows])


def own_data(checkpoint: Checkpoint) -> ImageData:
    """Opens the data set that a checkpoint was trained on, if it still is the one.

    Raises:
        DataMissing: If it isn't there or has changed.
    """
    image, entry = checkpoint.config.image, checkpoint.manifest["data"]
    reading = Reading.of(checkpoint.manifest["config"])
    data = open_data(entry["name"], (image.height, image.width), image.channels, reading)
    same = entry["splits"]["train"]["images"] == len(data.splits.train) and data.spec == image
    # Checkpoints of older versions recorded no digest.
    if not same or entry.get("digest", data.digest) != data.digest:
        raise DataMissing(
            f"The images of {data.name!r} are no longer those that {checkpoint.name!r} was "
            "trained on: restore them, or train the model anew."
        )
    return data
