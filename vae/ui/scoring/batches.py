"""Scores what a visitor sent in small parts, so that results appear as they are ready."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence

import numpy as np
import streamlit as st

from vae.scoring.calibration_sets import calibration_of
from vae.scoring.files import ScoredImage, score_bytes
from vae.scoring.scorer import ScoreSettings
from vae.store.checkpoint import Checkpoint
from vae.ui.caches import shared

__all__ = ["score_in_parts", "scored_with_progress"]

_PART = 8
# What is faster than this needs no progress.
_PATIENCE = 0.5


def score_in_parts(
    model: Checkpoint, files: Sequence[tuple[str, bytes]], settings: ScoreSettings
) -> Iterator[dict[int, ScoredImage]]:
    """Scores files a few at a time; the same bytes are scored once, whatever their names.

    Args:
        model: The model.
        files: A name and the bytes of each.
        settings: How they are scored.

    Yields:
        The results so far, by position in ``files``.
    """
    places: dict[str, list[int]] = {}
    for position, (_, data) in enumerate(files):
        places.setdefault(hashlib.sha256(data).hexdigest(), []).append(position)
    different = list(places.values())
    compared = calibration_of(model, settings.calibration)
    # A named set may be made anew under its name.
    stamp = hashlib.sha256(np.ascontiguousarray(compared.elbo).tobytes()).hexdigest()
    found: dict[int, ScoredImage] = {}
    # An exact log p(x) takes long enough to be waited for alone.
    size = 1 if settings.evidence else _PART
    for start in range(0, len(different), size):
        part = different[start : start + size]
        data = tuple(files[same[0]][1] for same in part)
        results = _scored(model, model.name, data, settings, stamp)
        for same, result in zip(part, results, strict=True):
            for position in same:
                row = result.row._replace(name=files[position][0])
                found[position] = result._replace(row=row)
        yield found


# Shared, since what the model sees goes with the model itself, which nobody wants copied.
@shared(max_entries=64)
def _scored(
    model: Checkpoint,
    name: str,  # rows state it
    data: tuple[bytes, ...],
    settings: ScoreSettings,
    stamp: str,
) -> list[ScoredImage]:
    return score_bytes(model, [("", one) for one in data], settings)


def scored_with_progress(
    model: Checkpoint, files: Sequence[tuple[str, bytes]], settings: ScoreSettings
) -> list[ScoredImage]:
    """Scores files, and shows how far it is and the scores so far while that takes a while."""
    start, slot = time.monotonic(), st.empty()
    found: dict[int, ScoredImage] = {}
    for found in score_in_parts(model, files, settings):
        if len(found) < len(files) and time.monotonic() - start > _PATIENCE:
            with slot.container():
                done = len(found)
                st.progress(done / len(files), f"{done} of {len(files)} files scored")
                rows = sorted(
                    (one.row for one in found.values()),
                    key=lambda row: (row.elbo is None, row.elbo),
                )
                st.dataframe(
                    {
                        "name": [row.name for row in rows],
                        "ELBO, nats": [row.elbo for row in rows],
                        "p-value": [row.p_value for row in rows],
                    },
                    hide_index=True,
                    height=300,
                    alt=f"The scores of the first {done} files",
                )
    slot.empty()
    return [found[position] for position in range(len(files))]
