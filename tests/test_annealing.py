"""Annealed importance sampling against closed forms and quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import LinearGaussian, WrittenOut, within
from torch.distributions import Independent, Normal

from vae.data.spec import ImageSpec
from vae.elbo.evidence.annealing import annealed_evidence, annealing_schedule
from vae.elbo.seen import see
from vae.model.config import ModelConfig


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


@pytest.mark.parametrize("orthogonal", [pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"start": "posterior"},
        {"start": "posterior", "widen": 1.5},
        {"start": "prior", "temperatures": 300},
        {"leapfrog": 1, "temperatures": 300},
    ],
    ids=["mixture", "posterior", "widened", "prior", "langevin"],
)
def test_five_dimensions_in_closed_form(orthogonal: bool, settings: dict) -> None:
    model, levels = LinearGaussian(5, 0.5, orthogonal), levels_of(3)
    expected = model.log_evidence(model.observe(levels))
    found = annealed_evidence(see(model, levels), **settings)
    assert within(found.log_evidence, expected, found.standard_error + 1e-5)
    assert (found.standard_error < 0.5).all()
    assert ((found.effective_samples >= 1) & (found.effective_samples <= 64.001)).all()
    assert ((found.acceptance > 0.6) & (found.acceptance <= 1)).all()


def test_where_q_is_the_posterior_every_weight_is_the_evidence() -> None:
    model, levels = LinearGaussian(5, 0.3), levels_of(2)
    found = annealed_evidence(see(model, levels), start="posterior", temperatures=20)
    expected = model.log_evidence(model.observe(levels))
    assert (found.log_weights - expected[:, None]).abs().max() < 1e-4


def test_chains_reach_mass_that_q_misses() -> None:
    model, levels = Misled(5, 0.5, orthogonal=False), levels_of(3)
    x = model.observe(levels)
    found = annealed_evidence(see(model, levels), start="posterior", temperatures=200)
    assert within(found.log_evidence, model.log_evidence(x), found.standard_error)
    weights = torch.softmax(found.log_weights, -1)[..., None]
    mean = (weights * found.z).sum(1)
    error = (weights.square() * (found.z - mean[:, None]).square()).sum(1).sqrt()
    assert within(mean, model.posterior_mean(x), error, errors=5)


class TwoPeaks(WrittenOut):
    """One pixel that shows the square of a code; the encoder knows one of the two answers."""

    config = ModelConfig(ImageSpec(1, 1, 1), 3, likelihood="gaussian", gaussian_sigma="fixed")

    def encode(self, x: torch.Tensor) -> Independent:
        mean = torch.stack([2 * x[:, 0, 0, 0].sqrt(), *[torch.zeros(len(x))] * 2], -1)
        width = torch.tensor([0.05, 1.0, 1.0])
        return Independent(Normal(mean, width.expand_as(mean)), 1)

    def decode(self, z: torch.Tensor) -> Independent:
        mean = z[:, :1, None, None].square() / 4
        return Independent(Normal(mean, 0.05), 3, validate_args=False)


def test_a_peak_that_the_encoder_does_not_know_is_found() -> None:
    model, levels = TwoPeaks(), np.full((1, 1, 1, 1), 150, dtype=np.uint8)
    # The other two dimensions say nothing, so a sum over one axis is exact.
    axis = torch.linspace(-8, 8, 16_001, dtype=torch.float64)[:, None]
    x = model.observe(levels)
    joint = model.decode(axis).log_prob(x).double() + Normal(0.0, 1.0).log_prob(axis[:, 0])
    exact = torch.logsumexp(joint, 0) + math.log(0.001)
    blind = annealed_evidence(see(model, levels), start="posterior")
    found = annealed_evidence(see(model, levels))
    assert within(found.log_evidence, exact, found.standard_error)
    # It sees half of the mass and is sure of itself: what the mixture is there for.
    assert within(blind.log_evidence, exact - math.log(2), blind.standard_error, errors=6)
    assert not within(blind.log_evidence, exact, blind.standard_error, errors=6)


def check_evidence(model, rows: np.ndarray) -> None:
    found = annealed_evidence(see(model, model.reference.levels[rows]))
    stored = torch.from_numpy(model.reference.log_evidence[rows])
    assert within(found.log_evidence, stored, found.standard_error)


def test_some_images_agree_with_quadrature(checkpoint) -> None:
    check_evidence(checkpoint("digits-2d"), np.arange(0, 300, 150))


@pytest.mark.slow
def test_many_images_agree_with_quadrature(checkpoint) -> None:
    check_evidence(checkpoint("digits-2d"), np.arange(5, 699, 12))


def test_more_dimensions_agree_with_the_bound(checkpoint) -> None:
    model = checkpoint("digits-10d")
    found = annealed_evidence(see(model, model.reference.levels[:2]))
    bound = torch.from_numpy(model.reference.iwae_bound[:2])
    assert (found.log_evidence >= bound - 4 * found.standard_error - 0.5).all()
    assert (found.effective_samples > 10).all()


def test_company_and_repetition_change_nothing() -> None:
    model, levels = LinearGaussian(4, orthogonal=False), levels_of(3)
    settings = {"chains": 8, "temperatures": 10}
    together = annealed_evidence(see(model, levels), **settings)
    alone = annealed_evidence(see(model, levels[1:2]), **settings)
    for first, second in zip(together, alone, strict=True):
        assert torch.equal(first[1], second[0])
    other = annealed_evidence(see(model, levels, 1), **settings)
    assert (other.log_weights != together.log_weights).any()
    assert together.z.shape == (3, 8, 4) and together.log_weights.shape == (3, 8)


def test_progress_rises_to_the_end_and_may_end_the_work() -> None:
    model, levels = LinearGaussian(4), levels_of(2)
    settings = {"chains": 8, "temperatures": 10}
    shares: list[float] = []
    watched = annealed_evidence(see(model, levels), progress=shares.append, **settings)
    assert shares == pytest.approx(np.arange(1, 21) / 20)
    assert torch.equal(watched.z, annealed_evidence(see(model, levels), **settings).z)

    def give_up(share: float) -> None:
        shares.append(share)
        raise InterruptedError

    shares.clear()
    with pytest.raises(InterruptedError):
        annealed_evidence(see(model, levels), progress=give_up, **settings)
    assert len(shares) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chains": 1}, "chains must lie in 2..10000, not 1"),
        ({"temperatures": 0}, "temperatures must lie in 1..100000, not 0"),
        ({"leapfrog": 0}, "leapfrog must lie in 1..1000, not 0"),
        ({"start": "encoder"}, "start must be one of mixture, posterior, prior, not 'encoder'"),
    ],
)
def test_what_is_out_of_range_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        annealed_evidence(see(LinearGaussian(3), levels_of(1)), **settings)
