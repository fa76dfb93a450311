r"""A model's figures on held-out images: the reference statistics and their means."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import vae
from vae.data.sets.image_data import ImageData, copies_of
from vae.elbo.aggregate.density import active_units
from vae.elbo.aggregate.surgery import surgery
from vae.elbo.evidence.bounds import Bound, estimate_bound
from vae.elbo.evidence.quadrature import Evidence, exact_evidence
from vae.elbo.expectation import DRAWS, draws_used, estimate_elbo
from vae.elbo.seen import see
from vae.elbo.terms import standard_normal_kl
from vae.model.face import LatentModel
from vae.scoring.factors import FACTOR_IMAGES, factor_metrics
from vae.scoring.scores import bits_per_dim, check_counts
from vae.store.checkpoint import Checkpoint
from vae.store.contents import Reference
from vae.store.originals import originals, own_data

__all__ = [
    "aggregate_metrics",
    "calibration_evidence",
    "evaluate",
    "means_of",
    "reference_kl_per_dim",
    "reference_of",
    "split_metrics",
    "statistics_of",
]

# Few images at once where each has thousands of draws: the same speed, and 60 MB less memory.
_IMAGES_AT_ONCE, _DRAWS_AT_ONCE, _EXACT_AT_ONCE = 64, 80_000, 8


class Statistics(NamedTuple):
    r"""What is known of some images, each by itself; :class:`Reference` says the same of its own.

    Attributes:
        mu: Posterior means, ``float64``, with shape :math:`(N, D)`.
        log_variance: Logs of the posterior variances, ``float64``, with shape :math:`(N, D)`.
        expected_log_likelihood: In nats, like all below, with shape :math:`(N,)`.
        elbo: With shape :math:`(N,)`.
        elbo_se: Its standard error, with shape :math:`(N,)`.
        elbo_error: Its numerical error, with shape :math:`(N,)`.
        iwae_bound: :math:`L_k`, NaN where not asked for, with shape :math:`(N,)`.
        log_evidence: :math:`\log p(x)`, NaN where not known, with shape :math:`(N,)`.
        log_evidence_error: Its numerical error, with shape :math:`(N,)`.
    """

    mu: np.ndarray
    log_variance: np.ndarray
    expected_log_likelihood: np.ndarray
    elbo: np.ndarray
    elbo_se: np.ndarray
    elbo_error: np.ndarray
    iwae_bound: np.ndarray
    log_evidence: np.ndarray
    log_evidence_error: np.ndarray


def reference_of(
    model: LatentModel,
    data: ImageData,
    draws: int = DRAWS,
    importance_samples: int = 1_000,
    progress: bool = True,
    evidence_images: int | None = None,
) -> Reference:
    """Computes the reference statistics of the validation and calibration images.

    The calibration ELBOs come from the very function that scores an upload. For the arguments see
    :func:`statistics_of`.
    """
    splits = (data.splits.validation, data.splits.calibration)
    indices = np.concatenate(splits)
    split = np.repeat(np.arange(2, dtype=np.uint8), [len(some) for some in splits])
    found = statistics_of(
        model,
        lambda rows: data.read(indices[rows]),
        len(indices),
        draws,
        importance_samples,
        progress=progress,
        evidence_images=evidence_images,
    )
    levels = data.read(indices) if data.embeds else None
    return Reference(indices, split, data.labels_of(indices), *found, levels)


def calibration_evidence(checkpoint: Checkpoint) -> np.ndarray:
    r"""The exact :math:`\log p(x)` of the calibration images for which it was asked, (n,).

    Out of the quadrature's reach is stranger than anything within it, and counts as minus
    infinity; an image beyond ``evidence_images`` is unknown, and no image to compare with.
    """
    reference = checkpoint.reference
    asked = _with_evidence(reference.size, checkpoint.card.run.get("evidence_images"))
    rows = reference.of_split("calibration")
    return np.nan_to_num(reference.log_evidence[rows[asked[rows]]], nan=-np.inf)


def reference_kl_per_dim(reference: Reference | Statistics) -> np.ndarray:
    r"""The KL of each reference image and latent dimension in nats, shape :math:`(N, D)`."""
    mu, log_variance = torch.from_numpy(reference.mu), torch.from_numpy(reference.log_variance)
    return standard_normal_kl(mu, log_variance).numpy()


def split_metrics(model: LatentModel, reference: Reference, split: str) -> dict[str, Any]:
    """Means over one split of the reference set; see :func:`means_of`."""
    rows = reference.of_split(split)
    part = Reference(*(None if column is None else column[rows] for column in reference))
    return {"split": split, **means_of(model, part)}


def checkpoint_facts(
    model: LatentModel, data: ImageData, reference: Reference, draws: int, k: int
) -> dict[str, Any]:
    """What every checkpoint records: when, its images, and its means over the validation split.

    Args:
        model: The model.
        data: The data set.
        reference: The statistics of its held-out images.
        draws: The draws behind each ELBO.
        k: The k of the importance-weighted bound.
    """
    return {
        "elboscope": vae.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": data.facts() | {"duplicates": copies_of(data)._asdict()},
        "metrics": {
            **split_metrics(model, reference, "validation"),
            "draws": draws_used(model, draws),
            "importance_samples": k,
        },
    }


def means_of(model: LatentModel, statistics: Reference | Statistics) -> dict[str, Any]:
    """Means over all images of some statistics, each with its standard error over images.

    Returns:
        JSON values in nats: ``images``, ``elbo``, ``rate``, ``distortion``, ``iwae_bound`` and,
        where it is exact, ``log_evidence``, each with ``_se``, which is none for the mean of a
        single image; ``log_evidence_images``, their
        number, where that of some images is unknown and the mean is over the others;
        ``active_units`` and ``bits_per_dim``.
    """
    columns = {
        "elbo": statistics.elbo,
        "rate": reference_kl_per_dim(statistics).sum(-1),
        "distortion": -statistics.expected_log_likelihood,
        "iwae_bound": statistics.iwae_bound,
        "log_evidence": statistics.log_evidence,
    }
    metrics: dict[str, Any] = {"images": len(statistics.elbo)}
    for name, values in columns.items():
        known = values[~np.isnan(values)]
        if len(known) and np.isfinite(known).all():
            metrics[name] = float(known.mean())
            metrics[f"{name}_se"] = standard_error(known)
            if len(known) < len(values):
                metrics[f"{name}_images"] = len(known)
    bits = bits_per_dim(model, columns["elbo"])
    metrics["bits_per_dim"] = float(bits.mean()) if np.isfinite(bits).all() else None
    metrics["active_units"] = int(active_units(torch.from_numpy(statistics.mu)).sum())
    return metrics


def standard_error(values: np.ndarray) -> float | None:
    """The standard error of a mean over images, (N,); none for a single one."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def aggregate_metrics(statistics: Reference | Statistics, seed: int = 0) -> dict[str, Any]:
    r"""What the rate is made of over a set of images; see :mod:`vae.elbo.aggregate.surgery`.

    Returns:
        JSON values in nats: ``mutual_information`` between image number and code, at most
        ``log_images``; ``aggregate_kl``; ``total_correlation``; ``surgery_se``, the standard error
        of all three (0 by quadrature); and ``pinned``, whether the rate exceeds the ceiling.
    """
    parts = surgery(
        torch.from_numpy(statistics.mu),
        torch.from_numpy(statistics.log_variance / 2).exp(),
        seed=seed,
    )
    return {
        "mutual_information": float(parts.mean_information),
        "log_images": parts.log_size,
        "aggregate_kl": float(parts.aggregate_kl),
        "total_correlation": float(parts.total_correlation),
        "surgery_se": float(parts.mean_information_se),
        "pinned": parts.pinned,
    }


def evaluate(
    checkpoint: Checkpoint,
    split: str = "validation",
    limit: int | None = None,
    draws: int = DRAWS,
    importance_samples: int = 5_000,
    seed: int = 0,
    progress: bool = True,
    evidence_images: int | None = None,
) -> dict[str, Any]:
    """Scores held-out images anew: of the reference set, or the data set's own test images.

    Args:
        checkpoint: The checkpoint.
        split: ``validation``, ``calibration``, or ``test`` where the data set has test images.
        limit: Only the first so many images.
        draws: Draws for the ELBO where :math:`D > 2`.
        importance_samples: The k of the importance-weighted bound; 0 leaves it out.
        seed: The seed of every draw.
        progress: Whether to draw a progress bar on standard error.
        evidence_images: The most images whose exact evidence is computed; all when not given.

    Returns:
        JSON values: ``split``, ``draws``, ``importance_samples``, and those of :func:`means_of`,
        :func:`aggregate_metrics` and, of a model of sprites,
        :func:`vae.scoring.factors.factor_metrics`.

    Raises:
        DataMissing: If the images aren't in the checkpoint and their data set isn't there.
        ValueError: If a count is out of range, or the data set has no test images.
    """
    check_counts(draws, importance_samples, seed)
    read, count = _images_of(checkpoint, split, limit)
    statistics = statistics_of(
        checkpoint.model, read, count, draws, importance_samples, seed, progress, evidence_images
    )
    factors = {}
    if checkpoint.card.data.name == "sprites":
        # Fewer would not show each value of each factor.
        count = min(FACTOR_IMAGES, max(1_000, limit or FACTOR_IMAGES))
        factors = factor_metrics(checkpoint.model, count, seed)
    return {
        "split": split,
        **means_of(checkpoint, statistics),
        **aggregate_metrics(statistics, seed),
        **factors,
        "draws": draws_used(checkpoint, draws),
        "importance_samples": importance_samples,
    }


def _images_of(
    checkpoint: Checkpoint, split: str, limit: int | None
) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """What reads the levels of a split's images by their numbers, and how many there are."""
    if split != "test":
        rows = checkpoint.reference.of_split(split)[:limit]
        return lambda some: originals(checkpoint, rows[some]), len(rows)
    data = own_data(checkpoint)
    if not len(data.test):
        raise ValueError(
            f"{data.name!r} has no test images of its own; choose --split validation or "
            "calibration."
        )
    indices = data.test[:limit]
    return lambda some: data.read(indices[some]), len(indices)


def statistics_of(
    model: LatentModel,
    read: Callable[[np.ndarray], np.ndarray],
    count: int,
    draws: int = DRAWS,
    importance_samples: int = 1_000,
    seed: int = 0,
    progress: bool = True,
    evidence_images: int | None = None,
) -> Statistics:
    r"""Scores many images, a few at a time.

    Args:
        model: The model.
        read: Maps numbers of images, from 0, to levels; called by several threads.
        count: The number of images.
        draws: Draws for the ELBO where :math:`D > 2`.
        importance_samples: The k of the importance-weighted bound; 0 leaves it out.
        seed: The seed of every draw.
        progress: Whether to draw a progress bar on standard error.
        evidence_images: The most images whose exact evidence is computed where :math:`D \le 2`,
            evenly spread over all; NaN for the others. All of them when not given.
    """
    with_evidence = _with_evidence(count, evidence_images if model.latent_dim <= 2 else 0)

    def work(rows: np.ndarray) -> Statistics:
        return _statistics(
            model, read(rows), draws, importance_samples, seed, bool(with_evidence[rows[0]])
        )

    most = min(
        _IMAGES_AT_ONCE,
        max(1, _DRAWS_AT_ONCE // max(1, importance_samples)),
        math.ceil(count / torch.get_num_threads()),
    )
    chunks: list[np.ndarray] = []
    # An exact log p(x) takes so long that whoever waits wants to hear of each few.
    for rows, size in (
        (np.flatnonzero(with_evidence), min(most, _EXACT_AT_ONCE)),
        (np.flatnonzero(~with_evidence), most),
    ):
        if len(rows):
            chunks += np.array_split(rows, math.ceil(len(rows) / max(1, size)))
    parts: list[Statistics] = []
    with tqdm(
        total=count, disable=not progress, file=sys.stderr, unit="image", desc="held-out images"
    ) as bar:
        for part in _in_threads(work, chunks):
            parts.append(part)
            bar.update(len(part.elbo))
            bar.set_postfix_str(_so_far(parts))
    order = np.argsort(np.concatenate(chunks))
    return Statistics(*(np.concatenate(column)[order] for column in zip(*parts, strict=True)))


def _with_evidence(count: int, most: int | None) -> np.ndarray:
    """Which of so many images have their exact evidence computed, at most so many, (N,)."""
    chosen = np.zeros(count, dtype=bool)
    wanted = count if most is None else min(most, count)
    chosen[np.linspace(0, count - 1, wanted).round().astype(int)] = True
    return chosen


def _statistics(
    model: LatentModel, levels: np.ndarray, draws: int, k: int, seed: int, evidence: bool
) -> Statistics:
    """Those of a few images."""
    seen = see(model, levels, seed)
    elbo = estimate_elbo(seen, draws)
    nothing = torch.full((len(seen),), math.nan, dtype=torch.float64)
    bound = estimate_bound(seen, k) if k else Bound(nothing, nothing, nothing)
    exact = Evidence(nothing, nothing)
    if evidence:
        exact = exact_evidence(model, seen.x, seen.mu)
    columns = (
        *(seen.mu, 2 * seen.sigma.log(), elbo.terms.expected_log_likelihood),
        *(elbo.value, elbo.standard_error, elbo.error, bound.value, *exact),
    )
    return Statistics(*(column.numpy() for column in columns))


def _in_threads(
    work: Callable[[np.ndarray], Statistics], chunks: Sequence[np.ndarray]
) -> Iterator[Statistics]:
    """Results in order, from as many threads as torch uses, each computing by itself.

    Images have nothing to wait for each other. Alone this is as fast as threads that share every
    matrix product; those, though, wait for the last of them at the end of each, and beside another
    busy program that one is late.
    """
    threads = torch.get_num_threads()
    if min(threads, len(chunks)) < 2:
        yield from map(work, chunks)
        return
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        waiting = deque(pool.submit(work, chunk) for chunk in chunks)
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        # The workers' choice is what later threads would start with.
        torch.set_num_threads(threads)


def _so_far(parts: Sequence[Statistics]) -> str:
    """The mean of what is known of log p(x) so far, for whoever watches."""
    bounds = np.concatenate([part.iwae_bound for part in parts])
    name, values = "L_k", bounds
    if np.isnan(bounds).any():
        name, values = "ELBO", np.concatenate([part.elbo for part in parts])
    error = standard_error(values)
    return f"{name} {values.mean():.2f}{'' if error is None else f' ± {error:.2f}'} nats"
