r"""A model's figures on held-out images: the reference statistics and their means."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vae.data.datasets import ImageData
from vae.elbo.aggregate import active_units
from vae.elbo.scoring import (
    DRAWS,
    SampleScores,
    bits_per_dim,
    check_counts,
    draws_used,
    sample_scores,
)
from vae.elbo.terms import standard_normal_kl
from vae.model.checkpoint import Checkpoint, Reference
from vae.model.config import ModelConfig
from vae.model.originals import originals
from vae.model.vae import LatentModel

__all__ = ["evaluate", "reference_kl_per_dim", "reference_of", "split_metrics"]


def reference_of(
    model: LatentModel,
    data: ImageData,
    draws: int = DRAWS,
    importance_samples: int = 1_000,
    progress: bool = True,
) -> Reference:
    """Computes the reference statistics of the validation and calibration images.

    The calibration ELBOs come from the very function that scores an upload.
    """
    splits = (data.splits.validation, data.splits.calibration)
    indices = np.concatenate(splits)
    split = np.repeat(np.arange(2, dtype=np.uint8), [len(some) for some in splits])
    return _statistics(
        model,
        lambda rows: data.read(indices[rows]),
        Reference(indices, split, data.labels_of(indices), *[None] * 8),
        draws,
        importance_samples,
        seed=0,
        progress=progress,
    )._replace(levels=data.read(indices) if data.embeds else None)


def reference_kl_per_dim(reference: Reference) -> np.ndarray:
    r"""The KL of each reference image and latent dimension in nats, shape :math:`(N, D)`."""
    mu, log_variance = torch.from_numpy(reference.mu), torch.from_numpy(reference.log_variance)
    return standard_normal_kl(mu, log_variance).numpy()


def split_metrics(config: ModelConfig, reference: Reference, split: str) -> dict[str, Any]:
    """Means over one split of the reference set, each with its standard error over images.

    Returns:
        JSON values in nats: ``elbo``, ``rate``, ``distortion``, ``iwae_bound`` and, where it is
        exact, ``log_evidence``, each with ``_se``; ``active_units`` and ``bits_per_dim``.
    """
    rows = reference.of_split(split)
    columns = {
        "elbo": reference.elbo[rows],
        "rate": reference_kl_per_dim(reference)[rows].sum(-1),
        "distortion": -reference.expected_log_likelihood[rows],
        "iwae_bound": reference.iwae_bound[rows],
        "log_evidence": reference.log_evidence[rows],
    }
    metrics: dict[str, Any] = {"split": split, "images": len(rows)}
    for name, values in columns.items():
        if np.isfinite(values).all():
            metrics[name] = float(values.mean())
            metrics[f"{name}_se"] = float(values.std(ddof=1) / math.sqrt(len(values)))
    bits = bits_per_dim(config, columns["elbo"])
    metrics["bits_per_dim"] = float(bits.mean()) if np.isfinite(bits).all() else None
    metrics["active_units"] = int(active_units(torch.from_numpy(reference.mu[rows])).sum())
    return metrics


def evaluate(
    checkpoint: Checkpoint,
    split: str = "validation",
    limit: int | None = None,
    draws: int = DRAWS,
    importance_samples: int = 5_000,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Scores one held-out split anew.

    Args:
        checkpoint: The checkpoint.
        split: ``validation`` or ``calibration``.
        limit: Only the first so many images.
        draws: Draws for the ELBO where :math:`D > 2`.
        importance_samples: The k of the importance-weighted bound; 0 leaves it out.
        seed: The seed of every draw.
        progress: Whether to draw a progress bar on standard error.

    Returns:
        The mapping of :func:`split_metrics`, with ``draws`` and ``importance_samples``.

    Raises:
        DataMissing: If the images aren't in the checkpoint and their data set isn't there.
        ValueError: If a count is out of range.
    """
    check_counts(draws, importance_samples)
    rows = checkpoint.reference.of_split(split)[:limit]
    stored = checkpoint.reference
    reference = _statistics(
        checkpoint.model,
        lambda some: originals(checkpoint, rows[some]),
        Reference(stored.indices[rows], stored.split[rows], stored.labels[rows], *[None] * 8),
        draws,
        importance_samples,
        seed,
        progress,
    )
    return {
        **split_metrics(checkpoint.config, reference, split),
        "draws": draws_used(checkpoint.config, draws),
        "importance_samples": importance_samples,
    }


def _statistics(
    model: LatentModel,
    read: Callable[[np.ndarray], np.ndarray],
    which: Reference,
    draws: int,
    importance_samples: int,
    seed: int,
    progress: bool,
) -> Reference:
    """Fills the numbers of a reference that so far only says which images it is about."""
    parts = []
    bar = tqdm(total=which.size, disable=not progress, file=sys.stderr, unit="image")
    for rows in np.array_split(np.arange(which.size), max(1, math.ceil(which.size / 128))):
        parts.append(
            sample_scores(
                model,
                read(rows),
                draws=draws,
                importance_samples=importance_samples,
                seed=seed,
                evidence=True,
            )
        )
        bar.update(len(rows))
    bar.close()

    def joined(column: Callable[[SampleScores], Tensor]) -> np.ndarray:
        return np.concatenate([column(part).numpy() for part in parts])

    return which._replace(
        mu=joined(lambda part: part.mu),
        log_variance=joined(lambda part: 2 * part.sigma.log()),
        expected_log_likelihood=joined(lambda part: part.terms.expected_log_likelihood),
        elbo=joined(lambda part: part.terms.elbo),
        elbo_se=joined(lambda part: part.elbo_se),
        iwae_bound=joined(lambda part: part.iwae_bound),
        log_evidence=joined(lambda part: part.log_evidence),
    )
