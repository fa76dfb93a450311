"""Data sets, opened by name.

The published sets (``mnist`` and the like) bring *test* images of their own, and open in two ways:

- ``mnist`` cuts validation and calibration out of the training part. Hyper-parameters are chosen
  here; the test images are in no split.
- ``mnist:full`` is for the final model: all of the training part trains, and validation and
  calibration are test images. They are reported on and calibrated with, but choose nothing
  (``validation_chooses`` is false, so training keeps its last weights), because a figure on images
  that chose the weights would be no test figure.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256

import numpy as np

from vae.data.sets import sprites
from vae.data.sets.image_data import AS_USUAL, ImageData, Reading, shuffled, split_indices
from vae.data.spec import ImageSpec

__all__ = ["DATASETS", "PUBLISHED", "open_data"]

# Sets that are downloaded; each also opens as NAME:full.
PUBLISHED: tuple[str, ...] = ("mnist", "fashion_mnist", "kmnist", "cifar10", "svhn", "celeba")
DATASETS: tuple[str, ...] = ("digits", "sprites", *PUBLISHED, "folder:PATH")


def open_data(
    name: str,
    image_size: int | tuple[int, int] = 64,
    channels: int = 3,
    reading: Reading = AS_USUAL,
) -> ImageData:
    """Opens a data set by name.

    Args:
        name: One of ``DATASETS``; a published set also with ``:full``, see above.
        image_size: The side, or height and width, in pixels that images of a folder, and faces,
            are brought to.
        channels: 1 (grey) or 3 (colour), for images of a folder and faces.
        reading: How the files of a folder are read.

    Raises:
        ValueError: If the name is unknown; the message lists the valid ones.
        DataMissing: If the files aren't there, are damaged, or are too few.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if name == "digits":
        return _digits()
    if name == "sprites":
        return _sprites()
    if name.startswith("folder:"):
        # Imported here because reading a folder needs Pillow, which the embedded sets do not.
        from vae.data.sets.folder import open_folder

        return open_folder(name.removeprefix("folder:"), size, channels, reading)
    if name.removesuffix(":full") in PUBLISHED:
        from vae.data.sets.published import open_published

        return open_published(name, size, channels)
    raise ValueError(
        f"Unknown data set {name!r}. Choose one of: {', '.join(DATASETS)} "
        "(and a downloaded one with :full to train on all its training images)."
    )


@lru_cache(maxsize=1)
def _digits() -> ImageData:
    # scikit-learn costs seconds and 100 MB, and the app draws digits from the checkpoint instead.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = bunch.images.astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    return ImageData(
        name="digits",
        spec=ImageSpec(channels=1, height=8, width=8, levels=17, background=0.0),
        # n + 1 = 500 makes every p-value a multiple of 0.002.
        splits=split_indices(shuffled(len(levels), seed=0), validation=200, calibration=499),
        read=lambda indices: levels[indices],
        labels_of=lambda indices: labels[indices],
        label_names=tuple(str(digit) for digit in range(10)),
        embeds=True,
        digest=sha256(levels).hexdigest(),
    )


@lru_cache(maxsize=1)
def _sprites() -> ImageData:
    order = shuffled(sprites.COUNT, seed=0)[:31_999]
    # Drawn by rule: some of them stand for the rule.
    digest = sha256(sprites.render(sprites.factors_of(np.sort(order[:500])))).hexdigest()
    return ImageData(
        name="sprites",
        spec=ImageSpec(channels=1, height=64, width=64, levels=2, background=0.0),
        splits=split_indices(order, validation=1_000, calibration=999),
        read=lambda indices: sprites.render(sprites.factors_of(indices)),
        labels_of=lambda indices: sprites.factors_of(indices)[:, 0].astype(np.int64),
        label_names=tuple(str(value) for value in sprites.FACTORS[0].values),
        digest=digest,
    )
