"""Calibration sets of a checkpoint: its own, and named ones made from images of one's choice.

A named set lies beside the model in ``calibrations/NAME.json``: the ELBOs of images that somebody
calls good, and everything that made them. It belongs to exact weights, whose sha256 it states;
the manifest does not list it, so that the checkpoint stays as it was committed.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from vae.data.disk import replace_file
from vae.data.images.adaptation import Adaptation
from vae.scoring.calibration import Calibration
from vae.store.checkpoint import Checkpoint
from vae.store.contents import CheckpointError
from vae.store.registry import Entry

__all__ = [
    "FEWEST",
    "CalibrationSet",
    "calibration_of",
    "calibration_set",
    "calibrations",
    "check_name",
    "write_calibration",
]

FEWEST = 20

_FOLDER = "calibrations"
_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MAX_BYTES = 64 * 2**20
_MAX_ENTRIES = 1_000
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class CalibrationSet:
    r"""Holds a named calibration set.

    Args:
        name: Its name: letters, digits, hyphens and underscores.
        source: What it was made from, for people; no path of a machine.
        weights_sha256: The sha256 of the weights that scored it.
        draws: The number of draws behind each ELBO; 0 by quadrature.
        seed: The seed of the draws.
        adaptation: How images that weren't of the model's size were brought to it.
        refused: The number of files that could not be read.
        created: When it was made, in UTC, ISO 8601.
        elbo: The ELBOs in nats, ascending, with shape :math:`(n,)`.
    """

    name: str
    source: str
    weights_sha256: str
    draws: int
    seed: int
    adaptation: Adaptation
    refused: int
    created: str
    elbo: np.ndarray

    @property
    def calibration(self) -> Calibration:
        """The set as scores are compared with it."""
        return Calibration(self.elbo, self.draws)


def calibrations(checkpoint: Checkpoint | Entry) -> tuple[str, ...]:
    """The names of the sets that lie beside a checkpoint, sorted; its own needs no name."""
    try:
        names = os.listdir(checkpoint.path / _FOLDER)
    except OSError:
        return ()
    found = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    return tuple(sorted(name for name in found if _NAME.fullmatch(name))[:_MAX_ENTRIES])


def calibration_of(checkpoint: Checkpoint, name: str | None = None) -> Calibration:
    """The calibration set that a score is compared with.

    Args:
        checkpoint: The model.
        name: One of :func:`calibrations`; the checkpoint's own held-out images when not given.

    Raises:
        CheckpointError: If there is no such set, or it is damaged, or other weights made it.
    """
    if name is not None:
        return calibration_set(checkpoint, name).calibration
    reference = checkpoint.reference
    elbo = reference.elbo[reference.of_split("calibration")]
    return Calibration(elbo, draws=checkpoint.card.metrics.draws)


def calibration_set(checkpoint: Checkpoint, name: str) -> CalibrationSet:
    """Reads a named calibration set.

    Raises:
        CheckpointError: If there is no such set, or it is damaged, or other weights made it.
    """
    known = calibrations(checkpoint)
    if name not in known:  # looked up, so that a name from outside never becomes a path
        raise CheckpointError(
            "E-CKPT-09",
            f"{checkpoint.name!r} has no calibration set named {name[:80]!r}; "
            f"there are: {', '.join(known) or 'none'}.",
        )
    try:
        with (checkpoint.path / _FOLDER / f"{name}.json").open("rb") as file:
            found = _from_json(name, json.loads(file.read(_MAX_BYTES)))
    except _DAMAGE as error:
        raise CheckpointError(
            "E-CKPT-10",
            f"The calibration set {name!r} of {checkpoint.name!r} is damaged; make it anew.",
        ) from error
    if found.weights_sha256 != checkpoint.weights_sha256:
        raise CheckpointError(
            "E-CKPT-11",
            f"The calibration set {name!r} was made with other weights of {checkpoint.name!r}; "
            "make it anew.",
        )
    return found


def check_name(checkpoint: Checkpoint, name: str, overwrite: bool = False) -> None:
    """Checks that a set may be written under a name.

    Raises:
        ValueError: If the name is not one.
        FileExistsError: If there is such a set, and it may not be replaced.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            "the name of a calibration set takes up to 64 letters, digits, hyphens and "
            f"underscores, not {name[:80]!r}."
        )
    if not overwrite and name in calibrations(checkpoint):
        raise FileExistsError(
            f"{checkpoint.name!r} has a calibration set {name!r} already; choose another name or "
            "pass --overwrite."
        )


def write_calibration(
    checkpoint: Checkpoint,
    name: str,
    elbo: np.ndarray,
    *,
    draws: int,
    seed: int,
    adaptation: Adaptation,
    refused: int = 0,
    source: str = "",
    overwrite: bool = False,
) -> CalibrationSet:
    r"""Stores a named calibration set beside a checkpoint, whole or not at all.

    Args:
        checkpoint: The model.
        name: Up to 64 letters, digits, hyphens and underscores.
        elbo: The ELBOs of the images, with shape :math:`(n,)`, :math:`n \ge 20`.
        draws: The number of draws behind each; 0 by quadrature.
        seed: The seed of the draws.
        adaptation: How the images were brought to the model's size.
        refused: The number of files that could not be read.
        source: What the images are, for people.
        overwrite: Whether a set of that name is replaced.

    Raises:
        ValueError: If the name is not one, or the ELBOs are too few or not finite.
        FileExistsError: If there is such a set, and it may not be replaced.
        OSError: If the disk refuses.
    """
    check_name(checkpoint, name, overwrite)
    elbo = np.sort(np.asarray(elbo, dtype=np.float64))
    if len(elbo) < FEWEST or not np.isfinite(elbo).all():
        raise ValueError(
            f"a calibration set needs at least {FEWEST} images, each with a finite ELBO; "
            f"there are {np.isfinite(elbo).sum()}."
        )
    made = CalibrationSet(
        name=name,
        source=source,
        weights_sha256=checkpoint.weights_sha256,
        draws=draws,
        seed=seed,
        adaptation=adaptation,
        refused=refused,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        elbo=elbo,
    )
    folder = checkpoint.path / _FOLDER
    folder.mkdir(exist_ok=True)
    document = {"format": _FORMAT, **asdict(made), "elbo": elbo.tolist()}
    text = f"{json.dumps(document, indent=1, allow_nan=False)}\n"
    replace_file(folder / f"{name}.json", text.encode())
    return made


def _from_json(name: str, document: dict[str, Any]) -> CalibrationSet:
    if document.pop("format") != _FORMAT or document["name"] != name:
        raise ValueError("another format, or another set's file")
    elbo = np.array(document.pop("elbo"), dtype=np.float64)
    draws, seed, refused = (document[key] for key in ("draws", "seed", "refused"))
    whole = all(type(value) is int for value in (draws, seed, refused))
    rising = elbo.ndim == 1 and len(elbo) >= FEWEST and not (np.diff(elbo) < 0).any()
    if not whole or draws < 0 or not rising or not math.isfinite(elbo.sum()):
        raise ValueError("values out of range")
    adaptation = Adaptation(**document.pop("adaptation"))
    return CalibrationSet(**document, adaptation=adaptation, elbo=elbo)
