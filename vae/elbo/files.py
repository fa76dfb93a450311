"""Scores image files: untrusted bytes in, one row a file out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from vae.data.images import Adaptation, ImageRefused, Limits, preprocess, read_image
from vae.elbo.rows import FORMATS, ScoreRow, refused_row
from vae.elbo.scoring import DRAWS, score_levels
from vae.model.checkpoint import Checkpoint

__all__ = ["ImageFile", "image_files", "score_files", "write_rows"]

# Inside a folder only these are taken for images; a file named outright is always tried.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

_FILES_AT_ONCE = 256
_ADAPTATION, _LIMITS = Adaptation(), Limits()


class ImageFile(NamedTuple):
    """A file to score.

    Attributes:
        name: Its path relative to the argument that named it.
        path: Where it lies.
    """

    name: str
    path: Path


def image_files(paths: Iterable[Path]) -> list[ImageFile]:
    """Lists image files; folders are searched, in the order of their names.

    Raises:
        FileNotFoundError: If a path isn't there, or a folder holds no image.
    """
    files = []
    for path in paths:
        if path.is_dir():
            found = sorted(
                Path(folder) / name
                for folder, _, names in os.walk(path)
                for name in names
                if name.lower().endswith(SUFFIXES)
            )
            if not found:
                raise FileNotFoundError(f"the folder {str(path)!r} holds no image file.")
            files += [ImageFile(str(one.relative_to(path)), one) for one in found]
        elif path.is_file():
            files.append(ImageFile(path.name, path))
        else:
            raise FileNotFoundError(f"there is no file or folder {str(path)!r}.")
    return files


def score_files(
    checkpoint: Checkpoint,
    files: Sequence[ImageFile],
    *,
    adaptation: Adaptation = _ADAPTATION,
    limits: Limits = _LIMITS,
    draws: int = DRAWS,
    importance_samples: int = 0,
    seed: int = 0,
    evidence: bool = True,
    progress: bool = False,
) -> list[ScoreRow]:
    """Scores files; a refused one is a row that says why, and the others are scored.

    Args:
        checkpoint: The model.
        files: The files.
        adaptation: How an image that isn't of the model's size is brought to it.
        limits: What is refused before it is decoded.
        draws: See :func:`vae.score`, as for the rest.
        importance_samples: The k of the importance-weighted bound; 0 leaves it out.
        seed: The seed.
        evidence: Whether to compute the exact evidence where it exists.
        progress: Whether to draw a progress bar on standard error.

    Returns:
        One row for each file, in order.
    """
    rows: list[ScoreRow] = []
    bar = tqdm(total=len(files), disable=not progress, unit="image")
    for start in range(0, len(files), _FILES_AT_ONCE):
        part = files[start : start + _FILES_AT_ONCE]
        refused: dict[int, ScoreRow] = {}
        accepted: dict[int, np.ndarray] = {}
        for position, file in enumerate(part):
            try:
                raster = read_image(_read(file.path, limits), limits)
                accepted[position] = preprocess(raster, checkpoint.config.image, adaptation).levels
            except ImageRefused as error:
                refused[position] = refused_row(
                    checkpoint, file.name, seed, error.code, error.message
                )
        scored: list[ScoreRow] = []
        if accepted:
            scored = score_levels(
                checkpoint,
                np.stack(list(accepted.values())),
                names=[part[position].name for position in accepted],
                draws=draws,
                importance_samples=importance_samples,
                seed=seed,
                evidence=evidence,
            )
        by_position = refused | dict(zip(accepted, scored, strict=True))
        rows += [by_position[position] for position in range(len(part))]
        bar.update(len(part))
    bar.close()
    return rows


def write_rows(rows: Sequence[ScoreRow], path: Path) -> None:
    """Writes rows to a file in the format of its suffix, whole or not at all.

    Raises:
        OSError: If the disk refuses; what stood there before stands there still.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_bytes(FORMATS[path.suffix](rows))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, limits: Limits) -> bytes:
    try:
        if path.stat().st_size > limits.bytes:
            # One byte more than allowed is enough for the refusal; the file stays unread.
            with path.open("rb") as file:
                return file.read(limits.bytes + 1)
        return path.read_bytes()
    except OSError as error:
        raise ImageRefused("E-IMG-20", f"The file cannot be read: {error.strerror}.") from error
