"""Levels back to an image and a file: the way of :mod:`vae.data.images.adaptation`, without loss.

An image that already has the model's size and channels passes there untouched, so that going back
and forth is the identity on levels.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from vae.data.spec import ImageSpec

__all__ = ["encode_png", "to_image"]


def to_image(levels: np.ndarray, spec: ImageSpec) -> np.ndarray:
    """Turns levels into an 8-bit image.

    Args:
        levels: The levels :math:`k`, with shape :math:`(C, H, W)`.
        spec: The images of the model.

    Returns:
        The image, ``uint8`` with shape :math:`(H, W)` for grey, :math:`(H, W, 3)` for colour.

    Raises:
        ValueError: If the shape, the type or a level does not fit the spec.
    """
    levels = np.asarray(levels)
    if levels.shape != spec.shape or levels.dtype.kind not in "iu":
        raise ValueError(f"levels must be integers of shape {spec.shape}, not {levels.shape}.")
    if levels.min() < 0 or levels.max() >= spec.levels:
        raise ValueError(f"levels must lie in 0..{spec.levels - 1}.")
    shades = np.rint(np.arange(spec.levels) * (255 / (spec.levels - 1))).astype(np.uint8)
    image = shades[levels]
    return image[0] if spec.channels == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))


def encode_png(image: np.ndarray) -> bytes:
    """Encodes an 8-bit image as PNG, without loss.

    Args:
        image: The image, ``uint8`` with shape :math:`(H, W)` or :math:`(H, W, 3)`.

    Returns:
        The bytes of the file.

    Raises:
        ValueError: If the image has another shape or type.
    """
    image = np.asarray(image)
    shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not image.size or not shaped:
        wrong = f"{image.dtype} of shape {image.shape}"
        raise ValueError(f"image must be uint8 of shape (H, W) or (H, W, 3), not {wrong}.")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
