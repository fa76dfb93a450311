"""The files of a data set to levels, on all cores: the same path as an upload, part by part.

Parts come back in order and are written by the caller, so memory stays flat.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from vae.data.images.adaptation import Adaptation
from vae.data.images.decoding import Limits, Raster
from vae.data.images.listing import text_of
from vae.data.images.many import Decoder, cores, decoded
from vae.data.spec import ImageSpec

__all__ = ["FileSet"]

# A camera's own files may be large; a visitor's upload may not.
_LIMITS = Limits(bytes=64 * 2**20, side=16_384, pixels=64_000_000)
_ADAPTATION = Adaptation()
_PART_BYTES = 2**23
# Starting processes takes about a second, in which one core decodes so many small images.
_WORTH_PROCESSES = 1_000


class FileSet:
    """Decodes files in order and remembers which it could read.

    Args:
        files: The paths.
        spec: What every image is brought to.
        trim: Cuts a decoded image before it is brought to size; a function of a module, so that
            other processes find it.
        adaptation: How an image of another size or depth is brought to the spec.
        allow_tiff: Whether TIFF files are read too.

    Attributes:
        kept: Positions in ``files`` of the images that were decoded so far.
        refused: One sentence for each file that was not.
        steps: How many images each kind of adaptation step was done to, by its first word.
    """

    def __init__(
        self,
        files: Sequence[str],
        spec: ImageSpec,
        trim: Callable[[Raster], Raster] | None = None,
        adaptation: Adaptation = _ADAPTATION,
        allow_tiff: bool = False,
    ) -> None:
        self.files = files
        formats = (*_LIMITS.formats, *(("TIFF",) if allow_tiff else ()))
        limits = replace(_LIMITS, formats=formats)
        self.decoder = Decoder(spec, adaptation, limits, trim=trim)
        self.kept: list[int] = []
        self.refused: list[str] = []
        self.steps: Counter[str] = Counter()

    def __iter__(self) -> Iterator[np.ndarray]:
        r"""Yields parts of the levels, ``uint8`` with shape :math:`(n, C, H, W)`."""
        size = max(1, min(256, _PART_BYTES // self.decoder.spec.pixels))
        parts = [self.files[i : i + size] for i in range(0, len(self.files), size)]
        # All cores: who takes the parts only writes them.
        workers = cores() if len(self.files) >= _WORTH_PROCESSES and cores() > 1 else 0
        start = 0
        with (
            tqdm(total=len(self.files), desc="decoding", unit="image", file=sys.stderr) as bar,
            decoded(self.decoder, parts, workers, ahead=2 * workers) as results,
        ):
            for part, found in zip(parts, results, strict=True):
                refused = found.refused
                self.kept += [start + i for i in range(len(part)) if i not in refused]
                self.refused += [
                    f"{text_of(part[i])}: {sentence} ({code})"
                    for i, (code, sentence) in refused.items()
                ]
                self.steps.update(found.steps)
                start += len(part)
                bar.update(len(part))
                yield found.levels
        self.report()

    def report(self) -> None:
        """Names the first files that were left out on standard error."""
        for line in self.refused[:5]:
            print(f"left out {line}", file=sys.stderr)
        if len(self.refused) > 5:
            print(f"left out {len(self.refused) - 5} more", file=sys.stderr)
