"""Annealed importance sampling against closed forms and quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import LinearGaussian, within
from torch.distributions import Independent, Normal

from vae.elbo.annealing import annealed_evidence, annealing_schedule
from vae.model.vae import observe


def levels_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)


class Misled(LinearGaussian):
    """A model whose encoder stands beside the posterior: plain importance weights fail."""

    def encode(self, x: torch.Tensor) -> Independent:
        mean = self.posterior_mean(x)
        width = self.covariance.diagonal().sqrt()
        return Independent(Normal(mean + 3 * width, 0.7 * width.expand_as(mean)), 1)


def test_the_schedule_rises_from_0_to_1() -> None:
    betas = annealing_schedule(50)
    assert betas.shape == (51,) and betas[0] == 0 and betas[-1] == 1
    assert (betas.diff() > 0).all()
    # Slow at both ends, and the same from either.
    assert betas.diff()[0] < betas.diff()[25] / 5
    assert torch.allclose(betas + betas.flip(0), torch.ones(51).double())


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"widen": 1.5},
        {"start": "prior", "temperatures": 300},
        {"leapfrog": 1, "temperatures": 300},
    ],
    ids=["posterior", "widened", "prior", "langevin"],
)
def test_five_dimensions_in_closed_form(orthogonal: bool, settings: dict) -> None:
    model, levels = LinearGaussian(5, 0.5, orthogonal), levels_of(3)
    expected = model.log_evidence(observe(model.config, levels))
    found = annealed_evidence(model, levels, **settings)
    assert within(found.log_evidence, expected, found.standard_error + 1e-5)
    assert (found.standard_error < 0.5).all()
    assert ((found.effective_samples >= 1) & (found.effective_samples <= 64.001)).all()
    assert ((found.acceptance > 0.6) & (found.acceptance <= 1)).all()


def test_where_q_is_the_posterior_every_weight_is_the_evidence() -> None:
    model, levels = LinearGaussian(5, 0.3), levels_of(2)
    found = annealed_evidence(model, levels, temperatures=20)
    expected = model.log_evidence(observe(model.config, levels))
    assert (found.log_weights - expected[:, None]).abs().max() < 1e-4


def test_chains_reach_mass_that_q_misses() -> None:
    model, levels = Misled(5, 0.5, orthogonal=False), levels_of(3)
    x = observe(model.config, levels)
    found = annealed_evidence(model, levels, temperatures=200)
    assert within(found.log_evidence, model.log_evidence(x), found.standard_error)
    weights = torch.softmax(found.log_weights, -1)[..., None]
    mean = (weights * found.z).sum(1)
    error = (weights.square() * (found.z - mean[:, None]).square()).sum(1).sqrt()
    assert within(mean, model.posterior_mean(x), error, errors=5)


def test_an_estimate_agrees_with_quadrature(checkpoint) -> None:
    model = checkpoint("digits-2d")
    rows = np.arange(0, 300, 100)
    found = annealed_evidence(model, model.reference.levels[rows])
    stored = torch.from_numpy(model.reference.log_evidence[rows])
    assert within(found.log_evidence, stored, found.standard_error, errors=5)


def test_more_dimensions_agree_with_the_bound(checkpoint) -> None:
    model = checkpoint("digits-10d")
    found = annealed_evidence(model, model.reference.levels[:2])
    bound = torch.from_numpy(model.reference.iwae_bound[:2])
    assert (found.log_evidence >= bound - 4 * found.standard_error - 0.5).all()
    assert (found.effective_samples > 10).all()


def test_company_and_repetition_change_nothing() -> None:
    model, levels = LinearGaussian(4, orthogonal=False), levels_of(3)
    settings = {"chains": 8, "temperatures": 10}
    together = annealed_evidence(model, levels, **settings)
    alone = annealed_evidence(model, levels[1:2], **settings)
    for first, second in zip(together, alone, strict=True):
        assert torch.equal(first[1], second[0])
    other = annealed_evidence(model, levels, seed=1, **settings)
    assert (other.log_weights != together.log_weights).any()
    assert together.z.shape == (3, 8, 4) and together.log_weights.shape == (3, 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chains": 1}, "chains must lie in 2..10000, not 1"),
        ({"temperatures": 0}, "temperatures must lie in 1..100000, not 0"),
        ({"leapfrog": 0}, "leapfrog must lie in 1..1000, not 0"),
        ({"start": "encoder"}, "start must be 'posterior' or 'prior', not 'encoder'"),
    ],
)
def test_what_is_out_of_range_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        annealed_evidence(LinearGaussian(3), levels_of(1), **settings)
