"""A checkpoint with a reference set of any size, to see how the screens bear it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from vae.store.checkpoint import Checkpoint, write
from vae.store.contents import Reference

__all__ = ["write_crowd"]


def write_crowd(path: Path, source: Checkpoint, points: int, seed: int = 0) -> None:
    r"""Writes a model with a made-up reference set of many samples.

    Each sample is one of the source's with another code drawn from its own Gaussian; its scores
    are the source's, moved a little. The images are the source's own. The numbers mean nothing
    beyond their count.

    Args:
        path: The directory to make.
        source: The checkpoint whose model and samples are taken.
        points: The number N of samples.
        seed: The seed.

    Raises:
        FileExistsError: If something stands there.
        ValueError: If ``points`` is not positive.
    """
    if points < 1:
        raise ValueError(f"points must be positive, not {points}.")
    generator = np.random.default_rng(seed)
    old = source.reference
    rows = generator.integers(old.size, size=points)
    sigma = np.exp(old.log_variance[rows] / 2)
    mu = old.mu[rows] + sigma * generator.standard_normal(sigma.shape)
    moved = generator.standard_normal(points)
    reference = Reference(
        indices=old.indices[rows],
        split=old.split[rows],
        labels=old.labels[rows],
        mu=mu,
        log_variance=old.log_variance[rows],
        expected_log_likelihood=old.expected_log_likelihood[rows] + moved,
        elbo=old.elbo[rows] + moved,
        elbo_se=old.elbo_se[rows],
        elbo_error=old.elbo_error[rows],
        iwae_bound=old.iwae_bound[rows],
        log_evidence=old.log_evidence[rows],
        log_evidence_error=old.log_evidence_error[rows],
        levels=None,
    )
    manifest = json.loads((source.path / "manifest.json").read_text())
    own = ("format", "model", "files")
    facts = {key: value for key, value in manifest.items() if key not in own}
    card = {"title": f"{points} made-up samples", "description": f"After {source.name}."}
    write(path, source.model, reference, (), {**facts, "card": card})
