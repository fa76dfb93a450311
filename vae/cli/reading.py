"""What the commands that read image files share: how files are read and brought to a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vae.cli.program import EXIT_USAGE, Stop

if TYPE_CHECKING:
    from vae.data.images.adaptation import Adaptation
    from vae.data.images.decoding import Limits

__all__ = ["Reading"]

_MOST_PIXELS = 178  # million; beyond it Pillow itself refuses


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read.

    Args:
        invert: Exchange black and white: when the background disagrees (auto), always or never.
        crop: Cut to the content and centre it: when the image isn't of the model's size and the
            model's data are framed so (auto), always or never.
        fit: Bring other proportions to the model's by padding with the background, by squashing,
            or by cutting off both sides; auto does as the model's training did.
        bits: The bits of greys that were saved unscaled in 16-bit files, such as the 12 of a
            detector; auto takes what the model's training took.
        max_megabytes: The largest file, in MB.
        max_megapixels: The largest image, in millions of pixels.
        max_side: The largest width and height, in pixels.
        allow_tiff: Read TIFF files too, as cameras and scanners write them.
        workers: Processes that decode, besides the one that scores; by default as many as the
            cores allow, and none for few files.
    """

    invert: Literal["auto", "yes", "no"] = "auto"
    crop: Literal["auto", "yes", "no"] = "auto"
    fit: Literal["auto", "pad", "squash", "cut"] = "auto"
    bits: Literal["auto", "8", "10", "12", "14", "16"] = "auto"
    max_megabytes: float = 64.0
    max_megapixels: float = 64.0
    max_side: int = 16_384
    allow_tiff: bool = False
    workers: int | None = None

    @property
    def adaptation(self) -> Adaptation:
        """How an image that isn't of the model's size is brought to it."""
        from vae.data.images.adaptation import Adaptation

        return Adaptation(self.invert, self.crop, self.fit, self.bits)

    @property
    def limits(self) -> Limits:
        """What is refused before it is decoded.

        Raises:
            Stop: If a limit is out of range.
        """
        from vae.data.images.decoding import Limits

        for name, most in (("megabytes", 2**20), ("megapixels", _MOST_PIXELS)):
            value = getattr(self, f"max_{name}")
            if not 0 < value <= most:
                raise Stop(EXIT_USAGE, f"--max-{name} must lie in (0, {most}], not {value}.")
        if not 2 <= self.max_side <= 2**20:
            raise Stop(EXIT_USAGE, f"--max-side must lie in 2..{2**20}, not {self.max_side}.")
        if self.workers is not None and not 0 <= self.workers <= 256:
            raise Stop(EXIT_USAGE, f"--workers must lie in 0..256, not {self.workers}.")
        return Limits(
            bytes=int(self.max_megabytes * 2**20),
            side=self.max_side,
            pixels=int(self.max_megapixels * 1e6),
            formats=(*Limits().formats, *(("TIFF",) if self.allow_tiff else ())),
        )
