r"""Untrusted bytes to pixels in [0, 1]: what a file may cost, and why it is refused.

A format is told by content and from a list, the size is judged before any pixel is decoded, and
whatever a decoder raises becomes one sentence with a stable code.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import (  # noqa: F401
    ExifTags,
    Image,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

__all__ = [
    "ImageRefused",
    "Limits",
    "Raster",
    "check_values",
    "out_of_bits",
    "read_image",
    "read_plain",
]

# With the imports above, this registers all our formats: else the first unknown file would
# make Pillow import every plugin it has, in a web server from several threads at once.
Image.preinit()

# Stable: a number is never given a second meaning.
_CODES = {
    "E-IMG-01": "The file is empty; choose a file that holds an image.",
    "E-IMG-02": "The file is larger than {most:.3g} MB; make the image smaller.",
    "E-IMG-03": "The file is not an image of a known kind; use one of {formats}.",
    "E-IMG-04": "The file is {kind}, which cannot be read here; {remedy}.",
    "E-IMG-05": "The image is damaged or incomplete; save it again or choose another file.",
    "E-IMG-06": "The image has more than {most:.3g} million pixels; make it smaller.",
    "E-IMG-07": "The image is {w}×{h} pixels, more than {most} on a side; make it smaller.",
    "E-IMG-08": "The image is {w}×{h} pixels, longer than {most:g}:1; crop it to its subject.",
    "E-IMG-09": "The image is {w}×{h} pixels, too small to show anything; use at least 2×2.",
    "E-IMG-10": "The file repeats one part {count} times and is slow to decode; save it as PNG.",
    "E-IMG-11": "The image holds values outside black to white; save it as 8 or 16-bit PNG.",
    "E-IMG-12": "The image has greys up to {top}, more than {bits} bits hold; choose more bits.",
}

# Kinds that people do send, told apart by their first bytes only: nothing here is ever parsed.
_AS_PNG = "export it as PNG and choose that file"
_FOREIGN = (
    (rb"....ftyp.{0,28}avi[fs]", "an AVIF image", _AS_PNG),
    (rb"....ftyp(hei|hev|mif1|msf1)", "a HEIC photo", _AS_PNG),
    (rb"II[*+]\0|MM\0[*+]", "a TIFF image", _AS_PNG),
    (rb"....jP  \r\n|\xff\x4f\xff\x51", "a JPEG 2000 image", _AS_PNG),
    (rb"8BPS", "a Photoshop file", _AS_PNG),
    (rb"\s*%PDF-", "a PDF document", "export the page as PNG and choose that file"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "an EPS drawing", _AS_PNG),
    (rb"PK(\x03\x04|\x05\x06)", "a ZIP archive", "unpack it and choose an image from it"),
    (rb"(\xef\xbb\xbf)?\s*(?!<!doctype html|<html)<(.*<)?svg\b", "an SVG drawing", _AS_PNG),
)
_SIGNATURES = {
    "PNG": (b"\x89PNG",), "JPEG": (b"\xff\xd8",), "WEBP": (b"RIFF",), "BMP": (b"BM",),
    "GIF": (b"GIF8",), "TIFF": (b"II*\0", b"MM\0*"),
}  # fmt: skip

# Parts that cost a decoder much time and a file few bytes: a progressive JPEG may pass over all
# its pixels once for every 30 bytes (for minutes), a PNG may inflate a profile again and again.
# An ordinary file has a dozen passes, one Exif block and one profile.
_REPEATS = (
    (b"\xff\xd8", b"\xff\xda", 200), (b"\xff\xd8", b"Exif\0\0", 64), (b"\x89PNG", b"iCCP", 64),
)  # fmt: skip

# What Pillow raises on hostile bytes, its assertions too; caught around decoding only. Warning:
# where the host turns warnings into errors, they are refusals.
_DECODER_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError, TypeError,
    AttributeError, AssertionError, RuntimeError, MemoryError, struct.error, zlib.error,
    Image.DecompressionBombError, Warning,
)  # fmt: skip

_READ_SIDE = 2048  # larger rasters are averaged in blocks: a model sees at most 1024 on a side

_Turn = Image.Transpose
_TURNS = {
    2: _Turn.FLIP_LEFT_RIGHT, 3: _Turn.ROTATE_180, 4: _Turn.FLIP_TOP_BOTTOM, 5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270, 7: _Turn.TRANSVERSE, 8: _Turn.ROTATE_90,
}  # fmt: skip


class ImageRefused(ValueError):
    """Says why a file cannot be used.

    Args:
        code: The stable code, such as ``E-IMG-07``.
        message: One plain sentence: what was wrong and what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)  # both, so that it can cross a process boundary
        self.code, self.message = code, message

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


def _refusal(code: str, **facts: object) -> ImageRefused:
    return ImageRefused(code, _CODES[code].format(**facts))


@dataclass(frozen=True)
class Limits:
    """Bounds what a file may cost.

    Args:
        bytes: The largest file, in bytes.
        side: The largest width and height in pixels.
        pixels: The largest width times height.
        ratio: The largest ratio of the longer to the shorter side.
        formats: Pillow's names of the formats that are tried; no other decoder ever runs.
    """

    bytes: int = 5 * 1024 * 1024
    side: int = 4096
    pixels: int = 16_000_000
    ratio: float = 20.0
    formats: tuple[str, ...] = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


class Raster(NamedTuple):
    """The pixels of a file.

    Args:
        pixels: The values in [0, 1], ``float32`` with shape :math:`(h, w, c)`; :math:`c` is 1 for
            grey and 3 for colour.
        alpha: The opacity in [0, 1], ``float32`` with shape :math:`(h, w)`, or ``None`` (opaque).
        notes: What reading did, in plain sentences.
        format: The format found in the bytes, such as ``PNG``.
        white: The whole number that a pixel of 1 has in the file.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    notes: tuple[str, ...]
    format: str
    white: int = 255


def read_image(data: bytes, limits: Limits = Limits()) -> Raster:
    """Decodes an image file, whose size is judged before any pixel is decoded.

    16-bit grey keeps its depth, EXIF orientation is applied, colour profiles are ignored, and of
    an animation only the first frame is read.

    Args:
        data: The bytes of the file.
        limits: What the file may cost.

    Returns:
        The pixels, with shape :math:`(h, w, c)`. An image of more than 2048 pixels on a side is
        averaged in blocks, and a note says so.

    Raises:
        ImageRefused: If the file cannot be used.
    """
    return _read(data, limits, None)


def read_plain(
    data: bytes, limits: Limits, shape: tuple[int, int, int] | None
) -> Raster | np.ndarray:
    """Decodes an image file as :func:`read_image` does, sooner where there is nothing to do.

    Args:
        data: The bytes of the file.
        limits: What the file may cost.
        shape: The shape :math:`(h, w, c)` that is wanted; none where any image is to be changed.

    Returns:
        Where the file holds 8-bit pixels of just that shape, and nothing that would change them:
        these, ``uint8`` with shape :math:`(h, w, c)`, which are 255 times the raster's. Otherwise
        the raster.

    Raises:
        ImageRefused: If the file cannot be used.
    """
    return _read(data, limits, shape)


def _read(data: bytes, limits: Limits, shape: tuple[int, int, int] | None) -> Raster | np.ndarray:
    if not data:
        raise _refusal("E-IMG-01")
    if len(data) > limits.bytes:
        raise _refusal("E-IMG-02", most=limits.bytes / 2**20)
    for signature, part, most in _REPEATS:
        if data.startswith(signature) and (count := data.count(part)) > most:
            raise _refusal("E-IMG-10", count=count)
    notes: list[str] = []
    try:
        with Image.open(io.BytesIO(data), formats=limits.formats) as image:
            _check_size(*image.size, limits)
            # Looks at the header or the second frame; n_frames would walk through a whole GIF.
            if getattr(image, "is_animated", False):
                notes.append("Only the first of the file's frames is used.")
            image.load()
        kind = "JPEG" if image.format == "MPO" else str(image.format)  # MPO: with a second picture
        white = 65535 if image.mode.startswith("I") else 255
        image = _upright(image, notes)
        if shape is not None and not notes and _is_plain(image, shape):
            return np.asarray(image).reshape(shape)
        pixels, alpha = _to_arrays(image, notes)
    except ImageRefused:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow's own bound lies far above ours; it fires while opening, before our check.
        raise _refusal("E-IMG-06", most=limits.pixels / 1e6) from error
    except UnidentifiedImageError as error:
        raise _unidentified(data, limits) from error
    except _DECODER_ERRORS as error:
        raise _refusal("E-IMG-05") from error
    return Raster(pixels, alpha, tuple(notes), kind, white)


def _is_plain(image: Image.Image, shape: tuple[int, int, int]) -> bool:
    h, w, c = shape
    mode = "L" if c == 1 else "RGB"
    return image.size == (w, h) and image.mode == mode and not image.has_transparency_data


def _check_size(w: int, h: int, limits: Limits) -> None:
    # Pixels first: whether Pillow's warning about them is an error or not, the code is the same.
    if w * h > limits.pixels:
        raise _refusal("E-IMG-06", most=limits.pixels / 1e6)
    if max(w, h) > limits.ratio * min(w, h):
        raise _refusal("E-IMG-08", w=w, h=h, most=limits.ratio)
    if max(w, h) > limits.side:
        raise _refusal("E-IMG-07", w=w, h=h, most=limits.side)
    if min(w, h) < 2:
        raise _refusal("E-IMG-09", w=w, h=h)


def check_values(x: np.ndarray) -> None:
    if not (x.size and x.min() >= 0 and x.max() <= 1):  # NaN fails every comparison
        raise _refusal("E-IMG-11")


def out_of_bits(top: int, bits: int) -> ImageRefused:
    """The refusal of an image with a grey that doesn't fit into the bits that were chosen."""
    return _refusal("E-IMG-12", top=f"{top:,}", bits=bits)


def _unidentified(data: bytes, limits: Limits) -> ImageRefused:
    if any(data.startswith(_SIGNATURES.get(name, ())) for name in limits.formats):
        return _refusal("E-IMG-05")
    for pattern, kind, remedy in _FOREIGN:
        if re.match(pattern, data[:2048], re.DOTALL | re.IGNORECASE):
            return _refusal("E-IMG-04", kind=kind, remedy=remedy)
    return _refusal("E-IMG-03", formats=", ".join(limits.formats))


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    # ImageOps.exif_transpose would also rewrite the tags, which fails on tags that can be read.
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _DECODER_ERRORS:
        notes.append("The camera data are damaged, so the orientation is taken as stored.")
        return image
    if orientation not in _TURNS:
        return image
    notes.append("Turned upright as the camera data say.")
    return image.transpose(_TURNS[orientation])


def _to_arrays(image: Image.Image, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    w, h = image.size
    block, scale, opacity = math.ceil(max(w, h) / _READ_SIDE), 255, None
    if image.mode.startswith("I"):  # 16-bit grey, which a conversion to 8 bits would saturate
        image, scale, key = image.convert("I"), 65535, image.info.get("transparency")
        if key is not None:
            opacity = Image.fromarray(np.asarray(image) != key).convert("L")
    elif image.mode == "F":  # of TIFF: real values, which must lie in [0, 1] as they stand
        check_values(np.asarray(image))
        scale = 1
    else:
        if image.mode == "CMYK":
            notes.append("Converted from CMYK print colours to RGB without a colour profile.")
        mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
        mode += "A" if image.has_transparency_data else ""
        image = image if image.mode == mode else image.convert(mode)
    if block > 1:
        image, opacity = image.reduce(block), opacity and opacity.reduce(block)
        small = f"{image.width}×{image.height}"
        notes.append(f"Averaged in blocks of {block}×{block} from {w}×{h} to {small} pixels.")
    pixels = np.asarray(image, dtype=np.float32) / np.float32(scale)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    alpha = None if opacity is None else np.asarray(opacity, dtype=np.float32) / np.float32(255)
    if image.mode in ("LA", "RGBA"):
        pixels, alpha = pixels[..., :-1], pixels[..., -1]
    check_values(pixels)
    return pixels, None if alpha is None or alpha.min() == 1 else alpha
