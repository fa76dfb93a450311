"""What screens read, cached: models, reference tables, receipts, images, decoded places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import streamlit as st
import torch

from vae.data.images.encoding import encode_png, to_image
from vae.data.sets.image_data import DataMissing
from vae.elbo.aggregate.density import active_units
from vae.elbo.expectation import Elbo, Receipt, estimate_elbo, take_apart
from vae.elbo.seen import Seen, see
from vae.elbo.tiles import decode_means
from vae.explore import traversals
from vae.scoring.calibration_sets import calibration_of
from vae.scoring.evaluation import reference_kl_per_dim
from vae.store.checkpoint import Checkpoint, load
from vae.store.contents import CheckpointError
from vae.store.originals import files_of, originals
from vae.store.registry import Entry, default_root, scan
from vae.ui.caches import cached, shared

__all__ = [
    "Table",
    "checkpoint",
    "current",
    "decode",
    "draws_of",
    "elbo",
    "entries",
    "file_column",
    "files",
    "images",
    "levels_at",
    "levels_of",
    "posterior_draws",
    "prior_samples",
    "receipt",
    "receipt_of",
    "reconstructions",
    "sample_png",
    "seen",
    "seen_of",
    "table",
]

# Visitors share the machine.
_CORES = min(2, torch.get_num_threads())
# With fewer weights a layer is done before a second core has woken up: the bound of one image
# takes 63 ms alone and 103 ms with two cores at 170,000 weights, 140 and 125 ms at 425,000.
_SMALL = 250_000


class Table(NamedTuple):
    r"""The reference set as screens use it.

    Attributes:
        mu: Posterior means, with shape :math:`(N, D)`.
        sigma: Posterior standard deviations, with shape :math:`(N, D)`.
        kl_per_dim: In nats, with shape :math:`(N, D)`.
        kl: In nats, with shape :math:`(N,)`.
        expected_log_likelihood: In nats, with shape :math:`(N,)`.
        elbo: In nats, with shape :math:`(N,)`.
        percentile: Share in percent of calibration images with a lower ELBO, :math:`(N,)`.
        labels: Class numbers, -1 where there are none, :math:`(N,)`.
        split: 0 for validation and 1 for calibration, :math:`(N,)`.
        by_kl: The dimensions by falling mean KL, with shape :math:`(D,)`.
        active: Whether each dimension is an active unit, by the validation images, :math:`(D,)`.
    """

    mu: np.ndarray
    sigma: np.ndarray
    kl_per_dim: np.ndarray
    kl: np.ndarray
    expected_log_likelihood: np.ndarray
    elbo: np.ndarray
    percentile: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    by_kl: np.ndarray
    active: np.ndarray


@st.cache_data(ttl=2, show_spinner=False)
def entries() -> dict[str, Entry]:
    """The checkpoints that there are, usable and damaged, by name."""
    return scan(default_root())


def checkpoint(name: str) -> Checkpoint:
    """Opens a checkpoint by a name that scanning has found.

    Raises:
        CheckpointError: If it is damaged.
        KeyError: If the name isn't among :func:`entries`.
    """
    entry = entries()[name]
    try:
        # The manifest is written last and lists every other file: it stands for the directory.
        stamp = (entry.path / "manifest.json").stat()
        model = _load(str(entry.path), stamp.st_mtime_ns, stamp.st_ino)
    except (OSError, CheckpointError) as error:
        if isinstance(error, CheckpointError) and error.code != "E-CKPT-01":
            raise
        # Where it lay is nothing for visitors.
        raise CheckpointError(
            "E-CKPT-01", f"The model {name!r} is no longer there; choose another one."
        ) from error
    _share_cores(model)
    return model


@st.cache_resource(max_entries=4, show_spinner="Opening the model")
def _load(path: str, modified: int, inode: int) -> Checkpoint:
    return load(Path(path))


def _share_cores(model: Checkpoint) -> None:
    """Gives this run's thread as many cores as the model's size can use, and leaves the rest."""
    weights = sum(values.numel() for values in model.model.parameters())
    torch.set_num_threads(1 if weights < _SMALL else _CORES)


def current() -> tuple[Checkpoint, int]:
    """The chosen model and the chosen sample's position in its reference set."""
    return checkpoint(st.session_state["model"]), int(st.session_state["sample"])


# Shared, since a million samples are a hundred megabytes.
@shared(max_entries=8)
def table(model: Checkpoint) -> Table:
    """The reference set of a model."""
    reference = model.reference
    kl_per_dim = reference_kl_per_dim(reference)
    validation = reference.of_split("validation")
    return Table(
        mu=reference.mu,
        sigma=np.exp(reference.log_variance / 2),
        kl_per_dim=kl_per_dim,
        kl=kl_per_dim.sum(-1),
        expected_log_likelihood=reference.expected_log_likelihood,
        elbo=reference.elbo,
        percentile=calibration_of(model).percentile(reference.elbo),
        labels=reference.labels,
        split=reference.split,
        by_kl=np.argsort(-kl_per_dim.mean(0), kind="stable"),
        active=active_units(torch.from_numpy(reference.mu[validation])).numpy(),
    )


@cached(max_entries=256)
def images(model: Checkpoint, rows: Sequence[int]) -> np.ndarray | None:
    """Reference images as the model sees them, binarised where it asks for that.

    In [0, 1], (N, C, H, W); none where the data aren't on this machine.
    """
    levels = levels_at(model, rows)
    return None if levels is None else model.observe(levels).numpy()


# Names change without the model: files are renamed, the folder is opened again.
@cached(max_entries=8, ttl=60)
def files(model: Checkpoint) -> list[str] | None:
    """The path of each reference image below its folder; none where this machine has no files."""
    return files_of(model)


def file_column(model: Checkpoint, rows: np.ndarray) -> dict[str, list[str]]:
    """The column of a table that names the files of reference images; empty without files."""
    names = files(model)
    return {} if names is None else {"file": [names[row] for row in rows]}


def seen(model: Checkpoint, sample: int) -> Seen | None:
    """A reference sample as the model sees it; none where its image isn't on this machine."""
    levels = levels_of(model, sample)
    return None if levels is None else seen_of(model, levels)


# Shared, since it goes with the model itself.
@shared(max_entries=512)
def seen_of(model: Checkpoint, levels: np.ndarray) -> Seen:
    """An image's levels (C, H, W) as the model sees them."""
    return see(model, levels[None])


@shared(max_entries=512)
def elbo(seen: Seen) -> Elbo:
    """The ELBO of an image that a checkpoint sees, by the draws behind its reference scores."""
    return estimate_elbo(seen, draws_of(seen.model))


def receipt(model: Checkpoint, sample: int) -> Receipt | None:
    """A reference sample's ELBO taken apart; none where its image isn't on this machine."""
    found = seen(model, sample)
    return None if found is None else receipt_of(found, elbo(found))


@cached(max_entries=512)
def receipt_of(seen: Seen, elbo: Elbo) -> Receipt:
    """An image's ELBO taken apart."""
    return take_apart(seen, elbo)


def sample_png(model: Checkpoint, sample: int) -> bytes | None:
    """A reference sample as a PNG file, as it was before the model saw it; none where it isn't."""
    levels = levels_of(model, sample)
    return None if levels is None else encode_png(to_image(levels, model.image))


def draws_of(model: Checkpoint) -> int:
    """The draws behind the reference scores; any number where quadrature needs none."""
    return model.card.metrics.draws or 1


def levels_of(model: Checkpoint, sample: int) -> np.ndarray | None:
    """A reference sample's levels (C, H, W); none where its image isn't on this machine."""
    found = levels_at(model, [sample])
    return None if found is None else found[0]


def levels_at(model: Checkpoint, rows: Sequence[int]) -> np.ndarray | None:
    try:
        return originals(model, np.array(rows, dtype=np.int64))
    except DataMissing:
        return None


@cached(max_entries=256)
def reconstructions(model: Checkpoint, rows: Sequence[int]) -> np.ndarray:
    """What the decoder makes of reference samples' means, in [0, 1], (N, C, H, W)."""
    return decode_means(model.model, torch.from_numpy(model.reference.mu[list(rows)])).numpy()


@cached(max_entries=128)
def posterior_draws(model: Checkpoint, sample: int, count: int, seed: int) -> np.ndarray:
    """Decoded draws from a reference sample's own q(z|x), in [0, 1], (N, C, H, W)."""
    found = table(model)
    mu, sigma = found.mu[sample], found.sigma[sample]
    return traversals.posterior_draws(model.model, mu, sigma, count, seed)


@cached(max_entries=64)
def prior_samples(model: Checkpoint, count: int, seed: int) -> np.ndarray:
    """Decoded draws from the prior, in [0, 1], (N, C, H, W)."""
    return traversals.prior_samples(model.model, count, seed)


@cached(max_entries=64)
def decode(model: Checkpoint, codes: np.ndarray) -> np.ndarray:
    """What the decoder makes of codes (..., D), in [0, 1], (..., C, H, W)."""
    images = decode_means(model.model, torch.from_numpy(codes.reshape(-1, codes.shape[-1])))
    return images.numpy().reshape(*codes.shape[:-1], *images.shape[1:])
