r"""Untrusted bytes to pixel levels: the one path of uploads, command line and training folders.

.. math:: \text{bytes} \xrightarrow{\texttt{read\_image}} [0, 1]^{h \times w \times c}
    \xrightarrow{\texttt{preprocess}} k \in \{0, \dots, L - 1\}^{C \times H \times W}

:func:`read_image` returns finite pixels or raises :class:`ImageRefused`; :func:`preprocess` fits
them to a model and reports every step. An image that already has the model's size and channels
passes untouched: :func:`to_image`, :func:`encode_png` and the way back are the identity on levels.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

from vae.data.spec import ImageSpec

__all__ = [
    "Adaptation", "ImageRefused", "Limits", "Prepared", "Raster",
    "encode_png", "looks_inverted", "preprocess", "read_image", "to_image",
]  # fmt: skip

# With the import of WebP above, this registers all our formats: else the first unknown file would
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
    "PNG": b"\x89PNG", "JPEG": b"\xff\xd8", "WEBP": b"RIFF", "BMP": b"BM", "GIF": b"GIF8",
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
_SHOWN_SIDE = 512  # of the original, for display
_SEARCH_SIDE = 128  # at which content is looked for
_CONTRAST = 0.1  # by which content differs from the border at least
_RIPPLE = 0.2  # of its contrast: what JPEG leaves around strong ink
_MARGIN = 4 / 28  # MNIST fits a digit into 20 of 28 pixels, its centre of mass in the middle
_MARGIN_FROM = 16  # on fewer pixels a margin would eat the image: 8×8 digits fill theirs

_Turn = Image.Transpose
_TURNS = {
    2: _Turn.FLIP_LEFT_RIGHT, 3: _Turn.ROTATE_180, 4: _Turn.FLIP_TOP_BOTTOM, 5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270, 7: _Turn.TRANSVERSE, 8: _Turn.ROTATE_90,
}  # fmt: skip

_Choice = Literal["auto", "yes", "no"]
_Fit = Literal["pad", "squash"]


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
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    notes: tuple[str, ...]
    format: str


@dataclass(frozen=True)
class Adaptation:
    """Chooses how an image meets a model's frame.

    Under ``auto`` an image of the model's size is neither inverted nor cropped.

    Args:
        invert: Whether black and white change places; ``auto`` does so where the border is nearer
            to the opposite of the model's background than to the background.
        crop: Whether the frame is drawn around the content; ``auto`` does so where the model's
            data have a background.
        fit: Whether other proportions are padded with the background or squashed.

    Raises:
        ValueError: If a choice is unknown; the message names the field and its choices.
    """

    invert: _Choice = "auto"
    crop: _Choice = "auto"
    fit: _Fit = "pad"

    def __post_init__(self) -> None:
        for name, known in (("invert", _Choice), ("crop", _Choice), ("fit", _Fit)):
            if (value := getattr(self, name)) not in get_args(known):
                raise ValueError(f"{name} must be one of {get_args(known)}, not {value!r}.")


class Prepared(NamedTuple):
    """An image as a model sees it.

    Args:
        levels: The levels :math:`k`, ``uint8`` with shape :math:`(C, H, W)`.
        original: The image before, for display, ``uint8`` with shape :math:`(h, w, 3)`, at most
            512 pixels on the longer side.
        steps: What was done, in order, in plain sentences; empty for an untouched image.
    """

    levels: np.ndarray
    original: np.ndarray
    steps: tuple[str, ...]


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
        pixels, alpha = _to_arrays(_upright(image, notes), notes)
    except ImageRefused:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow's own bound lies far above ours; it fires while opening, before our check.
        raise _refusal("E-IMG-06", most=limits.pixels / 1e6) from error
    except UnidentifiedImageError as error:
        raise _unidentified(data, limits) from error
    except _DECODER_ERRORS as error:
        raise _refusal("E-IMG-05") from error
    return Raster(pixels, alpha, tuple(notes), kind)


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


def _check_values(x: np.ndarray) -> None:
    if not (x.size and x.min() >= 0 and x.max() <= 1):  # NaN fails every comparison
        raise _refusal("E-IMG-11")


def _unidentified(data: bytes, limits: Limits) -> ImageRefused:
    if data.startswith(tuple(s for name, s in _SIGNATURES.items() if name in limits.formats)):
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
    elif image.mode == "F":  # of no default format; may hold NaN, which a conversion would hide
        raise _refusal("E-IMG-11")
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
    _check_values(pixels)
    return pixels, None if alpha is None or alpha.min() == 1 else alpha


def preprocess(raster: Raster, spec: ImageSpec, adaptation: Adaptation = Adaptation()) -> Prepared:
    """Fits an image to a model's channels, background, frame and levels.

    Args:
        raster: The image, with shape :math:`(h, w, c)`.
        spec: The images of the model.
        adaptation: How the image meets the model's frame.

    Returns:
        The levels, with shape :math:`(C, H, W)`, the image before, and the steps between them.

    Raises:
        ImageRefused: If the raster holds a value that is not finite or not in [0, 1].
    """
    for values in raster[:2]:
        if values is not None:
            _check_values(values)
    steps: list[str] = []
    sized = raster.pixels.shape[:2] == (spec.height, spec.width)
    x = _composite(raster, spec, adaptation.invert == "auto" and not sized, steps)
    shades = np.rint(x * 255).astype(np.uint8)
    original = Image.fromarray(np.broadcast_to(shades, (*x.shape[:2], 3)))
    original.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    x = _match_channels(x, spec.channels, steps)
    x = _match_background(x, spec, adaptation.invert, sized, steps)
    if not sized or adaptation.crop == "yes":
        x = _match_frame(x, spec, adaptation, steps)
    levels = spec.to_levels(x)
    # An 8-bit file cannot hold every level exactly: up to its own rounding nothing has changed.
    if spec.levels < 256 and np.abs(spec.from_levels(levels) - x).max() > 0.501 / 255:
        steps.append(f"Rounded to the model's {spec.levels} levels.")
    levels = np.ascontiguousarray(levels.transpose(2, 0, 1))
    return Prepared(levels, np.array(original), tuple(steps))


def _tone(value: float) -> str:
    return {0: "black", 1: "white"}.get(value, f"grey ({value:.2f})")


def _border(x: np.ndarray) -> np.ndarray:
    """The median of the border ring, with shape :math:`(c)`."""
    ring = max(1, min(x.shape[:2]) // 32)
    sides = (x[:ring], x[-ring:], x[ring:-ring, :ring], x[ring:-ring, -ring:])
    return np.median(np.concatenate([side.reshape(-1, x.shape[2]) for side in sides]), axis=0)


def _composite(raster: Raster, spec: ImageSpec, may_invert: bool, steps: list[str]) -> np.ndarray:
    if raster.alpha is None or raster.alpha.min() == 1:
        return raster.pixels
    alpha, reason = raster.alpha[..., None], ""
    paper = 1.0 if spec.background is None else spec.background
    x = raster.pixels * alpha + np.float32(paper) * (1 - alpha)
    # Black ink on a transparent sheet would vanish on a black background. Laid on white, it is
    # inverted later, and the sheet becomes the background after all.
    sheet = may_invert and spec.background is not None and _border(alpha)[0] < 0.5 < alpha.max()
    if sheet and np.abs(x - paper).max() <= _CONTRAST:
        reason, paper = f", because it would vanish on {_tone(paper)}", 1 - paper
        x = raster.pixels * alpha + np.float32(paper) * (1 - alpha)
    steps.append(f"Laid the transparent image on {_tone(paper)}{reason}.")
    return x


def _match_channels(x: np.ndarray, channels: int, steps: list[str]) -> np.ndarray:
    if x.shape[2] == channels:
        return x
    if channels == 3:
        steps.append("Repeated the grey image in the three colour channels.")
        return np.repeat(x, 3, axis=2)
    red, green, blue = np.moveaxis(x, 2, 0)
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return x[..., :1]  # a grey image that was saved as colour
    steps.append("Converted from colour to grey with the Rec. 601 weights.")
    # Written out: a matrix product may round differently on another machine.
    return np.minimum(0.299 * red + 0.587 * green + 0.114 * blue, 1)[..., None]


def looks_inverted(levels: np.ndarray, spec: ImageSpec) -> bool:
    """Whether an image's border is nearer to the opposite of the background than to it.

    An image of the model's own size is never inverted unasked; a screen may ask.

    Args:
        levels: The image's levels, with shape :math:`(C, H, W)`.
        spec: The images of the model.
    """
    if spec.background is None:
        return False
    return _is_opposite(_border(spec.from_levels(levels).transpose(1, 2, 0)).mean(), spec)


def _is_opposite(border: float, spec: ImageSpec) -> bool:
    return abs(border - (1 - spec.background)) < abs(border - spec.background)


def _match_background(
    x: np.ndarray, spec: ImageSpec, invert: _Choice, sized: bool, steps: list[str]
) -> np.ndarray:
    if invert == "yes":
        steps.append("Inverted, as chosen.")
        return 1 - x
    if invert == "no" or sized or spec.background is None:
        return x
    border = _border(x).mean()
    if not _is_opposite(border, spec):
        return x
    tones = f"its border is {_tone(border)} and the model's background {_tone(spec.background)}"
    steps.append(f"Inverted, because {tones}.")
    return 1 - x


def _match_frame(
    x: np.ndarray, spec: ImageSpec, adaptation: Adaptation, steps: list[str]
) -> np.ndarray:
    """Lays a frame of the model's proportions over the image and resizes it to the model's."""
    h, w, c = x.shape
    crop = adaptation.crop == "yes" or (adaptation.crop == "auto" and spec.background is not None)
    content = _content(x) if crop else None
    start, stop, mass = content or (np.zeros(2), np.array([h, w]), np.array([h, w]) / 2)
    size = np.array([spec.height, spec.width])
    margin = round(_MARGIN * size.min()) if content and size.min() >= _MARGIN_FROM else 0
    # How many pixels of the image one pixel of the model covers, on each axis.
    scale = (stop - start) / (size - 2 * margin)
    scale = np.full(2, scale.max()) if adaptation.fit == "pad" else scale
    frame = np.ceil(size * scale - 1e-6)
    # Content starts on a whole pixel of the model, as when MNIST and the digits were made: most of
    # their images, enlarged and framed again, come back exactly.
    if margin:  # the centre of mass lies in the pixel after the middle
        before = np.ceil(size / 2 - (mass - start) / scale - 1e-6) * scale
    elif content:
        before = np.floor((size - (stop - start) / scale + 1) / 2) * scale
    else:
        before = (frame - (stop - start)) / 2
    corner = np.clip(start - np.rint(before), stop - frame, start)
    (row, column), (fh, fw) = corner.astype(int), frame.astype(int)

    if crop and not content:
        steps.append("Nothing stands out from the background, so nothing was cropped.")
    if content and (row, column, fh, fw) != (0, 0, h, w):
        part = "{1:.0f}×{0:.0f}".format(*(stop - start))
        cropped = f"Cropped to the content, {part} of {w}×{h} pixels, and centred it"
        verb = "Centred the content" if part == f"{w}×{h}" else cropped
        space = f", with a margin of {margin} of the model's pixels" if margin else ""
        steps.append(f"{verb} in {fw}×{fh} pixels{space}.")
    elif (fh, fw) != (h, w):
        colour = "its border's colour" if spec.background is None else "the model's background"
        steps.append(f"Padded from {w}×{h} to {fw}×{fh} pixels with {colour}.")
    framed = np.empty((fh, fw, c), dtype=np.float32)
    framed[:] = _border(x) if spec.background is None else spec.background
    inside = x[max(row, 0) : row + fh, max(column, 0) : column + fw]
    y, z = max(-row, 0), max(-column, 0)
    framed[y : y + inside.shape[0], z : z + inside.shape[1]] = inside
    return _resize(framed, spec, steps)


def _content(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Start, stop and centre of mass of what differs from the border, each as (row, column)."""
    # Measured against the border itself: the grey paper of a photograph is no content.
    ink = np.abs(x - _border(x)).max(axis=2).astype(np.float32)
    ink[ink <= max(_CONTRAST, _RIPPLE * ink.max())] = 0
    # First on block means, where dust and noise vanish; then to the pixel.
    block = math.ceil(max(ink.shape) / _SEARCH_SIDE)
    coarse = np.argwhere(np.asarray(Image.fromarray(ink).reduce(block)) > _CONTRAST) * block
    if not coarse.size:
        return None
    corner = coarse.min(axis=0)
    (top, left), (bottom, right) = corner, coarse.max(axis=0) + block
    ink = ink[top:bottom, left:right]
    places = np.argwhere(ink)
    mass = corner + 0.5 + np.average(places, axis=0, weights=ink[ink > 0])
    return corner + places.min(axis=0), corner + places.max(axis=0) + 1, mass


def _resize(x: np.ndarray, spec: ImageSpec, steps: list[str]) -> np.ndarray:
    h, w, c = x.shape
    if (h, w) == (spec.height, spec.width):
        return x
    # Filters without negative lobes: others ripple into an even background, and a likelihood
    # charges for every ripple. Block means give an enlarged image back exactly, but are uneven
    # where the blocks are not whole.
    whole = h % spec.height == 0 and w % spec.width == 0
    resample = Image.Resampling.BOX if whole else Image.Resampling.HAMMING
    how = "with antialiasing" if h >= spec.height and w >= spec.width else "by interpolation"
    size = (spec.width, spec.height)
    planes = [Image.fromarray(x[..., i]).resize(size, resample) for i in range(c)]
    steps.append(f"Resized from {w}×{h} to {spec.width}×{spec.height} {how}.")
    return np.clip(np.stack([np.asarray(plane) for plane in planes], axis=2), 0, 1)


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
