r"""Pixels to a model's levels: background, frame, channels and size, each step reported.

An image that already has the model's size and channels passes untouched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from vae.data.images.decoding import Raster, check_values, out_of_bits
from vae.data.spec import ImageSpec

__all__ = ["Adaptation", "Prepared", "is_rounded", "looks_inverted", "preprocess"]

_SHOWN_SIDE = 512  # of the original, for display
_SEARCH_SIDE = 128  # at which content is looked for
_CONTRAST = 0.1  # by which content differs from the border at least
_RIPPLE = 0.2  # of its contrast: what JPEG leaves around strong ink
_MARGIN = 4 / 28  # MNIST fits a digit into 20 of 28 pixels, its centre of mass in the middle
_MARGIN_FROM = 16  # on fewer pixels a margin would eat the image: 8×8 digits fill theirs

# How a data set's makers framed its images. "mass": the content in the middle box of 20/28, its
# centre of mass in the middle (LeCun et al. 1998); "box": the content fills the frame; "whole":
# where the content lies is part of the image.
_Framing = Literal["mass", "box", "whole"]
_FRAMINGS: dict[str, _Framing] = {
    "digits": "box", "mnist": "mass", "emnist": "mass", "fashion_mnist": "box", "kmnist": "box",
    "sprites": "whole",
}  # fmt: skip

_Choice = Literal["auto", "yes", "no"]
_Fit = Literal["auto", "pad", "squash", "cut"]
_Bits = Literal["auto", "8", "10", "12", "14", "16"]


@dataclass(frozen=True)
class Adaptation:
    """Chooses how an image meets a model's frame.

    Under ``auto`` an image of the model's size is neither inverted nor cropped.

    Args:
        invert: Whether black and white change places; ``auto`` does so where the border is nearer
            to the opposite of the model's background than to the background.
        crop: Whether the frame is drawn around the content; ``auto`` does so where the model's
            data have a background and are framed so themselves.
        fit: Whether other proportions are padded with the background, squashed, or cut off on
            both sides; ``auto`` does as the model's training did, else pads.
        bits: The bits that the greys of a 16-bit file have, which cameras and detectors may write
            into it unscaled: with 12, 4,095 is white; ``auto`` takes what the model's training
            took, else 16.

    Raises:
        ValueError: If a choice is unknown; the message names the field and its choices.
    """

    invert: _Choice = "auto"
    crop: _Choice = "auto"
    fit: _Fit = "auto"
    bits: _Bits = "auto"

    def __post_init__(self) -> None:
        choices = {"invert": _Choice, "crop": _Choice, "fit": _Fit, "bits": _Bits}
        for name, known in choices.items():
            if (value := getattr(self, name)) not in get_args(known):
                raise ValueError(f"{name} must be one of {get_args(known)}, not {value!r}.")

    def as_trained(self, run: Mapping[str, Any]) -> Adaptation:
        """With ``auto`` for fit and bits replaced by what a training run's config says."""
        fit = run.get("fit", "pad") if self.fit == "auto" else self.fit
        bits = run.get("bits", "16") if self.bits == "auto" else self.bits
        return replace(self, fit=fit, bits=bits)


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


def preprocess(
    raster: Raster, spec: ImageSpec, adaptation: Adaptation = Adaptation(), data: str = ""
) -> Prepared:
    """Fits an image to a model's channels, background, frame and levels.

    Args:
        raster: The image, with shape :math:`(h, w, c)`.
        spec: The images of the model.
        adaptation: How the image meets the model's frame.
        data: The name of the model's data set, whose makers' way of framing is followed: digits
            are cut to their content and centred, sprites are not, since their place is part of
            them. Of an unknown set the background alone tells.

    Returns:
        The levels, with shape :math:`(C, H, W)`, the image before, and the steps between them.

    Raises:
        ImageRefused: If the raster holds a value that is not finite or not in [0, 1], or more
            than the chosen bits hold.
    """
    for values in raster[:2]:
        if values is not None:
            check_values(values)
    steps: list[str] = []
    raster = _scale(raster, adaptation.bits, steps)
    sized = raster.pixels.shape[:2] == (spec.height, spec.width)
    x = _composite(raster, spec, adaptation.invert == "auto" and not sized, steps)
    shades = np.rint(x * 255).astype(np.uint8)
    original = Image.fromarray(np.broadcast_to(shades, (*x.shape[:2], 3)))
    original.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    x = _match_channels(x, spec.channels, steps)
    x = _match_background(x, spec, adaptation.invert, sized, steps)
    if not sized or adaptation.crop == "yes":
        x = _match_frame(x, spec, adaptation, _FRAMINGS.get(data.removesuffix(":full")), steps)
    levels = spec.to_levels(x)
    if spec.levels < 256 and is_rounded(x, levels, spec).any():
        steps.append(f"Rounded to the model's {spec.levels} levels.")
    levels = np.ascontiguousarray(levels.transpose(2, 0, 1))
    return Prepared(levels, np.array(original), tuple(steps))


def is_rounded(x: np.ndarray, levels: np.ndarray, spec: ImageSpec) -> np.ndarray:
    """Where snapping to levels has changed a value; all three of one shape."""
    # An 8-bit file cannot hold every level exactly: up to its own rounding nothing has changed.
    return np.abs(spec.from_levels(levels) - x) > 0.501 / 255


def _scale(raster: Raster, bits: str, steps: list[str]) -> Raster:
    """A file of 16 bits whose greys have fewer, with white where they have it."""
    if raster.white != 65535:
        return raster
    # As whole numbers they are what the file holds, unless it was averaged.
    top = round(float(raster.pixels.max()) * 65535)
    if bits in ("auto", "16"):
        needed = next((one for one in (8, 10, 12, 14) if top < 2**one), 16)
        if 0 < top and needed < 16:
            steps.append(
                f"Unscaled: of 65,535 levels only those up to {top:,} are used, as where "
                f"{needed}-bit greys were saved with 16 bits; choose {needed} bits to make "
                f"{2**needed - 1:,} white."
            )
        return raster
    white = 2 ** int(bits) - 1
    if top > white:
        raise out_of_bits(top, int(bits))
    steps.append(f"Scaled from {bits} bits: {white:,} is white.")
    return raster._replace(pixels=np.minimum(raster.pixels * np.float32(65535 / white), 1))


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
    x: np.ndarray,
    spec: ImageSpec,
    adaptation: Adaptation,
    framing: _Framing | None,
    steps: list[str],
) -> np.ndarray:
    """Lays a frame of the model's proportions over the image and resizes it to the model's."""
    h, w, c = x.shape
    framed_so = spec.background is not None and framing != "whole"
    crop = adaptation.crop == "yes" or (adaptation.crop == "auto" and framed_so)
    content = _content(x) if crop else None
    start, stop, mass = content or (np.zeros(2), np.array([h, w]), np.array([h, w]) / 2)
    size = np.array([spec.height, spec.width])
    by_mass = content and framing != "box" and size.min() >= _MARGIN_FROM
    margin = round(_MARGIN * size.min()) if by_mass else 0
    # How many pixels of the image one pixel of the model covers, on each axis.
    scale = (stop - start) / (size - 2 * margin)
    if adaptation.fit != "squash":
        scale = np.full(2, scale.min() if adaptation.fit == "cut" else scale.max())
    frame = np.ceil(size * scale - 1e-6)
    # Content starts on a whole pixel of the model, as when MNIST and the digits were made: most of
    # their images, enlarged and framed again, come back exactly.
    if margin:  # the centre of mass lies in the pixel after the middle
        before = np.ceil(size / 2 - (mass - start) / scale - 1e-6) * scale
    elif content:
        before = np.floor((size - (stop - start) / scale + 1) / 2) * scale
    else:
        before = (frame - (stop - start)) / 2
    ends = np.sort((start, stop - frame), axis=0)
    corner = np.clip(start - np.rint(before), *ends)
    (row, column), (fh, fw) = corner.astype(int), frame.astype(int)

    if crop and not content:
        steps.append("Nothing stands out from the background, so nothing was cropped.")
    if content and (row, column, fh, fw) != (0, 0, h, w):
        part = "{1:.0f}×{0:.0f}".format(*(stop - start))
        cropped = f"Cropped to the content, {part} of {w}×{h} pixels, and centred it"
        verb = "Centred the content" if part == f"{w}×{h}" else cropped
        space = f" by its mass, with a margin of {margin} of the model's pixels" if margin else ""
        steps.append(f"{verb} in {fw}×{fh} pixels{space}.")
    elif adaptation.fit == "cut" and (fh, fw) != (h, w):
        steps.append(f"Cut from {w}×{h} to {fw}×{fh} pixels, the same off both sides.")
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
