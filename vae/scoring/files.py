"""Scores image files: untrusted bytes in, one row a file out; large folders part by part."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch

from vae.data.images.adaptation import Adaptation, Prepared, preprocess
from vae.data.images.decoding import ImageRefused, Limits, read_image
from vae.data.images.listing import ImageFile, chunks_of
from vae.data.images.many import cores, decoded, joined, usual_workers
from vae.elbo.expectation import Elbo
from vae.elbo.seen import Seen
from vae.scoring.rows import ScoreRow, refused_row
from vae.scoring.scorer import Scorer, ScoreSettings
from vae.store.checkpoint import Checkpoint

__all__ = [
    "ScoredImage",
    "ScoredPart",
    "part_size",
    "prepare",
    "score_bytes",
    "score_files",
    "score_parts",
]

_ADAPTATION, _LIMITS = Adaptation(), Limits()
# Files that a decoding process takes at once, and those that are scored and written at once.
_DECODED_AT_ONCE, _SCORED_AT_ONCE = 128, 1024
# Bounds the levels of one part, in bytes.
_LEVELS_AT_ONCE = 2**25
# Fewer files are decoded before a process has started.
_WORTH_A_PROCESS = 1500


class ScoredImage(NamedTuple):
    """A scored or refused file.

    Attributes:
        row: Its row.
        prepared: The image as the model's data would hold it; none where it was refused.
        p_high: The p-value of an ELBO as high or higher; none where it was refused.
        seen: The image as the model sees it; none where it was refused.
        elbo: Its ELBO, which the row states; none where it was refused.
    """

    row: ScoreRow
    prepared: Prepared | None
    p_high: float | None = None
    seen: Seen | None = None
    elbo: Elbo | None = None


_SETTINGS = ScoreSettings()


class ScoredPart(NamedTuple):
    """The rows of some neighbouring files of a listing.

    Attributes:
        number: The part's number in the listing, from 0.
        files: The files.
        rows: Their rows, in the same order.
        stamps: Each file's size and time of change when it was read.
        steps: How many images each kind of adaptation step was done to.
    """

    number: int
    files: list[ImageFile]
    rows: list[ScoreRow]
    stamps: list[tuple[int, int]]
    steps: Counter[str]


def prepare(
    checkpoint: Checkpoint,
    content: bytes,
    adaptation: Adaptation = _ADAPTATION,
    limits: Limits = _LIMITS,
) -> Prepared:
    """Turns the bytes of an image file into what a model's data would hold.

    Args:
        checkpoint: The model.
        content: The bytes.
        adaptation: How an image that isn't of the model's size is brought to it.
        limits: What is refused before it is decoded.

    Returns:
        The levels, the image before, and every step between them.

    Raises:
        ImageRefused: If the file cannot be used.
    """
    raster = read_image(content, limits)
    card = checkpoint.card
    fitted = preprocess(raster, card.image, adaptation.as_trained(card.run), card.data.name)
    # What reading did and what fitting did are one story to the person who sent it.
    return fitted._replace(steps=raster.notes + fitted.steps)


def score_bytes(
    checkpoint: Checkpoint,
    named: Sequence[tuple[str, bytes | ImageRefused]],
    settings: ScoreSettings = _SETTINGS,
) -> list[ScoredImage]:
    """Scores the bytes of image files; a refused one is a row that says why.

    Args:
        checkpoint: The model.
        named: A name and the bytes of each file, or why they could not be read.
        settings: How they are scored.

    Returns:
        One row for each file, in order, with the image as it was prepared.
    """
    found: dict[int, ScoredImage] = {}
    prepared: dict[int, Prepared] = {}
    for position, (name, data) in enumerate(named):
        try:
            if isinstance(data, ImageRefused):
                raise data
            prepared[position] = prepare(checkpoint, data, settings.adaptation, settings.limits)
        except ImageRefused as error:
            row = refused_row(checkpoint, name, settings.seed, error.code, error.message)
            found[position] = ScoredImage(row, None)
    if prepared:
        levels = np.stack([one.levels for one in prepared.values()])
        scores = settings.score(checkpoint, levels, [named[i][0] for i in prepared])
        for n, (position, one) in enumerate(prepared.items()):
            only = slice(n, n + 1)
            found[position] = ScoredImage(
                scores.rows[n], one, scores.p_high[n], scores.seen[only], scores.elbo.of(only)
            )
    return [found[position] for position in range(len(named))]


def part_size(checkpoint: Checkpoint) -> int:
    """The number of files in a part: the same for every run with one model."""
    return max(1, min(_SCORED_AT_ONCE, _LEVELS_AT_ONCE // checkpoint.image.pixels))


def score_files(
    checkpoint: Checkpoint,
    files: Iterable[ImageFile],
    settings: ScoreSettings = _SETTINGS,
    *,
    workers: int | None = None,
) -> Iterator[ScoredPart]:
    """Scores files part by part; see :func:`score_parts`."""
    chunks = enumerate(chunks_of(files, part_size(checkpoint)))
    return score_parts(checkpoint, chunks, settings, workers=workers)


def score_parts(
    checkpoint: Checkpoint,
    chunks: Iterable[tuple[int, list[ImageFile]]],
    settings: ScoreSettings = _SETTINGS,
    *,
    workers: int | None = None,
) -> Iterator[ScoredPart]:
    """Scores parts of a listing, in bounded memory; decoding runs ahead in other processes.

    Args:
        checkpoint: The model.
        chunks: Each part's number and files, at most :func:`part_size` of them; taken no further
            ahead than they are decoded.
        settings: How they are scored.
        workers: Processes that decode; 0 decodes in this one, and as many as pay when not given.

    Yields:
        The parts, in order.

    Raises:
        ValueError: If a setting is out of range.
    """
    scorer, size = Scorer(checkpoint, **vars(settings)), part_size(checkpoint)
    if workers is None:
        chunks = iter(chunks)
        first = list(islice(chunks, -(-_WORTH_A_PROCESS // size)))
        many = sum(len(files) for _, files in first) >= _WORTH_A_PROCESS
        workers, chunks = usual_workers() if many else 0, chain(first, chunks)
    at_once = max(1, min(_DECODED_AT_ONCE, size // 8))
    # What is being decoded: parts, each in pieces small enough for every process to have one.
    ahead: list[tuple[int, list[ImageFile], int]] = []

    def pieces() -> Iterator[list[str]]:
        for number, files in chunks:
            cuts = range(0, len(files), at_once)
            ahead.append((number, files, len(cuts)))
            for start in cuts:
                yield [file.path for file in files[start : start + at_once]]

    # A whole part is decoded while the one before it is scored.
    ahead_by = size // at_once + 2 * workers
    with (
        _old_objects_at_rest(),
        _beside(workers),
        decoded(scorer.decoder, pieces(), workers, ahead_by) as results,
    ):
        for first in results:
            number, files, count = ahead.pop(0)
            whole = joined([first, *islice(results, count - 1)])
            rows = scorer.rows([file.name for file in files], whole)
            stamps = [file.stamp or seen for file, seen in zip(files, whole.stamps, strict=True)]
            yield ScoredPart(number, files, rows, stamps, whole.steps)


@contextmanager
def _beside(workers: int) -> Iterator[None]:
    """Leaves cores to processes that decode: threads that wait for one another lose more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, min(threads, cores() - workers)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _old_objects_at_rest() -> Iterator[None]:
    """Keeps the garbage collector to what comes from here on.

    Rows come and go by the thousand, and for each thousand it would look through all that torch
    and its companions have loaded: a sixth of the time that a small image takes.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
