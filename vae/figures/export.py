"""Pictures and animations to take away: PNG, GIF and WebP of films and grids, through Pillow."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vae.figures.pictures import contact_sheet, to_bytes

__all__ = ["animation", "animation_frames", "picture"]

# Data images are small; an export is looked at on slides.
_CELL, _MOST_SIDE = 128, 2_048
_FRAME_MS = 90
_GAP_SHARE = 16  # a gap between cells is this part of a cell
_GROUND = 0.5


def picture(images: np.ndarray, columns: int) -> bytes:
    r"""A grid of images as a PNG file.

    Args:
        images: In [0, 1], with shape :math:`(N, C, H, W)`.
        columns: Images in a row.

    Returns:
        The file; each pixel is enlarged to a block so that it stays crisp.
    """
    return _encode([_page(images, columns)], "PNG")


def animation(frames: np.ndarray, kind: str) -> bytes:
    r"""All rows of a film side by side, moving together, as an endless animation.

    Args:
        frames: Images in [0, 1], with shape :math:`(R, F, C, H, W)`.
        kind: ``"GIF"`` or ``"WEBP"``.

    Returns:
        The file, of F frames; where neighbours are equal to the last pixel, as in the film of a
        dead dimension, one frame stands for them with their time.
    """
    return _encode(animation_frames(frames), kind)


def animation_frames(frames: np.ndarray) -> list[np.ndarray]:
    r"""The pages of an animation, ``uint8``, F of them."""
    columns = math.ceil(math.sqrt(len(frames)))
    return [_page(frames[:, frame], columns) for frame in range(frames.shape[1])]


def _page(images: np.ndarray, columns: int) -> np.ndarray:
    """A grid with its pixels enlarged, as 8-bit pixels."""
    count, _, height, width = images.shape
    across, down = min(count, columns), -(-count // columns)
    room = _MOST_SIDE // max(across * width, down * height)
    enlarge = max(1, min(_CELL // max(height, width), room))
    gap = max(1, max(height, width) // _GAP_SHARE)
    pixels = to_bytes(contact_sheet(images, min(count, columns), gap, _GROUND))
    return pixels.repeat(enlarge, 0).repeat(enlarge, 1)


def _encode(pages: Sequence[np.ndarray], kind: str) -> bytes:
    first, *rest = [Image.fromarray(page) for page in pages]
    buffer = io.BytesIO()
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {"optimize": True}
    if rest:
        options |= {"save_all": True, "append_images": rest, "duration": _FRAME_MS, "loop": 0}
    first.save(buffer, kind, **options)
    return buffer.getvalue()
