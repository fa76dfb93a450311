"""Images for the page: crisp PNG files from arrays, and the HTML that shows them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

__all__ = [
    "contact_sheet",
    "data_url",
    "figure_html",
    "gallery_html",
    "reduced",
    "thumbnail_url",
    "to_bytes",
]


def to_bytes(image: np.ndarray) -> np.ndarray:
    r"""Turns an image in [0, 1] into 8-bit pixels.

    Args:
        image: With shape :math:`(C, H, W)`.

    Returns:
        ``uint8``, with shape :math:`(H, W)` or :math:`(H, W, 3)`.
    """
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)


def data_url(pixels: np.ndarray, enlarge: int = 1) -> str:
    """A PNG data URL of 8-bit pixels, each enlarged to a block so that it stays crisp."""
    if enlarge > 1:
        pixels = pixels.repeat(enlarge, 0).repeat(enlarge, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def thumbnail_url(image: np.ndarray, side: int) -> str:
    r"""A PNG data URL of an image for a table.

    Args:
        image: In [0, 1], with shape :math:`(C, H, W)`.
        side: The most pixels along each side. Larger images are reduced to it; smaller ones are
            enlarged by whole pixels, since a table smooths what it enlarges itself.
    """
    pixels = reduced(to_bytes(image), side)
    return data_url(pixels, max(1, side // max(pixels.shape[:2])))


def reduced(pixels: np.ndarray, side: int) -> np.ndarray:
    """8-bit pixels as they are, or with at most so many along each side."""
    if max(pixels.shape[:2]) <= side:
        return pixels
    small = Image.fromarray(pixels)
    small.thumbnail((side, side), Image.Resampling.BOX)
    return np.asarray(small)


def contact_sheet(
    images: np.ndarray, columns: int, gap: int = 0, ground: float = 0.0
) -> np.ndarray:
    r"""Lays images out in rows.

    Args:
        images: Images in [0, 1], with shape :math:`(N, C, H, W)`.
        columns: Images in a row.
        gap: Pixels between images.
        ground: The value of the gaps.

    Returns:
        One image in [0, 1], with shape :math:`(C, H', W')`.
    """
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.full(
        (channels, rows * (height + gap) - gap, columns * (width + gap) - gap), ground, np.float32
    )
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def figure_html(image: np.ndarray, caption: str, alt: str, width: int = 240) -> str:
    r"""One large crisp picture with a caption.

    Args:
        image: In [0, 1], with shape :math:`(C, H, W)`.
        caption: Shown below it.
        alt: What it shows, for those who don't see it.
        width: Its width in CSS pixels; it shrinks with the column. An image with more than two
            pixels to each of them is reduced before it is sent.
    """
    pixels = reduced(to_bytes(image), 2 * width)
    return (
        f'<figure class="elb-picture" style="max-width:{width}px">'
        f'<img src="{data_url(pixels)}" alt="{escape(alt, quote=True)}" '
        f'style="aspect-ratio:{image.shape[2]}/{image.shape[1]}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def gallery_html(
    images: np.ndarray, captions: Sequence[str], alts: Sequence[str], columns: int
) -> str:
    r"""Small pictures in rows.

    Args:
        images: In [0, 1], with shape :math:`(N, C, H, W)`.
        captions: One for each, shown below it.
        alts: One for each, for those who don't see it.
        columns: Pictures in a row; a phone shows five.
    """
    cells = [
        figure_html(image, caption, alt, 160)
        for image, caption, alt in zip(images, captions, alts, strict=True)
    ]
    style = f"grid-template-columns:repeat({columns},minmax(0,1fr));max-width:{columns * 7}rem"
    return f'<div class="elb-gallery" style="{style}">{"".join(cells)}</div>'
