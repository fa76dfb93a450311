"""The best Gaussian of an image and the two parts of its gap, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import LinearGaussian, WrittenOut
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from vae.data.spec import ImageSpec
from vae.elbo.expectation import estimate_elbo
from vae.elbo.gap.gap_split import best_full_gaussian, best_gaussian, gap_split
from vae.elbo.gap.gaussian_fit import Gaussians, gaussian_kl
from vae.elbo.gradients import log_likelihood_gradients
from vae.elbo.seen import see
from vae.model.config import ModelConfig

FLAT = ("digits-2d", "digits-binary-2d", "digits-binary-2d-batch-moment")


def levels_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)


class Misled(LinearGaussian):
    """A model whose encoder points elsewhere and is far too sure of it."""

    def encode(self, x: torch.Tensor) -> Independent:
        mean = self.posterior_mean(x) + 1.5
        return Independent(Normal(mean, torch.full_like(mean, 0.02)), 1)


class TwoPeaks(WrittenOut):
    """One pixel that shows the square of the code: two codes explain it equally well."""

    config = ModelConfig(ImageSpec(1, 1, 1), 1, likelihood="gaussian", gaussian_sigma="fixed")

    def encode(self, x: torch.Tensor) -> Independent:
        # Between the peaks, where nothing is.
        return Independent(Normal(torch.zeros(len(x), 1), 0.5), 1)

    def decode(self, z: torch.Tensor) -> Independent:
        return Independent(Normal(z[:, :, None, None].square() / 4, 0.02), 3, validate_args=False)


# --- Known answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("full", [True, False])
def test_the_kl_of_any_gaussian(full: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    tril = torch.randn(5, 4, 4, generator=generator, dtype=torch.float64).tril()
    tril = tril if full else torch.diag_embed(tril.diagonal(dim1=-2, dim2=-1))
    tril.diagonal(dim1=-2, dim2=-1).abs_()
    prior = MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double())
    expected = kl_divergence(MultivariateNormal(mu, scale_tril=tril), prior)
    assert torch.allclose(gaussian_kl(Gaussians(mu, tril)), expected, rtol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_the_slope_in_closed_form(linear_gaussian, dims: int) -> None:
    model = linear_gaussian(dims, orthogonal=False)
    x = model.observe(levels_of(1))
    z = torch.randn(7, dims, generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode():
        values, slopes = log_likelihood_gradients(model, x[0], z)
    residual = x.flatten(1).double() - (z @ model.weight.T + model.bias)
    assert torch.allclose(slopes, residual @ model.weight / model.sigma**2, rtol=1e-4, atol=1e-3)
    assert torch.allclose(values, model.decode(z).log_prob(x), rtol=1e-6)


@pytest.mark.parametrize("sigma", [1.0, 0.3, 0.1])
@pytest.mark.parametrize("kind", [LinearGaussian, Misled])
@pytest.mark.parametrize("dims", [1, 2])
def test_the_best_diagonal_gaussian_in_closed_form(kind, dims: int, sigma: float) -> None:
    model, levels = kind(dims, sigma, orthogonal=False), levels_of(3)
    x = model.observe(levels)
    best = best_gaussian(see(model, levels))
    precision = torch.linalg.inv(model.covariance)
    width = precision.diagonal().rsqrt()
    assert ((best.mu - model.posterior_mean(x)) / width).abs().max() < 5e-3
    assert (best.sigma / width - 1).abs().max() < 5e-3
    parts = gap_split(best)
    approximation = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    assert (parts.approximation - approximation).abs().max() < 1e-3
    q = model.encode(x)
    encoder = MultivariateNormal(q.mean.double(), torch.diag_embed(q.variance.double()))
    gap = kl_divergence(encoder, MultivariateNormal(model.posterior_mean(x), model.covariance))
    total = parts.approximation + parts.amortization
    assert torch.allclose(total, gap, rtol=1e-4, atol=2e-3)
    assert (parts.log_evidence - model.log_evidence(x)).abs().max() < 1e-3


@pytest.mark.parametrize("dims", [1, 2])
def test_a_full_covariance_closes_the_gap(dims: int) -> None:
    model, levels = Misled(dims, orthogonal=False), levels_of(3)
    best = best_gaussian(see(model, levels))
    full = best_full_gaussian(see(model, levels), best)
    assert (full.elbo >= best.elbo).all()
    assert (best.log_evidence - full.elbo).abs().max() < 1e-3
    assert torch.allclose(full.covariance, model.covariance.expand(3, dims, dims), rtol=2e-2)
    with pytest.raises(ValueError, match="at most 2 latent dimensions, not 3"):
        best_full_gaussian(see(LinearGaussian(3), levels), best)


@pytest.mark.parametrize("kind", [LinearGaussian, Misled])
def test_more_dimensions_by_draws(kind) -> None:
    model, levels = kind(5, orthogonal=False), levels_of(3)
    x = model.observe(levels)
    best = best_gaussian(see(model, levels), draws=256)
    assert best.log_evidence.isnan().all() and (best.elbo_se > 0).all()
    precision = torch.linalg.inv(model.covariance)
    approximation = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    parts = gap_split(best, model.log_evidence(x))
    assert torch.equal(parts.error, best.elbo_se)
    # Draws that the climb has seen would flatter it; these it hasn't.
    short = parts.approximation - approximation
    assert (short > -4 * best.elbo_se).all() and (short < 4 * best.elbo_se + 0.1).all()
    elbo = estimate_elbo(see(model, levels), 256).value
    assert torch.allclose(best.encoder_elbo, elbo, rtol=1e-9)
    if kind is Misled:
        assert (parts.amortization > 10 * best.gain_se).all()
    else:
        assert (parts.amortization >= 0).all()


class Bent(LinearGaussian):
    """A decoder that bends, so that few draws mistake what a Gaussian would gain."""

    def decode(self, z: torch.Tensor) -> Independent:
        return super().decode(torch.tanh(2 * z.double()))


def test_the_gain_is_not_flattered_by_the_draws_that_tell_it() -> None:
    """Whichever start is taken, the draws that report its gain had no say in that."""
    model, levels = Bent(8), levels_of(100)
    x = model.observe(levels)
    best = best_gaussian(see(model, levels), draws=2, fit_draws=4)
    e = torch.from_numpy(np.random.default_rng(3).standard_normal((1_000, 8)))

    def elbo(mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        likelihood = [
            model.decode(centre + width * e).log_prob(image).mean()
            for image, centre, width in zip(x, mu, sigma, strict=True)
        ]
        kl = 0.5 * (mu.square() + sigma.square() - 1) - sigma.log()
        return torch.stack(likelihood) - kl.sum(-1)

    q = model.encode(x).base_dist
    truth = elbo(best.mu, best.sigma) - elbo(q.loc, q.scale)
    flattered = best.elbo - best.encoder_elbo - truth
    assert flattered.mean() < 3 * flattered.std() / math.sqrt(len(x))


def test_one_of_two_peaks_is_chosen() -> None:
    model, levels = TwoPeaks(), np.array([[[[64]]], [[[128]]]], dtype=np.uint8)
    best = best_gaussian(see(model, levels))
    peaks = torch.sqrt(4 * torch.tensor([[64], [128]]).double() / 255)
    assert (best.mu.abs() - peaks).abs().max() < 0.03
    # A Gaussian on one of two equal peaks lacks the other half of the mass: log 2 nats.
    assert (gap_split(best).approximation - math.log(2)).abs().max() < 0.02


# --- Invariants on trained models -------------------------------------------------------------


def check_order(model, rows: np.ndarray) -> None:
    """ELBO <= ELBO(q*) <= ELBO(full) <= log p(x), and the parts make the whole."""
    best = best_gaussian(see(model, model.reference.levels[rows]))
    full = best_full_gaussian(see(model, model.reference.levels[rows]), best)
    parts = gap_split(best)
    stored = torch.from_numpy(model.reference.elbo[rows])
    assert torch.allclose(best.encoder_elbo, stored, atol=1e-4)
    assert (best.elbo >= best.encoder_elbo).all() and (full.elbo >= best.elbo).all()
    assert (parts.approximation >= -1e-3).all() and (parts.amortization >= 0).all()
    assert (best.log_evidence - full.elbo >= -1e-3).all()
    assert (best.elbo_se == 0).all() and (parts.error < 1e-3).all()
    gap = torch.from_numpy(model.reference.log_evidence[rows]) - stored
    assert torch.allclose(parts.approximation + parts.amortization, gap, atol=1e-3)
    # On digits a Gaussian is a fair picture of most posteriors.
    assert parts.approximation.mean() < 0.3


@pytest.mark.parametrize("name", FLAT)
def test_some_images_keep_the_order(checkpoint, name: str) -> None:
    check_order(checkpoint(name), np.arange(0, checkpoint(name).reference.size, 29))


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAT)
def test_every_image_keeps_the_order(checkpoint, name: str) -> None:
    for rows in np.array_split(np.arange(checkpoint(name).reference.size), 14):
        check_order(checkpoint(name), rows)


@pytest.mark.parametrize("name", ["digits-2d", "digits-10d"])
def test_company_and_repetition_change_nothing(checkpoint, name: str) -> None:
    model = checkpoint(name)
    levels = model.reference.levels[:4]
    together, again = best_gaussian(see(model, levels)), best_gaussian(see(model.model, levels))
    alone = best_gaussian(see(model, levels[2:3]))
    for first, second, third in zip(together, again, alone, strict=True):
        assert torch.equal(first.nan_to_num(0), second.nan_to_num(0))
        assert torch.equal(first[2].nan_to_num(0), third[0].nan_to_num(0))


def test_many_dimensions_gain_something(checkpoint) -> None:
    model = checkpoint("digits-10d")
    best = best_gaussian(see(model, model.reference.levels[:8]))
    gain = best.elbo - best.encoder_elbo
    assert (gain >= 0).all() and gain.mean() > 1
    bound = torch.from_numpy(model.reference.iwae_bound[:8])
    # An estimate of the evidence from below: q* lies under it but for the draws' noise.
    assert (best.elbo <= bound + 4 * best.elbo_se + 1).all()


def test_the_model_is_left_as_it_was(checkpoint) -> None:
    model = checkpoint("digits-2d")
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    with torch.inference_mode():
        best_gaussian(see(model, model.reference.levels[:1]))
    for key, value in model.model.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(weight.grad is None for weight in model.model.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 0}, "draws must lie in 1..100000, not 0"),
        ({"fit_draws": 5}, "fit_draws must be even and lie in 4..10000, not 5"),
        ({"fit_draws": 2}, "fit_draws must be even and lie in 4..10000, not 2"),
    ],
)
def test_draws_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        best_gaussian(see(LinearGaussian(3), levels_of(1)), **settings)


@pytest.mark.parametrize("seed", [0, 1])
def test_foreign_images_have_a_best_gaussian_too(checkpoint, seed: int) -> None:
    model = checkpoint("digits-2d")
    noise = np.random.default_rng(seed).integers(0, 17, (3, 1, 8, 8), dtype=np.uint8)
    inverted = 16 - model.reference.levels[:2]
    parts = gap_split(best_gaussian(see(model, np.concatenate((noise, inverted)))))
    known = parts.log_evidence.isfinite()
    assert (parts.amortization >= 0).all() and known.any()
    assert (parts.approximation[known] >= -1e-2).all()
