"""Bytes of image files to the columns of their rows: the one core of every way to score files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vae.data.images.adaptation import Adaptation
from vae.data.images.decoding import ImageRefused, Limits
from vae.data.images.listing import text_of
from vae.data.images.many import Decoded, Decoder, cores
from vae.elbo.expectation import DRAWS
from vae.scoring.rows import ScoreRow, refused_row, row_schema, table_of
from vae.scoring.scores import Scores, check_counts, scores_of
from vae.store.checkpoint import Checkpoint
from vae.store.registry import load

if TYPE_CHECKING:
    import pyarrow

__all__ = ["FILE_LIMITS", "ScoreSettings", "Scorer"]

# What a file may cost where its owner scores it; of what strangers send, Limits() allows less.
FILE_LIMITS = Limits(bytes=64 * 2**20, side=16_384, pixels=64_000_000)


@dataclass(frozen=True)
class ScoreSettings:
    """Says how files are scored.

    Args:
        adaptation: How an image that isn't of the model's size is brought to it.
        limits: What is refused before it is decoded.
        draws: See :func:`vae.score`, as for the rest.
        importance_samples: The k of the importance-weighted bound; 0 leaves it out.
        seed: The seed.
        evidence: Whether to compute the exact evidence where it exists.
        calibration: The named calibration set; the model's own when not given.
    """

    adaptation: Adaptation = field(default_factory=Adaptation)
    limits: Limits = field(default_factory=Limits)
    draws: int = DRAWS
    importance_samples: int = 0
    seed: int = 0
    evidence: bool = True
    calibration: str | None = None

    def score(self, checkpoint: Checkpoint, levels: np.ndarray, names: Sequence[str]) -> Scores:
        """Scores images that are integer levels already; see :func:`scores_of`."""
        return scores_of(
            checkpoint,
            levels,
            names=names,
            draws=self.draws,
            importance_samples=self.importance_samples,
            seed=self.seed,
            evidence=self.evidence,
            calibration=self.calibration,
        )


class Scorer:
    """Scores batches of image files, on any worker of any engine: the same rows everywhere.

    It is picklable and opens its checkpoint on the first call, so that a worker opens its own.
    Threads: as many as ``OMP_NUM_THREADS`` says, which Ray sets to a worker's ``num_cpus``; else
    one for each core that the worker may use.

    Args:
        checkpoint: A checkpoint's directory, or the name of one, as :func:`vae.load` takes it.
        root: The folder or address below which files have their names; without it a file's name
            is its whole path.
        settings: The fields of :class:`ScoreSettings`, whose defaults are those of
            ``python -m vae score``.

    Raises:
        TypeError: If there is no such setting.
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        checkpoint: str | Path | Checkpoint,
        root: str | Path = "",
        **settings: Any,  # noqa: ANN401
    ) -> None:
        self.settings = ScoreSettings(**{"limits": FILE_LIMITS, **settings})
        check_counts(self.settings.draws, self.settings.importance_samples, self.settings.seed)
        self.root = root
        self._source = checkpoint

    def __getstate__(self) -> dict[str, Any]:
        source = self._source
        path = source.path if isinstance(source, Checkpoint) else source
        return {"settings": self.settings, "root": self.root, "_source": path}

    def __call__(self, batch: Mapping[str, Iterable]) -> dict[str, pyarrow.Array]:
        """Scores a batch of files; its rows depend neither on the batch nor on the worker.

        Args:
            batch: Two columns of one length :math:`B`: ``path``, texts, and ``bytes``, the files'
                contents, or none where a file couldn't be read.

        Returns:
            The columns of the files' rows, in order, of the types of :attr:`schema` whatever the
            batch holds. A refused file has ``error_code`` and ``error``, and no numbers.

        Raises:
            CheckpointError: If the checkpoint, or its calibration set, cannot be used.
        """
        torch.set_num_threads(_threads())
        names = [self._name(path) for path in _listed(batch["path"])]
        contents = (_UNREAD if one is None else one for one in _listed(batch["bytes"]))
        table = table_of(self.rows(names, self.decoder.decode(contents)))
        columns = (column.combine_chunks() for column in table.itercolumns())
        return dict(zip(table.column_names, columns, strict=True))

    def rows(self, names: Sequence[str], decoded: Decoded) -> list[ScoreRow]:
        """The rows of decoded files: scores, or why a file was refused.

        Args:
            names: The name of each file, length :math:`B`.
            decoded: What became of them in :attr:`decoder`.

        Returns:
            One row for each file, in order.
        """
        refused, settings = decoded.refused, self.settings
        used = [name for i, name in enumerate(names) if i not in refused]
        scored = iter(settings.score(self.checkpoint, decoded.levels, used).rows)
        return [
            refused_row(self.checkpoint, name, settings.seed, *refused[i])
            if i in refused
            else next(scored)
            for i, name in enumerate(names)
        ]

    @property
    def schema(self) -> pyarrow.Schema:
        """The names and types of the columns, as Arrow has them."""
        return row_schema()

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The model, opened when it is asked for."""
        return self._source if isinstance(self._source, Checkpoint) else load(self._source)

    @cached_property
    def decoder(self) -> Decoder:
        """What turns a file's bytes into the model's levels."""
        card, settings = self.checkpoint.card, self.settings
        return Decoder(
            card.image, settings.adaptation.as_trained(card.run), settings.limits, card.data.name
        )

    def _name(self, path: str) -> str:
        # Engines write one path with its scheme and without.
        path, root = (re.sub(r"^[a-z][a-z0-9+.-]*://", "", str(one)) for one in (path, self.root))
        return text_of(path.removeprefix(root.rstrip("/") + "/") if root else path)


_UNREAD = ImageRefused("E-FILE-01", "The file cannot be read.")


def _listed(column: Iterable) -> list:
    """A column of an Arrow table, a NumPy array or a list, as a list."""
    return column.to_pylist() if hasattr(column, "to_pylist") else list(column)


def _threads() -> int:
    said = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(int(said), cores()) if said.isdecimal() else cores())
