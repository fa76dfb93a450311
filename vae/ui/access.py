"""What screens read, cached: models, reference tables, receipts, images, decoded places.

Every cached function is keyed by the sha256 of the weights, never by a model object: a key that
left the model out would go on showing the old model's numbers after a switch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

import numpy as np
import streamlit as st
import torch

from vae.data.datasets import DataMissing
from vae.data.images import Adaptation, encode_png, to_image
from vae.elbo import batch_mates as batch_mates_module
from vae.elbo import derivation as derivation_module
from vae.elbo import surgery as surgery_module
from vae.elbo.annealing import annealed_evidence
from vae.elbo.batch_mates import Company
from vae.elbo.derivation import Line
from vae.elbo.evaluation import reference_kl_per_dim
from vae.elbo.files import ScoredImage, score_bytes
from vae.elbo.gaps import best_gaussian
from vae.elbo.ladder import Ladder, bound_ladder
from vae.elbo.misconception import batch_penalties, misconception_means
from vae.elbo.posterior import true_posterior
from vae.elbo.quadrature import CoarseScan, coarse_scan
from vae.elbo.scoring import (
    Receipt,
    SampleScores,
    calibration_of,
    sample_receipt,
    sample_scores,
)
from vae.elbo.surgery import Surgery
from vae.elbo.tiles import decode_means
from vae.explore import traversals
from vae.explore.traversals import prior_quantiles
from vae.model.checkpoint import Checkpoint, load
from vae.model.originals import originals
from vae.model.registry import Entry, default_root, scan
from vae.model.vae import observe

__all__ = [
    "Gap",
    "Table",
    "annealed",
    "batch_mates",
    "blurred",
    "checkpoint",
    "current",
    "derivation",
    "entries",
    "finite_set",
    "gap",
    "images",
    "lattice",
    "levels_of",
    "posterior",
    "posterior_draws",
    "prior_quantiles",
    "prior_samples",
    "receipt",
    "receipt_of",
    "reconstructions",
    "sample_png",
    "scored",
    "surgery",
    "table",
    "traverse",
]


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
    # The manifest is written last and lists every other file: it stands for the directory.
    stamp = (entry.path / "manifest.json").stat()
    return _load(str(entry.path), stamp.st_mtime_ns, stamp.st_ino)


@st.cache_resource(max_entries=4, show_spinner="Opening the model")
def _load(path: str, modified: int, inode: int) -> Checkpoint:
    torch.set_num_threads(min(2, torch.get_num_threads()))
    return load(Path(path))


def current() -> tuple[Checkpoint, int]:
    """The chosen model and the chosen sample's position in its reference set."""
    return checkpoint(st.session_state["model"]), int(st.session_state["sample"])


def table(model: Checkpoint) -> Table:
    """The reference set of a model."""
    return _table(model, model.weights_sha256)


@st.cache_data(max_entries=8, show_spinner=False)
def _table(_model: Checkpoint, key: str) -> Table:
    reference = _model.reference
    kl_per_dim = reference_kl_per_dim(reference)
    return Table(
        mu=reference.mu,
        sigma=np.exp(reference.log_variance / 2),
        kl_per_dim=kl_per_dim,
        kl=kl_per_dim.sum(-1),
        expected_log_likelihood=reference.expected_log_likelihood,
        elbo=reference.elbo,
        percentile=calibration_of(_model).percentile(reference.elbo),
        labels=reference.labels,
        split=reference.split,
        by_kl=np.argsort(-kl_per_dim.mean(0), kind="stable"),
    )


def images(model: Checkpoint, rows: Sequence[int]) -> np.ndarray | None:
    """Reference images in [0, 1], (N, C, H, W); none where the data aren't on this machine."""
    return _images(model, model.weights_sha256, tuple(int(row) for row in rows))


@st.cache_data(max_entries=256, show_spinner=False)
def _images(_model: Checkpoint, key: str, rows: tuple[int, ...]) -> np.ndarray | None:
    levels = _levels(_model, rows)
    return None if levels is None else _model.config.image.from_levels(levels)


def receipt(model: Checkpoint, sample: int) -> Receipt | None:
    """A reference sample's ELBO taken apart; none where its image isn't on this machine."""
    return _receipt(model, model.weights_sha256, sample)


def receipt_of(model: Checkpoint, levels: np.ndarray, draws: int, seed: int) -> Receipt:
    """An uploaded image's ELBO taken apart, from its levels (C, H, W)."""
    return _receipt_of(model, model.weights_sha256, levels, draws, seed)


@st.cache_data(max_entries=128, show_spinner=False)
def _receipt_of(
    _model: Checkpoint, key: str, levels: np.ndarray, draws: int, seed: int
) -> Receipt:
    return sample_receipt(_model.model, levels, draws=draws, seed=seed)


def scored(
    model: Checkpoint,
    files: Sequence[tuple[str, bytes]],
    adaptation: Adaptation,
    draws: int,
    importance_samples: int,
    seed: int,
) -> list[ScoredImage]:
    """Scores uploaded files; the same bytes are scored once."""
    return _scored(
        model,
        model.weights_sha256,
        tuple(files),
        astuple(adaptation),
        draws,
        importance_samples,
        seed,
    )


@st.cache_data(max_entries=16, show_spinner="Scoring")
def _scored(
    _model: Checkpoint,
    key: str,
    files: tuple[tuple[str, bytes], ...],
    adaptation: tuple[str, ...],
    draws: int,
    importance_samples: int,
    seed: int,
) -> list[ScoredImage]:
    return score_bytes(
        _model,
        files,
        adaptation=Adaptation(*adaptation),
        draws=draws,
        importance_samples=importance_samples,
        seed=seed,
    )


def sample_png(model: Checkpoint, sample: int) -> bytes | None:
    """A reference sample as a PNG file; none where its image isn't on this machine."""
    found = images(model, [sample])
    if found is None:
        return None
    spec = model.config.image
    return encode_png(to_image(spec.to_levels(found[0]), spec))


def blurred(model: Checkpoint, sample: int) -> Receipt:
    """The receipt of a reference sample after a 3x3 box blur."""
    spec = model.config.image
    padded = np.pad(images(model, [sample])[0], ((0, 0), (1, 1), (1, 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return receipt_of(model, spec.to_levels(windows.mean((-1, -2))), _draws(model), 0)


def _draws(model: Checkpoint) -> int:
    """The draws behind the reference scores; any number where quadrature needs none."""
    return model.manifest["metrics"]["draws"] or 1


def derivation(model: Checkpoint, sample: int) -> list[Line] | None:
    """The derivation evaluated for a sample; none where its image isn't on this machine."""
    return _derivation(model, model.weights_sha256, sample)


@st.cache_data(max_entries=128, show_spinner="Computing every line")
def _derivation(_model: Checkpoint, key: str, sample: int) -> list[Line] | None:
    levels = _levels(_model, [sample])
    if levels is None:
        return None
    return derivation_module.derivation(_model.model, levels[0], draws=_draws(_model))


def batch_mates(model: Checkpoint, sample: int) -> list[Company] | None:
    """A sample's terms in different company; none where the images aren't on this machine."""
    return _batch_mates(model, model.weights_sha256, sample)


@st.cache_data(max_entries=64, show_spinner="Scoring one image in four companies")
def _batch_mates(_model: Checkpoint, key: str, sample: int) -> list[Company] | None:
    size = _model.reference.size
    mates = (sample + np.arange(min(256, size))) % size
    levels = _levels(_model, mates)
    if levels is None:
        return None
    return batch_mates_module.batch_mates(_model.model, levels[0], levels[1:])


class Gap(NamedTuple):
    r"""How far one image's ELBO lies below :math:`\log p(x)`, and why. Unit: nats.

    Attributes:
        terms: Expected log-likelihood and KL of the encoder's q.
        elbo: The ELBO and its standard error.
        mu: Mean of the encoder's q, with shape :math:`(D,)`.
        sigma: Its standard deviation, with shape :math:`(D,)`.
        ladder: The nested bounds.
        best: Mean and standard deviation of q*, each :math:`(D,)`.
        best_elbo: The ELBO of q* and its standard error.
        log_evidence: The exact :math:`\log p(x)`, NaN where there is none.
        error: Its numerical error.
        to_posterior: :math:`KL(q \| p(z|x))` by a sum of its own, NaN where there is none.
    """

    terms: tuple[float, float]
    elbo: tuple[float, float]
    mu: np.ndarray
    sigma: np.ndarray
    ladder: Ladder
    best: tuple[np.ndarray, np.ndarray]
    best_elbo: tuple[float, float]
    log_evidence: float
    error: float
    to_posterior: float


def gap(model: Checkpoint, levels: np.ndarray) -> Gap:
    """The bounds of one image, (C, H, W)."""
    return _gap(model, model.weights_sha256, levels)


@st.cache_data(max_entries=128, show_spinner="Finding the best q and 5,000 draws")
def _gap(_model: Checkpoint, key: str, levels: np.ndarray) -> Gap:
    draws = _draws(_model)
    scores = sample_scores(_model.model, levels[None], draws=draws)
    best = best_gaussian(
        _model.model, levels[None], draws=draws, scan=_scan(_model, _model.weights_sha256)
    )
    return Gap(
        terms=(float(scores.terms.expected_log_likelihood[0]), float(scores.terms.kl[0])),
        elbo=(float(scores.terms.elbo[0]), float(scores.elbo_se[0])),
        mu=scores.mu[0].numpy(),
        sigma=scores.sigma[0].numpy(),
        ladder=bound_ladder(_model.model, levels),
        best=(best.mu[0].numpy(), best.sigma[0].numpy()),
        best_elbo=(float(best.elbo[0]), float(best.elbo_se[0])),
        log_evidence=float(best.log_evidence[0]),
        error=float(best.log_evidence_error[0]),
        to_posterior=_to_posterior(_model, levels, scores, float(best.log_evidence[0])),
    )


def _to_posterior(
    model: Checkpoint, levels: np.ndarray, scores: SampleScores, log_evidence: float
) -> float:
    if model.config.latent_dim > 2:
        return math.nan
    x = observe(model.config, levels[None])
    with torch.inference_mode():
        return derivation_module.divergence_to_posterior(
            model.model, x, scores.mu, scores.sigma, log_evidence
        )


@st.cache_resource(max_entries=4, show_spinner=False)
def _scan(_model: Checkpoint, key: str) -> CoarseScan | None:
    return coarse_scan(_model.model) if _model.config.latent_dim <= 2 else None


def posterior(
    model: Checkpoint, levels: np.ndarray, window: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Axes (2, G) and density (G, G) of one image's true posterior over a window (2, 2)."""
    return _posterior(model, model.weights_sha256, levels, window)


@st.cache_data(max_entries=64, show_spinner=False)
def _posterior(
    _model: Checkpoint, key: str, levels: np.ndarray, window: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    x = observe(_model.config, levels[None])
    mu = sample_scores(_model.model, levels[None], draws=1).mu[0]
    scan = _scan(_model, _model.weights_sha256)
    grid = true_posterior(
        _model.model, x[0], mu, torch.from_numpy(window), resolution=141, scan=scan
    )
    return grid.axes.numpy(), grid.density.numpy()


def annealed(model: Checkpoint, levels: np.ndarray, chains: int) -> tuple[float, float]:
    """The annealed estimate of log p(x) and its standard error, in nats."""
    return _annealed(model, model.weights_sha256, levels, chains)


@st.cache_data(max_entries=64, show_spinner=False)
def _annealed(
    _model: Checkpoint, key: str, levels: np.ndarray, chains: int
) -> tuple[float, float]:
    found = annealed_evidence(_model.model, levels[None], chains=chains)
    return float(found.log_evidence[0]), float(found.standard_error[0])


class FiniteSet(NamedTuple):
    """What a finite set of images shows of the misconception, in one dimension, in nats.

    Attributes:
        widths: Shared standard deviations, with shape :math:`(W,)`.
        information: What their codes tell about which image it was, with shape :math:`(W,)`.
        moments: The penalty on the whole set's moments at the asked-for width.
        batch_of_8: The mean penalty on batches of 8 at that width.
    """

    widths: np.ndarray
    information: np.ndarray
    moments: float
    batch_of_8: float


@st.cache_data(max_entries=32, show_spinner=False)
def finite_set(sigma: float, size: int) -> FiniteSet:
    """The misconception with finitely many images of one width."""
    widths = torch.logspace(math.log10(0.02), math.log10(0.99), 40, dtype=torch.float64)
    information = []
    for width in widths:
        mu = misconception_means(width[None], size)
        information.append(surgery_module.surgery(mu, width.expand_as(mu)).mean_information)
    width = torch.tensor([sigma], dtype=torch.float64)
    mu, many = misconception_means(width, size), misconception_means(width, 1_024, seed=0)
    return FiniteSet(
        widths=widths.numpy(),
        information=torch.stack(information).numpy(),
        moments=float(batch_penalties(mu, width, size).mean()),
        batch_of_8=float(batch_penalties(many, width, 8).mean()),
    )


def surgery(model: Checkpoint) -> Surgery:
    """What the mean KL of the reference set is spent on."""
    return _surgery(model, model.weights_sha256)


@st.cache_data(max_entries=8, show_spinner="Splitting the KL of every image")
def _surgery(_model: Checkpoint, key: str) -> Surgery:
    found = _table(_model, key)
    return surgery_module.surgery(torch.from_numpy(found.mu), torch.from_numpy(found.sigma))


def levels_of(model: Checkpoint, sample: int) -> np.ndarray | None:
    """A reference sample's levels (C, H, W); none where its image isn't on this machine."""
    found = _levels(model, [sample])
    return None if found is None else found[0]


def _levels(model: Checkpoint, rows: Sequence[int]) -> np.ndarray | None:
    try:
        return originals(model, np.array(rows, dtype=np.int64))
    except DataMissing:
        return None


@st.cache_data(max_entries=512, show_spinner=False)
def _receipt(_model: Checkpoint, key: str, sample: int) -> Receipt | None:
    levels = _levels(_model, [sample])
    if levels is None:
        return None
    return sample_receipt(_model.model, levels[0], draws=_draws(_model))


def reconstructions(model: Checkpoint, rows: Sequence[int]) -> np.ndarray:
    """What the decoder makes of reference samples' means, in [0, 1], (N, C, H, W)."""
    return _reconstructions(model, model.weights_sha256, tuple(int(row) for row in rows))


@st.cache_data(max_entries=256, show_spinner=False)
def _reconstructions(_model: Checkpoint, key: str, rows: tuple[int, ...]) -> np.ndarray:
    return decode_means(_model.model, torch.from_numpy(_model.reference.mu[list(rows)])).numpy()


def lattice(model: Checkpoint, span: float, side: int) -> np.ndarray:
    """The decoded plane of a two-dimensional model; see :func:`vae.explore.traversals.lattice`."""
    return _lattice(model, model.weights_sha256, span, side)


@st.cache_data(max_entries=16, show_spinner=False)
def _lattice(_model: Checkpoint, key: str, span: float, side: int) -> np.ndarray:
    return traversals.lattice(_model.model, span, side)


def traverse(
    model: Checkpoint, start: np.ndarray, dims: tuple[int, ...], values: np.ndarray
) -> np.ndarray:
    """Decoded traversals; see :func:`vae.explore.traversals.traverse`."""
    return _traverse(model, model.weights_sha256, start, dims, values)


@st.cache_data(max_entries=64, show_spinner=False)
def _traverse(
    _model: Checkpoint, key: str, start: np.ndarray, dims: tuple[int, ...], values: np.ndarray
) -> np.ndarray:
    return traversals.traverse(_model.model, start, dims, values)


def posterior_draws(model: Checkpoint, sample: int, count: int, seed: int) -> np.ndarray:
    """Decoded draws from a reference sample's own q(z|x), in [0, 1], (N, C, H, W)."""
    return _posterior_draws(model, model.weights_sha256, sample, count, seed)


@st.cache_data(max_entries=128, show_spinner=False)
def _posterior_draws(
    _model: Checkpoint, key: str, sample: int, count: int, seed: int
) -> np.ndarray:
    mu = _model.reference.mu[sample]
    sigma = np.exp(_model.reference.log_variance[sample] / 2)
    return traversals.posterior_draws(_model.model, mu, sigma, count, seed)


def prior_samples(model: Checkpoint, count: int, seed: int) -> np.ndarray:
    """Decoded draws from the prior, in [0, 1], (N, C, H, W)."""
    return _prior_samples(model, model.weights_sha256, count, seed)


@st.cache_data(max_entries=64, show_spinner=False)
def _prior_samples(_model: Checkpoint, key: str, count: int, seed: int) -> np.ndarray:
    return traversals.prior_samples(_model.model, count, seed)
