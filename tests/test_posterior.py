"""The true posterior by quadrature: closed-form answers, and a second method on trained models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import within
from torch.distributions import MultivariateNormal

from vae.elbo.evidence.bounds import estimate_bound, importance_bound
from vae.elbo.evidence.posterior import true_posterior
from vae.elbo.evidence.quadrature import coarse_scan, exact_evidence, quadrature
from vae.elbo.seen import see
from vae.elbo.tiles import encode_tiled, log_joint

FLAT = ("digits-2d", "digits-binary-2d", "digits-binary-2d-batch-moment")


def image_of(model, seed: int = 0) -> torch.Tensor:
    levels = np.random.default_rng(seed).integers(0, 256, (1, 1, 4, 4), dtype=np.uint8)
    return model.observe(levels)


def some_rows(checkpoint, count: int) -> np.ndarray:
    return np.random.default_rng(1).choice(checkpoint.reference.size, count, replace=False)


# --- Known answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("sigma", [1.0, 0.3, 0.1])
@pytest.mark.parametrize("dims", [1, 2])
def test_moments_in_closed_form(linear_gaussian, dims: int, sigma: float, orthogonal: bool):
    model = linear_gaussian(dims, sigma, orthogonal)
    x = image_of(model)
    found = true_posterior(model, x[0], torch.zeros(dims), resolution=11)
    scale = model.covariance.diagonal().sqrt()
    assert ((found.mean - model.posterior_mean(x)[0]).abs() < 1e-4 * scale).all()
    wrong = (found.covariance - model.covariance) / (scale[:, None] * scale)
    assert wrong.abs().max() < 1e-3
    assert torch.allclose(found.log_evidence, model.log_evidence(x)[0], atol=1e-3)
    evidence = exact_evidence(model, x, torch.zeros(1, dims))
    assert found.log_evidence == evidence.log_evidence[0]


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("resolution", [41, 12])
def test_the_density_is_that_of_the_gaussian(linear_gaussian, dims: int, resolution: int) -> None:
    # Once finer than the nodes, where it is a density at points, and once coarser.
    model = linear_gaussian(dims, 0.3, orthogonal=False)
    x = image_of(model)
    true = MultivariateNormal(model.posterior_mean(x)[0], model.covariance)
    # A corner of the bell, not its middle: turned or mirrored axes would show.
    shift = torch.linspace(0.5, 1.0, dims).double() * true.stddev
    window = torch.stack((true.mean - 3 * true.stddev, true.mean + 3 * true.stddev), -1)
    found = true_posterior(model, x[0], true.mean, window + shift[:, None], resolution)
    assert found.axes.shape == (dims, resolution)
    assert found.density.shape == (resolution,) * dims
    if dims == 2:
        points = torch.stack(torch.meshgrid(*found.axes, indexing="xy"), -1)
    else:
        points = found.axes[0][:, None]
    wrong = (found.density - true.log_prob(points).exp()).abs().max() / found.density.max()
    fine = (found.axes[:, 1] - found.axes[:, 0]).min() < 0.025
    # Where it is coarser, each point shows a mean over its surroundings.
    assert wrong < (1e-4 if fine else 0.12)


@pytest.mark.parametrize("dims", [1, 2])
def test_a_narrow_peak_is_not_lost_between_two_points(linear_gaussian, dims: int) -> None:
    model = linear_gaussian(dims, 0.05)
    x = image_of(model)
    window = torch.tensor([[-60.0, 60.0]]).repeat(dims, 1)
    found = true_posterior(model, x[0], model.posterior_mean(x)[0], window, resolution=25)
    spacing = float(found.axes[0, 1] - found.axes[0, 0])
    mass = found.density * spacing**dims
    assert float(mass.sum()) == pytest.approx(1, abs=1e-5)
    # The mass is shared so that the mean stays where it is.
    along = mass.sum(0) if dims == 2 else mass
    assert float(along @ found.axes[0]) == pytest.approx(float(found.mean[0]), abs=1e-3)


def test_the_default_window_holds_the_posterior(linear_gaussian) -> None:
    model = linear_gaussian(2, 0.3)
    found = true_posterior(model, image_of(model)[0], torch.zeros(2), resolution=81)
    cell = (found.axes[:, 1] - found.axes[:, 0]).prod()
    assert float(found.density.sum() * cell) == pytest.approx(1, abs=1e-3)


def test_out_of_reach_is_not_a_number(linear_gaussian) -> None:
    model = linear_gaussian(2)
    x = model.decode(torch.full((1, 2), 5_000.0)).mean
    found = true_posterior(model, x[0], torch.zeros(2))
    for value in (found.density, found.mean, found.covariance, found.log_evidence):
        assert value.isnan().all()


def test_what_makes_no_grid_is_refused(linear_gaussian) -> None:
    model = linear_gaussian(2)
    x = image_of(model)[0]
    with pytest.raises(ValueError, match="resolution must be at least 2, not 1"):
        true_posterior(model, x, torch.zeros(2), resolution=1)
    for window in (torch.tensor([[1.0, -1.0]] * 2), torch.tensor([[-1.0, 1.0]])):
        with pytest.raises(ValueError, match="window must hold 2 rising pairs"):
            true_posterior(model, x, torch.zeros(2), window)
    with pytest.raises(ValueError, match="at most 2 latent dimensions, not 3"):
        quadrature(linear_gaussian(3), x, torch.zeros(3))


# --- Trained models ---------------------------------------------------------------------------


def test_a_scan_that_is_kept_changes_no_number(checkpoint) -> None:
    model = checkpoint("digits-2d")
    scan = coarse_scan(model)
    x = model.observe(model.reference.levels[:6])
    mu, _ = encode_tiled(model, x)
    shared = exact_evidence(model, x, mu)
    for n in range(6):
        alone = exact_evidence(model, x[n : n + 1], mu[n : n + 1])
        kept = exact_evidence(model, x[n : n + 1], mu[n : n + 1], scan=scan)
        assert alone.log_evidence == kept.log_evidence == shared.log_evidence[n]
        nodes = quadrature(model, x[n], mu[n], scan=scan)
        assert torch.equal(nodes.nodes, quadrature(model, x[n], mu[n]).nodes)
        assert float(nodes.masses.sum()) == pytest.approx(1, abs=1e-12)


def check_halving(model, rows: np.ndarray) -> None:
    """The step of the evidence against half of it."""
    x = model.observe(model.reference.levels[rows])
    mu, _ = encode_tiled(model, x)
    halved = exact_evidence(model, x, mu, tolerance=0, finest=16)
    assert (halved.error < 1e-3).all()
    stored = torch.from_numpy(model.reference.log_evidence[rows])
    assert ((halved.log_evidence - stored).abs() < 1e-3).all()


def coarse_sampler(
    model, image: torch.Tensor, draws: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws, and their log-weights, from squares that follow the posterior on a coarse lattice."""
    axis = torch.arange(-30, 31, dtype=torch.float64) * 0.2
    cells = torch.cartesian_prod(axis, axis)
    joint = log_joint(model, image, cells)
    shares = 0.9 * torch.softmax(joint / 1.5, 0) + 0.1 * torch.softmax(joint / 20, 0)
    chosen = torch.multinomial(shares, draws, replacement=True, generator=generator)
    jitter = torch.rand(draws, 2, generator=generator, dtype=torch.float64) - 0.5
    z = cells[chosen] + 0.2 * jitter
    return z, log_joint(model, image, z) - torch.log(shares[chosen] / 0.04)


def check_second_method(model, rows: np.ndarray) -> None:
    """Evidence and posterior mean, against an importance sampler on the coarse posterior."""
    x = model.observe(model.reference.levels[rows])
    mu, _ = encode_tiled(model, x)
    scan = coarse_scan(model)
    generator = torch.Generator().manual_seed(0)
    for image, centre in zip(x, mu, strict=True):
        found = true_posterior(
            model, image, centre, resolution=2, found=quadrature(model, image, centre, scan=scan)
        )
        # Of thousands of comparisons one strays by chance; with more draws chance passes.
        for draws in (4_000, 64_000):
            z, log_weights = coarse_sampler(model, image, draws, generator)
            bound = importance_bound(log_weights[None])
            weights = torch.softmax(log_weights, 0)
            mean = weights @ z
            error = (weights[:, None] * (z - mean)).square().sum(0).sqrt()
            agrees = within(bound.value, found.log_evidence, bound.standard_error)
            agrees = agrees and within(mean, found.mean, error)
            if agrees:
                break
        assert agrees


def check_tallest_rung(model, rows: np.ndarray) -> None:
    """L_5000 never lies above the evidence by more than its error."""
    bound = estimate_bound(see(model, model.reference.levels[rows]), 5_000)
    stored = torch.from_numpy(model.reference.log_evidence[rows])
    assert (bound.value <= stored + 4 * bound.standard_error + 1e-3).all()


@pytest.mark.parametrize("name", FLAT)
def test_some_images_have_their_evidence(checkpoint, name: str) -> None:
    rows = some_rows(checkpoint(name), 12)
    check_halving(checkpoint(name), rows)
    check_second_method(checkpoint(name), rows[:4])
    check_tallest_rung(checkpoint(name), rows)


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_halving, check_second_method, check_tallest_rung])
@pytest.mark.parametrize("name", FLAT)
def test_every_image_has_its_evidence(checkpoint, name: str, check) -> None:
    model = checkpoint(name)
    for rows in np.array_split(np.arange(model.reference.size), 14):
        check(model, rows)
