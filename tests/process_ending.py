"""A decoder's fault, for tests: a function that other processes can import, without torch."""

from __future__ import annotations

import os

from vae.data.images.decoding import Raster

FATAL = 77


def end_process(raster: Raster) -> Raster:
    """Ends the process at an image whose first pixel is FATAL."""
    if round(float(raster.pixels[0, 0, 0]) * 255) == FATAL:
        os._exit(11)
    return raster
