r"""The shape and the pixel levels of one data set's images.

An image is stored as integer *levels* :math:`k \in \{0, \dots, L-1\}` and seen by a model as
:math:`x = k / (L - 1) \in [0, 1]`. Every path into the product (training, upload, command line,
HTTP) snaps to these levels, so that a file saved as 8-bit PNG and read back is the same image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["ImageSpec"]


@dataclass(frozen=True)
class ImageSpec:
    """Describes the images of one data set.

    Args:
        channels: 1 for grey, 3 for colour.
        height: The height :math:`H` in pixels.
        width: The width :math:`W` in pixels.
        levels: The number :math:`L` of pixel levels (2, 17 or 256, at most 256).
        background: The value in [0, 1] of an empty place: transparent pixels become it, and
            an upload whose border disagrees with it is offered to be inverted. ``None`` where
            the data have no such value (photographs).

    Raises:
        ValueError: If a field is outside its range; the message names the field.
    """

    channels: int
    height: int
    width: int
    levels: int = 256
    background: float | None = None

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (colour), not {self.channels!r}.")
        for name in ("height", "width"):
            if not 1 <= getattr(self, name) <= 1024:
                raise ValueError(f"{name} must lie in 1..1024, not {getattr(self, name)!r}.")
        if not 2 <= self.levels <= 256:
            raise ValueError(f"levels must lie in 2..256, not {self.levels!r}.")
        if self.background is not None and not 0 <= self.background <= 1:
            raise ValueError(f"background must lie in [0, 1], not {self.background!r}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape :math:`(C, H, W)` of one image."""
        return (self.channels, self.height, self.width)

    @property
    def pixels(self) -> int:
        """The number of values :math:`C H W` in one image."""
        return self.channels * self.height * self.width

    def to_levels(self, x: np.ndarray) -> np.ndarray:
        """Snaps values in [0, 1] to the nearest level.

        Args:
            x: Values in [0, 1], with any shape.

        Returns:
            The levels as ``uint8``, with the same shape.

        Raises:
            ValueError: If a value is not finite or lies outside [0, 1].
        """
        x = np.asarray(x, dtype=np.float64)
        if not np.isfinite(x).all():
            raise ValueError("x holds values that are not finite (NaN or infinity).")
        if x.size and (x.min() < -1e-6 or x.max() > 1 + 1e-6):
            raise ValueError(f"x must lie in [0, 1], but spans [{x.min():.3g}, {x.max():.3g}].")
        return np.rint(np.clip(x, 0, 1) * (self.levels - 1)).astype(np.uint8)

    def from_levels(self, levels: np.ndarray) -> np.ndarray:
        """Turns levels into values in [0, 1], as ``float32`` with the same shape."""
        levels = np.asarray(levels)
        if levels.dtype == np.uint8:  # looked up, which is ten times as fast
            return (np.arange(256) / np.float64(self.levels - 1)).astype(np.float32)[levels]
        return (levels / np.float64(self.levels - 1)).astype(np.float32)
