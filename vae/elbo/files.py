"""Scores image files: untrusted bytes in, one row a file out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from vae.data.folder import find_images
from vae.data.images import (
    Adaptation,
    ImageRefused,
    Limits,
    Prepared,
    preprocess,
    read_image,
)
from vae.elbo.rows import FORMATS, ScoreRow, refused_row
from vae.elbo.scoring import DRAWS, score_levels
from vae.model.checkpoint import Checkpoint

__all__ = [
    "ImageFile",
    "ScoredImage",
    "image_files",
    "score_bytes",
    "score_files",
    "write_rows",
]

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


class ScoredImage(NamedTuple):
    """A scored or refused file.

    Attributes:
        row: Its row.
        prepared: The image as the model's data would hold it; none where it was refused.
    """

    row: ScoreRow
    prepared: Prepared | None


def image_files(paths: Iterable[Path]) -> list[ImageFile]:
    """Lists image files; folders are searched, in the order of their names.

    Raises:
        FileNotFoundError: If a path isn't there, or a folder holds no image.
    """
    files = []
    for path in paths:
        if os.path.isdir(path):
            found = find_images(path)
            if not found:
                raise FileNotFoundError(f"the folder {str(path)!r} holds no image file.")
            files += [ImageFile(_text(one.relative_to(path)), one) for one in found]
        elif os.path.isfile(path):
            files.append(ImageFile(_text(path.name), path))
        else:
            raise FileNotFoundError(f"there is no file or folder {str(path)!r}.")
    return files


def score_bytes(
    checkpoint: Checkpoint,
    named: Sequence[tuple[str, bytes | ImageRefused]],
    *,
    adaptation: Adaptation = _ADAPTATION,
    limits: Limits = _LIMITS,
    draws: int = DRAWS,
    importance_samples: int = 0,
    seed: int = 0,
    evidence: bool = True,
    calibration: str | None = None,
) -> list[ScoredImage]:
    """Scores the bytes of image files; a refused one is a row that says why.

    Args:
        checkpoint: The model.
        named: A name and the bytes of each file, or why they could not be read.
        adaptation: How an image that isn't of the model's size is brought to it.
        limits: What is refused before it is decoded.
        draws: See :func:`vae.score`, as for the rest.
        importance_samples: The k of the importance-weighted bound; 0 leaves it out.
        seed: The seed.
        evidence: Whether to compute the exact evidence where it exists.
        calibration: The named calibration set; the model's own when not given.

    Returns:
        One row for each file, in order, with the image as it was prepared.
    """
    prepared: dict[int, Prepared] = {}
    rows: dict[int, ScoreRow] = {}
    for position, (name, data) in enumerate(named):
        try:
            if isinstance(data, ImageRefused):
                raise data
            raster = read_image(data, limits)
            fitted = preprocess(raster, checkpoint.config.image, adaptation)
            # What reading did and what fitting did are one story to the person who sent it.
            prepared[position] = fitted._replace(steps=raster.notes + fitted.steps)
        except ImageRefused as error:
            rows[position] = refused_row(checkpoint, name, seed, error.code, error.message)
    if prepared:
        scored = score_levels(
            checkpoint,
            np.stack([one.levels for one in prepared.values()]),
            names=[named[position][0] for position in prepared],
            draws=draws,
            importance_samples=importance_samples,
            seed=seed,
            evidence=evidence,
            calibration=calibration,
        )
        rows |= dict(zip(prepared, scored, strict=True))
    return [ScoredImage(rows[i], prepared.get(i)) for i in range(len(named))]


def score_files(
    checkpoint: Checkpoint,
    files: Sequence[ImageFile],
    *,
    progress: bool = False,
    **settings: object,
) -> list[ScoreRow]:
    """Scores files in bounded memory.

    Args:
        checkpoint: The model.
        files: The files.
        progress: Whether to draw a progress bar on standard error.
        settings: Those of :func:`score_bytes`.

    Returns:
        One row for each file, in order.
    """
    limits = settings.get("limits", _LIMITS)
    rows: list[ScoreRow] = []
    with tqdm(total=len(files), disable=not progress, unit="image", file=sys.stderr) as bar:
        for start in range(0, len(files), _FILES_AT_ONCE):
            part = files[start : start + _FILES_AT_ONCE]
            named = [(file.name, _read(file.path, limits)) for file in part]
            rows += [scored.row for scored in score_bytes(checkpoint, named, **settings)]
            bar.update(len(part))
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


def _text(name: str | Path) -> str:
    """A file's name as text: bytes that are not UTF-8 have no place in JSON or Parquet."""
    return os.fsencode(name).decode(errors="replace")


def _read(path: Path, limits: Limits) -> bytes | ImageRefused:
    try:
        with path.open("rb") as file:
            # One byte more than allowed is enough for a refusal; the rest stays unread.
            return file.read(limits.bytes + 1)
    except OSError as error:
        return ImageRefused("E-FILE-01", f"The file cannot be read: {error.strerror}.")
