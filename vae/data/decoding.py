"""Files to levels, on all cores: the same path as an upload, one part of the files at a time.

Processes rather than threads, which lose on small images: they wait for the interpreter more than
they decode. Parts come back in order and are written by the caller, so memory stays flat.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from tqdm import tqdm

from vae.data.images import ImageRefused, Limits, Raster, preprocess, read_image
from vae.data.spec import ImageSpec

__all__ = ["Decoder", "decode_part"]

# A camera's own files may be large; a visitor's upload may not.
_LIMITS = Limits(bytes=64 * 2**20, side=16_384, pixels=64_000_000)
_PART_BYTES = 2**23
# Starting processes takes about a second, in which one core decodes so many small images.
_WORTH_PROCESSES = 1_000


class Decoder:
    """Decodes files in order and remembers which it could read.

    Args:
        files: The paths.
        spec: What every image is brought to.
        trim: Cuts a decoded image before it is brought to size; a function of a module, so that
            other processes find it.

    Attributes:
        kept: Positions in ``files`` of the images that were decoded so far.
        refused: One sentence for each file that was not.
    """

    def __init__(
        self, files: Sequence[str], spec: ImageSpec, trim: Callable[[Raster], Raster] | None = None
    ) -> None:
        self.files, self.spec, self.trim = files, spec, trim
        self.kept: list[int] = []
        self.refused: list[str] = []

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields parts of the levels, ``uint8`` with shape :math:`(n, C, H, W)`."""
        size = max(1, min(256, _PART_BYTES // self.spec.pixels))
        starts = range(0, len(self.files), size)
        calls = ((self.files[i : i + size], self.spec, self.trim) for i in starts)
        with tqdm(total=len(self.files), desc="decoding", unit="image", file=sys.stderr) as bar:
            for start, (levels, kept, refused) in zip(
                starts, _run(calls, len(self.files)), strict=True
            ):
                self.kept += [start + i for i in kept]
                self.refused += refused
                bar.update(len(kept) + len(refused))
                yield levels
        self.report()

    def report(self) -> None:
        """Names the first files that were left out on standard error."""
        for line in self.refused[:5]:
            print(f"left out {line}", file=sys.stderr)
        if len(self.refused) > 5:
            print(f"left out {len(self.refused) - 5} more", file=sys.stderr)


def _run(calls: Iterator[tuple], count: int) -> Iterator[tuple]:
    # joblib comes with scikit-learn; its processes never run the caller's own script again, which
    # those of the standard library do.
    import joblib

    processes = joblib.cpu_count()
    if count < _WORTH_PROCESSES or processes == 1:
        return (decode_part(*call) for call in calls)
    with joblib.parallel_config("loky", idle_worker_timeout=5):
        return joblib.Parallel(processes, return_as="generator")(
            joblib.delayed(decode_part)(*call) for call in calls
        )


def decode_part(
    files: Sequence[str], spec: ImageSpec, trim: Callable[[Raster], Raster] | None
) -> tuple[np.ndarray, list[int], list[str]]:
    """Decodes a few files.

    Args:
        files: The paths.
        spec: What every image is brought to.
        trim: Cuts a decoded image first.

    Returns:
        Their levels, ``uint8`` of shape (n, C, H, W), which of them these are, and a sentence for
        each of the others.
    """
    levels = np.empty((len(files), *spec.shape), np.uint8)
    kept, refused = [], []
    for i, file in enumerate(files):
        try:
            raster = read_image(_bytes_of(file), _LIMITS)
            levels[len(kept)] = preprocess(trim(raster) if trim else raster, spec).levels
            kept.append(i)
        except (ImageRefused, OSError) as error:
            refused.append(f"{file}: {getattr(error, 'strerror', None) or error}")
    return levels[: len(kept)], kept, refused


def _bytes_of(file: str) -> bytes:
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")  # a pipe would wait for ever
    with open(file, "rb") as opened:
        # One byte more than is allowed: enough to be refused, and never a whole disk image.
        return opened.read(_LIMITS.bytes + 1)
