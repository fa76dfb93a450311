"""The likelihoods: each sums or integrates to 1, with the mean it states, also at the extremes."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from vae.data.spec import ImageSpec
from vae.model.config import LikelihoodName, ModelConfig
from vae.model.likelihoods import (
    ContinuousBernoulli,
    DiscretizedLogistic,
    Likelihood,
    facts_of,
    make_likelihood,
    softplus,
)

NAMES = get_args(LikelihoodName)
LOGITS = (-20.0, -5.0, -0.51, -0.5, -0.11, -0.1, -1e-3, 0.0, 1e-6, 0.0999, 0.4999, 2.0, 20.0)
LOCATIONS = (-1e4, -30.0, -0.2, 0.0, 0.031, 0.5, 1.0, 1.4, 300.0, 1e4)
SCALES = (1e-3, 0.02, 0.3, 10.0, 1e4)


def config(name: str, **changes: object) -> ModelConfig:
    binary = ModelConfig(
        ImageSpec(1, 2, 3, levels=17), likelihood=name,
        binarize="threshold" if name == "bernoulli" else "none",
    )  # fmt: skip
    return replace(binary, **changes)


def pixel_of(name: str, raw: Tensor) -> torch.distributions.Distribution:
    return make_likelihood(config(name)).pixel(raw)


def unit_interval(nodes: int = 200) -> tuple[Tensor, Tensor]:
    x, weights = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(weights / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_discretized_logistic_is_a_pmf(levels: int, dtype: torch.dtype) -> None:
    places = torch.tensor(list(itertools.product(LOCATIONS, SCALES)), dtype=dtype)
    loc, scale = places.unbind(1)
    x = (torch.arange(levels, dtype=torch.float64) / (levels - 1)).to(dtype)
    pmf = DiscretizedLogistic(loc, scale, levels)
    logs = pmf.log_prob(x[:, None].expand(-1, len(loc)))
    assert torch.isfinite(logs).all()
    mass = logs.double().exp()
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-9}[dtype]
    assert (mass.sum(0) - 1).abs().max() < tolerance
    mean = (x[:, None].double() * mass).sum(0)
    assert (pmf.mean - mean).abs().max() < tolerance


@pytest.mark.parametrize("levels", [17, 256])
def test_discretized_logistic_is_the_rounded_logistic(levels: int) -> None:
    # Far from where subtracting two sigmoids loses digits, that is what the probability is.
    x = torch.arange(levels, dtype=torch.float64) / (levels - 1)
    half = 0.5 / (levels - 1)
    loc, scale = torch.tensor(0.4).double(), torch.tensor(0.15).double()
    cdf = torch.sigmoid((torch.cat((x - half, x[-1:] + half)) - loc) / scale)
    cdf[0], cdf[-1] = 0, 1
    logs = DiscretizedLogistic(loc.expand(levels), scale, levels).log_prob(x)
    assert torch.allclose(logs.exp(), cdf.diff(), atol=1e-12)


@pytest.mark.parametrize("name", ["bernoulli", "bernoulli_grey"])
@pytest.mark.parametrize("logit", [-1e4, -20.0, 0.0, 3.0, 1e4])
def test_bernoulli_is_a_pmf_of_binary_pixels(name: str, logit: float) -> None:
    pixel = pixel_of(name, torch.tensor([logit, logit]))
    logs = pixel.log_prob(torch.tensor([0.0, 1.0]))
    assert torch.isfinite(logs).all()
    assert float(logs.double().exp().sum()) == pytest.approx(1, abs=1e-6)
    assert torch.allclose(pixel.mean, logs[1].exp())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-10)])
@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_is_a_density(
    logit: float, dtype: torch.dtype, tolerance: float
) -> None:
    x, weights = unit_interval()
    density = ContinuousBernoulli(torch.full((len(x),), logit, dtype=dtype))
    mass = density.log_prob(x.to(dtype)).double().exp() * weights
    assert float(mass.sum()) == pytest.approx(1, abs=tolerance)
    assert float(density.mean[0]) == pytest.approx(float((x * mass).sum()), abs=tolerance)


@pytest.mark.parametrize("sigma", [1e-3, 0.1, 10.0])
def test_gaussian_is_a_density(sigma: float) -> None:
    likelihood = make_likelihood(config("gaussian", sigma=sigma, gaussian_sigma="fixed"))
    e = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    x = 0.3 + sigma * e
    mass = likelihood.pixel(torch.full_like(x, 0.3)).log_prob(x).exp() * (x[1] - x[0])
    assert float(mass.sum()) == pytest.approx(1, abs=1e-6)
    assert float((x * mass).sum()) == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_as_good_as_float64(name: str) -> None:
    raw = torch.linspace(-30, 30, 2001)
    x = torch.arange(len(raw)) % 17 / 16
    if name == "bernoulli":
        x = x.round()
    likelihood = make_likelihood(config(name))
    single, double = likelihood.pixel(raw), likelihood.double().pixel(raw.double())
    logs = double.log_prob(x.double())
    assert ((single.log_prob(x) - logs).abs() <= 2e-6 * (1 + logs.abs())).all()
    assert (single.mean - double.mean).abs().max() < 3e-6 * (1 + double.mean.abs().max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_gradients_are_finite_at_extremes(name: str, value: float) -> None:
    if name == "bernoulli" and value == 0.5:
        value = 1.0
    likelihood = make_likelihood(config(name))
    raw = torch.tensor([-1e4, -20.0, -0.5, 0.0, 0.1, 0.5, 20.0, 1e4], requires_grad=True)
    pixel = likelihood.pixel(raw)
    logs = pixel.log_prob(torch.full_like(raw, value))
    (logs.sum() + pixel.mean.sum()).backward()
    assert torch.isfinite(logs).all()
    for leaf in (raw, *likelihood.parameters()):
        assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_one_event(name: str) -> None:
    likelihood = make_likelihood(config(name))
    image = likelihood(torch.zeros(5, 1, 2, 3))
    assert (image.batch_shape, image.event_shape) == ((5,), (1, 2, 3))
    assert image.mean.shape == (5, 1, 2, 3)


@pytest.mark.parametrize("name", NAMES)
def test_the_start_has_roughly_the_given_mean(name: str) -> None:
    likelihood = make_likelihood(config(name))
    mean = torch.tensor([0.2, 0.5, 0.7])
    assert torch.allclose(likelihood.pixel(likelihood.raw_of_mean(mean)).mean, mean, atol=0.02)


def test_one_scale_for_each_pixel() -> None:
    likelihood = make_likelihood(config("discretized_logistic", spread="pixel"))
    assert likelihood.scale.shape == (1, 2, 3)
    assert likelihood(torch.zeros(4, 1, 2, 3)).log_prob(torch.zeros(4, 1, 2, 3)).shape == (4,)


@pytest.mark.parametrize("mode", ["fixed", "learned", "optimal"])
def test_only_the_optimal_sigma_follows_the_error(mode: str) -> None:
    likelihood = make_likelihood(config("gaussian", gaussian_sigma=mode, sigma=0.5))
    assert isinstance(likelihood, Likelihood)
    x = 0.2 * torch.randn(1, 1, 100, 100, generator=torch.Generator().manual_seed(0))
    for _ in range(1_000):
        likelihood.adapt_((x - likelihood(torch.zeros_like(x)).mean).square().mean())
    expected = 0.2 if mode == "optimal" else 0.5
    assert float(likelihood.sigma.detach()) == pytest.approx(expected, rel=0.02)
    assert bool(list(likelihood.parameters())) == (mode == "learned")


def test_grey_pixels_under_a_bernoulli_are_no_density() -> None:
    facts = facts_of("bernoulli_grey")
    assert not facts.is_normalized and not facts.is_pmf
    assert all(facts_of(name).is_normalized for name in NAMES if name != "bernoulli_grey")
    x, weights = unit_interval()
    mass = pixel_of("bernoulli_grey", torch.full_like(x, 3.0)).log_prob(x).exp() * weights
    assert abs(float(mass.sum()) - 1) > 0.1


def test_grey_pixels_under_a_bernoulli_are_the_mean_over_binarisations() -> None:
    x, raw = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([1.0, -2.0, 0.3])
    pixel = pixel_of("bernoulli_grey", raw)
    mean = 0.0
    for bits in itertools.product((0.0, 1.0), repeat=3):
        b = torch.tensor(bits)
        mean += float((b * x + (1 - b) * (1 - x)).prod() * pixel.log_prob(b).sum())
    assert float(pixel.log_prob(x).sum()) == pytest.approx(mean, abs=1e-5)


def test_only_a_pmf_of_levels_has_bits() -> None:
    assert {name for name in NAMES if facts_of(name).is_pmf} == {
        "bernoulli",
        "discretized_logistic",
    }
    for name in NAMES:
        assert facts_of(name).title and facts_of(name).valid_for.endswith(".")


def test_an_unknown_likelihood_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=f"Choose one of: {', '.join(NAMES)}"):
        facts_of("poisson")


def test_squared_error_is_a_gaussian() -> None:
    # ||x - m||^2 / (2 s^2) up to a constant, which stays in.
    raw, x = torch.tensor([0.1, 0.9]), torch.tensor([0.3, 0.2])
    logs = make_likelihood(config("gaussian", gaussian_sigma="fixed", sigma=0.5)).pixel(raw)
    expected = -(x - raw).square() / 0.5 - 0.5 * math.log(2 * math.pi * 0.25)
    assert torch.allclose(logs.log_prob(x), expected)


def test_softplus_and_its_gradient_are_those_of_torch_in_float64():
    x = torch.cat(
        (torch.linspace(-120, 120, 4_001), torch.tensor([0.0, 88.7, -88.7, 1e30, -1e30]))
    )
    exact = torch.nn.functional.softplus(x.double(), threshold=1e9)
    unit = torch.finfo(torch.float32).eps * exact.abs()
    assert ((softplus(x) - exact).abs() <= unit + 6e-8).all()
    leaf = x.clone().requires_grad_()
    softplus(leaf).sum().backward()
    assert torch.equal(leaf.grad, torch.sigmoid(x))
    assert torch.isnan(softplus(torch.tensor(torch.nan)))
    assert softplus(torch.tensor(torch.inf)) == torch.inf
    assert torch.autograd.gradcheck(
        softplus, torch.randn(20, dtype=torch.float64).requires_grad_()
    )
