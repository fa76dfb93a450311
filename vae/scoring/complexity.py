r"""Input complexity: how much of a low or high score is due to the image being intricate or plain.

.. math:: S(x) = -\frac{\mathrm{ELBO}(x)}{\ln 2} - L(x)

:math:`L(x)` is the length in bits of a lossless PNG code of the pixels that the model sees. A
plain image has a short code and a high ELBO, an intricate one the opposite; what remains in S is
the surprise beyond that. The higher, the stranger. PNG is a coarse yardstick: whole bytes, a fixed
preamble, and a length that changes when the picture is turned. So the length is the mean over the
turned and mirrored readings of one image, and their standard deviation is stated as its noise.

References:
    | Input Complexity and Out-of-distribution Detection (Serrà et al., 2020), eq. 1,
    | https://arxiv.org/abs/1909.11480
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

import numpy as np

from vae.data.images.encoding import encode_png
from vae.scoring.calibration import tie

__all__ = ["CodeLength", "code_lengths", "complexity_excess", "excess_tie"]


class CodeLength(NamedTuple):
    """How long lossless codes of images are.

    Attributes:
        bits: The mean length over an image's readings, with shape :math:`(B,)`.
        noise: The standard deviation over the readings in bits, with shape :math:`(B,)`.
    """

    bits: np.ndarray
    noise: np.ndarray


def code_lengths(x: np.ndarray) -> CodeLength:
    r"""Measures PNG codes of images, over the eight turned and mirrored readings of each.

    Args:
        x: Images in [0, 1] as the model sees them, with shape :math:`(B, C, H, W)`. Images that
            aren't square have four readings.

    Returns:
        The lengths of the compressed pixels, without the file's frame around them.
    """
    shades = np.moveaxis(np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8), 1, -1)
    lengths = np.array([[_png_bits(reading) for reading in _readings(image)] for image in shades])
    lengths = lengths.reshape(len(x), -1)
    return CodeLength(lengths.mean(-1), lengths.std(-1))


def complexity_excess(elbo: np.ndarray, bits: np.ndarray) -> np.ndarray:
    r"""What an image costs the model beyond its lossless code.

    Args:
        elbo: In nats, with any shape.
        bits: The lengths of the codes, with the same shape.

    Returns:
        :math:`S(x)` in bits, with the same shape. For a density it holds up to a constant.
    """
    return -np.asarray(elbo) / math.log(2) - bits


def excess_tie(elbo: np.ndarray) -> np.ndarray:
    """How near two values of S(x) are equal, in bits: as near as their ELBOs in nats are."""
    return tie(elbo) / math.log(2)


def _readings(image: np.ndarray) -> list[np.ndarray]:
    quarter_turns = range(4) if image.shape[0] == image.shape[1] else (0, 2)
    turned = [np.rot90(image, turns) for turns in quarter_turns]
    return turned + [np.flip(one, 1) for one in turned]


def _png_bits(shades: np.ndarray) -> int:
    """The length in bits of a PNG file's compressed pixels, from 8-bit shades (H, W, C)."""
    data = encode_png(np.ascontiguousarray(shades[..., 0] if shades.shape[2] == 1 else shades))
    position, total = 8, 0
    while position < len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        total += length if kind == b"IDAT" else 0
        position += length + 12
    return 8 * total
