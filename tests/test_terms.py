"""The per-sample terms: known answers, and nothing that one image does to another."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import within
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from vae.data.spec import ImageSpec
from vae.elbo.aggregate.density import active_units, batch_moment_kl
from vae.elbo.terms import (
    Terms,
    kl_per_dim,
    log_density,
    log_likelihood,
    sampled_terms,
    standard_normal_kl,
)
from vae.model.config import ModelConfig
from vae.model.face import pixel_log_likelihood
from vae.model.vae import VAE


def posterior(batch: int, dims: int, seed: int = 0) -> Independent:
    generator = torch.Generator().manual_seed(seed)
    mu = 2 * torch.randn(batch, dims, generator=generator, dtype=torch.float64)
    sigma = torch.rand(batch, dims, generator=generator, dtype=torch.float64) + 0.05
    return Independent(Normal(mu, sigma), 1)


def untrained(latent_dim: int = 3) -> VAE:
    torch.manual_seed(0)
    image = ImageSpec(channels=1, height=8, width=8, levels=17)
    return VAE(ModelConfig(image, latent_dim=latent_dim, hidden=(32,))).double()


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("dims", [1, 2, 10])
def test_kl_is_the_textbook_one(batch: int, dims: int) -> None:
    q = posterior(batch, dims)
    p = Normal(torch.zeros(dims).double(), 1.0)
    kl = kl_per_dim(q)
    assert kl.shape == (batch, dims)
    assert torch.allclose(kl, kl_divergence(q.base_dist, p), rtol=1e-12)
    assert (kl >= 0).all()


def test_kl_is_the_mean_of_the_log_ratio() -> None:
    q = posterior(5, 2)
    torch.manual_seed(0)
    z = q.sample((20_000,))
    ratio = q.base_dist.log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    assert within(ratio.mean(0), kl_per_dim(q), ratio.std(0) / math.sqrt(len(z)))


def test_kl_is_zero_at_the_prior_only() -> None:
    zero = torch.zeros(3)
    assert (standard_normal_kl(zero, zero) == 0).all()
    assert (standard_normal_kl(zero + 1e-3, zero) > 0).all()
    assert (standard_normal_kl(zero, zero - 1e-2) > 0).all()


@pytest.mark.parametrize("log_variance", [1e-4, -1e-4])
def test_kl_keeps_its_digits_near_the_prior(log_variance: float) -> None:
    # 1/4 v^2 + O(v^3): subtracting 1 from exp(v) in float32 would leave noise.
    kl = standard_normal_kl(torch.zeros(1), torch.tensor([log_variance]))
    assert float(kl) == pytest.approx(log_variance**2 / 4, rel=0.02)


def test_elbo_is_likelihood_minus_kl() -> None:
    terms = Terms(torch.tensor([-3.0, -5.0]), torch.tensor([[1.0, 0.5], [0.0, 2.0]]))
    assert terms.kl.tolist() == [1.5, 2.0]
    assert terms.elbo.tolist() == [-4.5, -7.0]


@pytest.mark.parametrize("batch", [1, 4])
def test_bernoulli_is_minus_the_cross_entropy(batch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(batch, 1, 4, 4, generator=generator)
    x = (torch.rand(batch, 1, 4, 4, generator=generator) < 0.5).float()
    log_p = log_likelihood(Independent(Bernoulli(logits=logits), 3), x)
    loss = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3))
    assert log_p.shape == (batch,)
    assert torch.allclose(log_p, -loss.double(), rtol=1e-6)


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_gaussian_is_the_squared_error(sigma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, x = torch.rand(2, 3, 1, 4, 4, generator=generator, dtype=torch.float64)
    log_p = log_likelihood(Independent(Normal(mean, sigma), 3), x)
    error = (x - mean).square().sum((1, 2, 3)) / (2 * sigma**2)
    assert torch.allclose(log_p, -error - 16 * math.log(sigma * math.sqrt(2 * math.pi)))


def test_pixels_sum_to_the_image() -> None:
    likelihood, x = Independent(Normal(torch.zeros(2, 1, 3, 3), 1.0), 3), torch.rand(2, 1, 3, 3)
    pixels = pixel_log_likelihood(likelihood, x)
    assert pixels.shape == x.shape
    assert torch.allclose(pixels.double().sum((1, 2, 3)), log_likelihood(likelihood, x))


def test_log_density_is_the_textbook_one() -> None:
    q = posterior(6, 3)
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).double()
    assert torch.allclose(log_density(q.mean, q.stddev, z), q.log_prob(z), rtol=1e-12)


def terms_of(model: VAE, x: torch.Tensor) -> tuple[Terms, Independent]:
    noise = torch.randn(8, model.config.latent_dim, generator=torch.Generator().manual_seed(2))
    terms, q, _ = sampled_terms(model, x, noise[: len(x)].double())
    return terms, q


def images(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(17, (count, 1, 8, 8), generator=generator).double() / 16


def test_batch_mates_change_nothing() -> None:
    model, x = untrained(), images(6)
    other = torch.cat((x[:1], images(5, seed=9)))
    one, among, foreign = (terms_of(model, batch)[0] for batch in (x[:1], x, other))
    for terms in (among, foreign):
        assert torch.allclose(terms.kl_per_dim[0], one.kl_per_dim[0], rtol=1e-12)
        assert torch.allclose(terms.expected_log_likelihood[0], one.expected_log_likelihood[0])
    # The mistaken reading is exactly what fails this.
    moments = [
        batch_moment_kl(q.mean, q.variance) for _, q in (terms_of(model, b) for b in (x, other))
    ]
    assert (moments[0] - moments[1]).abs().max() > 1e-6


@pytest.mark.parametrize("term", ["kl", "expected_log_likelihood", "elbo"])
def test_no_gradient_reaches_a_batch_mate(term: str) -> None:
    model, x = untrained(), images(4).requires_grad_()
    terms, q = terms_of(model, x)
    gradient = torch.autograd.grad(getattr(terms, term)[1], x, retain_graph=True)[0]
    assert gradient[1].abs().max() > 0
    assert (gradient[[0, 2, 3]] == 0).all()
    whole_batch = torch.autograd.grad(batch_moment_kl(q.mean, q.variance).sum(), x)[0]
    assert (whole_batch.abs().amax((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_shapes(batch: int) -> None:
    terms, _ = terms_of(untrained(latent_dim=5), images(batch))
    assert terms.expected_log_likelihood.shape == terms.kl.shape == terms.elbo.shape == (batch,)
    assert terms.kl_per_dim.shape == (batch, 5)


def test_encoder_noise_is_not_explained(linear_gaussian) -> None:
    model = linear_gaussian(2)
    x, noise = torch.rand(3, 1, 4, 4).double(), torch.zeros(3, 2).double()
    clean, q, _ = sampled_terms(model, x, noise)
    noisy, q_noisy, likelihood = sampled_terms(model, x, noise, encoder_noise=0.2)
    assert torch.allclose(q_noisy.mean, model.posterior_mean(x + 0.2))
    assert not torch.allclose(q_noisy.mean, q.mean)
    assert torch.allclose(noisy.expected_log_likelihood, log_likelihood(likelihood, x))
    assert not torch.allclose(noisy.expected_log_likelihood, clean.expected_log_likelihood)


def test_the_batch_can_look_like_the_prior_while_every_image_pays() -> None:
    # mu ~ N(0, 1 - s^2) with a shared s: the aggregate is N(0, 1), the mean KL is -log s.
    sigma, count = 0.05, 4_000
    shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    mu = math.sqrt(1 - sigma**2) * torch.special.ndtri(shares)[:, None]
    variance = torch.full_like(mu, sigma**2)
    assert float(batch_moment_kl(mu, variance)) < 1e-5
    per_sample = standard_normal_kl(mu, variance.log())
    assert float(per_sample.mean()) == pytest.approx(-math.log(sigma), abs=2e-3)


def test_batch_moments_follow_the_law_of_total_variance() -> None:
    q = posterior(40, 2)
    torch.manual_seed(0)
    z = q.sample((20_000,)).reshape(-1, 2)
    expected = kl_divergence(Normal(z.mean(0), z.std(0)), Normal(0.0, 1.0))
    assert torch.allclose(batch_moment_kl(q.mean, q.variance), expected.double(), rtol=0.02)


def test_active_units_are_those_whose_mean_moves() -> None:
    mu = torch.tensor([[0.0, 5.0, -0.05], [1.0, 5.0, 0.05], [-1.0, 5.0, 0.0]])
    assert active_units(mu).tolist() == [True, False, False]
