"""The reference images of a checkpoint: embedded, redrawn, or read from the user's data."""

from __future__ import annotations

import os

import numpy as np

from vae.data.sets.datasets import open_data
from vae.data.sets.image_data import DataMissing, ImageData, Reading, same_images
from vae.store.checkpoint import Checkpoint

__all__ = ["files_of", "originals", "own_data"]


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
    if digest := checkpoint.card.data.digest:
        # Imported here: most checkpoints have their images inside or draw them.
        from vae.data.sets.cache import find

        decoded = find(digest, checkpoint.image)
        if decoded is not None:
            return np.asarray(decoded.levels[reference.indices[rows]])
    return own_data(checkpoint).read(reference.indices[rows])


def files_of(checkpoint: Checkpoint) -> list[str] | None:
    """The file of each reference image, as its path below the folder, where the cache knows it.

    Returns:
        Paths in the order of ``checkpoint.reference``; none where the images are no files, or were
        not decoded on this machine.
    """
    data = checkpoint.card.data
    if data.digest is None or not data.name.startswith("folder:"):
        return None
    from vae.data.sets.cache import facts_of

    names = (facts_of(data.digest, data.name) or {}).get("names", [])
    if len(names) <= checkpoint.reference.indices.max(initial=-1):
        return None
    # Bytes that are no text have no place on a screen or in a table.
    texts = [os.fsencode(names[i]).decode(errors="replace") for i in checkpoint.reference.indices]
    return [text.replace(os.sep, "/") for text in texts]


def own_data(checkpoint: Checkpoint) -> ImageData:
    """Opens the data set that a checkpoint was trained on, if it still is the one.

    Raises:
        DataMissing: If it isn't there or has changed.
    """
    image, trained_on = checkpoint.image, checkpoint.card.data
    reading = Reading.of(checkpoint.card.run)
    data = open_data(trained_on.name, (image.height, image.width), image.channels, reading)
    same = trained_on.images["train"] == len(data.splits.train) and data.spec == image
    if not same or not same_images(trained_on.recorded, data.facts()):
        raise DataMissing(
            f"The images of {data.name!r} are no longer those that {checkpoint.name!r} was "
            "trained on: restore them, or train the model anew."
        )
    return data
