"""Objectives and schedules on cases whose value is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from vae.elbo.terms import Terms
from vae.training.config import TrainConfig


TERMS = Terms(torch.tensor([-10.0, -20.0]), torch.tensor([[1.0, 2.0], [0.5, 0.0]]))
POSTERIOR = Independent(Normal(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 0.5), 1)


def test_elbo_by_hand() -> None:
    assert per_sample_loss(QUICK, TERMS, POSTERIOR).tolist() == [13, 20.5]


def test_beta_by_hand() -> None:
    config = replace(QUICK, objective="beta", beta=4.0)
    assert per_sample_loss(config, TERMS, POSTERIOR).tolist() == [22, 22]


def test_batch_moment_kl_by_hand() -> None:
    # Variances of the batch: 1 + 0.25 and 0 + 0.25, means 0.
    config = replace(QUICK, objective="batch_moment_kl", moment_weight=2.0)
    penalty = sum(0.5 * (v - 1 - math.log(v)) for v in (1.25, 0.25))
    loss = per_sample_loss(config, TERMS, POSTERIOR)
    assert loss.tolist() == pytest.approx([10 + 2 * penalty, 20 + 2 * penalty])


def test_the_mistaken_penalty_misses_what_every_image_pays() -> None:
    sigma, count = 0.1, 20_000
    mu = torch.randn(count, 1, generator=torch.Generator().manual_seed(0)).double()
    mu = math.sqrt(1 - sigma**2) * (mu - mu.mean()) / mu.std(correction=0)
    q = Independent(Normal(mu, sigma), 1)
    kl = 0.5 * (mu.square() + sigma**2 - 1) - math.log(sigma)
    terms = Terms(torch.zeros(count).double(), kl)
    mistaken = per_sample_loss(replace(QUICK, objective="batch_moment_kl"), terms, q)
    assert mistaken.abs().max() < 1e-9
    true = per_sample_loss(QUICK, terms, q)
    assert float(true.mean()) == pytest.approx(-math.log(sigma), abs=1e-9)


def test_the_shipped_pair_shows_the_mistake(checkpoint) -> None:
    names = ("digits-binary-2d", "digits-binary-2d-batch-moment")
    right, mistaken = (checkpoint(name) for name in names)
    assert right.manifest["config"]["objective"] == "elbo"
    assert mistaken.manifest["config"]["objective"] == "batch_moment_kl"
    # All else is equal: network, data, likelihood, floor.
    assert right.config == mistaken.config
    floor = right.config.sigma_floor
    sigma = {model.name: np.exp(0.5 * model.reference.log_variance) for model in (right, mistaken)}
    assert np.median(sigma[names[1]]) < 1.2 * floor
    assert np.median(sigma[names[0]]) > 3 * floor
    gap = {
        model.name: (model.reference.log_evidence - model.reference.elbo).mean()
        for model in (right, mistaken)
    }
    assert gap[names[1]] > 2 > gap[names[0]] > 0
    # The first two moments of its aggregate look like the prior's nonetheless.
    mu = mistaken.reference.mu
    total = mu.var(0) + (sigma[names[1]] ** 2).mean(0)
    assert np.abs(mu.mean(0)).max() < 0.2 and np.abs(total - 1).max() < 0.2
