"""What each reduction amounts to, by differentiating the loss that it writes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.distributions import Normal

from vae.elbo.lessons.losses import implied_variance
from vae.elbo.lessons.reductions import REDUCTIONS, Reduction

SHAPES = [(1, 1, 1, 1), (3, 2, 64, 1_098), (5, 20, 784, 60_000), (16, 7, 11, 100), (2, 50, 3, 9)]
by_name = pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda one: one.name)


def table(shape: tuple[int, int, int, int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    batch, dims, pixels, _ = shape
    generator = torch.Generator().manual_seed(seed)
    kl = torch.rand(batch, dims, generator=generator, dtype=torch.float64) + 0.1
    log_likelihood = -torch.rand(batch, pixels, generator=generator, dtype=torch.float64) - 0.1
    return kl.requires_grad_(), log_likelihood.requires_grad_()


@by_name
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_effective_beta_is_the_ratio_of_slopes(reduction: Reduction, shape) -> None:
    kl, log_likelihood = table(shape)
    loss = reduction.loss(kl, log_likelihood, shape[-1])
    assert loss.shape == ()
    by_kl, by_likelihood = torch.autograd.grad(loss, (kl, log_likelihood))
    assert (by_likelihood < 0).all()
    beta = reduction.effective_beta(*shape)
    # Every image, every dimension and every pixel agree on it.
    ratios = by_kl.flatten()[:, None] / -by_likelihood.flatten()
    assert torch.allclose(ratios, torch.full_like(ratios, beta), rtol=1e-9)


@by_name
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_the_effective_beta_by_scaling_the_terms(reduction: Reduction, shape) -> None:
    with torch.no_grad():
        kl, log_likelihood = table(shape, seed=1)
        loss = reduction.loss(kl, log_likelihood, shape[-1])
        more_kl = reduction.loss(2 * kl, log_likelihood, shape[-1]) - loss
        more_error = reduction.loss(kl, 2 * log_likelihood, shape[-1]) - loss
        ratio = (more_kl / kl.sum()) / (more_error / -log_likelihood.sum())
    assert float(ratio) == pytest.approx(reduction.effective_beta(*shape), rel=1e-9, abs=1e-12)


@by_name
def test_the_right_ones_are_the_elbo_times_a_number(reduction: Reduction) -> None:
    ratios = []
    for seed in range(4):
        kl, log_likelihood = (one.detach() for one in table((6, 4, 9, 1_000), seed))
        elbo = (log_likelihood.sum(-1) - kl.sum(-1)).mean()
        ratios.append(float(reduction.loss(kl, log_likelihood, 1_000) / -elbo))
    right = max(ratios) - min(ratios) < 1e-12
    assert right == (reduction.verdict == "right")


@by_name
def test_the_verdict_follows_from_beta(reduction: Reduction) -> None:
    betas = [reduction.effective_beta(*shape) for shape in SHAPES]
    assert all(beta == 1 for beta in betas) == (reduction.verdict == "right")
    assert (betas[2] == 0) == (reduction.verdict == "not a KL per sample")
    for words in (reduction.name, reduction.code, reduction.where, reduction.explanation):
        assert words.strip() == words != ""
    assert len(reduction.explanation) < 320


def test_names_are_unique_and_every_verdict_occurs() -> None:
    assert len({one.name for one in REDUCTIONS}) == len(REDUCTIONS) >= 11
    assert {one.verdict for one in REDUCTIONS} == {
        "right",
        "β in disguise",
        "not a KL per sample",
    }


def test_the_numbers_that_people_met() -> None:
    named = {one.name: one for one in REDUCTIONS}
    means = named["Mean over everything in both terms"]
    assert means.effective_beta(128, 20, 784) == pytest.approx(39.2)
    slip = named["Sum over the batch, mean over latent dimensions"]
    assert slip.effective_beta(64, 32, 38_400) == pytest.approx(5 / 32)
    collapse = named["Mean error, KL summed over the batch"]
    assert collapse.effective_beta(128, 20, 784) == 128 * 784
    weighted = named["KL weighted by batch size over data set size"]
    assert weighted.effective_beta(64, 128, 3 * 64 * 64, 162_770) == pytest.approx(4.83, abs=0.01)


# --- A squared error and beta -----------------------------------------------------------------

ERRORS = {
    "sum": lambda error: error.square().sum(-1),
    "half": lambda error: 0.5 * error.square().sum(-1),
    "mean": lambda error: error.square().mean(-1),
}


@pytest.mark.parametrize(
    ("kind", "beta", "pixels"), [*itertools.product(ERRORS, [0.01, 1.0, 4.0], [1, 64, 784])]
)
def test_a_squared_error_is_a_gaussian_up_to_scale_and_constant(kind, beta, pixels) -> None:
    generator = torch.Generator().manual_seed(pixels)
    x = torch.rand(20, pixels, generator=generator, dtype=torch.float64)
    mean = torch.rand(20, pixels, generator=generator, dtype=torch.float64)
    kl = 10 * torch.rand(20, generator=generator, dtype=torch.float64)
    loss = ERRORS[kind](x - mean) + beta * kl
    variance = implied_variance(kind, beta, pixels)
    negative_elbo = kl - Normal(mean, variance**0.5).log_prob(x).sum(-1)
    # Affine in one another with a positive slope, beta: the same minimum, the same order.
    assert torch.allclose(loss - loss[0], beta * (negative_elbo - negative_elbo[0]), rtol=1e-8)


@pytest.mark.parametrize("kind", ERRORS)
def test_the_minimum_is_the_same(kind: str) -> None:
    # One pixel x = 2 whose reconstruction is the mean m of a code with KL = m^2 / 2.
    m = torch.linspace(0, 2, 20_001, dtype=torch.float64)
    for beta in (0.3, 1.0, 5.0):
        loss = ERRORS[kind]((2 - m)[:, None]) + beta * 0.5 * m.square()
        sigma = implied_variance(kind, beta, 1) ** 0.5
        two = torch.tensor(2.0, dtype=torch.float64)
        negative_elbo = 0.5 * m.square() - Normal(m, sigma).log_prob(two)
        assert abs(float(m[loss.argmin()] - m[negative_elbo.argmin()])) < 2e-4


def test_squared_errors_have_an_implied_variance() -> None:
    # A weight w beside a pixel mean: the effective beta of the sum is w P, and sigma^2 half of it.
    for one in REDUCTIONS:
        if one.squared_error and one.effective_beta(64, 2, 784) > 0:
            beta = one.effective_beta(64, 2, 784)
            assert implied_variance("sum", beta, 784) == pytest.approx(
                implied_variance("mean", beta / 784, 784)
            )
