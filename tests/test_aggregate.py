"""The aggregate posterior and what the mean KL is made of, against cases that can be counted."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import within
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

from vae.elbo.aggregate import surgery as surgery_module
from vae.elbo.aggregate.density import aggregate_log_density, batch_moment_kl
from vae.elbo.aggregate.surgery import marginal_kl, surgery
from vae.elbo.lessons.misconception import (
    batch_penalties,
    expected_batch_penalty,
    misconception,
    misconception_means,
)
from vae.elbo.terms import log_density, standard_normal_kl

SHIPPED = ("digits-2d", "digits-binary-2d", "digits-binary-2d-batch-moment", "digits-10d")


def some_codes(count: int, dims: int, least: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mu = torch.randn(count, dims, generator=generator, dtype=torch.float64)
    sigma = least + 0.4 * torch.rand(count, dims, generator=generator, dtype=torch.float64)
    return mu, sigma


def reference_codes(checkpoint, name: str) -> tuple[Tensor, Tensor]:
    reference = checkpoint(name).reference
    return torch.from_numpy(reference.mu), torch.from_numpy(reference.log_variance / 2).exp()


def independent_aggregate_kl(mu: Tensor, sigma: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """KL(q̄ || p) with its standard error, from draws of q̄ and torch's own mixture."""
    parts = Independent(Normal(mu, sigma), 1)
    mixture = MixtureSameFamily(Categorical(torch.ones(len(mu)).double()), parts)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        z = mixture.sample((draws,))
    prior = Independent(Normal(torch.zeros_like(mu[0]), 1.0), 1)
    ratio = torch.cat([mixture.log_prob(some) - prior.log_prob(some) for some in z.split(1_000)])
    return ratio.mean(), ratio.std() / math.sqrt(draws)


# --- The density ------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2, 7])
def test_the_mixture_density(monkeypatch, dims: int) -> None:
    mu, sigma = some_codes(30, dims)
    z = 2 * torch.randn(50, dims, generator=torch.Generator().manual_seed(1)).double()
    mixture = MixtureSameFamily(
        Categorical(torch.ones(30).double()), Independent(Normal(mu, sigma), 1)
    )
    found = aggregate_log_density(mu, sigma, z)
    assert torch.allclose(found, mixture.log_prob(z), rtol=1e-10)
    monkeypatch.setattr("vae.elbo.aggregate.density._PAIRS_AT_ONCE", 100)
    assert torch.allclose(aggregate_log_density(mu, sigma, z), found, rtol=1e-12)


def test_a_component_never_exceeds_the_mixture_that_holds_it() -> None:
    mu, _ = some_codes(40, 3)
    sigma = torch.full_like(mu, 1e-6)
    owners = torch.arange(40)
    z = mu + sigma * torch.randn(40, 3, generator=torch.Generator().manual_seed(1)).double()
    ratio = log_density(mu, sigma, z) - aggregate_log_density(mu, sigma, z, owners)
    assert (ratio <= math.log(40) + 1e-12).all()
    assert torch.allclose(ratio, torch.full_like(ratio, math.log(40)))


# --- Surgery: cases that can be counted -------------------------------------------------------


@pytest.mark.parametrize("draws", [None, 16])
@pytest.mark.parametrize("dims", [1, 2, 4])
def test_equal_codes_carry_no_information(dims: int, draws: int | None) -> None:
    mu, sigma = torch.full((20, dims), 0.7).double(), torch.full((20, dims), 0.4).double()
    found = surgery(mu, sigma, draws)
    assert found.information.abs().max() < 1e-9
    kl = standard_normal_kl(mu, 2 * sigma.log())
    assert torch.allclose(found.misfit, kl.sum(-1))
    # Equal codes are one Gaussian, whose dimensions are independent.
    assert torch.allclose(found.dimension_kl, kl[0], atol=1e-9)
    assert abs(float(found.total_correlation)) < 1e-8


@pytest.mark.parametrize("draws", [None, 16])
@pytest.mark.parametrize("dims", [1, 2, 4])
@pytest.mark.parametrize("width", [0.3, 0.01])
def test_codes_far_apart_carry_all_of_it(dims: int, draws: int | None, width: float) -> None:
    mu = 8 * torch.arange(6).double()[:, None].repeat(1, dims)
    found = surgery(mu, torch.full_like(mu, width), draws)
    assert torch.allclose(found.information, torch.full((6,), math.log(6)).double(), atol=1e-9)
    # Apart in every single dimension too: each marginal alone tells the image.
    one = standard_normal_kl(mu, 2 * torch.full_like(mu, width).log()).mean(0) - math.log(6)
    assert torch.allclose(found.dimension_kl, one, atol=1e-6)
    assert float(found.total_correlation) == pytest.approx((dims - 1) * math.log(6), abs=1e-6)
    assert found.pinned == bool(found.mean_kl > math.log(6)) is True


def test_a_product_of_marginals_has_no_total_correlation() -> None:
    grid = torch.cartesian_prod(torch.tensor([-1.0, 0.2, 1.1]), torch.tensor([-0.6, 0.9])).double()
    found = surgery(grid, torch.tensor([0.2, 0.5]).double().expand(6, 2))
    assert abs(float(found.total_correlation)) < 1e-9
    assert float(found.aggregate_kl) == pytest.approx(float(found.dimension_kl.sum()))


def test_one_image_is_all_misfit() -> None:
    mu, sigma = some_codes(1, 2)
    found = surgery(mu, sigma)
    assert found.log_size == 0 and abs(float(found.mean_information)) < 1e-12
    assert found.pinned


@pytest.mark.parametrize("dims", [1, 2])
def test_quadrature_agrees_with_draws(dims: int) -> None:
    mu, sigma = some_codes(60, dims)
    exact, sampled = surgery(mu, sigma), surgery(mu, sigma, draws=4_000, seed=5)
    assert within(sampled.information, exact.information, sampled.information_se)
    assert within(sampled.mean_information, exact.mean_information, sampled.mean_information_se)
    assert (exact.information_se == 0).all() and exact.residual_se == 0


@pytest.mark.parametrize("dims", [1, 2, 6])
def test_the_standard_error_is_the_spread_over_seeds(dims: int) -> None:
    mu, sigma = some_codes(25, dims)
    runs = [surgery(mu, sigma, draws=40, seed=seed) for seed in range(60)]
    spread = torch.stack([run.mean_information for run in runs]).std()
    stated = torch.stack([run.mean_information_se for run in runs]).mean()
    assert float(spread / stated) == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize("dims", [1, 2, 5, 50])
def test_it_adds_up_by_a_third_computation(dims: int) -> None:
    mu, sigma = some_codes(100, dims)
    found = surgery(mu, sigma)
    value, error = independent_aggregate_kl(mu, sigma, 20_000 if dims < 50 else 3_000)
    assert within(value, found.aggregate_kl, torch.hypot(error, found.mean_information_se))
    assert within(found.residual, 0.0, found.residual_se, errors=4)


@pytest.mark.parametrize("least", [0.1, 0.01, 0.001])
def test_marginals_of_one_gaussian_and_of_many(monkeypatch, least: float) -> None:
    mu, sigma = some_codes(1, 5, least)
    expected = standard_normal_kl(mu, 2 * sigma.log())[0]
    assert torch.allclose(marginal_kl(mu, sigma), expected, atol=1e-8)
    mu, sigma = some_codes(50, 3, least)
    found = marginal_kl(mu, sigma)
    for d in range(3):
        alone = surgery(mu[:, d : d + 1], sigma[:, d : d + 1])
        assert torch.allclose(found[d], alone.aggregate_kl, atol=1e-5)
    monkeypatch.setattr(surgery_module, "_NODES_AT_ONCE", 5_000)
    assert torch.allclose(marginal_kl(mu, sigma), found, rtol=1e-10)


def test_a_grid_that_would_be_too_large_gives_way_to_draws() -> None:
    mu, _ = some_codes(30, 2)
    found = surgery(mu, torch.full_like(mu, 1e-4))
    assert (found.information <= math.log(30) + 1e-12).all()
    assert (found.information > math.log(30) - 1e-6).all() and found.pinned
    with pytest.raises(ValueError, match="draws must be at least 2"):
        surgery(mu, torch.full_like(mu, 1e-4), draws=0)


def test_what_is_no_set_of_codes_is_refused() -> None:
    mu, sigma = some_codes(5, 2)
    for bad in (sigma[:4], sigma[:, :1]):
        with pytest.raises(ValueError, match=r"must both be \(N, D\)"):
            surgery(mu, bad)
    with pytest.raises(ValueError, match="sigma must be positive"):
        surgery(mu, 0 * sigma)
    with pytest.raises(ValueError, match="draws must be at least 2"):
        surgery(mu, sigma, draws=1)


# --- Surgery: shipped models ------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_surgery_of_a_shipped_model(checkpoint, name: str) -> None:
    mu, sigma = reference_codes(checkpoint, name)
    found = surgery(mu, sigma)
    kl = torch.stack([standard_normal_kl(mu[n], 2 * sigma[n].log()).sum() for n in range(5)])
    assert torch.allclose(found.kl[:5], kl)
    # A computed information above log N is an error: a grid coarser than the narrowest sigma.
    assert (found.information <= found.log_size + 1e-9).all()
    assert (found.information >= -4 * found.information_se - 1e-9).all()
    assert torch.allclose(found.information + found.misfit, found.kl)
    whole = found.mean_information + found.aggregate_kl
    assert torch.allclose(found.mean_kl, whole, atol=1e-9)
    assert abs(float(found.residual)) <= 1e-3 + 4 * float(found.residual_se)
    parts = found.total_correlation + found.dimension_kl.sum()
    assert torch.allclose(parts, found.aggregate_kl)
    assert (found.dimension_kl > -1e-9).all()
    assert found.aggregate_kl > 0
    assert found.total_correlation > -4 * found.mean_information_se
    assert found.pinned == (name in ("digits-binary-2d-batch-moment", "digits-10d"))
    value, error = independent_aggregate_kl(mu, sigma, 4_000)
    assert within(value, found.aggregate_kl, torch.hypot(error, found.mean_information_se))


@pytest.mark.parametrize("name", SHIPPED[:3])
def test_half_the_step_changes_nothing(checkpoint, monkeypatch, name: str) -> None:
    mu, sigma = (codes[::3] for codes in reference_codes(checkpoint, name))
    found = surgery(mu, sigma)
    monkeypatch.setattr(surgery_module, "_FINENESS", 4)
    monkeypatch.setattr(surgery_module, "_MOST_NODES", 2**25)
    finer = surgery(mu, sigma)
    assert (finer.information - found.information).abs().max() < 1e-4
    assert (finer.dimension_kl - found.dimension_kl).abs().max() < 1e-4
    assert abs(float(finer.aggregate_kl - found.aggregate_kl)) < 1e-5


@pytest.mark.parametrize("name", SHIPPED[:3])
def test_a_grid_that_is_too_coarse_is_caught(checkpoint, monkeypatch, name: str) -> None:
    # The proof that the test above can fail.
    mu, sigma = (codes[::3] for codes in reference_codes(checkpoint, name))
    found = surgery(mu, sigma)
    monkeypatch.setattr(surgery_module, "_FINENESS", 0.3)
    coarse = surgery(mu, sigma)
    assert (coarse.information - found.information).abs().max() > 1e-2


# --- The picture of the misconception ---------------------------------------------------------


def test_the_population_in_closed_form() -> None:
    sigma = torch.tensor([0.001, 0.1, 0.5, 1.0], dtype=torch.float64)
    found = misconception(sigma)
    assert torch.allclose(found.mean_kl, -sigma.log(), atol=1e-12)
    assert torch.allclose(found.information, found.mean_kl, atol=1e-12)
    assert (found.batch_penalty == 0).all()
    # By draws: the mean over the population of each image's own KL.
    mu = torch.randn(400_000, 4, generator=torch.Generator().manual_seed(0)).double()
    q = Normal(mu * torch.sqrt(1 - sigma.square()), sigma.expand_as(mu))
    kl = kl_divergence(q, Normal(torch.zeros_like(mu), torch.ones_like(mu)))
    assert within(kl.mean(0), found.mean_kl, kl.std(0) / math.sqrt(len(kl)))


def test_a_large_finite_set_comes_near_the_population() -> None:
    sigma = torch.tensor([0.2], dtype=torch.float64)
    mu = misconception_means(sigma, 2_000)
    found = surgery(mu, sigma.expand_as(mu))
    assert float(found.mean_kl) == pytest.approx(-math.log(0.2), abs=1e-9)
    assert float(found.mean_information) == pytest.approx(-math.log(0.2), abs=2e-3)
    assert float(found.aggregate_kl) == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_the_finite_set_has_the_moments_only(seed: int | None) -> None:
    sigma = torch.tensor([0.01, 0.05], dtype=torch.float64)
    mu = misconception_means(sigma, 40, seed)
    assert mu.mean(0).abs().max() < 1e-12
    variance = mu.var(0, correction=0) + sigma.square()
    assert torch.allclose(variance, torch.ones(2).double())
    whole = batch_moment_kl(mu, sigma.square().expand_as(mu))
    assert whole.abs().max() < 1e-12
    found = surgery(mu, sigma.expand_as(mu))
    assert float(found.mean_kl) == pytest.approx(-float(sigma.log().sum()), abs=1e-9)
    # log 40 is less than the KL: the information is pinned, and the rest is misfit.
    assert found.pinned and float(found.mean_information) <= math.log(40) + 1e-9
    assert float(found.aggregate_kl) > 3


@pytest.mark.parametrize("batch", [8, 32, 128])
def test_a_batch_pays_about_one_over_its_size(batch: int) -> None:
    sigma = torch.tensor([0.01], dtype=torch.float64)
    mu = misconception_means(sigma, 128 * 400, seed=0)
    penalties = batch_penalties(mu, sigma, batch)
    assert penalties.shape == (128 * 400 // batch,) and (penalties >= 0).all()
    assert float(penalties.mean()) * batch == pytest.approx(1, abs=0.35)
    # Whole batches have the moments of their parts: a loop over slices says the same.
    order = torch.randperm(len(mu), generator=torch.Generator().manual_seed(0))[:batch]
    first = batch_moment_kl(mu[order], sigma.square().expand(batch, 1)).sum()
    assert torch.allclose(penalties[0], first)


@pytest.mark.parametrize("batch", [2, 8, 64])
@pytest.mark.parametrize("width", [0.05, 0.4, 0.95])
def test_the_mean_penalty_on_a_batch_of_the_population(batch: int, width: float) -> None:
    sigma = torch.tensor([width], dtype=torch.float64)
    generator = torch.Generator().manual_seed(batch)
    shape = (40_000, batch, 1)
    mu = torch.randn(shape, generator=generator, dtype=torch.float64) * (1 - width**2) ** 0.5
    # By the moments of simulated batches, and for the narrowest in closed form by digamma.
    total = mu.var(1, correction=0) + width**2
    simulated = standard_normal_kl(mu.mean(1), total.log())[:, 0]
    expected = expected_batch_penalty(sigma, batch)
    assert within(simulated.mean(), expected[0], simulated.std() / math.sqrt(len(mu)))
    half = torch.tensor((batch - 1) / 2, dtype=torch.float64)
    limit = -0.5 * (torch.special.digamma(half) + math.log(2 / batch))
    assert torch.allclose(expected_batch_penalty(1e-4 * sigma, batch), limit, rtol=1e-2)
    assert float(expected_batch_penalty(torch.ones(1), batch)) == pytest.approx(0, abs=1e-9)


def test_what_is_no_picture_is_refused() -> None:
    for bad in (0.0, 1.5, -1.0):
        with pytest.raises(ValueError, match=r"sigma must lie in \(0, 1\]"):
            misconception(torch.tensor([bad]))
    sigma = torch.tensor([0.5])
    with pytest.raises(ValueError, match="count must be at least 2, not 1"):
        misconception_means(sigma, 1)
    for batch in (1, 11):
        with pytest.raises(ValueError, match=rf"batch must lie in 2..10, not {batch}"):
            batch_penalties(misconception_means(sigma, 10), sigma, batch)
    with pytest.raises(ValueError, match="batch must be at least 2, not 1"):
        expected_batch_penalty(sigma, 1)


def test_nothing_here_touches_the_global_seed() -> None:
    mu, sigma = some_codes(10, 4)
    before = torch.get_rng_state()
    surgery(mu, sigma)
    misconception_means(sigma[0], 5, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert surgery(mu.float(), sigma.float()).kl.dtype == torch.float64
