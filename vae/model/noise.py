r"""Noise that belongs to an image: drawn from (seed, purpose, the image's own levels).

A score must not depend on an image's batch-mates, its order, its file name or the process that
computes it; so neither may the noise behind it. NumPy's Philox counter generator is keyed by a
digest, and its normals do not depend on the processor's vector width.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

import numpy as np

__all__ = ["Purpose", "image_generator", "image_normals", "image_uniforms"]

Purpose = Literal["draws", "importance", "binarize", "fit", "choice", "annealing"]


def image_generator(levels: np.ndarray, seed: int, purpose: Purpose) -> np.random.Generator:
    r"""The stream of one image's noise, for a use that draws it piece by piece.

    Args:
        levels: The image's integer levels, ``uint8``, with shape :math:`(C, H, W)`.
        seed: The user's seed.
        purpose: Keeps the streams for different uses apart.

    Returns:
        A NumPy generator at the start of the stream.
    """
    digest = _digest(_begun(levels.shape, seed, purpose), np.ascontiguousarray(levels))
    key = int.from_bytes(digest, "little")
    return np.random.Generator(np.random.Philox(key=key))


def image_normals(
    levels: np.ndarray, seed: int, purpose: Purpose, shape: tuple[int, ...]
) -> np.ndarray:
    r"""Standard normals for each image of a batch.

    Args:
        levels: The images' integer levels, ``uint8``, with shape :math:`(B, C, H, W)`.
        seed: The user's seed.
        purpose: Keeps the streams for different uses apart.
        shape: The shape :math:`(*)` for one image; a longer first axis extends a shorter one.

    Returns:
        The noise, ``float64``, with shape :math:`(B, *)`.
    """
    # One generator that is set to each image's own start: making one takes as long as its draws.
    philox = np.random.Philox(key=0)
    generator, start = np.random.Generator(philox), philox.state
    begun = _begun(levels.shape[1:], seed, purpose)
    noise = np.empty((len(levels), *shape))
    for one, row in zip(np.ascontiguousarray(levels), noise, strict=True):
        start["state"]["key"] = np.frombuffer(_digest(begun, one), dtype="<u8")
        philox.state = start
        generator.standard_normal(out=row)
    return noise


def image_uniforms(levels: np.ndarray, seed: int) -> np.ndarray:
    r"""Uniforms in [0, 1) for dynamic binarisation, ``float64``, shape :math:`(B, C, H, W)`."""
    if not len(levels):
        return np.empty(levels.shape)
    return np.stack([image_generator(one, seed, "binarize").random(one.shape) for one in levels])


def _begun(shape: tuple[int, ...], seed: int, purpose: Purpose) -> blake2b:
    """What the digests of all images of one shape have in common."""
    return blake2b(f"{purpose}:{seed}:{shape}".encode(), digest_size=16)


def _digest(begun: blake2b, levels: np.ndarray) -> bytes:
    digest = begun.copy()
    digest.update(levels)
    return digest.digest()
